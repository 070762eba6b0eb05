"""The paper's regression table: five methods on UCI sets, between constant and optimal uncertainty.

Must not know how a method is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from segment.experiments.regression.methods import METHODS
from segment.experiments.regression.predictive import Array, better_by_splits
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    Budget,
    Outcome,
    Progress,
    Verdict,
    judged_by_majority,
    markdown_table,
    standard_error,
    styled,
    with_error,
    write_figure,
    write_page,
    write_table,
)
from segment.experiments.uci.dropout_check import CheckPlan, check, check_rows, check_verdict, kept_checks
from segment.experiments.uci.protocol_words import check_note, opening
from segment.experiments.uci.published import NOTE, beside
from segment.experiments.uci.splits import PLANS, SETS, Plan, run_splits
from segment.experiments.uci.tables import (
    Results,
    choice_rows,
    columns_of,
    overlap,
    score_rows,
    split_rows,
    summary_rows,
)
from segment.files.writing import check_writable
from segment.pictures.plots import new_figure

CHECKS: Mapping[Budget, CheckPlan] = {
    "paper": CheckPlan(sets=SETS),
    "quick": CheckPlan(sets=("yacht",), splits=4, draws=2000),
}
LEVEL = 0.05
"""The level of a one-sided p-value."""
PAR = 5.0
"""Points of the normalised scale by which a method may fall behind and still be on a par."""


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: Plan | None = None,
    checks: CheckPlan | None = None,
    kept: Path | None = None,
) -> list[Verdict]:
    """Write the tables, the figure and the page of the UCI experiment to `out`; its verdicts.

    plan, checks: what to run instead of the budget's; kept: where finished splits lie (`out/kept`), to go on from
    """
    check_writable(out / "page.md")
    say = progress or (lambda _: None)
    plan, checks = plan or PLANS[budget], checks or CHECKS[budget]
    kept = kept or out / "kept"
    kept_checks(checks, data=data, kept=kept, seed=seed, finished=plan.finished)  # refused now, not after the splits
    results = run_splits(plan, data=data, kept=kept, seed=seed, say=say)
    rows, shown = score_rows(results)
    table = write_table(out, "uci", rows, shown=shown)
    write_table(out, "uci_splits", split_rows(results))
    summary = write_table(out, "uci_summary", summary_rows(rows), digits=2)
    _figure(out, results)
    verdicts = _verdicts(results)
    sections = {
        "Scores on the test parts": f"{LEGEND}\n\n{table}\n![Normalised scores](uci.png)",
        "Over all sets": summary,
        "Beside the paper's table": f"{NOTE}\n\n{markdown_table(beside(rows), digits=2)}",
        "Chosen by cross-validation": markdown_table(choice_rows(results), digits=4),
    }
    on_standard = check(checks, data=data, kept=kept, seed=seed, say=say, finished=plan.finished)
    if on_standard:
        checks = replace(checks, sets=tuple(on_standard))
        checked_rows, checked_shown = check_rows(on_standard)
        checked = write_table(out, "uci_dropout_check", checked_rows, shown=checked_shown)
        verdicts.append(check_verdict(on_standard, complete=checks.splits is None))
        sections["MC dropout on the standard splits"] = f"{check_note(checks)}\n\n{checked}"
    write_page(out, "UCI regression", opening(plan, budget, seed, results), verdicts, sections)
    return verdicts


LEGEND = (
    "Mean ± standard error over the splits; RMSE, PLL (predictive log-likelihood) and CRPS in the target's original "
    "units. Normalised: 0 is the constant uncertainty with the same mean, 100 the optimum. p: one-sided corrected "
    "resampled t-test (Nadeau & Bengio) over splits that the method beats its own constant. Rank: among the five "
    "methods, 1 is best. The trained statistics give one pass and no spread: they are their own constant, as MCBN "
    "is where the chosen batch holds every row."
)


def _verdicts(results: Results) -> list[Verdict]:
    verdicts = []
    for label, key, gain in (("CRPS", "normalised_crps", "crps_gain"), ("PLL", "normalised_pll", "pll_gain")):
        parts, wins = [], 0
        outcomes: list[Outcome] = []
        for name, splits in results.items():
            column = columns_of(splits, "mcbn")
            p = better_by_splits(getattr(column, gain), test_to_train=overlap(splits))
            wins += float(getattr(column, key).mean()) > 0
            outcomes.append(by_p(p))
            score = with_error(getattr(column, key).tolist(), digits=2)
            parts.append(f"{name} {score}, {'one split' if math.isnan(p) else f'p = {p:.3f}'}")
        verdicts.append(
            Verdict(
                experiment="uci",
                claim=f"MCBN beats the constant uncertainty in normalised {label} on a majority of sets",
                outcome=judged_by_majority(outcomes),
                numbers=f"above 0 on {wins} of {len(results)} sets, with p < 0.05 on {outcomes.count('reproduced')}, "
                f"which a majority must have: {'; '.join(parts)}",
            )
        )
    return [*verdicts, *(_against(results, other) for other in ("mcdo", "mnf"))]


def _against(results: Results, other: str) -> Verdict:
    """MCBN beside another method: the difference of normalised CRPS, averaged over sets, with its interval.

    One split of a set has no variance: such a set is left out where others have more.
    """
    several = {name: splits for name, splits in results.items() if len(splits) > 1}
    single = [name for name in results if name not in several]
    compared = several or results
    by_set = [
        columns_of(splits, "mcbn").normalised_crps - columns_of(splits, other).normalised_crps
        for splits in compared.values()
    ]
    low, high = difference_interval(by_set, [overlap(splits) for splits in compared.values()])
    mean = float(np.mean([values.mean() for values in by_set]))
    interval = f"no interval, for one split of {', '.join(single)} has no variance"
    if several:
        left_out = f", without {', '.join(single)} of one split" if single else ""
        interval = f"95 % interval {low:.2f} to {high:.2f}{left_out}"
    return Verdict(
        experiment="uci",
        claim=f"MCBN's uncertainty is at least on a par with that of {other.upper()}",
        outcome=on_a_par(low, high),
        numbers=f"difference of normalised CRPS, mean over {len(by_set)} sets: {mean:+.2f}, {interval} "
        f"(on a par: wholly above -{PAR:g}; not: wholly below 0; else too wide to tell)",
    )


def difference_interval(by_set: Sequence[Array], overlaps: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean over sets of a difference, by Student's t; nan where a set has one split.

    The variance of a set's mean is that of Nadeau & Bengio 2003: (1/n + test/train) of the sample variance. The degrees
    of freedom are those of Welch and Satterthwaite, of variances that differ between sets.

    Args:
        by_set: Of each set the difference in each split.
        overlaps: Of each set, rows of a test part divided by rows of a training part.

    >>> [round(end, 2) for end in difference_interval([np.array([1.0, 2.0, 3.0])], [0.0])]
    [-0.48, 4.48]

    """
    if any(len(values) < 2 for values in by_set):
        return math.nan, math.nan
    mean = float(np.mean([values.mean() for values in by_set]))
    parts = zip(by_set, overlaps, strict=True)
    variances = np.array([values.var(ddof=1) * (1 / len(values) + share) for values, share in parts])
    if not variances.any():
        return mean, mean
    freedom = variances.sum() ** 2 / (variances**2 / [len(values) - 1 for values in by_set]).sum()
    half = float(stdtrit(freedom, 0.975) * np.sqrt(variances.sum())) / len(by_set)
    return mean - half, mean + half


