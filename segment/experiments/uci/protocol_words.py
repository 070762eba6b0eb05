"""What the page of the UCI experiment says of its protocol, and of what was left out.

Must not know a score.
"""

from __future__ import annotations

from collections.abc import Sequence

from segment.experiments.regression.reductions import reductions
from segment.experiments.regression.search import Race
from segment.experiments.reporting import Budget
from segment.experiments.uci.dropout_check import BATCH, REFERENCES, CheckPlan
from segment.experiments.uci.splits import PLANS, SETS, WIDTHS, Plan, seeds_in
from segment.experiments.uci.tables import Results


def opening(plan: Plan, budget: Budget, seed: int, results: Results) -> str:
    protocol = plan.protocol
    race = protocol.race
    trained = sum(split.seconds for splits in results.values() for split in splits)
    return f"""
Budget `{budget}`, seed {seed}; sets {", ".join(results)}; 80/20 splits with seeds {seeds_in(results)};
{trained / 60:.0f} minutes by the clock for the splits, kept ones included.

Protocol: two hidden layers of {_widths(plan, results)} ReLU units, Adam at 1e-3, BN before the activation (eps
1e-10), half the squared error plus L2; hyper-parameters by {protocol.folds}-fold cross-validation of the RMSE on the
training part, looked at every {race.every} epochs, patience {race.patience}, at most {race.epochs} epochs; T =
{protocol.draws} draws{_estimated(race)}; tau and the constant minimise CRPS on the folds, within the authors' range of
tau for the set.
Grid: L2 {_listed(protocol.l2)}; batch {_listed(protocol.batches)} (512 at most on energy; a batch is min(M, N));
dropout rate {_listed(protocol.dropouts)} at batch {protocol.dropout_batch}; MNF: precision of the likelihood
{_listed(protocol.precisions)}, batch 100, two flow steps of 50 hidden units for q and r, Adam at
{protocol.flow_rate:g}{_most(protocol.flow_steps)}; the ensemble has {protocol.members} BN
networks with MCBN's hyper-parameters.

In the search the candidates of a fold start from the same weights and see the same mini-batches and dropout noise.
{reductions(protocol)}{smaller_searches(plan, tuple(results))}MNF's precision is chosen, where the authors have 1; a
final network is trained once a split. Left out of the paper's sets and splits: {_left_out(results)}.
"""


def _widths(plan: Plan, results: Results) -> str:
    others = [f"{WIDTHS[name][0]} on {name}" for name in results if name in WIDTHS]
    return str(plan.protocol.hidden[0]) + (f" ({', '.join(others)})" if others else "")


def smaller_searches(plan: Plan, sets: Sequence[str]) -> str:
    """What is smaller of those sets' search; nothing where nothing is."""
    reduced = {name: plan.reduced[name] for name in sets if name in plan.reduced}
    if not reduced:
        return ""
    first, whole = next(iter(reduced.values())), plan.protocol
    looks = ", ".join(f"{each.every} on {name}" for name, each in reduced.items())
    ends = ", ".join(f"{each.epochs} on {name}" for name, each in reduced.items())
    return f"""
The search of {", ".join(reduced)} is smaller.
L2 takes {len(first.l2)} of its {len(whole.l2)} values, none below {first.l2[-1]:g}: less does not change how well these
networks fit (docs/measured/small_l2.json). Candidates are compared on {first.search_folds} of the {whole.folds} folds,
which holds out more rows than all folds of a small set together; tau is fitted on all. They are looked at every few
epochs ({looks}), at most {ends} epochs: no fewer steps, at any size of a mini-batch, than a search of a small set takes
in {whole.race.epochs} epochs.

"""


def _estimated(race: Race) -> str:
    return "" if race.of is None else f", whose error the search estimates from {race.draws}, without bias"


def _left_out(results: Results) -> str:
    """The sets that are missing, then the splits that all the others lack, then those that one lacks."""
    missing = [name for name in SETS if name not in results]
    by_set = {name: {split.split for split in splits} for name, splits in results.items()}
    wanted = PLANS["paper"].splits
    of_all = [split for split in wanted if not any(split in own for own in by_set.values())]
    missing += _splits(of_all)
    for name, own in by_set.items():
        missing += [f"{words} of {name}" for words in _splits([each for each in wanted if each not in {*own, *of_all}])]
    return ", ".join(missing) or "nothing"


def _splits(seeds: Sequence[int]) -> list[str]:
    return [f"split{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"] if seeds else []


def _most(steps: int | None) -> str:
    return "" if steps is None else f", at most {steps} steps"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def check_note(checks: CheckPlan) -> str:
    usual, protein = REFERENCES["yacht"], REFERENCES["protein"]
    epochs = (
        f"{usual.epochs} epochs (protein {protein.epochs}; the reference's figures are of these, ten times the "
        f"{usual.epochs // 10} of its paper's table)"
    )
    if checks.epochs is not None:
        epochs = f"{checks.epochs} epochs (the reference's figures are of {usual.epochs}, protein {protein.epochs})"
    splits = f"all standard splits ({usual.splits}; protein {protein.splits})"
    if checks.splits is not None:
        splits = f"the first {checks.splits} splits"
    missing = [name for name in REFERENCES if name not in checks.sets]
    return (
        f"One hidden layer of {usual.width} (protein {protein.width}), {epochs}, mini-batches of {BATCH}, grid over "
        "dropout rate and tau on the last fifth of the training part, then a network retrained on all of it; "
        f"{splits}; T = {checks.draws} "
        f"({checks.choice_draws} for the choice, where the reference uses 10000, and where one network a rate serves "
        "its three taus: they enter training by an L2 of 1e-4 / (N tau) only). "
        "Within: two standard errors of the reference, and half a unit of its last printed digit."
        + (f" Not run: {', '.join(missing)}." if missing else "")
    )
