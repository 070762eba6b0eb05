"""The formats of `--format`: what each writes and what it needs; help, refusals and docs come from here.

Must not know how any of them is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segment.errors import WrongUse, imported, near


@dataclass(frozen=True)
class Format:
    """what: the files it writes, in words. library, extra: what it needs besides the core, "" for nothing.

    implies: formats that it is made from, written too. regions: whether it describes the regions of the mask
    """

    what: str
    library: str = ""
    extra: str = ""
    implies: tuple[str, ...] = ()
    regions: bool = False


FORMATS: dict[str, Format] = {
    "png": Format("mask, overlays and heat maps for people, 16-bit maps in raw/, the contact sheet"),
    "npz": Format("the maps as float32, for NumPy"),
    "tif": Format("the maps as float32 TIFFs; cloud-optimised GeoTIFFs where the source has a georeference"),
    "zarr": Format("the maps as one Zarr v3 group, in chunks", "zarr", "zarr"),
    "csv": Format("segments.csv, a row a region of the mask, and images.csv, a row an image", regions=True),
    "parquet": Format("the same tables as Parquet", "pyarrow", "tables", regions=True),
    "coco": Format(
        "coco.json, of the run and in each `<id>/`: the regions as RLE, with class, area and uncertainty", regions=True
    ),
    "labelstudio": Format(
        "labelstudio.json, of the run and in each `<id>/`: the regions as pre-annotations with scores; labelstudio.xml",
        regions=True,
    ),
    "geojson": Format("the regions as polygons in the source's CRS", "rasterio", "geo", regions=True),
    "nii": Format(
        "a NIfTI volume a map or class, with the source's affine",
        "nibabel",
        "medical",
        implies=("npz",),
    ),
    "video": Format("overlays and heat maps as .mp4 at the source's frame rate", implies=("png",)),
}

HOLDS_PROBABILITY = ("npz", "tif", "zarr")
"""Formats that hold `probability`."""


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The formats asked for, and those that they are made from.

    Errors: WrongUse for a name that is no format, or for none; MissingExtra for a library that is not installed.

    >>> checked(["video"])
    ('png', 'video')
    """
    asked = tuple(dict.fromkeys(names))
    known = ", ".join(FORMATS)
    for name in asked:
        if name not in FORMATS:
            raise WrongUse(f"No format is called {name!r}.{near(name, FORMATS)} Known: {known}.")
        if FORMATS[name].library:
            imported(FORMATS[name].library, extra=FORMATS[name].extra, what=f"Files of --format {name}")
    if not asked:
        raise WrongUse(f"No format is named, so nothing would be written. Known: {known}.")
    implied = {part for name in asked for part in FORMATS[name].implies}
    return tuple(name for name in FORMATS if name in implied or name in asked)
