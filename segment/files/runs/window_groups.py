"""What workers have estimated of large rasters: a file for each group of windows, in a hidden folder of the run.

RUN/.windows/<hash of an id>/plan.json says how the image is cut. A group's file is there whole or not at all, under a
name that depends on the group alone, and goes when the image is whole. Must not know who estimates a group.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Plane, WritablePlane, strips
from segment.errors import PredictionFailed
from segment.estimation.estimate import Estimate
from segment.estimation.tiling.assembly import Blank
from segment.estimation.tiling.groups import GroupEstimate
from segment.estimation.tiling.tiles import Span
from segment.files.lazy_arrays import blocks
from segment.files.reading import file_bytes, json_values
from segment.files.runs.places import WINDOWS
from segment.files.writing import fresh, write_json
from segment.stores.copies import here
from segment.stores.requests import files_below, is_there, remove
from segment.stores.urls import is_url

PLAN = "plan.json"
SUMS, ERRORS, MAPS = "class_sums.", "errors.", "maps."
"""Before the number of a tile, or the name of a measure, in the names of a file's arrays."""


class GroupFiles:
    """The groups of windows of one image of a run, in files."""

    def __init__(self, run: Path, id: str) -> None:
        """run: its folder or URL (`RunPlaces.place`)."""
        self.folder = run / WINDOWS / _name(id)

    @property
    def begun(self) -> bool:
        """Whether a group is there."""
        return bool(self._there())

    def left(self, groups: int, draws: int | None) -> list[int]:
        """The groups that are not there in a round."""
        there = self._there()  # to ask for one would have its absence cached
        return [number for number in range(groups) if self._path(number, draws).name not in there]

    def _there(self) -> set[str]:
        below = files_below(self.folder) if is_url(self.folder) else self.folder.glob("*.group")
        return {path.name for path in below if path.suffix == ".group"}

    def plan(self) -> dict[str, Any] | None:
        """What `begin` was given; None where nothing was begun."""
        try:
            with here(self.folder / PLAN) as copy:
                plan: dict[str, Any] = json_values(file_bytes(copy))
        except (OSError, ValueError):
            return None
        return plan

    def begin(self, plan: Mapping[str, Any]) -> None:
        write_json(self.folder / PLAN, plan)

    def write(self, number: int, draws: int | None, made: GroupEstimate[Any]) -> None:
        """The estimate of one group by one read-out, in a round of `draws` draws; None: of all."""
        ((_, estimate),) = made.estimates.items()
        (sums,) = made.class_sums.values()
        arrays: dict[str, Plane] = {f"{SUMS}{tile}": _array(values) for tile, values in sums.items()}
        arrays |= {f"{ERRORS}{tile}": _array(values) for tile, values in made.errors.items()}
        arrays |= {"prediction": estimate.prediction}
        arrays |= {} if estimate.mean is None else {"mean": estimate.mean}
        arrays |= {f"{MAPS}{name}": values for name, values in estimate.maps.items()}
        notes = {"draws": estimate.draws, "withheld": dict(estimate.withheld), "seconds": estimate.seconds}
        write_arrays(self._path(number, draws), notes, arrays)

    def has(self, number: int, draws: int | None) -> bool:
        return is_there(self._path(number, draws))

    def errors(self, groups: int, draws: int) -> dict[int, Tensor]:
        """The standard errors of all tiles in a round."""
        found: dict[int, Tensor] = {}
        for number in range(groups):
            with here(self._path(number, draws)) as copy:
                found |= _by_tile(StoredArrays(copy), ERRORS)
        return found

    def joined(
        self, windows: Sequence[tuple[Span, Span]], draws: int | None, size: tuple[int, int], blank: Blank
    ) -> GroupEstimate[WritablePlane]:
        """All groups as one estimate of the image (H, W), in arrays that `blank` makes.

        windows: rows and columns of each group
        Errors: PredictionFailed where a file is not there; OSError where the disk is full.
        """
        whole: dict[str, WritablePlane] = {}
        sums, errors, notes, seconds = dict[int, Tensor](), dict[int, Tensor](), dict[str, Any](), 0.0
        for number, ((top, _), (left, right)) in enumerate(windows):
            if not self.has(number, draws):
                raise PredictionFailed(f"{str(self._path(number, draws))!r} was removed; --resume makes it again.")
            with here(self._path(number, draws)) as copy:
                stored = StoredArrays(copy)
                sums, errors = sums | _by_tile(stored, SUMS), errors | _by_tile(stored, ERRORS)
                notes, seconds = notes or stored.notes, seconds + stored.notes["seconds"]
                for name in stored.names:
                    if name.startswith((SUMS, ERRORS)):
                        continue
                    kind, shape = stored.kind(name)
                    if name not in whole:
                        whole[name] = blank((*shape[:-2], *size), kind)
                    for plane, row, values in stored.rows(name):
                        planes = ... if len(shape) == 2 else slice(plane, plane + 1)
                        rows = slice(top + row, top + row + len(values))
                        whole[name][planes, rows, slice(left, right)] = values
        estimate = Estimate(
            whole["prediction"],
            whole.get("mean"),
            {name.removeprefix(MAPS): values for name, values in whole.items() if name.startswith(MAPS)},
            notes["draws"],
            notes["withheld"],
            seconds=seconds,
        )
        return GroupEstimate({"": estimate}, {"": sums}, errors)

    def forget_round(self, draws: int) -> None:
        remove([self.folder / name for name in self._there() if name.endswith(f"-{draws}.group")])

    def forget(self) -> None:
        """Take all of it away."""
        if is_url(self.folder):
            remove([*files_below(self.folder)])
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # there are other images in it
            self.folder.parent.rmdir()

    def _path(self, number: int, draws: int | None) -> Path:
        return self.folder / (f"{number:04}.group" if draws is None else f"{number:04}-{draws}.group")


