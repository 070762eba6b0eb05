"""Frames of a video, by OpenCV, decoded in order so that a number always names the same frame.

Must not know what the frames are used for.
"""

from __future__ import annotations

from pathlib import Path
from threading import local
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable
from segment.images.contents.states import state_of
from segment.images.placing.geometry import Geometry

_open = local()  # the last video of this thread, its file's state, and the number of its next frame


def frame_count(path: Path) -> int:
    """How many frames decode: by the header where its last frame is there, else counted through."""
    capture = _opened(path)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if count > 0 and capture.set(cv2.CAP_PROP_POS_FRAMES, count - 1) and capture.read()[0] and not capture.grab():
            return count
    finally:
        capture.release()
    capture, count = _opened(path), 0
    try:
        while capture.grab():
            count += 1
    finally:
        capture.release()
    if not count:
        raise ImageUnreadable(f"{str(path)!r} opens as a video, but not one of its frames decodes. Convert it to .mp4.")
    return count


def read_frame(path: Path, number: int) -> NDArray[np.uint8]:  # -> H W 3, RGB
    """Frame `number`, from 0. An earlier frame than the last one is reached from the start: seeking is not exact."""
    file = path, state_of(path)
    capture, at = getattr(_open, "video", (None, 0)) if getattr(_open, "file", None) == file else (None, 0)
    if capture is None or at > number:
        if (before := getattr(_open, "video", None)) is not None:
            before[0].release()
        capture, at = _opened(path), 0
    while at < number and capture.grab():
        at += 1
    done, frame = capture.read() if at == number else (False, None)
    _open.file, _open.video = file, (capture, number + 1)
    if not done or frame is None:
        _open.file = None
        raise ImageUnreadable(f"{str(path)!r}: frame {number} does not decode; the video ends or is damaged there.")
    return np.ascontiguousarray(frame[..., ::-1])


def video_geometry(path: Path, number: int) -> Geometry:
    capture = _opened(path)
    try:
        rate, count = float(capture.get(cv2.CAP_PROP_FPS)), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return Geometry(video=str(path), frame_rate=rate, index=number, count=max(count, number + 1))


def _opened(path: Path) -> Any:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        reason = "no such file" if not path.exists() else "no codec of OpenCV decodes it"
        raise ImageUnreadable(f"{str(path)!r} does not open as a video: {reason}. Convert it to .mp4 (H.264).")
    return capture


def frame_size(path: Path) -> tuple[int, int] | None:
    try:
        capture = _opened(path)
    except ImageUnreadable:
        return None
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    finally:
        capture.release()
