"""An estimate in memory to files in a folder, or to an xarray Dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse, imported
from segment.estimation.estimate import Estimate
from segment.estimation.view import PictureContext, each_shown, measure_of, view_of
from segment.files.exports.formats import checked
from segment.files.writing import check_writable, discard
from segment.images.find import Source
from segment.pictures.heatmaps import scale_of
from segment.report.run_files.image_files import ImageResult, render
from segment.report.run_files.style import PictureStyle
from segment.uncertainty.measures import MEASURES

OF_SEQUENCES = ("nii", "video")
"""Formats of volumes and videos, which an estimate is not of."""


@dataclass(frozen=True)
class Below:
    """Images' folders below one folder."""

    folder: Path

    def path(self, image_id: str, name: str) -> Path:
        return self.folder / image_id / name

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def save(estimate: Estimate[Any], folder: Path, formats: tuple[str, ...] = ("png", "npz")) -> list[Path]:
    """Write the files of `segment predict` for one image into the folder, or for N into folders 0, 1, ... below it.

    Args:
        estimate: of one image or several.
        folder: made if it is not there; files of the same names are replaced, and files of measures that this estimate
            lacks are removed: they are another's.
        formats: as `segment predict --format`, without nii and video.

    Returns:
        The files that were written.

    Raises:
        WrongUse: an unknown format, one of volumes or videos, or a folder that cannot be written.

    """
    formats = checked(formats)
    if sequences := [name for name in formats if name in OF_SEQUENCES]:
        raise WrongUse(
            f"Format {' and '.join(sequences)}: a result in memory is no slice of a volume and no frame of a video; "
            "`segment predict --format` writes both."
        )
    folder = folder.resolve()
    check_writable(folder / ".estimate")
    view = view_of(estimate)
    heat = measure_of(estimate, None)
    scales = {measure: view.scale(measure) for measure in (heat, *estimate.maps)}
    origins = dict.fromkeys(scales, "default")
    style = PictureStyle(heat, scales, view.palette, view.classes, view.head, origins)
    maps = ("prediction", *estimate.maps, "probability")
    if estimate.single:
        return _written(estimate, Below(folder.parent), folder.name, style, view, maps, formats)
    written: list[Path] = []
    for index in range(len(estimate.prediction)):
        written += _written(estimate.image(index), Below(folder), str(index), style, view, maps, formats)
    return written


def _written(
    single: Estimate[Any],
    run: Below,
    name: str,
    style: PictureStyle,
    view: PictureContext,
    maps: tuple[str, ...],
    formats: tuple[str, ...],
) -> list[Path]:
    arrays = single.arrays(len(view.classes))
    picture = next(each_shown(single, view_of(single))).picture
    if picture is None:
        picture = np.full((*np.shape(arrays.prediction)[-2:], 3), 255, np.uint8)
    result = ImageResult(Source(name, Path(name)), picture, arrays, style, maps, model=view.name)
    files, _ = render(run, result, formats)
    absent = [measure for measure in MEASURES if measure not in arrays.maps]
    earlier = [file for measure in absent for file in (f"{measure}.png", f"raw/{measure}.png", f"{measure}.tif")]
    discard((run.path(name, file) for file in earlier), run.folder)
    return [run.folder / file for file in files]


def to_xarray(estimate: Estimate[Any]) -> Any:
    """An `xarray.Dataset` of the prediction, the mean probability and the maps, with named axes, units and classes.

    Raises:
        MissingExtra: xarray is not installed.

    """
    xarray = imported("xarray", extra="xarray", what="Datasets")
    view, arrays = view_of(estimate), estimate.numpy()
    images = () if estimate.single else ("image",)
    label = ("class",) if view.head == "multilabel" else ()
    data = {"prediction": ((*images, *label, "y", "x"), np.asarray(arrays.prediction))}
    if arrays.mean is not None:
        data["probability"] = ((*images, "class", "y", "x"), np.asarray(arrays.mean))
    made = xarray.Dataset(
        data, coords={"class": list(view.classes)}, attrs={"network": view.name, "draws": estimate.draws}
    )
    made["prediction"].attrs["long_name"] = "class index"
    for name, values in arrays.maps.items():
        scale = scale_of(name, len(view.classes), view.head)
        made[name] = ((*images, "y", "x"), np.asarray(values))
        made[name].attrs |= {"long_name": scale.title, "units": scale.unit or "1", "bound": scale.bound}
    return made
