"""Lists of images with their label maps, one pair a line: `python -m benchmarks.image_lists SOURCE OUT`.

SOURCE is a folder with lists of its own, as CamVid has `val.txt` and `test.txt`. The paths of a list are relative to
the list's own folder, so those that are written name SOURCE as seen from OUT.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from segment.files.writing import write_text

Pair = tuple[str, str]

MEASURED = 20
"""Test images that distilled draws are measured on."""


def write_list(path: Path, pairs: Iterable[Iterable[str]]) -> None:
    """Write one list; a line holds an image and, where there is one, its label map."""
    write_text(path, "".join(f"{' '.join(pair)}\n" for pair in pairs))


def folder_pairs(folder: Path, part: str) -> list[Pair]:
    """Each image of FOLDER/PART/images with the label map of its name, relative to FOLDER, in the order of names."""
    names = sorted(path.name for path in (folder / part / "images").iterdir())
    return [(f"{part}/images/{name}", f"{part}/labels/{name}") for name in names]


def evenly_spaced(length: int, count: int) -> list[int]:
    """Places of so many of a list's items."""
    return [index * length // count for index in range(count)]


def unmeasured(images: Sequence[Pair], count: int) -> list[Pair]:
    """All but the evenly spaced images that `benchmarks.distill` measures on."""
    measured = evenly_spaced(len(images), count)
    return [pair for index, pair in enumerate(images) if index not in measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    base = Path(os.path.relpath(asked.source, asked.out))
    val, test = (_pairs(asked.source / f"{part}.txt", base) for part in ("val", "test"))
    lists: dict[str, Sequence[Iterable[str]]] = {
        "all_val": val,
        "half_val": val[::2],
        "val": val[1::2],
        "some_val": val[1::17],
        "tenth_val": val[::10],
        "all_test": test,
        "test": test,
        "twelfth_test": test[::12],
        "sixth_test": (test[::2] + test[1::2])[::6],
        "first_test": [(image,) for image, _ in test[:30]],
        "rest_of_test": [(image,) for image, _ in unmeasured(test, MEASURED)],
        "pooled": val + test,
        "held_pool": [pair for number, pair in enumerate(val) if number % 10] + test,
    }
    for name, pairs in lists.items():
        write_list(asked.out / f"{name}.txt", pairs)


def _pairs(path: Path, base: Path) -> list[Pair]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [((base / image).as_posix(), (base / label).as_posix()) for image, label in lines]


if __name__ == "__main__":
    main()
