"""The finding in two sentences, a run's settings in words, and what a page leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import count_of
from segment.ranking.columns import ranks_none
from segment.report.html.details import SET_ASIDE, Sums, upper_edges
from segment.report.html.tables import signed_with_interval
from segment.report.method_comparison import counted
from segment.report.run_files.saved_run import SavedRun
from segment.report.tables import decimals, verdict
from segment.significance.corrections import SIGNIFICANT

REASONS = 3
"""Reasons of one kind, at most, in one sentence."""


def finding(rows: Sequence[Mapping[str, Any]], measure: Mapping[str, Any] | None, sums: Sums) -> list[str]:
    """What a person needs first: how right or how uncertain the images are, and where to begin."""
    known = [row for row in rows if measure is not None and measure["name"] in row.get("means", {})]
    if measure is None or not known:
        return [f"The report holds {count_of(len(rows), 'image')} without uncertainty maps."]
    name, unit = measure["title"], f" {measure['unit']}" if measure["unit"] else ""
    means = np.array([row["means"][measure["name"]] for row in known])
    middle, largest = float(np.median(means)), float(means.max())
    digits = max(decimals(value, measure["decimals"]) for value in (middle, largest, largest - middle))

    def shown(value: float) -> str:
        return f"{value:.{digits}f}{unit}"

    high = int((means > 2 * middle).sum())
    counts = sums.ranked.get(measure["name"])
    if equal := ranks_none(name, means.tolist()):
        return [f"The report holds {count_of(len(known), 'image')}. {equal[0].upper()}{equal[1:]}."]
    if counts is not None and counts.sum():
        right = counts[:, 0].sum() / counts.sum()
        threshold, kept = _set_aside(sums, measure, counts)
        first = f"Of the labelled pixels of {count_of(sums.images, 'image')}, {_percent(right)} are right; "
        if kept.sum():
            share, after = 1 - kept.sum() / counts.sum(), kept[:, 0].sum() / kept.sum()
            first += f"without the {_percent(share, 0)} whose {name} is above {threshold}{unit}, {_percent(after)} are."
        else:
            first += f"the {name} of all of them is above {threshold}{unit}."
    elif len(known) > 1:
        first = f"Half of the {count_of(len(known), 'image')} have a mean {name} below {shown(middle)}."
    else:
        first = f"The report holds 1 image; its mean {name} is {shown(middle)}."
    if len(known) == 1:
        return [first]
    worst = known[int(np.argmax(means))]["id"]
    many = count_of(high, "image") if high else "no image"
    more = f"{many} {'lies' if high < 2 else 'lie'} above twice the median of {shown(middle)}"
    second = f"Begin with {worst!r}, whose mean {name} is the largest: {shown(largest)}; {more}."
    return [first, second]


def _set_aside(
    sums: Sums, measure: Mapping[str, Any], ranked: NDArray[np.int64]
) -> tuple[str, NDArray[np.int64]]:  # ..., bins 2 -> ..., kept 2
    """The threshold that the report begins with, and the labelled right and wrong pixels below it.

    Where no pixel lies above any value that is shown, as of tiny variances, the threshold is finer: that of SET_ASIDE.
    """
    level, above = sums.start(measure["name"])
    if above:
        digits = measure["decimals"]
        return f"{(level + 0.5) / 10**digits:.{digits + 1}f}", sums.pixels[measure["name"]][: level + 1, 1:]
    at = int(np.searchsorted(np.cumsum(ranked.sum(axis=1)), (1 - SET_ASIDE) * ranked.sum()))
    return f"{upper_edges()[at]:.3g}", ranked[: at + 1]


def gains(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a method gains over its rival in the probabilities and in finding errors, where no image is shown."""
    sentences = []
    for gain in [gain for comparison in comparisons for gain in comparison.get("gains", [])][:2]:
        differences = []
        rankings = [score for score in counted(gain["differences"]) if score.startswith("error_auroc")]
        for score, name in (("nll", "NLL"), *((score, "error AUROC") for score in rankings)):
            entry = gain["differences"].get(score) or {}
            if entry.get("low") is not None:
                sure = "" if verdict(entry) == SIGNIFICANT else ", not significant"
                value, interval = signed_with_interval(entry)
                differences.append(f"{name} by {value} ({interval}{sure})")
        if differences:
            sentences.append(f"{gain['method']} differs from {gain['rival']} in {' and in '.join(differences)}.")
    return sentences


def settings(run: SavedRun) -> list[tuple[str, str]]:
    """How a run was made, as pairs of a name and a value."""
    asked, plan = run.settings, run.record.get("plan", {})
    timings, made = run.record.get("timings", {}), run.record.get("versions", {})
    pairs = [("network", str(asked.get("model", "not recorded")))]
    pairs += [("images", str(asked.get("source", asked.get("images", ""))))]
    tuned = f"{asked['tuned']['method']}, a setting of segment tune" if "tuned" in asked else ""
    pairs += [("method", tuned or "mcbn")] if tuned or "bank" in asked else []
    if "draws" in plan:
        auto = ", as many as an image needs" if asked.get("draws") == "auto" else ""
        pairs.append(("draws", f"T = {plan['draws']}{auto}"))
    if "precision" in plan:
        pairs.append(("precision", ": ".join(filter(None, (plan["precision"], plan.get("precision_why", ""))))))
    if run.head != "softmax":
        pairs.append(("head", run.head))
    if run.card:
        pairs.append(("input", run.input.sentence))
    if timings.get("images"):
        seconds, images = timings["seconds"], count_of(timings["images"], "image")
        taken = f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
        pairs.append(("time", f"{taken} s for {images} on {plan.get('device', 'cpu')}"))
    if made:
        pairs.append(
            ("versions", ", ".join(f"{name} {made[name]}" for name in ("mcbn-segment", "torch") if name in made))
        )
    return pairs


def left_out(unseen: Mapping[str, str], unlabelled: Mapping[str, str], images: int) -> list[str]:
    """Sentences on images that are shown without their picture or their label map. unseen, unlabelled: id -> why."""
    of = f"of {count_of(images, 'image')}"
    return [
        f"{len(why)} {of} {'is' if len(why) == 1 else 'are'} shown without {what}. {_reasons(why)}"
        for what, why in (("the picture, which is grey", unseen), ("the label map", unlabelled))
        if why
    ]


def _reasons(why: Mapping[str, str]) -> str:
    """The first reasons in one line.

    >>> _reasons({"a": "Gone.", "b": "Changed."}), _reasons(dict.fromkeys("abcd", "Gone."))
    ('a: Gone. b: Changed.', 'a: Gone. b: Gone. c: Gone. 1 more.')
    """
    more = [f"{len(why) - REASONS} more."] if len(why) > REASONS else []
    return " ".join([f"{id}: {reason}" for id, reason in why.items()][:REASONS] + more)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
