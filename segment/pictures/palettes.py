"""Class colours: K of them, far apart to the eye, and a label map painted with them.

Must not know a network, a card or a file: labels and colours in, a picture out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse

RGB = tuple[int, int, int]
Picture = NDArray[np.uint8]
"""H W 3, RGB, 0..255."""

VOID: RGB = (0, 0, 0)
"""The colour of labels outside the classes."""

NO_CLASS: tuple[RGB, ...] = ((128, 128, 128), (225, 225, 225), (255, 255, 255), (60, 60, 60))
"""Colours of a pixel that no class claims, the usual one first."""
WRONG: RGB = (213, 94, 0)
"""The colour of pixels whose class is wrong, as in the HTML report."""
UNTRUSTED: RGB = (0, 229, 255)
"""The colour that outlines untrusted pixels in the HTML report."""
APART = 60
"""Steps of a channel that such a colour differs from every class."""

GRID = 24
"""Levels a channel of the colours that are candidates."""
SAFE = 8
"""Class colours that are far apart to eyes that confuse red and green too."""
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
"""Linear light as seen without red or green cones (Machado, Oliveira & Fernandes 2009, severity 1)."""


def no_class_colour(palette: Picture) -> RGB:  # K 3
    """The first grey that no class has: CamVid's sky is the usual one.

    >>> no_class_colour(np.uint8([[0, 0, 255]])), no_class_colour(np.uint8([[128, 128, 128]]))
    ((128, 128, 128), (225, 225, 225))
    """
    for grey in NO_CLASS:
        if (np.abs(palette.astype(int) - grey).max(axis=1) > APART).all():
            return grey
    return NO_CLASS[0]


def palette(classes: int, given: Sequence[Sequence[int]] = ()) -> Picture:  # -> K 3
    """K class colours: the first K of `given`, or generated colours, the same for every K.

    >>> palette(2, given=[(128, 64, 128), (0, 0, 142), (0, 0, 0)]).tolist()
    [[128, 64, 128], [0, 0, 142]]
    >>> bool((palette(3) == palette(20)[:3]).all())
    True
    """
    if classes < 1:
        raise WrongUse(f"A palette for {classes} classes was asked for; at least 1 is needed.")
    if not given:
        return np.resize(
            _spread(min(classes, 1024)), (classes, 3)
        )  # more than 1024 colours cannot be distinguished: repeat
    colours = np.asarray(given)
    if colours.ndim != 2 or colours.shape[1] != 3 or colours.min() < 0 or colours.max() > 255:
        raise WrongUse("A palette is a list of colours (red, green, blue), each from 0 to 255.")
    if len(colours) < classes:
        raise WrongUse(f"The palette names {len(colours)} colours for {classes} classes; give one a class, or none.")
    return colours[:classes].astype(np.uint8)


def colour_mask(labels: NDArray[np.integer], colours: Picture) -> Picture:  # H W, K 3 -> H W 3
    """Each pixel in its class's colour; VOID where the label is outside 0..K - 1.

    >>> colour_mask(np.array([[1, 255]]), np.array([[9, 9, 9], [1, 2, 3]], np.uint8)).tolist()
    [[[1, 2, 3], [0, 0, 0]]]
    """
    table = np.vstack([colours, np.array([VOID], np.uint8)])
    known = (labels >= 0) & (labels < len(colours))
    return table[np.where(known, labels, len(colours)).astype(np.intp)]


def oklab(colours: NDArray[np.integer]) -> NDArray[np.float64]:  # ... 3 -> ... 3
    """SRGB 0..255 as OKLab (lightness 0..1, green-red, blue-yellow), where equal steps look equal.

    Source: Björn Ottosson, "A perceptual color space for image processing", 2020; its published matrices.
    """
    return _oklab_of_linear(_linear(colours))


def _linear(colours: NDArray[np.integer]) -> NDArray[np.float64]:  # ... 3, 0..255 -> ... 3, 0..1
    srgb = np.asarray(colours, np.float64) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _oklab_of_linear(linear: NDArray[np.float64]) -> NDArray[np.float64]:  # ... 3 -> ... 3
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def seen_with(colours: NDArray[np.integer], deficiency: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Colours (... 3, 0..255) as an eye with a deficiency of colour vision sees them, in OKLab.

    deficiency: its matrix over linear light, as PROTAN
    """
    linear = np.clip(_linear(colours) @ np.array(deficiency).T, 0, 1)
    return _oklab_of_linear(linear)


@lru_cache(maxsize=8)
def _spread(classes: int) -> Picture:  # -> K 3
    """Colours chosen in order, each the farthest in OKLab from those before it and from those that mean something else.

    A shorter palette is therefore the beginning of every longer one. The first SAFE are also far apart to eyes that
    confuse red and green; of more colours most would be too near one another to all eyes.
    """
    levels = np.linspace(0, 255, GRID).round().astype(np.int64)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    places = oklab(colours)
    lightness, chroma = places[:, 0], np.hypot(places[:, 1], places[:, 2])
    moderate = (
        (lightness > 0.42) & (lightness < 0.88) & (chroma > 0.07) & (chroma < 0.2)
    )  # neither too dark, too bright, too grey nor too saturated
    colours = colours[moderate]
    eyes: tuple[Callable[[NDArray[np.integer]], NDArray[np.float64]], ...] = (
        oklab,
        *(partial(seen_with, deficiency=deficiency) for deficiency in (PROTAN, DEUTAN)),
    )
    seen = [eye(colours) for eye in eyes]
    others = np.array([(0, 0, 0), (255, 255, 255), (128, 128, 128), WRONG, UNTRUSTED])
    distances = [
        np.linalg.norm(own[:, None] - eye(others)[None], axis=-1).min(axis=1)
        for own, eye in zip(seen, eyes, strict=True)
    ]
    chosen = [int(np.linalg.norm(seen[0] - oklab(np.array([60, 120, 216])), axis=1).argmin())]  # a blue
    while len(chosen) < classes:
        distances = [
            np.minimum(distance, np.linalg.norm(own - own[chosen[-1]], axis=1))
            for distance, own in zip(distances, seen, strict=True)
        ]
        normal, *deficient = distances
        weight = 2 if len(chosen) < SAFE else 5
        chosen.append(int(np.minimum(normal, weight * np.minimum(*deficient)).argmax()))
    return colours[chosen].astype(np.uint8)
