"""An estimate as pictures: contact sheet, overlay, figure, and a fragment of HTML for notebooks.

Must not know a file, nor how the estimate was made.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse, count_of, near
from segment.images.display import shown_bands
from segment.images.specs import InputSpec, numbers_of
from segment.pictures.heatmaps import Scale, heatmap, scale_of
from segment.pictures.overlays import uncertainty_overlay
from segment.pictures.palettes import Picture, colour_mask, no_class_colour, palette
from segment.pictures.plots import new_figure
from segment.pictures.sheets import SheetRow, contact_sheet
from segment.pictures.thumbnails import thumbnail
from segment.uncertainty.class_indices import likeliest_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Images of one picture; more are left out, and the picture says so."""
TALL = 220
"""Pixels of the height of a sheet's pictures, at most."""
SHOWN = ("predictive_entropy", "variance")
"""Measures of a figure, where an estimate has them and none are named."""


@dataclass(frozen=True, kw_only=True)
class PictureContext:
    """What the pictures of an estimate need besides its numbers.

    name: of the network. classes: K names; palette: K 3
    images: for each of the N images, the function that gives its picture (H W 3)
    highs: measure -> the value of its last colour, where that is not the usual one
    """

    name: str
    classes: tuple[str, ...]
    palette: Picture
    head: Head
    images: tuple[Callable[[], Picture], ...] = ()
    highs: Mapping[str, float] = field(default_factory=dict)

    def scale(self, measure: str, high: float | None = None) -> Scale:
        """The colours of a measure; high: in place of its own last value."""
        return scale_of(measure, len(self.classes), self.head, self.highs.get(measure) if high is None else high)

    def image(self, index: int) -> PictureContext:
        return replace(self, images=self.images[index : index + 1] if index >= 0 else (self.images[index],))


def pixels_of(image: Tensor, spec: InputSpec) -> Picture:  # C H W, normalised -> H W 3
    """The picture that a normalised image came from, rounded to 8 bits.

    Values that the card's mean and std do not lead back to 0..255 are stretched from the least to the largest.
    One plane is shown grey; of several bands those that the card shows.

    >>> import torch
    >>> pixels_of(torch.tensor([[[0.2]], [[0.4]], [[1.0]]]), InputSpec()).tolist()
    [[[51, 102, 255]]]
    """
    planes = image.detach().float().cpu().numpy()
    count = len(planes)
    mean, std, scale = (
        np.array(numbers_of(value or default, count), np.float32)[:, None, None]
        if not isinstance(value, tuple) or len(value) == count
        else np.full((count, 1, 1), default, np.float32)
        for value, default in ((spec.mean or 0.0, 0.0), (spec.std or 1.0, 1.0), (spec.scale, 255.0))
    )
    values = (planes * std + mean) * scale
    if count != 3 or not spec.colours:
        bands = shown_bands(spec) if spec.planes == count and not spec.colours else (0,)
        values = values[list(bands) if len(bands) == 3 else [bands[0]] * 3]
    elif spec.channels == "BGR":
        values = values[::-1]
    outside = (values < -0.5) | (values > 255.5)
    if outside.mean() > 0.01:
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / max(high - low, 1e-12))
    return np.ascontiguousarray(np.rint(values.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))


@dataclass(frozen=True)
class Shown:
    """One image's arrays, ready for pictures. labels: the class of each pixel, K where no label claims it."""

    picture: Picture | None  # H W 3
    labels: NDArray[np.integer]  # H W
    palette: Picture  # K + 1, 3
    maps: dict[str, NDArray[Any]]  # H W each


def view_of(estimate: Any) -> PictureContext:
    """The estimate's own view, or one with numbered classes and generated colours."""
    if estimate.view is not None:
        own: PictureContext = estimate.view
        return own
    single = estimate.single
    if estimate.mean is not None:
        count = int(estimate.mean.shape[0 if single else 1])
    else:
        count = int(estimate.arrays().prediction[...].max()) + 1
    return PictureContext(
        name="network", classes=tuple(f"class {k}" for k in range(count)), palette=palette(count), head="softmax"
    )


def each_shown(estimate: Any, view: PictureContext) -> Iterator[Shown]:
    """The first images of an estimate, one after the other."""
    arrays = estimate.arrays()
    singles = [arrays] if arrays.single else [arrays.image(n) for n in range(min(MOST, len(arrays.prediction)))]
    for number, single in enumerate(singles):
        labels = np.asarray(single.prediction[...])
        if view.head == "multilabel":
            labels = likeliest_label(labels == 1, None if single.mean is None else np.asarray(single.mean[...]))
        colours = np.vstack([view.palette, np.array([no_class_colour(view.palette)], np.uint8)])
        maps = {name: np.asarray(values[...]) for name, values in single.maps.items()}
        yield Shown(view.images[number]() if number < len(view.images) else None, labels, colours, maps)


def measure_of(estimate: Any, name: str | None) -> str:
    """The measure asked for, or the first that is there. Errors: WrongUse where the estimate has no such map."""
    if name is None and estimate.maps:
        return next((known for known in SHOWN if known in estimate.maps), next(iter(estimate.maps)))
    if name is None or name not in estimate.maps:
        raise WrongUse(
            f"This estimate has no map {name!r}.{near(str(name), estimate.maps)} "
            f"It has: {', '.join(estimate.maps) or 'none'}."
        )
    return name


