"""An image with the contours of its classes and, in amber to red, their uncertainty.

Must not know a network or a file: arrays of equal size in, a picture of that size out.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import WrongUse
from segment.pictures.palettes import Picture, colour_mask

MILD, STRONG = np.array((255, 200, 40), np.float32), np.array((255, 48, 16), np.float32)
"""RGB for low uncertainty (amber) and for high uncertainty (red)."""

OPACITY = 0.8
"""Opacity of the colour where the uncertainty is greatest."""

ROWS = 256
"""Rows painted at a time, because the float32 sums of a large picture need too much memory."""


def overlay(
    image: Picture,  # H W 3
    labels: NDArray[np.integer],  # H W
    uncertainty: NDArray[np.floating],  # H W
    *,
    high: float,
    palette: Picture,  # K 3
    low: float = 0.0,
) -> Picture:  # H W 3
    """The pale image; uncertainty from amber to red, more opaque towards `high`; each class outlined in its colour.

    Lines lie inside their class, so both sides of a border have their colour; a rim separates them from the image.
    A pixel's colour depends on its own value alone; NaN counts as the greatest uncertainty.
    """
    rows = range(0, len(image), ROWS)
    parts = [
        overlay_rows(image, labels, uncertainty, slice(r, r + ROWS), high=high, palette=palette, low=low) for r in rows
    ]
    return np.concatenate(parts) if parts else image.copy()


def overlay_rows(
    image: Plane, labels: Plane, uncertainty: Plane, rows: slice, *, high: float, palette: Picture, low: float = 0.0
) -> Picture:  # H W 3, H W, H W -> h W 3
    """Some rows of the overlay, for arrays that are read from disk a few rows at a time."""
    if not image.shape[:2] == labels.shape == uncertainty.shape:
        raise WrongUse(f"An overlay needs one size: image {image.shape[:2]}, {labels.shape}, {uncertainty.shape}.")
    start, stop, _ = rows.indices(image.shape[0])
    thick = max(1, round(math.sqrt(labels.shape[0] * labels.shape[1]) / 600))
    beyond = 1 + thick + thick  # the distance that a border's line and rim extend
    context = slice(max(0, start - beyond), min(image.shape[0], stop + beyond))
    picture = _glowing(image[context], (uncertainty[context] - low) / (high - low))
    _outline(picture, labels[context], palette, thick)
    return picture[start - context.start :][: stop - start]


def _glowing(image: Picture, uncertainty: NDArray[np.floating]) -> Picture:  # H W 3, H W within 0..1 -> H W 3
    share = np.clip(np.nan_to_num(uncertainty, nan=1.0, posinf=1.0), 0, 1).astype(np.float32)[..., None]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    picture = image * np.float32(0.45) + grey * np.float32(0.4) + np.float32(28)  # paler: lines and glow stand out
    glow = (MILD + (STRONG - MILD) * share) * (0.85 + grey * np.float32(0.15 / 255))  # the image below stays visible
    picture += OPACITY * share**2 * (3 - 2 * share) * (glow - picture)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _outline(picture: Picture, labels: NDArray[np.integer], palette: Picture, thick: int) -> None:
    """Draw on the picture in place; line width 1 up to about 600 x 600 pixels, then in proportion to the side."""
    border = np.zeros(labels.shape, np.uint8)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    line = _widened(border, thick - 1)
    rim = (_widened(line, (thick + 1) // 2) > 0) & (line == 0)
    colours = colour_mask(labels[rim][None], palette)[0]
    pale = colours @ np.array((0.299, 0.587, 0.114)) < 100  # a dark line gets a pale rim, a pale line a dark one
    picture[rim] = picture[rim] // 2 + np.where(pale, 120, 0).astype(np.uint8)[:, None]
    picture[line > 0] = colour_mask(labels[line > 0][None], palette)[0]


def _widened(mask: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    if by == 0:
        return mask
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))).astype(np.uint8)
