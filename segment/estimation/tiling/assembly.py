"""The estimates of tiles, one after the other, written into the estimate of the whole image, in memory or in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segment.axes import Head, WritablePlane
from segment.estimation.estimate import Estimate, ReadOut, estimates
from segment.estimation.tiling.blending import BlendingError, Overlaps, error_of, windows
from segment.estimation.tiling.groups import GroupEstimate, TileGroup
from segment.estimation.tiling.tiles import Cut, Span
from segment.images.prepare import Normalised
from segment.uncertainty.class_indices import mask_type
from segment.uncertainty.class_sums import class_sums
from segment.uncertainty.scaling import Calibration
from segment.uncertainty.stopping import on_grid

Blank = Callable[[tuple[int, ...], Any], WritablePlane]
"""Shape and NumPy dtype -> an array to write into."""

STANDARD_ERROR = "standard_error"

COMPARED = 4
"""Windows at most in which blended tiles are compared with exact ones."""


def assembled(
    image: Tensor | Normalised,
    cut: Cut,
    group: TileGroup,
    read_outs: Mapping[str, ReadOut],
    head: Head,
    *,
    classes: Callable[[], int],
    measures: Mapping[str, tuple[str, ...]],
    blank: Blank | None,
    identity: str,
    errors: bool = False,
    after: Callable[[], None] = lambda: None,
) -> GroupEstimate[Any]:
    """The estimates of a group's window of an image (1 C H W), put together from those of its tiles.

    classes: K, asked for once a tile is done. measures: of each read-out, those that are put together
    blank: makes its arrays; None: tensors in memory
    errors: whether each tile's standard errors are kept at the pixels of the stopping rule's grid
    after: called when the passes over a tile are made
    What a tile raises has a note with its place in the image.
    """
    size = (image.shape[-2], image.shape[-1])
    rows, columns = group.window(cut, size)
    whole: dict[str, Estimate[Any]] = {}
    sums: dict[str, dict[int, Tensor]] = {name: {} for name in read_outs}
    on_the_grid: dict[int, Tensor] = {}
    asked = {name: replace(each, probability=each.probability or each.sums) for name, each in read_outs.items()}
    draws = max(read_out.passes for read_out in read_outs.values())
    kept: dict[tuple[int, Calibration], Overlaps] = {}

    def overlaps(method: int, temperature: Calibration) -> Overlaps:
        key = (method, temperature)
        if key not in kept:
            kept[key] = Overlaps(cut.tiles(*size), cut.halo, draws, blank or _zeros)
        kept[key].tile = tile
        return kept[key]

    for number, tile, of_group in group.tiles(cut, size):
        try:
            seen = image[(..., *tile.seen)].contiguous()
            made = estimates(asked, seen, head, identity=identity, overlaps=overlaps if cut.blended else None)
        except Exception as error:
            error.add_note(window_text(tile.rows, tile.columns))
            raise
        after()
        if not of_group:
            continue
        inner = {name: part.image(0) for name, part in made.items()}
        if not cut.blended:
            inner = {name: part.each(lambda values: values[(..., *tile.within)]) for name, part in inner.items()}  # noqa: B023 - called at once
        for name, part in inner.items():
            if errors:
                corner = tile.inner_rows[0], tile.inner_columns[0]
                on_the_grid[number] = on_grid(part.maps[STANDARD_ERROR], corner, size).flatten()
            maps = {key: part.maps[key] for key in measures[name] if key in part.maps}
            part = replace(with_own_sums(part, read_outs[name], head), maps=maps)
            if part.class_sums is not None:
                sums[name][number] = part.class_sums
            part = replace(part, class_sums=None)
            window = (rows[1] - rows[0], columns[1] - columns[0])
            before = whole.get(name) or empty_whole(part, window, blank, classes())
            write_tile(part, before, moved(tile.kept, rows[0], columns[0]))
            whole[name] = replace(before, seconds=before.seconds + part.seconds) if name in whole else before
    return GroupEstimate(whole, sums, on_the_grid)


def window_text(rows: Span, columns: Span) -> str:
    """A window of an image, for people: the first and the last row and column.

    >>> window_text((0, 64), (128, 192))
    'in the window of rows 0 to 63, columns 128 to 191'
    """
    return f"in the window of rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}"


def moved(window: tuple[slice, slice], top: int, left: int) -> tuple[slice, slice]:
    """A window of an image, in the part of it that begins there."""
    rows, columns = window
    return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


def _zeros(shape: tuple[int, ...], kind: Any) -> Any:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def empty_whole(part: Estimate[Tensor], size: tuple[int, int], blank: Blank | None, classes: int) -> Estimate[Any]:
    """An estimate of a window of that size (H W), of the types of a tile's, whose values are not written yet.

    blank: makes its arrays; None: tensors in memory
    """

    def empty(values: Tensor) -> Tensor | WritablePlane:
        shape = (*values.shape[:-2], *size)
        if blank is None:
            return torch.empty(shape, dtype=values.dtype)
        dtype = values[..., :0, :0].cpu().numpy().dtype if values.is_floating_point() else mask_type(classes)
        return blank(shape, dtype)

    return part.each(empty)


def write_tile(part: Estimate[Tensor], whole: Estimate[Any], window: tuple[slice, slice]) -> None:
    """Write the estimate of a tile's inner part into that of a larger window, at its place there."""
    for values, target in zip(_arrays(part), _arrays(whole), strict=True):
        target[(..., *window)] = values if isinstance(target, Tensor) else values.cpu().numpy()


