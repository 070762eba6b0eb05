"""The file of each condition of a sweep's test images: its rows, and the images that they are of.

Must not know how an image is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from segment.errors import WrongUse, count_of, first_of
from segment.files.reading import read_json
from segment.files.runs.run import Run
from segment.files.writing import write_json
from segment.images.find import in_text
from segment.report.results import Condition
from segment.report.run_files.scored_files import scored_files

Contents = Mapping[str, Sequence[str]]
"""Image -> `labels.contents_of` it."""

SHOWN = 5


def condition_file(folder: Path, condition: str, severity: int) -> Path:
    return folder / f"condition_{condition}_{severity}.json"


def state_file(folder: Path, condition: str, severity: int) -> Path:
    """The file of the sums: there until the condition is finished, and after that while an image of it has failed."""
    return folder / f"state_{condition}_{severity}.npz"


def write_condition(path: Path, made: Condition) -> None:
    write_json(path, asdict(made))


def read_condition(path: Path, images: Collection[str] | None = None) -> Condition:
    """images: those that there are now; one that failed and is gone has failed no more."""
    read = read_json(path, Condition, advice="Remove it to score its images again.")
    if images is None:
        return read
    return replace(read, failed={id: why for id, why in read.failed.items() if id in images})


def earlier_conditions(
    run: Run, conditions: Sequence[tuple[str, int]], now: Contents
) -> dict[tuple[str, int], Condition]:
    """The conditions, by name and severity, that an earlier process of the run has finished.

    now: of all images; empty for a new run. One that failed may have changed, for it is tried again
    Errors: WrongUse where rows, or the sums of a condition that was begun, are of other images.
    """
    if not now:  # a sweep that ended before it had a manifest may have left some
        left = [path.name for pattern in ("condition_*.json", "state_*.npz") for path in run.folder.glob(pattern)]
        run.discard(*left)
        return {}
    files = {key: condition_file(run.folder, *key) for key in conditions}
    earlier = {key: read_condition(path, now) for key, path in files.items() if path.exists()}
    changed, new = set[str](), set[str]()
    for made in earlier.values():
        if made.contents is not None:
            changed |= {id for id, contents in made.contents.items() if list(now.get(id, ())) != contents}
            new |= now.keys() - made.contents.keys() - made.failed.keys()
    for key in conditions:
        begun = scored_files(run.folder, state_file(run.folder, *key).name)
        changed |= {id for id, contents in begun.items() if tuple(now.get(id, ())) != contents}
    _refuse_other_images(run.place, changed, new)
    return earlier


def _refuse_other_images(place: Path, changed: Collection[str], new: Collection[str]) -> None:
    """Errors: WrongUse where there are such; no image can be taken out of a sum."""
    kinds = {"changed or gone": changed, "new": new}
    if words := [f"{len(ids)} {kind} ({first_of(sorted(ids), SHOWN)})" for kind, ids in kinds.items() if ids]:
        raise WrongUse(
            f"{in_text(place)!r} holds scores of other images: {'; '.join(words)}. Put them back, or choose another "
            "folder."
        )


def unequal_images(conditions: Sequence[Condition]) -> list[str]:
    """A line where an image failed under some conditions only: their rows do not compare."""
    failed = {id for made in conditions for id in made.failed}
    some = {id for id in failed if any(id not in made.failed for made in conditions)}
    if not some:
        return []
    return [
        f"{count_of(len(some), 'image')} failed under some conditions only ({first_of(sorted(some), SHOWN)}): rows of "
        "different conditions are of different images. --resume tries again what failed."
    ]
