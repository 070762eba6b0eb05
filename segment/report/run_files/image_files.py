"""An estimate to its files in RUN/<id>/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.estimation.estimate import Estimate
from segment.files.exports.image import UNCLAIMED, ExportedImage, file_of_class
from segment.files.lazy_arrays import ComputedPlanes, ComputedRows, FileArray
from segment.files.runs.map_summary import summary
from segment.files.writing import discard, write_map_png, write_npz, write_palette_png, write_png
from segment.guarantees.triage import Triage
from segment.images.find import Source, in_text
from segment.pictures.heatmaps import ABSENT, beside, heatmap, legend_beside
from segment.pictures.overlays import class_overlay_rows, uncertainty_overlay_rows
from segment.pictures.palettes import Picture, no_class_colour
from segment.regions.components import Regions, regions_of
from segment.report.run_files.exported_files import EXPORTS, where, write_exports
from segment.report.run_files.hidden import hidden, labels_or_none, with_hidden
from segment.report.run_files.style import PictureStyle
from segment.report.run_files.triaged_files import TriagedImage, write_triaged
from segment.scores.functional.image_level import highest_patch, interior
from segment.uncertainty.class_indices import likeliest_label, no_class
from segment.uncertainty.measures import MEASURES


@dataclass(frozen=True)
class ImageResult:
    """What is written of one image.

    source: its file, and its name in the run; image: H W 3; maps: the measures that are asked for, in that order
    border: pixels at each side where the measures are hidden; valid: H W, False where they are hidden too, or None
    model: the network's name. folder: where what does not fit in memory may lie
    """

    source: Source
    image: Picture
    estimate: Estimate[Plane]
    style: PictureStyle
    maps: Sequence[str]
    border: int = 0
    valid: Plane | None = None
    model: str = ""
    folder: Path | None = field(default=None, repr=False)

    @property
    def absent(self) -> bool:
        """Whether a measure may be hidden anywhere."""
        return self.border > 0 or self.valid is not None

    @cached_property
    def shown(self) -> Estimate[Plane]:
        """The estimate with NaN for a measure where it is hidden. Errors: PredictionFailed where all of it is."""
        return with_hidden(self.estimate, self.border, self.valid) if self.absent else self.estimate

    def blank(self, shape: tuple[int, ...], kind: Any) -> Any:
        """An array of zeros; in a file where the estimate is in files."""
        if self.folder is None or isinstance(self.estimate.prediction, np.ndarray):
            return np.zeros(shape, kind)
        return FileArray(self.folder, shape, kind)

    @property
    def prediction(self) -> Plane:
        """The classes, `no_class` where the image is not valid; multi-label: 1, 0, and the same."""
        labels, valid = self.estimate.prediction, self.valid
        if valid is None:
            return labels
        if len(labels.shape) == 3:
            return ComputedPlanes(tuple(labels_or_none(labels[k], valid, UNCLAIMED) for k in range(labels.shape[0])))
        return labels_or_none(labels, valid, no_class(len(self.style.classes)))

    @property
    def probability(self) -> Plane | None:
        """The mean probability (K H W), NaN where the image is not valid."""
        mean, valid = self.estimate.mean, self.valid
        if mean is None or valid is None:
            return mean
        return ComputedPlanes(tuple(hidden(mean[k], 0, valid) for k in range(mean.shape[0])))

    @cached_property
    def heat(self) -> Plane:
        """The measure that overlays show; NaN where it is withheld, with its reason in the manifest."""
        shape = self.image.shape[:2]
        nothing = ComputedRows(
            shape, np.dtype(np.float32), lambda rows: np.full((rows.stop - rows.start, shape[1]), np.nan)
        )
        return self.shown.maps.get(self.style.heat, nothing)

    @cached_property
    def regions(self) -> Regions:
        """The regions of the mask; for a multi-label head of each pixel's likeliest label, or of none: class K."""
        return regions_of(self.inside(likeliest(self.estimate, self.style)), self.blank)

    def inside(self, labels: Plane) -> Plane:
        """Labels (H W), -1 where the image is not valid: there are no regions."""
        valid = self.valid
        if valid is None:
            return labels

        def of(rows: slice) -> NDArray[np.int64]:
            return np.where(valid[rows], np.asarray(labels[rows]).astype(np.int64), -1)

        return ComputedRows(tuple(labels.shape), np.dtype(np.int64), of)

    def exported(self) -> ExportedImage:
        """What other programs' files are written from."""
        estimate, shown, multilabel = self.estimate, self.shown, self.style.head == "multilabel"

        def confidence(label: int) -> Plane | None:
            if multilabel:
                return None if estimate.mean is None else estimate.mean[label]
            if "one_minus_max" not in estimate.maps:
                return None
            rest = estimate.maps["one_minus_max"]
            return ComputedRows(tuple(rest.shape), np.dtype(np.float32), lambda rows: 1 - np.asarray(rest[rows]))

        return ExportedImage(
            id=self.source.id,
            source=in_text(self.source.path),
            shape=(self.image.shape[0], self.image.shape[1]),
            geometry=where(self.source),
            labels=self.prediction if multilabel else self.inside(estimate.prediction),
            prediction=self.prediction if "prediction" in self.maps else None,
            maps={name: shown.maps[name] for name in self.style.scales if name in shown.maps},
            probability=self.probability if "probability" in self.maps else None,
            confidence=confidence,
            classes=self.style.classes,
            palette=self.style.palette,
            head=self.style.head,
            absent=self.absent,
            blank=self.blank,
        )


