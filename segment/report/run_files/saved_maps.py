"""The maps of one image of a run, read from its files when they are asked for."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse, near, one_line
from segment.files.writing import read_map_png
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.images.read import read_label
from segment.uncertainty.measures import MEASURES

PREDICTION, PROBABILITY = "prediction", "probability"
RAW = "raw"
"""The folder of an image's 16-bit maps; beside it lie heat maps of the same names."""


@dataclass(frozen=True)
class Maps(Mapping[str, NDArray[Any]]):
    """The maps of one image by name, each read from disk when it is asked for: from maps.npz, else from 16-bit PNG.

    failed: a sentence on why the image has none; "" where it did not fail
    """

    folder: Path
    files: tuple[str, ...]
    failed: str = ""

    @cached_property
    def _places(self) -> dict[str, Path]:
        """Map -> its file; an archive comes before a picture, which is rounded to 16 bits."""
        places: dict[str, Path] = {}
        paths = [self.folder / name for name in self.files]
        for path in paths:
            if path.suffix == ".png" and path.stem in MEASURES and path.parent.name == RAW:
                places[path.stem] = path
            elif path.name == f"{PREDICTION}.png":
                places[PREDICTION] = path
        for path in paths:
            if path.suffix == ".npz":
                with opened_maps(path) as archive:
                    places |= dict.fromkeys(archive.files, path)
        return places

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._places:
            there = self.failed or f"There are: {', '.join(self) or 'none'}."
            raise KeyError(f"No map {name!r} was written.{near(name, self._places)} {there}")
        path = self._places[name]
        if path.suffix == ".npz":
            with opened_maps(path) as archive:
                return np.asarray(archive[name])
        return read_label(path) if name == PREDICTION else read_map_png(path)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Maps({', '.join(self)})"


@contextmanager
def opened_maps(path: Path) -> Iterator[Any]:
    """The archive of an image's maps. Errors, also of what is read within the block: WrongUse where it is damaged."""
    try:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no file of that name")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:  # np.load leaves files open
            yield archive
    except ARRAY_ERRORS as error:
        raise WrongUse(
            f"{str(path)!r} is no archive of maps: {getattr(error, 'strerror', None) or one_line(error, 120)}. Remove "
            "it, and --resume makes its image again."
        ) from None
