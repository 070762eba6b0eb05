"""A network, training and validation images to the best setting under a budget of passes: `segment tune`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.errors import OutOfMemory, WrongUse, near
from segment.estimation.memory_budget import bytes_text
from segment.files.banks.bank_file import load_bank
from segment.files.banks.cache import MARK, marks_in
from segment.files.runs.lock import sole_writer
from segment.files.versions import versions
from segment.guarantees.groups import Groups, groups_of_sources, sequence_of
from segment.images.contents.hashes import sha256_of
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.temperatures import at_an_end_words
from segment.jobs.labelled.images import Labels
from segment.jobs.labelled.leakage import refuse_seen
from segment.jobs.progress import Progress, silent
from segment.jobs.sweeping.grid import Banks, Grid, blended, check_grid, chosen_layers
from segment.jobs.tuning.search import Arm, Search, SearchPlan, unfit
from segment.jobs.tuning.tuned import Tuned, write_tuned
from segment.methods.augmentation import View
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.report.results import Setting
from segment.report.tuned_page import tuned_words, write_tuned_page
from segment.tuning.choice import RULES, SCALINGS, Candidate, Choice, Rule, candidate, choose, fit, folds
from segment.tuning.samples import GRID, MethodSamples

log = logging.getLogger(__name__)

LEAST_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """What may be chosen.

    passes: the most that a map may take. grid: M, transforms, layers and alphas of the banks (its draws are not used)
    banks: files of further banks, distilled ones perhaps, each taken whole. views: of test-time augmentation
    rule: `best`, the lowest NLL unless one pass is not significantly worse; `cheapest`, the fewest passes that are not
    scalings: that may be chosen; vector_scaling moves masks, and rare classes may vanish for a lower NLL
    groups: id -> group (a sequence, a patient), two or more: none is divided, and the paired tests are over groups.
    None: the ids without their numbers at the end; with fewer than five such sequences, blocks of neighbours
    """

    passes: int = 16
    grid: Grid = field(default_factory=lambda: Grid(batches=(4, 8, 16, 32)))
    banks: tuple[str, ...] = ()
    rule: Rule = "best"
    scalings: tuple[str, ...] = ("temperature",)
    views: tuple[View, ...] = (View(), View(flip=True))
    precision: str = "fp32"
    void: int | None = None
    groups: Groups = None

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise WrongUse(f"--passes {self.passes}: 1 or more.")
        if self.rule not in RULES:
            raise WrongUse(f"No rule is called {self.rule!r}.{near(self.rule, RULES)} Known: {', '.join(RULES)}.")
        for name in self.scalings:
            if name not in SCALINGS[1:]:
                raise WrongUse(f"No scaling is called {name!r}. Known: {', '.join(SCALINGS[1:])}.")
        names = [*map(_short, self.grid.settings()), *(Path(path).stem for path in self.banks)]
        if twice := {Path(path).stem for path in self.banks if names.count(Path(path).stem) > 1}:
            raise WrongUse(
                f"Several banks are called {min(twice)!r}: settings are named by the stem of a --bank, and by M, "
                "transform, layers and alpha of a bank that is recorded. Rename the file."
            )


@dataclass(frozen=True)
class Tuning:
    """The result: the setting, why it was chosen, every candidate, and what the search cost.

    dropped: arms that fell out on a rung: name, its images and draws, and the NLL there, None where images failed
    failed: id -> why no setting is compared on that image
    cost: passes over validation images, in passes over every one of them
    """

    folder: Path
    tuned: Tuned
    choice: Choice
    candidates: tuple[Candidate, ...]
    dropped: tuple[dict[str, Any], ...]
    cost: float
    failed: Mapping[str, str] = field(default_factory=dict)


def tune(
    network: Network | str | Path,
    data: Labels,
    train: str,
    folder: str | Path,
    plan: TunePlan | None = None,
    *,
    memory: int | str | None = None,
    progress: Progress = silent,
) -> Tuning:
    """Choose M, transforms, layers, alpha, T, views and scaling by cross-validation over validation images.

    Args:
        network: The trained network: what `load_network` gave, a URI or a card.
        data: Validation images and labels, on which the network was not trained. Test images are no business here.
        train: Training images, that banks are recorded of, of files with several those that `data` takes of its
            files; their passes do not count as cost.
        folder: Where the setting, its bank, a page and a picture go; banks are kept in its `banks`.
        plan: What may be chosen.
        memory: A budget for the process, bytes or "4GiB"; None: 80 % of what is free. Passes hold fewer draws where it
            is short; a validation image that does not go through whole is left out, and named.
        progress: Called as work is done.

    Returns:
        The tuning; all of it is in the folder too.

    Raises:
        WrongUse: A mini-batch has more images than there are, fewer than two validation images can be used, some are
            training images, or another process writes to the folder.
        OutOfMemory: Fewer than two validation images go through whole within the budget.

    """
    network = network_of(network)
    plan = plan or TunePlan()
    check_grid(network, train, plan.grid, data.listing)
    with sole_writer(folder := Path(folder)):
        return _tune(network, data, train, folder, plan, memory, progress)


def _tune(
    network: Network,
    data: Labels,
    train: str,
    folder: Path,
    plan: TunePlan,
    memory: int | str | None,
    progress: Progress,
) -> Tuning:
    sources = data.sources(network)
    given = groups_of_sources(sources, plan.groups)
    if given is not None and len(set(given.values())) < LEAST_IMAGES:
        raise WrongUse("--groups names one group for all images; scores are cross-validated over groups, so give two.")
    network.log_preprocessing()
    banks = Banks(network, train, folder / "banks", plan.passes, progress, listing=data.listing, memory=memory)
    arms = _arms(network, banks, plan)
    seen = frozenset(mark for arm in arms if arm.bank is not None for mark in marks_in(arm.bank.provenance))
    refuse_seen(network, sources, seen, "a setting")
    search_plan = SearchPlan(plan.passes, plan.views, plan.precision, plan.void, memory)
    search = Search(network, sources, search_plan, progress)
    simple = [
        Arm("deterministic", "deterministic", arms[0].bank, augmented=False),
        *([Arm("tta", "tta", arms[0].bank, augmented=True)] if plan.passes >= len(plan.views) > 1 else []),
    ]
    plain = {arm.name: search.samples(arm, sources, None, keep=True) for arm in simple}
    kept = search.compared(plain)
    _usable(kept, search, plain["deterministic"].failed)
    winner, dropped = search.halve(arms, sum(max(1, len(plan.views)) if arm.augmented else 1 for arm in simple))
    if winner is not None:
        made = search.samples(winner, sources, None, keep=True)
        kept = search.compared({**kept, winner.name: made})
        if winner.name not in kept:
            dropped.append(unfit(winner.name, made, {"images": len(sources), "draws": made.prefixes[-1]}))
    usable = _usable(kept, search)
    ids = sorted(kept["deterministic"].images)
    parts = folds(ids, {name: sequence_of(name) for name in ids} if given is None else given, whole=given is not None)
    candidates = []
    for number, (name, samples) in enumerate(kept.items(), start=1):
        candidates += _candidates(name, samples, parts, plan.scalings)
        progress("cross-validating", number, len(kept))
    choice = choose(candidates, plan.rule, given)
    chosen_arm = next(arm for arm in (*simple, *arms) if arm.name == choice.chosen.arm)
    calibration = fit(kept[chosen_arm.name], choice.chosen.passes, choice.chosen.scaling, ids)
    for line in at_an_end_words({chosen_arm.name: calibration}, (float(GRID[0]), float(GRID[-1]))):
        log.warning("%s", line)
    bank = chosen_arm.bank
    assert bank is not None
    draws = choice.chosen.passes if chosen_arm.method.startswith("mcbn") and not bank.distilled else len(bank)
    marks = frozenset(sha256_of(source.path)[:MARK] for source in sources)
    cost = search.passes / max(1, len(sources))
    tuned = Tuned(
        method=replace(combination(chosen_arm.method), scaling=choice.chosen.scaling),
        bank=bank.first(draws) if draws < len(bank) else bank,
        views=plan.views,
        calibration=calibration,
        network=network.fingerprint,
        seen=marks,
        images=usable,
        why=tuned_words(choice, usable, cost),
    )
    tuning = Tuning(folder, tuned, choice, tuple(candidates), tuple(dropped), cost, search.failed)
    more = {
        "candidates": [each.as_dict() for each in candidates],
        "chosen": choice.chosen.as_dict(),
        "rule": choice.rule,
        "cheapest": choice.cheapest.as_dict(),
        "dropped": dropped,
        "failed": search.failed,
        "cost": cost,
        "folds": len(parts),
        "bank": {key: bank.provenance.get(key) for key in ("batch", "layers", "pipeline", "seed")},
        "versions": versions(),
    }
    write_tuned(tuned, folder, more)
    write_tuned_page(folder, choice, candidates, dropped, tuned.why, search.failed)
    return tuning


def _usable(kept: Mapping[str, MethodSamples], search: Search, failed: Mapping[str, str] | None = None) -> int:
    """How many images all settings are compared on. failed: id -> why, where that is not known to the search yet.

    Errors: WrongUse, or OutOfMemory, where they are too few.
    """
    usable = len(kept["deterministic"].images) if "deterministic" in kept else 0
    if usable < LEAST_IMAGES and search.needed:
        raise OutOfMemory(
            f"{usable} of {len(search.sources)} validation images can be used: a pass over a whole one takes about "
            f"{bytes_text(search.needed)}. Free some memory, give more --memory, or smaller images."
        )
    if usable < LEAST_IMAGES:
        raise WrongUse(
            f"{usable} of {len(search.sources)} validation images can be used; a choice needs {LEAST_IMAGES}, and is "
            f"worth little with fewer than 30. {next(iter({**search.failed, **(failed or {})}.values()), '')}"
        )
    return usable


def _arms(network: Network, banks: Banks, plan: TunePlan) -> list[Arm]:
    """Every bank, under plain images and under views."""
    named: dict[str, Bank] = {}
    whole = bn_network_of(network)
    for setting in plan.grid.settings():
        recorded = banks.bank(setting, plan.grid.seeds[0])
        layers = chosen_layers(whole, setting.layers)
        named[_short(setting)] = blended(recorded, layers, setting.alpha)
    for path in plan.banks:
        bank = load_bank(Path(path))
        network_of_bank(network, bank)
        if len(bank) > plan.passes:
            bank = bank if bank.distilled else bank.first(plan.passes)
        if len(bank) > plan.passes:
            raise WrongUse(f"--bank {path!r} has {len(bank)} draws, which belong together; --passes is {plan.passes}.")
        named[Path(path).stem] = bank
    arms = [Arm(f"mcbn {name}", "mcbn", bank, augmented=False) for name, bank in named.items()]
    if 1 < (views := len(plan.views)) <= plan.passes:  # as many draws a view: first ones weigh as on their own
        arms += [
            Arm(f"mcbn+tta {name}", "mcbn+tta", bank.first(len(bank) // views * views), augmented=True)
            for name, bank in named.items()
            if not bank.distilled and len(bank) >= views
        ]
    return arms


def _short(setting: Setting) -> str:
    """A setting without what is the default."""
    return str(setting).replace(", training", "").replace(", all", "")


def _candidates(
    name: str, samples: MethodSamples, parts: Sequence[Sequence[str]], scalings: Sequence[str]
) -> list[Candidate]:
    """Every prefix plain and with a temperature; a vector scaling, which is slow, for the most draws only."""
    return [
        candidate(samples, name, passes, scaling, parts)
        for passes in samples.prefixes
        for scaling in ("", *scalings)
        if scaling != "vector_scaling" or passes == samples.prefixes[-1]
    ]