class Places(Protocol):
    """Where the files of an image go; a `Run` is one."""

    @property
    def folder(self) -> Path: ...
    def path(self, image_id: str, name: str) -> Path: ...
    def relative(self, path: Path) -> str: ...


def render(
    run: Places,
    result: ImageResult,
    formats: Sequence[str],
    triage: tuple[TriagedImage, Triage] | None = None,
) -> tuple[tuple[str, ...], dict[str, Mapping[str, float]]]:
    """Write what was asked of one image; its files relative to the run, and each map's mean and 95th percentile.

    triage: what it accepts of the image, to be written too
    All of its files or none: where one cannot be written, those before it are taken away again.
    """
    written: list[Path] = []

    def path(name: str) -> Path:
        written.append(run.path(result.source.id, name))
        return written[-1]

    try:
        measures = _write_files(path, result, formats)
        if triage is not None:
            write_triaged(path, *triage, formats)
    except BaseException:
        discard(written, run.folder)
        raise
    return tuple(run.relative(path) for path in written), measures


def _write_files(
    path: Callable[[str], Path], result: ImageResult, formats: Sequence[str]
) -> dict[str, Mapping[str, float]]:
    estimate, style = result.shown, result.style
    if "png" in formats:
        if "prediction" in result.maps:
            _write_masks(path, result.prediction, style, gaps=result.valid is not None)
        _write_overlays(path, result)
        for name in style.scales:
            if name in estimate.maps:
                _write_heat_map(path(f"{name}.png"), result.image, estimate.maps[name], style, name)
                _write_raw(path(f"raw/{name}.png"), estimate.maps[name], style, name, absent=result.absent)
    if "npz" in formats:
        kept: dict[str, Plane] = {}
        if "prediction" in result.maps:
            kept["prediction"] = result.prediction
        kept |= {name: estimate.maps[name] for name in result.maps if name in estimate.maps}
        if "probability" in result.maps and result.probability is not None:
            kept["probability"] = result.probability
        write_npz(path("maps.npz"), kept)
    if any(name in EXPORTS for name in formats):
        write_exports(path, result.exported(), formats, result.model)
    measures = {name: values for name, values in estimate.maps.items() if name in MEASURES}
    whole = estimate.prediction if isinstance(estimate.prediction, np.ndarray) else None  # not in a file
    inside = None if whole is None else interior(whole)
    return {name: summary(values) | _of_parts(values, inside) for name, values in measures.items()}


