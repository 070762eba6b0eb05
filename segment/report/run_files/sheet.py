"""A run to its contact sheet: which images it shows, and their thumbnails; and its legend.

Must not know how an image is estimated. The choice is by rank of the mean uncertainty: it is no random sample.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import SegmentError, count_of
from segment.files.lazy_arrays import ComputedRows
from segment.files.runs.run import Run
from segment.files.writing import read_map_png, write_png
from segment.images.display import WindowedPicture
from segment.images.find import Source
from segment.images.read import read_label
from segment.networks.load import Network
from segment.pictures.heatmaps import ABSENT, heatmap
from segment.pictures.overlays import errors_overlay, uncertainty_overlay
from segment.pictures.palettes import WRONG, Picture, colour_mask, no_class_colour
from segment.pictures.sheets import SheetRow, contact_sheet, legend_sheet
from segment.pictures.thumbnails import HEIGHT, WIDEST, thumbnail
from segment.report.run_files.image_files import ImageResult, likeliest
from segment.report.run_files.saved_maps import PREDICTION, PROBABILITY, opened_maps
from segment.report.run_files.style import PictureStyle
from segment.uncertainty.class_indices import likeliest_label

log = logging.getLogger(__name__)

EACH = 6
"""Images of a section: the most uncertain, those around the median, the least uncertain."""

KEPT = 64
"""Images whose thumbnails are kept while a run goes on."""

LARGEST = 2**25
"""Pixels of an image above which it is not read again for the sheet."""

SMALL, ALONE = (HEIGHT, WIDEST), (3 * HEIGHT, 3 * WIDEST)
"""Pixels of a thumbnail, and of one in the sheet of a single image."""

TRUTH, ERRORS, NO_CLASS, NO_DATA = "ground truth", "errors", "no class", "no data"
Thumbnails = dict[str, Picture]
"""Column -> picture of one image's row."""


def chosen(values: Mapping[str, float]) -> dict[str, list[str]]:
    """Section -> ids, the largest value first; one section without a name where all have room.

    >>> chosen({"a": 0.1, "b": 0.3})
    {'': ['b', 'a']}
    >>> {name: len(ids) for name, ids in chosen({str(i): i for i in range(100)}).items()}
    {'Most uncertain': 6, 'Around the median': 6, 'Least uncertain': 6}
    """
    order = sorted(values, key=lambda id: (-values[id], id))
    if len(order) <= 3 * EACH:
        return {"": order}
    middle = (len(order) - EACH) // 2
    parts = order[:EACH], order[middle : middle + EACH], order[-EACH:]
    return dict(zip(("Most uncertain", "Around the median", "Least uncertain"), map(list, parts), strict=True))


