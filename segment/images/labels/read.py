"""A label file of any kind → the class id of each pixel.

Must not know a score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segment.errors import ImageUnreadable, count_of
from segment.images.bands import channels_in
from segment.images.contents.copied import image_here
from segment.images.find import Source
from segment.images.formats.kinds import kind_of
from segment.images.formats.pictures import orientation_of, palette_of
from segment.images.labels.annotations import ANNOTATION_SUFFIXES, Annotation, annotations_in, drawn
from segment.images.labels.names import matching
from segment.images.labels.scheme import LabelScheme
from segment.images.placing.alignment import check_same_place
from segment.images.read import decode, read_plane
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

_warned: set[Path] = set()
"""Folders of label maps whose palette was warned of."""


def read_label_ids(
    path: Path,
    part: int | str | None,
    axis: int,
    size: tuple[int, int],
    scheme: LabelScheme,
    *,
    image: Source | None = None,
) -> NDArray[np.int64]:  # H W
    """The ids of an image of that size (H, W). Errors: ImageUnreadable, MissingExtra.

    part: which image of the file; of a file of annotations the annotated image's name, None: that of `image`
    image: refuses a label map that lies elsewhere, by what both files say
    """
    if path.suffix.lower() in ANNOTATION_SUFFIXES:
        annotation = _annotation(path, part, image)
        if annotation.boxes:
            raise ImageUnreadable(
                f"{str(path)!r} has {count_of(annotation.boxes, 'object')} in {annotation.name!r} without a "
                "segmentation: a box does not say which pixels are its object's. Draw it, or remove it."
            )
        shapes = {shape.name: shape.category for shape in annotation.shapes}
        ids, categories = scheme.of_names(shapes, str(path)), annotation.categories or shapes
        return drawn(annotation, size, ids, lambda: scheme.background(str(path), categories), str(path))
    index = _ids_of_map(path, part, axis, scheme)
    if image is not None and index.shape == size:
        check_same_place(image, path, part, size, "label map")
    return index


def turned_alone(image: Any, labels: Sequence[Any]) -> str:
    """That an image is turned by its EXIF orientation and one of its label maps has none; "" where that is not so.

    image, labels: paths, or what a caller holds
    """
    if _orientation(image) == 1 or not any(_orientation(label) == 1 for label in labels):
        return ""
    where = f" in {str(image.parent)!r}" if isinstance(image, Path) else ""
    return (
        f"The EXIF orientation of images{where} turns them, and their label maps have none. They are taken to be drawn "
        "on the image as viewers show it; if they are of its pixels as stored, give images without the tag."
    )


def _orientation(given: Any) -> int:
    """EXIF orientation of a picture or TIFF; 1 of other files, and on a store, from where it is not copied for this.

    0 of annotations, whose shapes are drawn on what a viewer shows.
    """
    if isinstance(given, Image.Image):
        return int(given.getexif().get(ExifTags.Base.Orientation, 1))
    if not isinstance(given, Path) or is_url(given):
        return 1
    if given.suffix.lower() in ANNOTATION_SUFFIXES:
        return 0
    return orientation_of(given) if kind_of(given) in ("picture", "tiff") else 1


def _annotation(path: Path, part: int | str | None, image: Source | None) -> Annotation:
    """What a file says of an image. Errors: ImageUnreadable where it does not say which of several is meant."""
    images = annotations_in(path)
    if part is None and len(images) == 1:
        return next(iter(images.values()))
    name = matching(list(images), [image]).get(image.id) if part is None and image is not None else part
    if name is None or str(name) not in images:
        asked = part if image is None else image.path.name
        raise ImageUnreadable(f"{str(path)!r} annotates no image of the name {asked!r}.")
    return images[str(name)]


def _check_palette(path: Path, plane: NDArray[np.int64], scheme: LabelScheme) -> None:
    """Warn, once a folder, where a picture's own palette gives other classes than its indices, which are taken."""
    with image_here(path) as copy:
        colours = palette_of(copy)
    if colours is None or plane.max() >= len(colours):
        return
    used = np.flatnonzero(np.bincount(plane.ravel())).tolist()
    known, ids = scheme.of_palette(), scheme.ids(np.array(used)).tolist()
    entries = [(index, id, known.get(colours[index])) for index, id in zip(used, ids, strict=True) if id != scheme.void]
    other = [(index, id, by_colour) for index, id, by_colour in entries if id != by_colour]
    if other and all(by_colour is not None for *_, by_colour in entries):
        _warned.add(path.parent)
        index, id, by_colour = other[0]
        log.warning(
            "%s has the card's colours at other indices: its index %d is class %s, and has the colour of class %s. Its "
            "indices are taken, and those of the files beside it. Save them in RGB where the colours are right.",
            *(path, index, id, by_colour),
        )


def _ids_of_map(path: Path, part: int | str | None, axis: int, scheme: LabelScheme) -> NDArray[np.int64]:  # H W
    plane = read_plane(path, part, axis)
    if plane is not None:
        if scheme.palette and not part and path.parent not in _warned and kind_of(path) == "picture":
            _check_palette(path, plane, scheme)
        return scheme.ids(plane)
    raster = decode(path, part, axis)
    if raster.raw.dtype != np.uint8:
        raise ImageUnreadable(
            f"{str(path)!r} is no label map: it holds {raster.raw.shape[2]} bands of {raster.raw.dtype}."
        )
    bands = raster.raw.shape[2]
    if bands > 4:
        raise ImageUnreadable(
            f"{str(path)!r} is no label map: it holds {bands} bands, where a map has one of ids, or three of colours. "
            "Write the ids alone; of a band for each class, the index of the largest."
        )
    return scheme.of_colours(channels_in(raster, "RGB", str(path)).raw, str(path))