def by_p(p: float) -> Outcome:
    """The outcome by a one-sided p-value: significantly above 0, significantly below, or neither; nan is neither.

    >>> by_p(0.01), by_p(0.99), by_p(0.4)
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    if p < LEVEL:
        return "reproduced"
    return "not reproduced" if p > 1 - LEVEL else "inconclusive"


def on_a_par(low: float, high: float) -> Outcome:
    """The outcome by an interval of a difference; one that holds both 0 and less than -PAR is inconclusive, as is nan.

    >>> on_a_par(-2.0, 9.0), on_a_par(-9.0, -2.0), on_a_par(-40.0, 20.0)
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    if low >= -PAR:
        return "reproduced"
    return "not reproduced" if high < 0 else "inconclusive"


def _figure(out: Path, results: Results) -> None:
    methods = [method for method in METHODS if method != "trained statistics"]
    figure = new_figure(8.2, 1.2 + 0.8 * len(results))
    panels = figure.subplots(1, 2, sharey=True)
    names = list(results)
    for axes, key, title in zip(panels, ("normalised_crps", "normalised_pll"), ("CRPS", "PLL"), strict=True):
        styled(axes)
        axes.axvline(0, color=MUTED, linewidth=1.2)
        for place, method in enumerate(methods):
            height = np.arange(len(names)) + (place - 1.5) * 0.18
            columns = [getattr(columns_of(results[name], method), key) for name in names]
            errors = np.nan_to_num([standard_error(values) for values in columns])
            for at, values in zip(height, columns, strict=True):
                axes.plot(values, [at] * len(values), "o", color=COLOURS[method], markersize=2.2, alpha=0.45, zorder=2)
            axes.errorbar(
                [values.mean() for values in columns],
                height,
                xerr=errors,
                fmt="o",
                color=COLOURS[method],
                markersize=5.5,
                elinewidth=1.6,
                label=LABELS[method],
                zorder=3,
            )
        axes.set_xscale("symlog", linthresh=10, linscale=1.5)  # one set in five spans hundreds, the others ten
        low, high = axes.get_xlim()
        ticks = [tick for tick in (-1000, -100, -30, -10, -5, 0, 5, 10, 30, 100) if low <= tick <= high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_title(f"normalised {title}", loc="left", color=INK, fontsize=10)
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.supxlabel("0 constant, 100 optimum; logarithmic beyond ±10", color=INK, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    write_figure(figure, out, "uci")


LABELS = {"mcbn": "MCBN", "mcdo": "MC dropout", "mnf": "MNF", "ensemble": "ensemble of 5"}
