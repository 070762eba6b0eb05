"""Image → its geometry: CRS and transform, volume and affine, frame rate; by the kind of its file.

Must not know what is written.
"""

from __future__ import annotations

from dataclasses import replace

from segment.images.contents.copied import by_ranges, image_here
from segment.images.find import Source
from segment.images.formats.beside import placed_beside
from segment.images.formats.georeference import picture_geometry, raster_geometry
from segment.images.formats.kinds import kind_of
from segment.images.formats.tiff import tiff_place
from segment.images.formats.video import video_geometry
from segment.images.formats.volumes import volume_geometry
from segment.images.isolation import contained
from segment.images.placing.geometry import Geometry


def geometry_of(source: Source) -> Geometry:
    """Where an image lies, as its file says; an empty geometry for a plain picture.

    Errors: MissingExtra where a library is not installed; ImageUnreadable for a damaged file.
    """
    if source.geometry is not None:
        return source.geometry
    if kind_of(source.path) == "picture" and (source.part is not None or not placed_beside(source.path)):
        return Geometry()
    if by_ranges(source):
        return _geometry_of(source)
    with image_here(source.path) as path:
        return _geometry_of(replace(source, path=path))


@contained
def _geometry_of(source: Source) -> Geometry:
    kind, part = kind_of(source.path), source.part if isinstance(source.part, int) else 0
    if kind == "tiff":
        return tiff_place(source.path, part)
    if kind == "raster":
        return raster_geometry(source.path)
    if kind == "picture":
        return picture_geometry(source.path)
    if kind == "volume":
        return volume_geometry(source.path, part, source.axis)
    if kind == "video":
        return video_geometry(source.path, part)
    return Geometry()
