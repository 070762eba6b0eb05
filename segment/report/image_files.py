"""An estimate to its files in RUN/<id>/, and a run to its contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head, Plane
from segment.estimation.estimate import Estimate
from segment.files.map_summary import summary
from segment.files.runs import Run
from segment.files.windows import Made
from segment.files.writing import FULL, index_type, write_map_png, write_npz, write_palette_png, write_png
from segment.guarantees.triage import Triage
from segment.images.display import picture_of
from segment.images.find import Source
from segment.images.read import read_image
from segment.networks.load import Network
from segment.pictures.heatmaps import Scale, beside, heatmap, legend_beside, scale_of
from segment.pictures.overlays import overlay_rows
from segment.pictures.palettes import Picture, palette
from segment.pictures.sheets import SheetRow, contact_sheet, thumbnail
from segment.report.triaged_files import TriagedImage, write_triaged
from segment.uncertainty.measures import MEASURES

FORMATS = ("png", "npz")
SHEET_ROWS = 24
NO_LABEL = (128, 128, 128)
"""Colour of a pixel that no label of a multi-label head claims."""


class Places(Protocol):
    """Where the files of an image go; a `Run` is one."""

    def path(self, image_id: str, name: str) -> Path: ...
    def relative(self, path: Path) -> str: ...


@dataclass(frozen=True)
class PictureStyle:
    """What the pictures of a run share: one heat scale, one palette, the names of the classes."""

    heat: str
    scale: Scale
    palette: Picture  # K 3
    classes: tuple[str, ...]
    head: Head

    @staticmethod
    def of(network: Network, heat: str, heat_max: float | None = None) -> PictureStyle:
        card = network.card
        count = network.classes
        scale = scale_of(heat, count, card.head, heat_max)
        return PictureStyle(heat, scale, palette(count, card.palette), network.class_names, card.head)


def render(
    run: Places,
    image_id: str,
    image: Picture,
    estimate: Estimate[Plane],
    style: PictureStyle,
    *,
    maps: Sequence[str],
    formats: Sequence[str],
    triage: tuple[TriagedImage, Triage] | None = None,
) -> tuple[tuple[str, ...], dict[str, Mapping[str, float]]]:
    """Write what was asked of one image; its files relative to the run, and each map's mean and 95th percentile.

    triage: what it accepts of the image, to be written too
    All of its files or none: where one cannot be written, those before it are taken away again.
    """
    written: list[Path] = []
    try:
        measures = _write_files(run, image_id, image, estimate, style, maps=maps, formats=formats, written=written)
        if triage is not None:
            write_triaged(lambda name: _added(written, run.path(image_id, name)), *triage, formats)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if written:
            with suppress(OSError):  # there are other files in it
                written[0].parent.rmdir()
        raise
    return tuple(run.relative(path) for path in written), measures


def _added(written: list[Path], path: Path) -> Path:
    written.append(path)
    return path


def _write_files(
    run: Places,
    image_id: str,
    image: Picture,
    estimate: Estimate[Plane],
    style: PictureStyle,
    *,
    maps: Sequence[str],
    formats: Sequence[str],
    written: list[Path],
) -> dict[str, Mapping[str, float]]:
    def path(name: str) -> Path:
        return _added(written, run.path(image_id, name))

    if "png" in formats:
        _write_pictures(path, image, estimate, style)
        if "prediction" in maps:
            _write_masks(path, estimate.prediction, style)
        for name in maps:
            if name in estimate.maps:
                scale = scale_of(name, len(style.classes), style.head)
                write_map_png(path(f"{name}.png"), estimate.maps[name], measure=name, unit=scale.unit, high=scale.bound)
    if "npz" in formats:
        kept: dict[str, Plane] = {}
        if "prediction" in maps:
            index_type(len(style.classes))
            kept["prediction"] = estimate.prediction
        kept |= {name: estimate.maps[name] for name in maps if name in estimate.maps}
        if "probability" in maps and estimate.mean is not None:
            kept["probability"] = estimate.mean
        write_npz(path("maps.npz"), kept)
    return {name: summary(values) for name, values in estimate.maps.items() if name in MEASURES}


def _write_pictures(
    path: Callable[[str], Path], image: Picture, estimate: Estimate[Plane], style: PictureStyle
) -> None:
    """overlay.png and heat.png, some rows at a time."""
    over, warm = _overlay_and_heat(image, estimate, style)
    write_png(path("overlay.png"), over)
    strip = legend_beside(image.shape[0], image.shape[1], style.scale)
    canvas = (max(image.shape[0], strip.shape[0]), image.shape[1] + strip.shape[1], 3)
    write_png(path("heat.png"), Made(canvas, image.dtype, lambda rows: beside(warm, strip, rows)))


def _overlay_and_heat(image: Picture, estimate: Estimate[Plane], style: PictureStyle) -> tuple[Made, Made]:
    """The overlay and the heat map, made when they are read."""
    shape, high = image.shape[:2], style.scale.high
    heat = estimate.maps.get(style.heat)
    if heat is None:  # withheld, with its reason in the manifest
        heat = Made(shape, np.dtype(np.float32), lambda rows: np.full((rows.stop - rows.start, shape[1]), np.nan))
    certain = heat if style.heat in estimate.maps else Made(shape, heat.dtype, lambda rows: np.nan_to_num(heat[rows]))
    labels, colours = _mask_to_outline(estimate, style)
    over = Made(
        image.shape,
        image.dtype,
        lambda rows: overlay_rows(image, labels, certain, rows, high=high, palette=colours),
    )
    return over, Made(image.shape, image.dtype, lambda rows: heatmap(heat[rows], high=high))


def thumbnails(
    image: Picture, estimate: Estimate[Plane], style: PictureStyle, maps: Sequence[str]
) -> dict[str, Picture]:
    """An image's row of the contact sheet, from what was computed."""
    over, warm = _overlay_and_heat(image, estimate, style)
    pictures = {"image": thumbnail(image)}
    if "prediction" in maps and style.head != "multilabel":
        pictures["prediction"] = thumbnail(style.palette[np.asarray(estimate.prediction[:])])
    return pictures | {style.scale.title: thumbnail(warm[:]), "overlay": thumbnail(over[:])}