@dataclass
class SheetCandidates:
    """Thumbnails of the images that the sheet may show, at most `KEPT` of them while a run goes on.

    The most and the least uncertain are always kept; around the median, those nearest to that of the images so far.
    """

    thumbnails: dict[str, Thumbnails] = field(default_factory=dict)
    _values: dict[str, float] = field(default_factory=dict)  # of those that are kept
    _ordered: list[float] = field(default_factory=list)  # of all images so far

    def add(self, id: str, value: float, pictures: Thumbnails) -> None:
        """An image's row; one that is done again replaces it."""
        insort(self._ordered, value)
        self._values[id] = value
        self.thumbnails[id] = pictures
        if len(self.thumbnails) > KEPT:
            median = self._ordered[len(self._ordered) // 2]
            ranked = sorted(self._values, key=self._values.__getitem__)
            last = max(ranked[EACH:-EACH], key=lambda id: abs(self._values[id] - median))
            del self.thumbnails[last], self._values[last]


def thumbnails(result: ImageResult, truth: Plane | None = None, *, alone: bool = False) -> Thumbnails:
    """An image's row of the sheet.

    truth: its label ids, where there are any. alone: whether the run has no other image: the pictures are larger
    """
    style = result.style
    mask = result.inside(likeliest(result.estimate, style)) if "prediction" in result.maps else None
    measures = columns_of(style, result.maps)
    return _row(result.image, mask, result.shown.maps, truth, style, measures, ALONE if alone else SMALL)


def columns_of(style: PictureStyle, maps: Sequence[str]) -> tuple[str, ...]:
    """The measures of the sheet: the heat measure, then variance and mutual information where they are asked for."""
    return tuple(dict.fromkeys([style.heat, *(name for name in ("variance", "mutual_information") if name in maps)]))


def _row(
    image: Plane,
    mask: Plane | None,
    maps: Mapping[str, Plane],
    truth: Plane | None,
    style: PictureStyle,
    measures: Sequence[str],
    size: tuple[int, int] = SMALL,
) -> Thumbnails:
    small = thumbnail(image.small() if isinstance(image, WindowedPicture) else image, *size)
    row = {"image": small}
    if truth is not None:
        row[TRUTH] = thumbnail(_coloured(truth, style), *size)
    if mask is not None:
        row["prediction"] = thumbnail(_coloured(mask, style), *size)
    if truth is not None and mask is not None:
        row[ERRORS] = _errors(small, truth, mask, style, size)
    nothing = np.full(small.shape[:2], np.nan, np.float32)  # of a measure that is withheld
    shown = {name: thumbnail(maps[name], *size) if name in maps else nothing for name in measures}
    row |= {style.scales[name].title: heatmap(shown[name], high=style.scales[name].high) for name in measures}
    return row | {"overlay": uncertainty_overlay(small, shown[style.heat], high=style.scale.high)}


def _coloured(labels: Plane, style: PictureStyle) -> ComputedRows:
    """Class colours, and one grey for any other label: no class, void, or no data."""
    colours, count = (
        np.vstack([style.palette, np.array([no_class_colour(style.palette)], np.uint8)]),
        len(style.palette),
    )

    def of(rows: slice) -> Picture:
        block = np.asarray(labels[rows]).astype(np.int64)
        return colour_mask(np.where((block < 0) | (block > count), count, block), colours)

    return ComputedRows((*labels.shape[-2:], 3), np.dtype(np.uint8), of)


def _errors(image: Picture, truth: Plane, mask: Plane, style: PictureStyle, size: tuple[int, int]) -> Picture:
    """The image's thumbnail with its wrong pixels, and without what is not scored."""

    def known(rows: slice) -> NDArray[np.bool_]:
        label, predicted = (np.asarray(labels[rows]).astype(np.int64) for labels in (truth, mask))
        classes = len(style.palette)
        return (label >= 0) & (label < classes) & (label != style.void) & (predicted >= 0) & (predicted < classes)

    def wrong(rows: slice) -> NDArray[np.float32]:
        return (known(rows) & (np.asarray(truth[rows]) != np.asarray(mask[rows]))).astype(np.float32)

    def unknown(rows: slice) -> NDArray[np.float32]:
        return (~known(rows)).astype(np.float32)

    shares = (thumbnail(ComputedRows(mask.shape[-2:], np.dtype(np.float32), of), *size) for of in (wrong, unknown))
    return errors_overlay(image, *shares, no_class=no_class_colour(style.palette))


def write_sheet(
    run: Run,
    style: PictureStyle,
    network: Network,
    kept: Mapping[str, Thumbnails],
    maps: Sequence[str],
    read: Callable[[Source], Picture],
    truth: Callable[[Source], Plane | None],
) -> Path | None:
    """`sheet.png`, and `legend.png` for the other pictures; None where no image is done.

    kept: id -> its row; the row of any other image is read from its files
    read: a source's image (H W 3); truth: its label ids, None without a label
    """
    done = run.done()
    by_id = {source.id: source for source in run.sources if source.id in done}
    values = {id: float((done[id].get(style.heat) or {}).get("mean", 0.0)) for id in by_id}
    if not by_id:
        return None
    rows: list[SheetRow] = []
    for section, ids in chosen(values).items():
        for id in ids:
            pictures = kept.get(id) or _again(
                run, by_id[id], style, maps, read, truth, ALONE if len(values) == 1 else SMALL
            )
            if pictures is None:
                log.warning("sheet.png has no row for %s: its files do not read, or it is too large.", id)
            if pictures is not None and len(values) > 1:  # a watched run's first image was alone
                pictures = {title: thumbnail(picture) for title, picture in pictures.items()}
            if pictures is not None:
                note = f"mean {style.scale.title} {values[id]:#.3g}"
                rows.append(SheetRow(name=id, pictures=pictures, note=note, section=section))
    if not rows:
        return None
    titles = list(dict.fromkeys(title for row in rows for title in row.pictures))
    for place, title in ((1, TRUTH), (3, ERRORS)):
        if title in titles:  # an image without a label has an empty cell
            titles.remove(title)
            titles.insert(place, title)
    rows = [_completed(row, titles) for row in rows]
    draws = max(int(done[id]["draws"]) for id in by_id)
    classes = {name: tuple(map(int, colour)) for name, colour in zip(style.classes, style.palette, strict=True)}
    class_key = dict(classes)
    hidden = any((row.pictures[style.scale.title] == ABSENT).all(axis=-1).any() for row in rows)
    unclaimed = TRUTH in titles or style.head == "multilabel"
    if names := [*([NO_CLASS] if unclaimed else []), *([NO_DATA] if hidden else [])]:
        classes[" or ".join(names)] = no_class_colour(style.palette)
    if hidden and ABSENT not in classes.values():
        classes["no value of a measure"] = ABSENT
    classes |= {"wrong": WRONG} if ERRORS in titles else {}
    scales = [style.scales[name] for name in columns_of(style, maps)]
    words = subtitle(len(rows), len(by_id), style.scale.title, draws)
    picture = contact_sheet(rows, title=network.name, subtitle=words, classes=classes, scales=scales)
    path = run.folder / "sheet.png"
    write_png(path, picture)
    words = f"overlay.png: classes. overlay_uncertainty.png: {style.scale.title}. Bright: uncertain."
    legend = legend_sheet(network.name, words, class_key, list(style.scales.values()))
    write_png(run.folder / "legend.png", legend)
    return path


def subtitle(shown: int, total: int, measure: str, draws: int) -> str:
    """States how the images were chosen, and how to read the pictures.

    >>> subtitle(1, 1, "variance", 8)
    '1 image, 8 draws. Bright: uncertain. Overlay: variance over the image.'
    """
    passes, how = count_of(draws, "draw"), f"Bright: uncertain. Overlay: {measure} over the image."
    if total == 1:
        return f"1 image, {passes}. {how}"
    if shown == total:
        return f"All {total} images, {passes}. Ordered by mean {measure}, the most uncertain first. {how}"
    return (
        f"{shown} of {total:,} images, {passes}. A choice by mean {measure}, no random sample: the most uncertain, "
        f"those around the median, and the least uncertain. {how}"
    )


def _completed(row: SheetRow, titles: Sequence[str]) -> SheetRow:
    empty = np.full_like(row.pictures["image"], 244)
    return SheetRow(
        name=row.name,
        pictures={title: row.pictures.get(title, empty) for title in titles},
        note=row.note,
        section=row.section,
    )


def _again(
    run: Run,
    source: Source,
    style: PictureStyle,
    maps: Sequence[str],
    read: Callable[[Source], Picture],
    truth: Callable[[Source], Plane | None],
    size: tuple[int, int],
) -> Thumbnails | None:
    """The row of an image that was done before, from its files; None where they do not read or it is too large."""
    folder = run.path(source.id, "overlay.png").parent
    run.bring_image(source.id)
    try:
        image = read(source)
        if image.shape[0] * image.shape[1] > LARGEST:
            return None
        arrays: dict[str, Any] = {}
        if (folder / "maps.npz").is_file():
            with opened_maps(folder / "maps.npz") as archive:
                arrays = {name: archive[name] for name in archive.files}
        measures = columns_of(style, maps)
        for name in measures:
            if name not in arrays and (folder / "raw" / f"{name}.png").is_file():
                arrays[name] = read_map_png(folder / "raw" / f"{name}.png")[0]
        return _row(image, _mask_of(arrays, folder, style, maps), arrays, truth(source), style, measures, size)
    except (SegmentError, OSError, ValueError):
        return None


def _mask_of(arrays: Mapping[str, Any], folder: Path, style: PictureStyle, maps: Sequence[str]) -> Plane | None:
    if "prediction" not in maps:
        return None
    if style.head == "multilabel":
        labels = arrays.get(PREDICTION)
        if labels is None:
            labels = np.stack([read_label(path) for path in sorted(folder.glob("prediction_*_*.png"), key=_index)])
        return likeliest_label(labels == 1, arrays.get(PROBABILITY))
    return np.asarray(arrays[PREDICTION]) if PREDICTION in arrays else read_label(folder / "prediction.png")


def _index(path: Path) -> int:
    return int(path.name.split("_")[1])
