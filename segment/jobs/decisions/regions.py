"""Windows of a predict run's images that are worth a label: their boxes, and their crops.

Must not know how a map was made.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import SegmentError, WrongUse, near
from segment.estimation.failures import IMAGE_ERRORS, reason_of
from segment.files import png
from segment.files.text_tables import csv_text
from segment.files.writing import write_png, write_text
from segment.images.display import Display, display_of, picture_of
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.images.read import few_pixels, read_source
from segment.jobs.decisions.run_table import run_table
from segment.ranking.columns import ranks_none
from segment.report.run_files.saved_run import SavedRun
from segment.stores.copies import here
from segment.stores.requests import files_below, is_there, remove
from segment.stores.urls import is_url, url_of
from segment.uncertainty.measures import MEASURES

log = logging.getLogger(__name__)

UNREADABLE = (SegmentError, OSError, *IMAGE_ERRORS)
DISPLAY_IMAGES = 8
LONGEST, DIGITS = 150, 12
"""Bytes of an id in a file's name, and digits of the checksum of one that is longer."""
CROP, MARK = re.compile(r"\d{3,}_.*\.png"), "window"
"""A crop's name, and the keyword of its text chunk, by which crops are told from other files."""
OF_AN_IMAGE = 3
"""Windows of one image at most: a labeller sees more by going on to another."""


@dataclass(frozen=True)
class Region:
    """A window: its image, its box in pixels (top, left, height, width), and the mean of the measure in it."""

    id: str
    source: str
    top: int
    left: int
    height: int
    width: int
    value: float


def select_regions(folder: Path, top: int, *, measure: str | None = None, side: int = 128) -> tuple[Region, ...]:
    """The windows with the highest mean of a measure, which do not overlap, a few of each image at most.

    Args:
        folder: What `segment predict` wrote, with its maps in maps.npz.
        top: How many windows.
        measure: The map; None: the measure that the run shows as heat.
        side: Of a window, in pixels; a smaller image is one window.

    Returns:
        The windows, highest mean first.

    Raises:
        WrongUse: The folder is an evaluation or has no such map, the map is no measure, or a number is out of range.

    """
    if measure is not None and measure not in MEASURES:
        raise WrongUse(
            f"Windows are ranked by a measure's mean, and {measure!r} is none.{near(measure, MEASURES)} "
            f"Known: {', '.join(MEASURES)}."
        )
    if top < 1 or side < 8:
        raise WrongUse(f"{top} windows of {side} pixels were asked for: 1 or more of 8 pixels or more.")
    table = run_table(folder)
    if table.labelled:
        raise WrongUse("--regions needs maps, which an evaluation does not keep: give the folder of `segment predict`.")
    if table.run.missing:
        log.warning("%s", table.run.missing)
    name = measure or table.run.heat
    regions = []
    for image in table.rows:
        values = _map(table.run.place / image / "maps.npz", name)
        boxes = best_windows(values, side, OF_AN_IMAGE)
        source = table.run.path_of(image)
        regions += [Region(image, source, top_, left, h, w, value) for top_, left, h, w, value in boxes]
    if equal := ranks_none(f"the mean {name}", [region.value for region in regions]):
        raise WrongUse(f"{equal.replace('image', 'window')}. Take another map by --by, or predict with more draws.")
    return tuple(sorted(regions, key=lambda region: (-region.value, region.id, region.top, region.left))[:top])


def best_windows(values: NDArray[np.float32], side: int, count: int) -> list[tuple[int, int, int, int, float]]:  # H W
    """Boxes (top, left, height, width) and means of the highest windows that do not overlap, on a grid of quarters.

    Pixels that are NaN are left out of a mean, and a window that is NaN by half or more is none.

    >>> best_windows(np.eye(4, dtype=np.float32), 2, 1)
    [(0, 0, 2, 2, 0.5)]
    """
    height, width = min(side, values.shape[0]), min(side, values.shape[1])
    tops, lefts = (_starts(length, size) for length, size in zip(values.shape, (height, width), strict=True))
    t, left = np.meshgrid(tops, lefts, indexing="ij")

    def in_windows(plane: NDArray[Any]) -> NDArray[np.float64]:
        sums = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1))
        sums[1:, 1:] = plane.astype(np.float64).cumsum(axis=0).cumsum(axis=1)
        return sums[t + height, left + width] - sums[t, left + width] - sums[t + height, left] + sums[t, left]

    known = in_windows(~np.isnan(values))
    means = in_windows(np.nan_to_num(values)) / np.maximum(known, 1)
    means[2 * known <= height * width] = -np.inf
    boxes: list[tuple[int, int, int, int, float]] = []
    for at in np.argsort(-means.ravel(), kind="stable"):
        if len(boxes) == count or means.ravel()[at] == -np.inf:
            break
        row, column = int(t.ravel()[at]), int(left.ravel()[at])
        if all(abs(row - other[0]) >= height or abs(column - other[1]) >= width for other in boxes):
            boxes.append((row, column, height, width, float(means.ravel()[at])))
    return boxes