def _of_parts(values: Plane, inside: NDArray[np.bool_] | None) -> dict[str, float]:
    """Mean over the interior of regions, and highest patch; none of an image that is too large for memory."""
    if inside is None:
        return {}
    image = np.asarray(values[:])
    known = ~np.isnan(image)
    if not known.any():
        return {}
    parts = {"patch": highest_patch(image, counted=None if known.all() else known)}
    inner = image[inside & known]
    return parts | ({"interior": float(inner.mean(dtype=np.float64))} if inner.size else {})


def _write_overlays(path: Callable[[str], Path], result: ImageResult) -> None:
    """overlay.png and overlay_uncertainty.png, some rows at a time."""
    image, style, regions, heat = result.image, result.style, result.regions, result.heat
    high, classes = style.scale.high, len(style.classes)

    def over_classes(rows: slice) -> Picture:
        return class_overlay_rows(image, regions, rows, palette=style.palette, classes=classes, bare=style.bare)

    write_png(path("overlay.png"), ComputedRows(image.shape, image.dtype, over_classes))
    warm = ComputedRows(image.shape, image.dtype, lambda rows: uncertainty_overlay_rows(image, heat, rows, high=high))
    write_png(path("overlay_uncertainty.png"), warm, {"measure": style.heat, "high": repr(high)})


def _write_heat_map(path: Path, image: Picture, values: Plane, style: PictureStyle, measure: str) -> None:
    """The heat map with its legend, some rows at a time."""
    scale = style.scales[measure]
    warm = ComputedRows(image.shape, image.dtype, lambda rows: heatmap(values[rows], high=scale.high))
    strip = legend_beside(image.shape[0], image.shape[1], scale)
    canvas = (max(image.shape[0], strip.shape[0]), image.shape[1] + strip.shape[1], 3)
    picture = ComputedRows(canvas, image.dtype, lambda rows: beside(warm, strip, rows))
    write_png(path, picture, {"measure": measure, "unit": scale.unit, "high": repr(scale.high)})


def _write_raw(path: Path, values: Plane, style: PictureStyle, measure: str, *, absent: bool) -> None:
    scale = style.scales[measure]
    write_map_png(path, values, measure=measure, unit=scale.unit, high=scale.bound, absent=absent)


def _write_masks(path: Callable[[str], Path], labels: Plane, style: PictureStyle, *, gaps: bool) -> None:
    """gaps: whether pixels hold `no_class`, which is grey."""
    if style.head != "multilabel":
        missing = no_class(len(style.classes)) + 1 - len(style.palette) if gaps else 0
        colours = np.vstack(
            [style.palette, np.tile(np.array([no_class_colour(style.palette)], np.uint8), (missing, 1))]
        )
        write_palette_png(path("prediction.png"), labels, colours)
        return
    for index, name in enumerate(style.classes):
        colours = np.array([no_class_colour(style.palette), style.palette[index]], np.uint8)
        if gaps:
            colours = np.vstack([colours, np.tile(np.array([ABSENT], np.uint8), (UNCLAIMED - 1, 1))])
        write_palette_png(path(f"{file_of_class('prediction', index, name)}.png"), labels[index], colours)


def likeliest(estimate: Estimate[Plane], style: PictureStyle) -> Plane:  # -> H W
    """The mask; for a multi-label head the likeliest label of each pixel, or K where none is claimed."""
    labels, p = estimate.prediction, estimate.mean
    if style.head != "multilabel":
        return labels

    def of(rows: slice) -> NDArray[np.int64]:
        return likeliest_label(labels[..., rows, :] == 1, None if p is None else p[..., rows, :])

    return ComputedRows(labels.shape[-2:], np.dtype(np.int64), of)
