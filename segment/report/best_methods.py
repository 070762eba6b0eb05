"""Which method is best in which score, what MCBN gains, and whether either is significant: in sentences and in rows.

Must not know how a score was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from segment.report.method_comparison import BEST, COMMON, Comparison, Gain, counted
from segment.report.tables import arrow, difference_decimals, few, gained, number, signed, verdict, words
from segment.scores.board import Over
from segment.significance.corrections import SIGNIFICANT
from segment.significance.paired import FEW, LEAST, seen_by_t_test

GAIN_SCORES = ("nll", "miou", f"error_auroc.{COMMON}", f"error_auroc{BEST}")
"""Scores that the sentence of a gain states, of those that are counted."""
BEST_TWO = ("score", "best", "value", "next", "value", "difference", "significant against the next")
WIDTH = 78
"""Characters of a line that is indented by two on a screen of 80 columns."""


def in_short(comparisons: Sequence[Comparison], gains: Sequence[Gain], units: int, over: Over = "images") -> list[str]:
    """The result in sentences: what few images can show, what MCBN gains, which method is significantly best.

    Significantly best: the difference from every other method is significant, not only that from the next. Of fewer
    than LEAST units no test can call a difference significant, which is said in place of their outcomes.

    units, over: how many images or groups the tests are over, as `tables.units_of`
    """
    plain = _counted(comparisons)
    if plain and not any(comparison.entries[comparison.best].get("low") is not None for comparison in plain):
        return [f"One {over.removesuffix('s')} gives no intervals, so no difference can be called significant."]
    known = [gain for gain in gains if gain.differences]
    if units < LEAST:
        none = [f"With {units} {over} no difference can be significant: {LEAST} are the least."] if comparisons else []
        return none + [f"{_gain(gain)}." for gain in known]
    return [*_few(known, units, over), *(f"{_gain(gain)}; {_outcome(gain)}." for gain in known), *_best(plain)]


def _counted(comparisons: Iterable[Comparison]) -> list[Comparison]:
    by_score = {comparison.score: comparison for comparison in comparisons}
    return [by_score[score] for score in counted(by_score)]


def _few(gains: Sequence[Gain], units: int, over: Over) -> list[str]:
    """How large a gain must be to be seen on so few, by the tests that Holm's correction is over."""
    tests = sum(entry.get("p") is not None for gain in gains for entry in gain.differences.values())
    if units >= FEW or not tests:
        return []
    return [f"{few(units, over, 'gain', seen_by_t_test(units, tests))}, so *not significant* says little."]


def _best(comparisons: Sequence[Comparison]) -> list[str]:
    """The methods that are best in some score: significantly against every other one, not so, and with an equal one."""
    sure: dict[str, list[str]] = {}
    open_: dict[str, list[str]] = {}
    ties: dict[str, list[str]] = {}
    for comparison in comparisons:
        name = _short(comparison.score)
        if equal := _equal(comparison):
            ties.setdefault("** and **".join([comparison.best, *equal]), []).append(name)
            continue
        significant = all(verdict(entry) == SIGNIFICANT for entry in comparison.differences.values())
        (sure if significant else open_).setdefault(comparison.best, []).append(name)
    lines = {
        "Significantly best": sure,
        "Best, but not significantly against every other method": open_,
        "Best, and equal to each other": ties,
    }
    return [f"{what}: {_by_method(of)}." for what, of in lines.items() if of]


def _equal(comparison: Comparison) -> list[str]:
    """The methods whose score is the best one's."""
    return [name for name, entry in comparison.differences.items() if entry["value"] == 0]


def _by_method(scores: Mapping[str, Sequence[str]]) -> str:
    ordered = sorted(scores.items(), key=lambda pair: -len(pair[1]))
    return "; ".join(f"**{method}** in {', '.join(names)}" for method, names in ordered)


def _short(score: str) -> str:
    """A score in words, with the measure that ranks.

    >>> _short("ause.predictive_entropy"), _short("error_auroc of the best measure"), _short("nll")
    ('AUSE by predictive entropy', 'error AUROC by the best measure', 'NLL')
    """
    name, _, measure = words(score).partition(", ")
    return f"{name} by {'the ' * measure.startswith('best')}{measure}" if measure else name


def _gain(gain: Gain) -> str:
    known = counted(gain.differences)
    differences = [f"{_short(score)} {signed(gain.differences[score])}" for score in GAIN_SCORES if score in known]
    passes = f"{gain.passes[0]} passes instead of {gain.passes[1]}"
    return f"**{gain.method} over {gain.rival}** ({passes}): {', '.join(differences)}"


def _outcome(gain: Gain) -> str:
    outcomes = [gained(score, gain.differences[score]) for score in counted(gain.differences)]
    better, worse = outcomes.count("significantly better"), outcomes.count("significantly worse")
    return f"significantly better in {better} of {len(outcomes)} scores, worse in {worse}"


def best_two(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """One row a score, under BEST_TWO: the best method, the next, and whether the difference is significant.

    Significant: the 95 % interval leaves out 0, p after Holm's correction over all scores and methods is at most .05,
    and where there are several banks the difference is more than twice its standard deviation over them.
    """
    rows = []
    for comparison in comparisons:
        row = [f"{words(comparison.score)} {arrow(comparison.score)}"]
        following = next(iter(comparison.differences))
        for method in (comparison.best, following):
            row += [
                method + (f", {comparison.measures[method]}" if BEST in comparison.score else ""),
                number(comparison.entries[method]),
            ]
        entry = comparison.differences[following]
        rows.append([*row, number(entry, 4, difference_decimals), verdict(entry)])
    return rows


def best_two_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """A short entry a score for a screen, on two lines where one is too long: best method, next, significance.

    Ranking scores are by the common measure; `best_two` has them by each method's best one too, and the intervals.
    """
    lines = []
    for comparison in _counted(comparisons):
        following, entry = next(iter(comparison.differences.items()))
        by = "–" if entry["value"] is None else f"{entry['value']:+.2g}"
        score = _short(comparison.score)
        if equal := _equal(comparison):
            lines.append(f"{score}: {' and '.join([comparison.best, *equal])} are equal")
            continue
        line, outcome = f"{score}: {comparison.best}, next {following} ({by}),", verdict(entry)
        lines.append(f"{line} {outcome}" if len(f"{line} {outcome}") <= WIDTH else f"{line}\n    {outcome}")
    return lines
