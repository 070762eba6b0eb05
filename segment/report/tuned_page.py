"""What a tuning says: one paragraph, the Pareto table and picture, on a page.

Must not know how a candidate was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import MissingExtra
from segment.files.text_tables import markdown
from segment.files.writing import write_bytes, write_text
from segment.pictures.plots import Line, plot
from segment.significance.paired import FEW, LEAST, PairedTest
from segment.tuning.choice import RULES, Candidate, Choice

PAGE, PICTURE = "tuned.md", "pareto.png"
COLUMNS = ("setting", "passes", "NLL", "AUSE", "ECE", "mIoU", "")


def tuned_words(choice: Choice, images: int, cost: float) -> str:
    """What was chosen, against what, by how much, in one paragraph."""
    chosen = choice.chosen
    parts = [
        f"Chosen: {chosen.name}, with an NLL of {chosen.mean:.4f} nats cross-validated on {images} images.",
        f"The rule is `{choice.rule}`: {RULES[choice.rule]}.",
        *(_by_best(choice) if choice.rule == "best" else _by_cheapest(choice)),
    ]
    if choice.refused:
        lowest = min(choice.refused, key=lambda each: each.mean)
        parts.append(
            "Refused, because its mIoU is below that of the plain pass by a test at level .05, not corrected for the "
            f"number of settings: {lowest.name}"
            + (f", and {len(choice.refused) - 1} more." if len(choice.refused) > 1 else ".")
        )
    parts.append(f"The search took {cost:.1f} passes over every validation image.")
    if choice.untested:
        parts.append(f"{choice.count} {choice.over} can show no difference: {LEAST} are the least.")
    elif choice.count < FEW:
        parts.append(f"{choice.count} {choice.over} are few, so that another set might lead to another choice.")
    parts.append("A choice flatters itself a little: score it on test images once, and do not choose again by them.")
    return " ".join(parts)


def _by_best(choice: Choice) -> list[str]:
    """What the choice by the rule `best` gains, and what the other rule would cost."""
    chosen, best, single, cheapest = choice.chosen, choice.best, choice.single, choice.cheapest
    if choice.gain is None:
        parts = ["It takes one pass, and no setting that takes more has a lower NLL with all of its passes."]
    elif choice.untested:
        parts = [
            f"It is the best of one pass. The best of all, {best.name}, has {best.mean:.4f}; whether the difference is "
            f"chance, {_span(choice.gain)}, cannot be tested."
        ]
    elif chosen is single:
        parts = [
            f"One pass is as good: the best of all, {best.name}, has {best.mean:.4f}, and the difference "
            f"{_span(choice.gain)} is not significant over {choice.over}."
        ]
    else:
        parts = [
            f"The best of one pass, {single.name}, has {single.mean:.4f}: the difference is {_span(choice.gain)}, over "
            f"{choice.over}."
        ]
    if choice.loss is not None and cheapest.passes < chosen.passes:
        parts.append(f"`--rule cheapest` would take {cheapest.name}, at a cost of {_span(choice.loss)}.")
    return parts


def _by_cheapest(choice: Choice) -> list[str]:
    """What the choice by the rule `cheapest` costs."""
    best, chosen = choice.best, choice.chosen
    if choice.loss is None:
        if choice.best.passes == 1:
            return ["It has the lowest NLL, and takes one pass."]
        return ["It has the lowest NLL, and every setting of fewer passes that could be taken is significantly worse."]
    fewer = best.passes - chosen.passes
    counted = "1 pass fewer costs" if fewer == 1 else f"{fewer} passes fewer cost"
    missed = "" if choice.missed is None else f" These {choice.over} would miss {choice.missed:.4f} one time in five."
    span = f"{_span(choice.loss)}, over {choice.over}."
    return [f"The lowest NLL, of {best.name}, is {best.mean:.4f}: {counted} {span}{missed}"]


def candidate_rows(candidates: Sequence[Candidate], choice: Choice) -> list[list[str]]:
    """One row a candidate, by passes and NLL; those on the Pareto front are marked."""
    rows = []
    for each in sorted(candidates, key=lambda each: (each.passes, each.mean)):
        mark = "chosen" if each is choice.chosen else "Pareto" if each in choice.front else ""
        mark = "refused" if each in choice.refused else mark
        values = (each.mean, each.ause, each.ece, each.miou)
        scores = [f"{value:.4f}" if value is not None else "–" for value in values]
        rows.append([each.name, str(each.passes), *scores, mark])
    return rows


def write_tuned_page(
    folder: Path,
    choice: Choice,
    candidates: Sequence[Candidate],
    dropped: Sequence[Mapping[str, Any]],
    why: str,
    failed: Mapping[str, str],
) -> None:
    """tuned.md, and pareto.png where matplotlib is installed. failed: images in no comparison, and why."""
    try:
        picture: bytes | None = _picture(choice, candidates)
    except MissingExtra:
        picture = None
    if picture is not None:
        write_bytes(folder / PICTURE, picture)
    lines = ["# Tuned setting", "", why, ""]
    lines += [f"![NLL against passes]({PICTURE})", ""] if picture is not None else []
    lines += [*markdown(COLUMNS, candidate_rows(candidates, choice)), ""]
    lines += ["*Pareto*: nothing of as few passes has a lower NLL. All scores are cross-validated over images.", ""]
    lines += (
        ["*Refused*: its mIoU is below that of the plain pass, by a test at level .05.", ""] if choice.refused else []
    )
    if dropped:
        rows = [[d["arm"], str(d["images"]), str(d["draws"]), _loss(d)] for d in dropped]
        lines += ["Fell out of the search (NLL at the best temperature of those images):", ""]
        lines += [*markdown(("setting", "images", "draws", "NLL"), rows), ""]
    if failed:
        lines += ["No setting is compared on these images, which failed:", ""]
        lines += [*markdown(("image", "why"), [[name, reason] for name, reason in failed.items()]), ""]
    write_text(folder / PAGE, "\n".join(lines))


def _loss(dropped: Mapping[str, Any]) -> str:
    """The NLL that an arm fell out with, or why it has none."""
    return str(dropped["why"]) if dropped["nll"] is None else f"{dropped['nll']:.4f}"


def _picture(choice: Choice, candidates: Sequence[Candidate]) -> bytes:
    lines = []
    for arm in dict.fromkeys(each.arm for each in candidates):
        for scaling in ("", "temperature", "vector_scaling"):
            own = sorted(
                (each for each in candidates if each.arm == arm and each.scaling == scaling), key=lambda e: e.passes
            )
            if own:
                name = f"{arm}{' + ' + scaling.replace('_', ' ') if scaling else ''}"
                lines.append(Line(name=name, x=[each.passes for each in own], y=[each.mean for each in own]))
    if len(choice.front) > 1:
        front = choice.front
        lines.append(Line(name="Pareto front", x=[e.passes for e in front], y=[e.mean for e in front], dashed=True))
    ticks = sorted({each.passes for each in candidates})
    return plot(
        lines,
        title=f"Chosen: {choice.chosen.name}",
        x="passes an image",
        y="cross-validated NLL, nats a pixel",
        logarithmic=True,
        ticks=ticks,
        ring=(choice.chosen.passes, choice.chosen.mean),
    )


def _span(gain: PairedTest) -> str:
    d = gain.difference
    return f"{d.value:+.4f}" + ("" if d.low is None else f" ({d.low:+.4f}..{d.high:+.4f})")