def _starts(length: int, size: int) -> NDArray[np.int64]:
    steps = np.arange(0, length - size + 1, max(1, size // 4))
    return np.unique(np.append(steps, length - size))


def _map(path: Path, name: str) -> NDArray[np.float32]:
    try:
        with here(path) as copy, np.load(copy, allow_pickle=False) as archive:
            if name in archive.files:
                return np.asarray(archive[name], dtype=np.float32)
            known = ", ".join(archive.files)
    except FileNotFoundError:
        raise WrongUse(
            f"{url_of(path)!r} is not there, and --regions needs its maps: predict again with npz among --format."
        ) from None
    except ARRAY_ERRORS:
        raise WrongUse(
            f"{url_of(path)!r} does not read, and --regions needs its maps: predict again with npz among --format."
        ) from None
    raise WrongUse(f"{url_of(path)!r} has no map {name!r}; it has {known}.")


def write_regions(regions: Sequence[Region], folder: Path, run: Path) -> Path:
    """regions.csv, and the crop of each window as PNG, into a folder; an image that does not read has none.

    The crops of earlier calls there are removed when these are written. A warning counts the crops that cannot be made.
    run: of the windows, which says how its images are read and shown
    """
    earlier = _listed_crops(folder / "regions.csv")
    saved = SavedRun.read(run)
    display = saved.display or _display(regions, saved)
    rows, missing = list[tuple[object, ...]](), list[str]()
    for rank, region in enumerate(regions, start=1):
        crop = ""
        try:
            pixels = read_source(saved.unchanged_source(region.id), saved.input).pixels
            inside = (slice(region.top, region.top + region.height), slice(region.left, region.left + region.width))
            window = np.ascontiguousarray(picture_of(pixels, display)[inside])
        except UNREADABLE as error:
            missing.append(f"{region.id}: {reason_of(error)}")
        else:
            crop = crop_name(rank, region.id)
            write_png(folder / crop, window, {MARK: f"top {region.top}, left {region.left}"})
        box = (region.top, region.left, region.height, region.width)
        rows.append((rank, region.id, region.source, *box, f"{region.value:.6g}", crop))
    columns = ("rank", "id", "source", "top", "left", "height", "width", "mean", "crop")
    write_text(folder / "regions.csv", csv_text(columns, rows))
    written = {str(row[-1]) for row in rows}
    for path in {*earlier, *_marked_crops(folder)}:
        if path.name not in written:
            remove([path])
    if missing:
        log.warning("%d of %d crops could not be made. %s", len(missing), len(regions), missing[0])
    return folder / "regions.csv"


def _display(regions: Sequence[Region], run: SavedRun) -> Display | None:
    """How bands are shown where the run has no pictures, from the first images that read; None for RGB."""

    def pixels() -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
        for name in list(dict.fromkeys(region.id for region in regions))[:DISPLAY_IMAGES]:
            with suppress(*UNREADABLE):  # its crop is reported as missing
                yield few_pixels(run.unchanged_source(name), run.input)

    return display_of(pixels(), run.input)


def crop_name(rank: int, id: str) -> str:
    """The file of a crop; of a long id, which may exceed what a file's name can hold, the end and a checksum.

    >>> crop_name(3, "town/a"), len(crop_name(3, "deep/" * 60))
    ('003_town_a.png', 158)
    """
    name, data = id.replace("/", "_"), id.encode(errors="surrogateescape")
    if len(data) > LONGEST:
        digest = sha256(data).hexdigest()[:DIGITS]
        name = f"{digest}_{name.encode(errors='surrogateescape')[DIGITS + 1 - LONGEST :].decode(errors='ignore')}"
    return f"{rank:03d}_{name}.png"


def _listed_crops(listed: Path) -> list[Path]:
    """The crops that the list of an earlier call names. Errors: WrongUse where it is damaged."""
    if not is_there(listed):
        return []
    try:
        with here(listed) as copy, copy.open(encoding="utf-8", newline="") as stream:
            names = [str(row.get("crop") or "") for row in csv.DictReader(stream)]
    except (OSError, ValueError, csv.Error) as error:
        raise WrongUse(f"{url_of(listed)!r} does not read ({error}), so that its crops stay: remove it.") from None
    return [listed.with_name(name) for name in names if name.endswith(".png") and Path(name).name == name]


def _marked_crops(folder: Path) -> list[Path]:
    """The crops that calls wrote there, also one that was interrupted before its list."""
    files = files_below(folder) if is_url(folder) else folder.iterdir()
    return [path for path in files if path.parent == folder and CROP.fullmatch(path.name) and _is_marked(path)]


def _is_marked(path: Path) -> bool:
    with suppress(OSError, ValueError), here(path) as copy:
        data = copy.read_bytes()
        return data.startswith(png.SIGNATURE) and MARK in png.text_of(data)
    return False