def _write_masks(path: Callable[[str], Path], labels: Plane, style: PictureStyle) -> None:
    if style.head != "multilabel":
        write_palette_png(path("prediction.png"), labels, style.palette)
        return
    for index, name in enumerate(style.classes):
        colours = np.array([NO_LABEL, style.palette[index]], np.uint8)
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)
        write_palette_png(path(f"prediction_{index}_{safe}.png"), labels[index], colours)


def _mask_to_outline(estimate: Estimate[Plane], style: PictureStyle) -> tuple[Plane, Picture]:
    """Labels to outline (H W), and their palette (K 3).

    The mask; for a multi-label head the likeliest label of each pixel, K where none reaches 0.5, in NO_LABEL's colour.
    """
    p = estimate.mean
    if style.head != "multilabel" or p is None:
        return estimate.prediction, style.palette

    def likeliest(rows: slice) -> NDArray[np.int64]:
        some = p[..., rows, :]
        return np.where(some.max(axis=0) >= 0.5, some.argmax(axis=0), len(style.classes)).astype(np.int64)

    return Made(p.shape[-2:], np.dtype(np.int64), likeliest), np.vstack([style.palette, np.array([NO_LABEL], np.uint8)])


def on_sheet(ready: Sequence[Source]) -> Sequence[Source]:
    """Up to SHEET_ROWS of the images, evenly chosen."""
    return ready[:: max(1, -(-len(ready) // SHEET_ROWS))]


def sheet(
    run: Run,
    style: PictureStyle,
    network: Network,
    kept: Mapping[str, Mapping[str, Picture]],
    read: Callable[[Source], Picture],
) -> Path | None:
    """`sheet.png`: up to SHEET_ROWS images of the run; None where none is done.

    kept: image -> its thumbnails; those of an earlier part of the run are read from its files
    read: a source's image as people see it
    """
    done = run.done()
    ready = [source for source in run.sources if source.id in done]
    if not ready:
        return None
    rows = []
    for source in on_sheet(ready):
        numbers = done[source.id].get(style.heat)
        note = f"mean {numbers['mean']:.3f}" if isinstance(numbers, Mapping) else ""
        pictures = kept[source.id] if source.id in kept else _read_thumbnails(run, source, style, read)
        rows.append(SheetRow(name=source.id, pictures=pictures, note=note))
    classes = {
        name: tuple(int(part) for part in colour) for name, colour in zip(style.classes, style.palette, strict=True)
    }
    shown = f"{len(rows)} of {len(ready)} images" if len(rows) < len(ready) else f"{len(ready)} images"
    draws = done[ready[0].id]["draws"]
    picture = contact_sheet(
        rows, title=network.name, subtitle=f"{shown}, {draws} draws", classes=classes, scale=style.scale
    )
    path = run.folder / "sheet.png"
    write_png(path, picture)
    return path


def _read_thumbnails(
    run: Run, source: Source, style: PictureStyle, read: Callable[[Source], Picture]
) -> dict[str, Picture]:
    """The same from the files of an earlier part of the run; each picture is made small before the next is read."""
    folder = run.path(source.id, "overlay.png").parent
    files = {"image": source.path, "prediction": folder / "prediction.png"}
    files |= {style.scale.title: folder / "heat.png", "overlay": folder / "overlay.png"}
    pictures, size = {}, (slice(None), slice(None))
    for title, path in files.items():
        if title != "prediction" or path.is_file():
            picture = read(source) if title == "image" else picture_of(read_image(path, white=FULL))
            picture = picture[size]  # the heat map without its legend
            size = (slice(picture.shape[0]), slice(picture.shape[1]))
            pictures[title] = thumbnail(picture)
    return pictures
