"""Pictures of frames as .mp4, at the speed of the source.

Must not know how a frame was estimated: its pictures are read from their files.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from segment.errors import WrongUse
from segment.files.exports.volumes import PlacedImage
from segment.files.writing import fresh_path
from segment.images.read import read_image

RATE = 10.0
"""Frames a second of pictures that are of no video."""


def rate_of(parts: Sequence[PlacedImage]) -> float:
    """Frames a second, so that a run over every Nth frame takes as long as the source.

    >>> from segment.images.placing.geometry import Geometry
    >>> rate_of([PlacedImage("v/0", Path(), Geometry(video="v", frame_rate=24.0, index=i)) for i in (0, 5, 10)])
    4.8
    """
    rate = parts[0].geometry.frame_rate
    if rate <= 0:
        return RATE
    numbers = [part.geometry.index for part in parts]
    return rate / median(np.diff(numbers).tolist()) if len(numbers) > 1 else rate


def write_videos(folder: Path, parts: Sequence[PlacedImage], names: Sequence[str]) -> list[Path]:
    """<name>.mp4 of each kind of picture (overlay, variance, ...), MPEG-4; an odd side repeats its last pixels.

    Errors: WrongUse where the pictures differ in size, OpenCV writes no MPEG-4, or the disk is full.
    """
    written = []
    for name in names:
        path = folder / f"{name}.mp4"
        with fresh_path(path) as place:
            _write(place, [part.folder / f"{name}.png" for part in parts], rate_of(parts))
            if cv2.VideoCapture(str(place)).get(cv2.CAP_PROP_FRAME_COUNT) != len(parts):  # OpenCV raises nothing
                raise OSError(errno.ENOSPC, "the video holds fewer frames than were written to it")
        written.append(path)
    return written


def _write(place: Path, pictures: Sequence[Path], rate: float) -> None:
    first = read_image(pictures[0])
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    place.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(place), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise WrongUse("This build of OpenCV writes no MPEG-4; leave video out of --format.")
    try:
        for path in pictures:
            picture = read_image(path)
            if picture.shape != first.shape:
                raise WrongUse(f"{path} has another size than the first frame; a video needs frames of one size.")
            even = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode="edge")
            writer.write(np.ascontiguousarray(even[..., ::-1]))
    finally:
        writer.release()
