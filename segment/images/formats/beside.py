"""Files beside a picture that say where it lies: world files, and what GDAL writes of it.

Must not know how they are read: rasterio does that.
"""

from __future__ import annotations

from pathlib import Path

from segment.images.limits import is_file
from segment.stores.urls import is_url


def placed_beside(path: Path) -> bool:
    """Whether a world file or GDAL's `.aux.xml` lies beside a file here.

    >>> placed_beside(Path("nothing.tif"))
    False
    """
    if is_url(path):
        return False
    return any(map(is_file, places_beside(path)))


def places_beside(path: Path) -> list[Path]:
    """The files beside a file that may say where it lies, whether there or not."""
    return [path.with_name(f"{path.name}.aux.xml"), *_world_files(path)]


def _world_files(path: Path) -> list[Path]:
    """The names that GDAL looks for, in both cases of letters.

    >>> [file.name for file in _world_files(Path("a.tiff"))]
    ['a.tfw', 'a.tiffw', 'a.wld', 'a.TFW', 'a.TIFFW', 'a.WLD']
    """
    letters = path.suffix[1:].lower()
    if not letters:
        return []
    names = [f".{letters[0]}{letters[-1]}w", f".{letters}w", ".wld"]
    return [path.with_suffix(name) for name in (*names, *(name.upper() for name in names))]
