"""An image under its classes, and in grey under its uncertainty: two pictures of the image's size.

Must not know a network or a file: arrays of equal size in, a picture of that size out, in parts where asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane, strips
from segment.errors import WrongUse
from segment.pictures.heatmaps import heatmap
from segment.pictures.palettes import RGB, WRONG, Picture, colour_mask
from segment.regions.components import Regions

CLASS_OPACITY = 0.45
"""Opacity of a class's colour within its outline."""

LIFT = 28.0
"""Grey of black below the classes, so that they can be told apart in a dark image."""

LINE_WHITE = 0.4
"""Share of white in an outline: the colours of many palettes are dark."""

HIDDEN = (48, 48, 48)
"""What covers pixels without an uncertainty: darker than any grey of the image, and no colour of the heat map."""

GREY_LOW, GREY_HIGH = 88.0, 216.0
"""Greys of black and white under the uncertainty: dark colours stay visible on asphalt, pale ones on the sky."""

OPACITY = 0.85
"""Opacity of an uncertainty's colour from `FULL_FROM` of the scale up; below, it fades away."""

FULL_FROM = 0.2

STRIPE, EVERY_STRIPE = 2, 8
"""Pixels of a dark stripe where nothing is scored, and from one to the next."""
PALE = 0.43
"""Share of white in the image behind wrong pixels."""


def class_overlay_rows(
    image: Plane, regions: Regions, rows: slice, *, palette: Picture, classes: int, bare: Sequence[int] = ()
) -> Picture:
    """Rows of an image under its classes' colours, translucent, each large region with a thin, paler outline.

    rows: a few at a time, for arrays that are read from disk
    classes: K; a region of a class from K up or in `bare`, and a pixel of no region, shows the image only
    Lines lie inside their region, so both sides of a border have their own. Regions below `SMALL` of the image have
    no line, nor has what surrounds them.
    """
    _check(image, regions.shape)
    start, stop, _ = rows.indices(image.shape[0])
    thick = max(1, round(math.sqrt(image.shape[0] * image.shape[1]) / 700))
    context = slice(max(0, start - thick), min(image.shape[0], stop + thick))
    numbers = np.asarray(regions.numbers[context])
    painted = (regions.classes < classes) & ~np.isin(regions.classes, bare)
    shown = np.append(np.where(painted, regions.classes, -1), -1)[numbers]  # H W, -1: no class
    lines = _widened(_borders(numbers, np.append(regions.large, False)[numbers]), thick - 1)
    inside = slice(start - context.start, start - context.start + stop - start)
    shown, line = shown[inside], lines[inside] > 0
    colours = colour_mask(shown, palette).astype(np.float32)
    colours[line] += LINE_WHITE * (255 - colours[line])
    picture = LIFT + np.asarray(image[start:stop]) * np.float32(1 - LIFT / 255)
    share = np.where(line, np.float32(1), np.float32(CLASS_OPACITY))
    share[shown < 0] = 0
    picture += share[..., None] * (colours - picture)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _borders(numbers: NDArray[np.int32], large: NDArray[np.bool_]) -> NDArray[np.uint8]:  # H W
    """1 where a pixel of a large region touches another large region by a side."""
    border = np.zeros(numbers.shape, np.uint8)
    across = (numbers[:, 1:] != numbers[:, :-1]) & large[:, 1:] & large[:, :-1]
    down = (numbers[1:] != numbers[:-1]) & large[1:] & large[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _widened(mask: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    if by == 0:
        return mask
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))).astype(np.uint8)


def uncertainty_overlay(
    image: Picture,  # H W 3
    uncertainty: NDArray[np.floating],  # H W
    *,
    high: float,
) -> Picture:  # H W 3
    """The image in middle greys under the colours of the heat map, which fade away towards 0.

    A pixel's colour depends on its own two values alone. HIDDEN covers what is NaN.
    """
    parts = [uncertainty_overlay_rows(image, uncertainty, rows, high=high) for rows in strips(image.shape)]
    return np.concatenate(parts) if parts else image.copy()


def uncertainty_overlay_rows(
    image: Plane, uncertainty: Plane, rows: slice, *, high: float
) -> Picture:  # H W 3, H W -> h W 3
    """Some rows of the uncertainty overlay."""
    _check(image, (uncertainty.shape[0], uncertainty.shape[1]))
    values = np.asarray(uncertainty[rows])
    absent = np.isnan(values)
    share = np.clip(np.where(absent, 0.0, values) / high, 0, 1).astype(np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(image[rows]), cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    picture = GREY_LOW + grey * np.float32((GREY_HIGH - GREY_LOW) / 255) + np.zeros(3, np.float32)
    painted = heatmap(values, high=high).astype(np.float32)
    rise = np.minimum(share / np.float32(FULL_FROM), 1)[..., None]
    picture += OPACITY * rise**2 * (3 - 2 * rise) * (painted - picture)
    picture[absent] = HIDDEN
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def errors_overlay(
    image: Picture,  # H W 3
    wrong: NDArray[np.floating],  # H W
    unknown: NDArray[np.floating],  # H W
    *,
    no_class: RGB,
) -> Picture:  # H W 3
    """The image in pale greys, WRONG where its mask is wrong, and `no_class` with dark stripes where no label says.

    The stripes tell what is not scored from a right pixel of the same grey.

    wrong, unknown: shares of a pixel, 0..1

    >>> black, none, all = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)), np.ones((1, 1))
    >>> errors_overlay(black, all, none, no_class=(128, 128, 128)).tolist()
    [[[213, 94, 0]]]
    """
    _check(image, (wrong.shape[0], wrong.shape[1]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    picture = grey + PALE * (255 - grey) + np.zeros(3, np.float32)
    down, across = np.ogrid[: wrong.shape[0], : wrong.shape[1]]
    striped = ((down + across) % EVERY_STRIPE < STRIPE)[..., None]
    not_scored = np.where(striped, 0.4 * np.array(no_class, np.float32), np.array(no_class, np.float32))
    for share, colour in ((unknown, not_scored), (wrong, np.array(WRONG, np.float32))):
        picture += np.asarray(share, np.float32)[..., None] * (colour - picture)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _check(image: Plane, shape: tuple[int, int]) -> None:
    if tuple(image.shape[:2]) != shape:
        raise WrongUse(f"An overlay needs one size: the image has {tuple(image.shape[:2])}, its maps {shape}.")
