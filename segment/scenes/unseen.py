"""Objects that no training scene contains: balloon, boulder, giraffe, tent, duck, cow.

Must not know the street around them: the object is drawn last, in front of everything, with its own random numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from segment.scenes.classes import UNSEEN
from segment.scenes.painting import RING, Canvas, Colour, Points

_BRIGHT: tuple[tuple[Colour, Colour], ...] = (
    ((226, 92, 74), (246, 222, 170)),
    ((64, 140, 156), (244, 236, 214)),
    ((134, 92, 160), (240, 190, 90)),
    ((240, 176, 66), (214, 84, 96)),
)


def add_unseen_object(canvas: Canvas, rng: Generator) -> None:
    """Draw one such object; it covers 1 to 5 % of the image, or a little less where it is narrow."""
    camera = canvas.camera
    draw: Callable[[_Stamp, Generator], None] = (_balloon, _boulder, _giraffe, _tent, _duck, _cow)[rng.integers(6)]
    area = rng.uniform(0.018, 0.04) * camera.height * camera.width  # pixels a stamp should cover
    x = camera.width * rng.uniform(0.2, 0.8)
    if draw is _balloon:
        unit = float(np.sqrt(area / 0.66))
        foot = max(camera.horizon * rng.uniform(0.75, 0.95), 1.08 * unit)
    else:
        unit = float(np.sqrt(area / _COVER[draw.__name__]))
        foot = camera.height * rng.uniform(0.82, 0.95)
    draw(_Stamp(canvas, (x, foot), unit, flip=bool(rng.random() < 0.5)), rng)


_COVER = {"_boulder": 0.78, "_giraffe": 0.24, "_tent": 0.6, "_duck": 0.6, "_cow": 0.42}
"""Share of its unit square that each object covers."""


class _Stamp:
    """A unit square standing on the street: x from -.5 to .5, y up from 0 to 1."""

    def __init__(self, canvas: Canvas, foot: tuple[float, float], unit: float, *, flip: bool) -> None:
        self.canvas, self.foot, self.unit = canvas, foot, unit
        self.sign = -1 if flip else 1
        self.z = 9.0

    def part(self, outline: list[tuple[float, float]] | Points, colour: Colour, face: float = 1.0) -> None:
        pixels = np.array(outline) * [self.sign * self.unit, -self.unit] + self.foot
        self.canvas.polygon(pixels, self.canvas.light.shade(colour, self.z, face), UNSEEN)

    def round(self, x: float, y: float, rx: float, ry: float, colour: Colour, face: float = 1.0) -> None:
        self.part(RING * (rx, ry) + (x, y), colour, face)


def _balloon(stamp: _Stamp, rng: Generator) -> None:
    first, second = _BRIGHT[rng.integers(len(_BRIGHT))]
    stripes = int(rng.integers(5, 9))
    y = np.linspace(0.22, 1.0, 24)
    half = 0.4 * np.sqrt(np.clip(1 - ((y - 0.63) / 0.375) ** 2, 0, 1))
    half = np.where(y < 0.5, np.maximum(half * 0.94, 0.07 + 0.9 * (y - 0.22)).clip(max=0.4), half)
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, stripes + 1))  # stripes of a sphere
    for n in range(stripes):
        outline = np.concatenate(
            [np.stack([half * edges[n], y], axis=1), np.stack([half * edges[n + 1], y], axis=1)[::-1]]
        )
        stamp.part(outline, first if n % 2 == 0 else second, 0.8 + 0.24 * n / stripes)
    stamp.part([(-0.07, 0.22), (0.07, 0.22), (0.055, 0.12), (-0.055, 0.12)], (90, 70, 60))
    stamp.part([(-0.06, 0.12), (0.06, 0.12), (0.05, 0.02), (-0.05, 0.02)], (150, 106, 66))


def _boulder(stamp: _Stamp, rng: Generator) -> None:
    stone: Colour = ((140, 128, 118), (158, 140, 114), (116, 118, 130))[rng.integers(3)]
    turn = np.linspace(-0.12, np.pi + 0.12, 11)
    rim = np.stack([0.52 * np.cos(turn), 0.24 + 0.62 * np.sin(turn)], axis=1) * rng.uniform(0.88, 1.06, (11, 1))
    rim[[0, -1], 1] = 0.0
    inner = np.stack([0.26 * np.cos(turn) + 0.03, 0.36 + 0.3 * np.sin(turn)], axis=1) * rng.uniform(0.8, 1.1, (11, 1))
    stamp.part(rim, stone, 0.7)
    for n in range(10):  # facets, brighter towards the upper left
        light = 0.86 - 0.24 * np.cos(turn[n]) * stamp.sign + 0.16 * np.sin(turn[n]) + rng.uniform(-0.08, 0.08)
        stamp.part(np.array([rim[n], rim[n + 1], inner[n + 1], inner[n]]), stone, light)
    stamp.part(inner, stone, rng.uniform(0.92, 1.05))


def _legs(stamp: _Stamp, places: tuple[float, ...], top: float, width: float, colour: Colour) -> None:
    for n, x in enumerate(places):
        outline = [(x - width, top), (x + width, top), (x + 0.7 * width, 0.0), (x - 0.7 * width, 0.0)]
        stamp.part(outline, colour, 0.78 if n % 2 else 1.0)


def _patches(stamp: _Stamp, rng: Generator, box: tuple[float, float, float, float], size: float, paint: Colour) -> None:
    x, y, rx, ry = box
    for _ in range(12):
        turn, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.62))
        at = x + rx * far * np.cos(turn), y + ry * far * np.sin(turn)
        stamp.round(*at, size * rng.uniform(0.6, 1.1), size * rng.uniform(0.5, 0.9), paint)


def _giraffe(stamp: _Stamp, rng: Generator) -> None:
    coat, spots = (226, 186, 112), (160, 100, 52)
    _legs(stamp, (-0.2, -0.12, 0.08, 0.15), 0.44, 0.035, coat)
    stamp.round(-0.03, 0.46, 0.24, 0.12, coat)
    stamp.part([(0.06, 0.5), (0.2, 0.44), (0.32, 0.9), (0.24, 0.92)], coat)
    stamp.round(0.33, 0.92, 0.1, 0.048, coat)
    stamp.part([(0.25, 0.94), (0.27, 1.0), (0.285, 0.94)], spots)
    _patches(stamp, rng, (-0.03, 0.46, 0.24, 0.12), 0.042, spots)
    for up in (0.56, 0.66, 0.76, 0.85):
        stamp.round(0.14 + 0.3 * (up - 0.5), up, 0.03, 0.03, spots)


def _cow(stamp: _Stamp, rng: Generator) -> None:
    coat, patch = (236, 230, 222), (58, 50, 48)
    _legs(stamp, (-0.32, -0.22, 0.12, 0.22), 0.35, 0.05, coat)
    stamp.part([(-0.4, 0.62), (0.3, 0.62), (0.34, 0.5), (0.28, 0.28), (-0.38, 0.28), (-0.42, 0.45)], coat)
    stamp.part([(0.22, 0.62), (0.34, 0.76), (0.44, 0.72), (0.5, 0.54), (0.42, 0.5), (0.28, 0.46)], coat, 0.95)
    stamp.part([(0.3, 0.74), (0.27, 0.84), (0.34, 0.76)], (196, 172, 140))
    stamp.round(0.47, 0.535, 0.045, 0.04, (226, 170, 160))
    _patches(stamp, rng, (-0.06, 0.45, 0.3, 0.14), 0.07, patch)
    stamp.part([(-0.41, 0.6), (-0.38, 0.6), (-0.44, 0.25), (-0.47, 0.25)], patch)


def _tent(stamp: _Stamp, rng: Generator) -> None:
    first, second = _BRIGHT[rng.integers(len(_BRIGHT))]
    feet = np.linspace(-0.5, 0.5, 8)
    for n in range(7):
        eaves = [(0.8 * feet[n], 0.5), (0.8 * feet[n + 1], 0.5)]
        colour = first if n % 2 == 0 else second
        stamp.part([*eaves, (0.0, 0.96)], colour, 0.82 + 0.05 * n)
        stamp.part([eaves[0], eaves[1], (feet[n + 1], 0.0), (feet[n], 0.0)], colour, 0.74 + 0.05 * n)
    stamp.part([(-0.09, 0.0), (0.09, 0.0), (0.0, 0.36)], (60, 48, 52))
    stamp.part([(0.0, 0.94), (0.0, 1.06), (0.12, 1.0)], first)


def _duck(stamp: _Stamp, rng: Generator) -> None:
    coat: Colour = ((248, 206, 70), (244, 160, 176), (120, 190, 200))[rng.integers(3)]
    stamp.round(-0.04, 0.3, 0.44, 0.3, coat, 0.92)
    stamp.part([(-0.3, 0.42), (-0.52, 0.62), (-0.46, 0.26)], coat, 0.92)
    stamp.round(0.18, 0.68, 0.25, 0.25, coat)
    stamp.part([(0.38, 0.72), (0.58, 0.66), (0.4, 0.58)], (232, 120, 54))
    stamp.round(-0.1, 0.32, 0.22, 0.14, coat, 0.8)
    stamp.round(0.26, 0.74, 0.045, 0.055, (36, 34, 40))
