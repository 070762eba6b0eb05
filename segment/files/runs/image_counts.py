"""The counts of every image of an evaluation, one npz for all methods, written whole or not at all, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.files.writing import fresh
from segment.guarantees.counts import ImageCounts
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.scores.plan import ScorePlan

IMAGE_COUNTS = "image_counts.npz"
FORMAT = 1


def write_image_counts(path: Path, counts: Mapping[str, ImageCounts]) -> None:
    """counts: by method and bank, as in per_image.csv."""
    plans = {name: asdict(of_method.plan) for name, of_method in counts.items()}
    arrays: dict[str, NDArray[Any]] = {"plans": np.array(json.dumps({"format": FORMAT, "plans": plans}))}
    for name, of_method in counts.items():
        arrays |= {f"{name}|{key}": value for key, value in of_method.state().items()}
    with fresh(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read_image_counts(folder: Path) -> dict[str, ImageCounts]:
    """The counts of an evaluation's folder, by method and bank.

    Errors: WrongUse where there are none, they are damaged, or another version wrote them.
    """
    path = folder / IMAGE_COUNTS
    if not path.is_file():
        raise WrongUse(
            f"{str(folder)!r} holds no counts of images ({IMAGE_COUNTS}). Give the folder that `segment evaluate` of "
            "this version wrote for labelled validation images; --resume finishes one that was interrupted."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(str(archive["plans"]))
            if header["format"] != FORMAT:
                raise WrongUse(f"{str(path)!r} has format {header['format']}; this version reads {FORMAT}.")
            states: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in header["plans"]}
            for key in archive.files:
                name, bar, part = key.partition("|")
                if bar:
                    states[name][part] = archive[key]
        return {name: ImageCounts.of(ScorePlan.of(header["plans"][name]), state) for name, state in states.items()}
    except (*ARRAY_ERRORS, AttributeError) as error:
        raise WrongUse(f"{str(path)!r} is damaged: {error}. Evaluate again into another folder.") from error
