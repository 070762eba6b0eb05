"""How an estimate is looked at, converted and saved: the methods of `Estimate` for a prompt and a notebook.

Must not know how it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segment.errors import names_in
from segment.estimation import view as views
from segment.pictures.palettes import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = "segment.report.run_files.estimates"
"""The module that writes; it lies above this one and is imported when something is saved."""


class EstimateDisplay:
    """The methods of an Estimate that serve a person at a prompt or in a notebook.

    The attributes are those of `segment.Estimate`.
    """

    prediction: Any
    mean: Any
    maps: Mapping[str, Any]
    draws: int
    view: views.PictureContext | None
    arrays: Callable[..., Any]
    image: Callable[[int], Any]

    def __repr__(self) -> str:
        shape = tuple(self.prediction.shape)
        count = "" if self.single else f"{self.images} images of "
        classes = "" if self.view is None else f"{len(self.view.classes)} classes, "
        names = ", ".join(["prediction", *(["probability"] if self.mean is not None else []), *self.maps])
        return f"Estimate({count}{shape[-2]} x {shape[-1]}, {classes}T = {self.draws}: {names})"

    @property
    def single(self) -> bool:
        """Whether it is of one image, without the axis N."""
        labels = self.view is not None and self.view.head == "multilabel"
        if self.mean is not None:
            return len(self.mean.shape) == 3
        return len(self.prediction.shape) == 2 + labels

    @property
    def images(self) -> int:
        """N."""
        return 1 if self.single else len(self.prediction)

    def numpy(self) -> Any:
        """The estimate as NumPy arrays on the CPU; class indices as uint8 up to 255 classes, else uint16."""
        return self.arrays(len(views.view_of(self).classes))

    def plot(
        self, maps: str | Sequence[str] | None = None, *, high: Mapping[str, float] | None = None, width: float = 3.0
    ) -> Figure:
        """A figure of image, mask and maps, with colour bars in the measures' units and a key of the classes.

        Args:
            maps: measures to show; None: predictive entropy and variance, where they are there.
            high: measure to the value of its last colour; where it is not named, that of a run's pictures.
            width: of a panel, inches.

        Returns:
            A matplotlib figure: `estimate.plot().savefig("figure.pdf")`.

        Raises:
            MissingExtra: matplotlib is not installed (extra `plots`).
            WrongUse: a measure has no map.

        """
        return views.figure_of(self, None if maps is None else names_in(maps), high or {}, width=width)

    def overlay(self, measure: str | None = None, *, high: float | None = None, index: int = 0) -> Picture:
        """The image in grey under a measure, in its heat map's colours and on its fixed scale.

        Args:
            measure: None: predictive entropy, else the first map.
            high: the value of the last colour; None: as in a run.
            index: which of N images.

        Returns:
            RGB pixels, uint8 (H, W, 3).

        Raises:
            WrongUse: the estimate has no such map.

        """
        view, name = views.view_of(self), views.measure_of(self, measure)
        scale = view.scale(name, high)
        single = self.image(index)
        return views.overlay_of(next(views.each_shown(single, views.view_of(single))), name, scale)

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` with named axes (image, class, y, x), units and class names.

        Raises:
            MissingExtra: xarray is not installed (extra `xarray`).

        """
        return import_module(FILES).to_xarray(self)

    def save(self, folder: str | Path, *, formats: str | Sequence[str] = ("png", "npz")) -> tuple[Path, ...]:
        """Write prediction, maps, heat map and overlay into a folder, as `segment predict` does for an image.

        Args:
            folder: made if it is not there; N images have a folder each below it, named 0, 1, ... Maps of another
                result there that this one lacks are removed.
            formats: as `segment predict --format`, without nii and video.

        Returns:
            The files that were written.

        Raises:
            WrongUse: an unknown format, one of volumes or videos, or a folder that cannot be written.

        """
        return tuple(import_module(FILES).save(self, Path(folder), names_in(formats)))

    def _repr_png_(self) -> bytes:
        return views.png_of(self)

    def _repr_html_(self) -> str:
        return views.html_of(self)