def with_own_sums(part: Estimate[Tensor], read_out: ReadOut, head: Head) -> Estimate[Tensor]:
    """The estimate of a tile's inner part with its class sums, and the probability where it is asked.

    part: made with the probability where the read-out asks for either
    """
    if not read_out.sums or part.mean is None:
        return part
    sums = class_sums(part.mean[None], part.prediction[None], head)[0]
    return replace(part, class_sums=sums, mean=part.mean if read_out.probability else None)


def _arrays(estimate: Estimate[Any]) -> list[Any]:
    mean = [] if estimate.mean is None else [estimate.mean]
    return [estimate.prediction, *mean, *estimate.maps.values()]


def compared(
    image: Tensor | Normalised,
    blended: Mapping[str, Estimate[Any]],
    cut: Cut,
    read_outs: Mapping[str, ReadOut],
    head: Head,
    *,
    around: int,
    exact: bool,
    identity: str,
) -> dict[str, BlendingError]:
    """How far the blended estimates of an image are from passes over some windows, where its tiles meet.

    around: pixels that each window is passed with on every side. exact: whether that is as far as the network reaches
    """
    size = (image.shape[-2], image.shape[-1])
    pairs: dict[str, list[Any]] = {name: [] for name in read_outs}
    for window in windows(cut.tiles(*size), cut.halo, size, COMPARED):
        seen, within = zip(
            *(_around(part, around, cut.align, length) for part, length in zip(window, size, strict=True)), strict=True
        )
        made = estimates(read_outs, image[(..., *seen)].contiguous(), head, identity=identity)
        for name, part in made.items():
            reference = part.image(0).each(lambda values: values[(..., *within)].cpu().numpy())  # noqa: B023
            here = blended[name].each(lambda values: values[(..., *window)])  # noqa: B023
            pairs[name].append((_maps(here), _maps(reference)))
    return {name: error_of(of_one, exact=exact) for name, of_one in pairs.items()}


def _around(part: slice, around: int, align: int, length: int) -> tuple[slice, slice]:
    """What is passed for a window along one side, aligned, and the window within it."""
    start = max(0, part.start - around) // align * align
    stop = min(length, -(-(part.stop + around) // align) * align)
    return slice(start, stop), slice(part.start - start, part.stop - start)


def _maps(estimate: Estimate[Any]) -> dict[str, Any]:
    arrays = {**estimate.maps, "prediction": estimate.prediction}
    return {name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in arrays.items()}