def overlay_of(shown: Shown, measure: str, scale: Scale) -> Picture:  # -> H W 3
    """The image in grey, or white paper, under the measure in its heat map's colours."""
    base = np.full((*shown.labels.shape, 3), 255, np.uint8) if shown.picture is None else shown.picture
    return uncertainty_overlay(base, shown.maps[measure], high=scale.high)


def sheet_of(estimate: Any) -> Picture:
    """Image, prediction, heat map and overlay of up to MOST images, with class key and legend."""
    view = view_of(estimate)
    measure = measure_of(estimate, None) if estimate.maps else None
    scale = None if measure is None else view.scale(measure)
    rows = []
    for number, shown in enumerate(each_shown(estimate, view)):
        pictures = {} if shown.picture is None else {"image": shown.picture}
        pictures["prediction"] = colour_mask(shown.labels, shown.palette)
        note = ""
        if measure is not None and scale is not None:
            pictures[scale.title] = heatmap(shown.maps[measure], high=scale.high)
            pictures["overlay"] = overlay_of(shown, measure, scale)
            note = f"mean {shown.maps[measure].mean():.3f}"
        small = {name: thumbnail(picture, TALL, 2 * TALL) for name, picture in pictures.items()}
        rows.append(SheetRow(name=f"image {number}", pictures=small, note=note))
    count = 1 if estimate.single else len(estimate.prediction)
    some = f"{len(rows)} of {count} images, " if len(rows) < count else ""
    key = dict(zip(view.classes, view.palette.tolist(), strict=True))
    subtitle = f"{some}{count_of(estimate.draws, 'draw')}"
    return contact_sheet(rows, title=view.name, subtitle=subtitle, classes=key, scales=[scale] if scale else [])


def png_of(estimate: Any) -> bytes:
    """The contact sheet as the bytes of a PNG."""
    return cv2.imencode(".png", sheet_of(estimate)[..., ::-1])[1].tobytes()


def html_of(estimate: Any) -> str:
    """The contact sheet with a table of each measure's mean, 95th percentile and maximum; nothing is fetched."""
    view = view_of(estimate)
    rows = []
    for name, values in estimate.arrays().maps.items():
        scale, flat = view.scale(name), np.asarray(values[...]).ravel()
        numbers = (flat.mean(), np.percentile(flat, 95), flat.max())
        cells = "".join(f"<td style='text-align:right'>{number:.4g}</td>" for number in numbers)
        rows.append(f"<tr><td>{name}</td>{cells}<td>{scale.unit}</td></tr>")
    head = "<tr><th></th><th>mean</th><th>95 %</th><th>largest</th><th></th></tr>"
    data = base64.b64encode(png_of(estimate)).decode()
    return (
        f"<div><p>{html.escape(repr(estimate))}</p>"
        f"<img alt='image, prediction, heat map and overlay' style='max-width:100%' src='data:image/png;base64,{data}'>"
        f"<table>{head}{''.join(rows)}</table></div>"
    )


def figure_of(estimate: Any, maps: Sequence[str] | None, high: Mapping[str, float], *, width: float) -> Figure:
    """Image, mask and the chosen maps in a row for each image, with colour bars and a key of the classes.

    maps: measures; None: predictive entropy and variance, where they are there
    high: measure -> value of the last colour; that of a run where it is not named. width: of a panel, inches
    Errors: MissingExtra without matplotlib; WrongUse for a map that is not there
    """
    view = view_of(estimate)
    names = [name for name in SHOWN if name in estimate.maps] if maps is None else list(maps)
    names = [measure_of(estimate, name) for name in names]
    rows = list(each_shown(estimate, view))
    scales = {name: view.scale(name, high.get(name)) for name in names}
    titles = ["image"] * (rows[0].picture is not None) + ["prediction", *names]
    tall = width * rows[0].labels.shape[0] / rows[0].labels.shape[1]
    figure = new_figure(width * len(titles) + 0.7 * len(names), len(rows) * (tall + 0.35) + 0.5)
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    present: set[int] = set()
    for axes, shown in zip(grid, rows, strict=True):
        present |= set(np.unique(shown.labels).tolist())
        for panel, title in zip(axes, titles, strict=True):
            panel.set(xticks=[], yticks=[])
            panel.set_title(scales[title].title if title in scales else title)
            if title == "image":
                panel.imshow(shown.picture)
            elif title == "prediction":
                panel.imshow(colour_mask(shown.labels, shown.palette), interpolation="nearest")
            else:
                scale = scales[title]
                drawn = panel.imshow(shown.maps[title], vmin=0, vmax=scale.high, cmap="inferno")
                extend = "max" if scale.bound > scale.high else "neither"
                figure.colorbar(drawn, ax=panel, label=scale.unit, fraction=0.046, pad=0.03, extend=extend)
    _class_key(figure, view, present)
    return figure


def _class_key(figure: Figure, view: PictureContext, present: set[int]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=view.palette[k] / 255, edgecolor="#1c1e24", linewidth=0.5, label=view.classes[k])
        for k in sorted(present)
        if k < len(view.classes)
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), frameon=False)