def forget_others(run: Path, ids: Collection[str]) -> None:
    """Take away what was estimated of other images than these: they have their files."""
    kept = {_name(id) for id in ids}
    if is_url(run):
        remove([path for path in files_below(run / WINDOWS) if path.parent.name not in kept])
        return
    with suppress(OSError):
        for folder in [*(run / WINDOWS).iterdir()]:
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        (run / WINDOWS).rmdir()


def _name(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()[:16]


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()


def _by_tile(stored: StoredArrays, prefix: str) -> dict[int, Tensor]:
    names = [name for name in stored.names if name.startswith(prefix)]
    return {int(name.removeprefix(prefix)): torch.from_numpy(stored.array(name)) for name in names}


def write_arrays(path: Path, notes: Mapping[str, Any], arrays: Mapping[str, Plane]) -> None:
    """Arrays as they are in memory, after a header in JSON: its length in eight bytes, the notes, types and shapes."""
    kinds = {name: [values.dtype.str, list(values.shape)] for name, values in arrays.items()}
    header = json.dumps({"notes": notes, "arrays": kinds}).encode()
    with fresh(path) as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for values in arrays.values():
            if isinstance(values, np.ndarray):
                stream.write(np.ascontiguousarray(values).tobytes())
                continue
            for plane in [values] if len(values.shape) == 2 else [values[k] for k in range(values.shape[0])]:
                for block in blocks(plane):
                    stream.write(np.ascontiguousarray(block, values.dtype).tobytes())


class StoredArrays:
    """What `write_arrays` wrote, read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        self.notes: dict[str, Any] = header["notes"]
        self._arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        place = 8 + length
        for name, (kind, shape) in header["arrays"].items():
            self._arrays[name] = (np.dtype(kind), tuple(shape), place)
            place += np.dtype(kind).itemsize * math.prod(shape)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def kind(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape."""
        kind, shape, _ = self._arrays[name]
        return kind, shape

    def array(self, name: str) -> NDArray[Any]:
        kind, shape, place = self._arrays[name]
        return np.fromfile(self._path, kind, math.prod(shape), offset=place).reshape(shape)

    def rows(self, name: str) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Some rows after the others of an H W or K H W: plane, first row, and values h W."""
        kind, shape, place = self._arrays[name]
        height, width = shape[-2:]
        with self._path.open("rb") as stream:
            stream.seek(place)
            for plane in range(math.prod(shape[:-2])):
                for rows in strips((height, width)):
                    count = rows.stop - rows.start
                    yield plane, rows.start, np.fromfile(stream, kind, count * width).reshape(count, width)
