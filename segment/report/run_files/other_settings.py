"""Whether an evaluation beside a run is of its images, and made as it was: sentences for the page where it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from segment.report.run_files.saved_run import SavedRun


def differences(run: SavedRun, evaluation: SavedRun) -> list[str]:
    """What makes an evaluation's scores those of something else than the run shows; [] where nothing does."""
    name, lines = evaluation.folder.name, []
    own, scored = _images(run), _images(evaluation)
    if own != scored and own <= scored:
        lines.append(f"The scores in {name!r} are of {scored.total()} images; the run shows {own.total()} of them.")
    elif own != scored:
        lines.append(
            f"The scores in {name!r} are of other images: {(own & scored).total()} of the run's {own.total()} are "
            f"among its {scored.total()}."
        )
    if other := "; ".join(_settings(run, evaluation)):
        lines.append(f"The scores in {name!r} were made with other settings than the run: {other}.")
    return lines


def _images(run: SavedRun) -> Counter[str]:
    """The content of each file, as often as an image of it is done; its place where no content was recorded."""
    done = (entry for entry in run.entries.values() if entry["status"] == "done")
    return Counter(str(entry.get("sha256") or entry["source"]) for entry in done)


def _settings(run: SavedRun, evaluation: SavedRun) -> Iterator[str]:
    asked, scored = run.settings, evaluation.settings
    if run.record.get("fingerprints", {}).get("network", scored.get("network")) != scored.get("network"):
        yield f"another network, {scored.get('model')!r}"
    if run.card.get("input") != evaluation.card.get("input"):
        yield "another preprocessing"
    if asked.get("masks") != scored.get("masks"):
        yield "other region masks" if scored.get("masks") else "without the run's region masks"
    if scored.get("shift"):
        yield f"images corrupted by {':'.join(map(str, scored['shift']))}"
    if scored.get("banks") and scored["banks"] != [asked.get("bank")]:
        yield "another bank" if len(scored["banks"]) == 1 else f"{len(scored['banks'])} banks"
    drawn = (evaluation.scores or {}).get("methods", {}).get("mcbn", {}).get("passes_per_image")
    draws = run.record.get("plan", {}).get("draws", drawn)
    if asked.get("draws") != "auto" and drawn is not None and draws != drawn:
        yield f"T = {drawn} for {draws}"
