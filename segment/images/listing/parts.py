"""The images that one file holds: frames of a video or an animation, pages of a TIFF, slices of a volume, arrays.

Must not know which folder a file came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segment.errors import ImageUnreadable, WrongUse
from segment.images.formats.arrays import parts_of_array
from segment.images.formats.kinds import SEVERAL, kind_of, suffix_of
from segment.images.formats.pictures import frames_in
from segment.images.formats.tiff import tiff_images
from segment.images.formats.video import frame_count
from segment.images.formats.volumes import volume_shape
from segment.images.isolation import contained
from segment.images.limits import is_file
from segment.stores.copies import here
from segment.stores.urls import is_url

Part = int | str | None
"""The number of a frame, page or slice, from 0, or a key; None: the file's only image."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which images of files with several are taken.

    every: of a video: every N-th frame, from the first
    axis: of a volume: the voxel axis (0, 1, 2) that its slices lie along; 2 is from feet to head
    """

    every: int = 1
    axis: int = 2

    def __post_init__(self) -> None:
        if self.every < 1:
            raise WrongUse(f"--every {self.every}: every N-th frame of a video, from 1 up.")
        if self.axis not in (0, 1, 2):
            raise WrongUse(f"--axis {self.axis}: slices of a volume lie along axis 0, 1 or 2 of its voxels.")

    def settings(self) -> dict[str, dict[str, int]]:
        """The key of a run's settings, none for the defaults; `of_settings` reads it back."""
        return {} if self == Listing() else {"listing": asdict(self)}

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Listing:
        return cls(**settings.get("listing", {}))


def parts_in(path: Path, listing: Listing, *, single_key: bool = False) -> tuple[Part, ...]:
    """The images of a file; a damaged one counts as one image, whose reading then says what is wrong.

    single_key: an .npz of one array gives its key in place of None
    Errors: MissingExtra where listing them needs a library that is not installed.
    """
    on_store = is_url(path)
    if suffix_of(path) not in SEVERAL or not (on_store or is_file(path)):
        return (None,)
    if on_store and kind_of(path) in ("picture", "tiff"):  # not copied here for it; several are refused when read
        return (None,)
    try:
        with here(path) as copy:
            return _parts_in(copy, listing, single_key) or (None,)
    except OSError:  # said where it is read
        return (None,)
    except ImageUnreadable:
        return (None,)


@contained
def _parts_in(path: Path, listing: Listing, single_key: bool) -> tuple[Part, ...]:  # noqa: FBT001
    kind = kind_of(path)
    if kind == "video":
        return tuple(range(0, frame_count(path), listing.every))
    if kind == "volume":
        return tuple(range(volume_shape(path)[listing.axis]))
    if kind == "array":
        return parts_of_array(path, single_key=single_key) or (None,)
    count = tiff_images(path) if kind == "tiff" else frames_in(path) if kind == "picture" else 1
    return tuple(range(count)) if count > 1 else (None,)


def part_name(path: Path, part: int | str) -> str:
    """The last part of an image's id.

    >>> part_name(Path("a.mp4"), 123), part_name(Path("a.nii.gz"), 7), part_name(Path("a.npz"), "left")
    ('000123', '0007', 'left')
    """
    if isinstance(part, str):
        return part
    return f"{part:06d}" if kind_of(path) == "video" else f"{part:04d}"
