"""Files that belong to an image file and change what is read of it: those beside it, and the sources of a `.vrt`.

Must not know what they hold.
"""

from __future__ import annotations

from pathlib import Path

from segment.errors import ImageUnreadable, MissingExtra
from segment.images.formats.beside import places_beside
from segment.images.formats.georeference import raster_files
from segment.images.formats.kinds import kind_of, suffix_of
from segment.images.limits import is_file
from segment.stores.urls import is_url


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that belong to an image file here, without itself; a file that a `.vrt` names may be missing.

    GDAL opens a raster of its own (.jp2, .vrt, .img) for them; of another file only names are looked for. None are
    known of a file on a store, nor of a raster that does not open.

    >>> files_of(Path("nothing.png"))
    ()
    """
    if is_url(path):
        return ()
    files: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        beside = [other for other in may_belong(file) if is_file(other)]
        for other in [*beside, *(_sources(file) if file == path or suffix_of(file) == ".vrt" else ())]:
            if other != path and other not in files:
                files[other] = None
                waiting.append(other)
    return tuple(sorted(files))


def may_belong(path: Path) -> list[Path]:
    """The files beside an image file that would belong to it: of its place, and the mask of a TIFF or raster."""
    kind = kind_of(path)
    if is_url(path) or kind not in ("picture", "tiff", "raster"):
        return []
    masks = [] if kind == "picture" else [path.with_name(f"{path.name}.msk")]
    return [*places_beside(path), *masks]


def _sources(path: Path) -> tuple[Path, ...]:
    """What GDAL lists of a raster of its own."""
    if kind_of(path) != "raster" or not is_file(path):
        return ()
    try:
        return tuple(Path(name) for name in raster_files(path))
    except (ImageUnreadable, MissingExtra):  # reported where its pixels are read
        return ()
