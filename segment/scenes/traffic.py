"""Vehicles and people of a generated street.

Must not know the street. Each function draws its random numbers at once and returns a function that paints, so that the
order of painting changes nothing. Lengths are metres, unless a name says pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from segment.scenes.classes import PERSON, VEHICLE
from segment.scenes.painting import Canvas, Colour, Points

_PAINTS: tuple[Colour, ...] = (
    (196, 62, 58),
    (58, 104, 164),
    (230, 230, 226),
    (60, 64, 72),
    (150, 156, 162),
    (232, 178, 70),
    (92, 140, 128),
    (112, 112, 116),
    (118, 92, 80),
    (86, 120, 84),
    (196, 190, 176),
)
_CLOTHES: tuple[Colour, ...] = (
    (206, 76, 80),
    (62, 92, 150),
    (236, 214, 180),
    (70, 74, 84),
    (232, 176, 84),
    (110, 150, 140),
    (150, 110, 150),
    (128, 128, 130),
    (92, 116, 80),
    (190, 130, 104),
)
_SKINS: tuple[Colour, ...] = ((240, 204, 174), (206, 156, 120), (150, 104, 78), (104, 70, 54))


def pick(rng: Generator, colours: tuple[Colour, ...], spread: float = 10.0) -> Colour:
    base, drift = colours[rng.integers(len(colours))], rng.normal(0, spread, 3).tolist()
    red, green, blue = (min(255.0, max(0.0, c + d)) for c, d in zip(base, drift, strict=True))
    return red, green, blue


def vehicle_at(canvas: Canvas, rng: Generator, x: float, z: float) -> Callable[[], None]:
    kind = rng.choice(["car", "van", "bus"], p=[0.72, 0.18, 0.10])
    paint = pick(rng, _PAINTS, 8)
    length, width, height = {"car": (4.2, 1.8, 1.5), "van": (5.2, 2.0, 2.3), "bus": (9.5, 2.5, 3.1)}[kind]
    across = kind == "car" and rng.random() < 0.12
    coming = x < 0
    light: Colour = (255, 244, 206) if coming else (226, 48, 44)
    wide, deep = (length, width) if across else (width, length)
    glass = pick(rng, ((54, 64, 78), (90, 110, 126), (38, 42, 50)), 5)

    def wheels(face: Points, brightness: float) -> None:
        low, span = face[0], face[1] - face[0]
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for at in (0.2, 0.8):
            ring = low + at * span + np.outer(np.cos(turn), span / np.linalg.norm(span)) * 0.34
            ring[:, 1] += 0.34 * np.sin(turn)
            canvas.quad(ring, (36, 36, 40), VEHICLE, brightness)

    def draw() -> None:
        x0, x1 = x - wide / 2, x + wide / 2
        left, right = canvas.camera.project(np.array([[x0, 0.0, z], [x1, 0.0, z]]))
        canvas.shadow((left[0] + right[0]) / 2, left[1], 0.62 * (right[0] - left[0]), 0.12 * (right[0] - left[0]), 0.6)
        waist = 0.92 if kind == "car" else height
        for face, brightness in canvas.block((x0, x1), (0.28, waist), (z, z + deep), paint, VEHICLE):
            is_long = np.linalg.norm(face[1] - face[0]) > 3 and abs(face[0, 1] - face[2, 1]) > 0.3
            if is_long:
                wheels(face, brightness)
            if kind != "car" and abs(face[0, 1] - face[2, 1]) > 0.3:
                pane = face + (face[[3, 2, 1, 0]] - face) * np.array([[0.55], [0.55], [0.1], [0.1]])
                middle = pane.mean(axis=0)
                canvas.quad(middle + (pane - middle) * 0.88, glass, None, brightness)
        if kind == "car":
            ends = (0.9, 0.2) if across else (0.2, 0.9)
            inset = (0.5, 0.15) if across else (0.16, 0.55)
            canvas.block(
                (x0 + 0.4 * ends[0], x1 - 0.4 * ends[0]),
                (waist, height),
                (z + 0.4 * ends[1], z + deep - ends[1]),
                glass,
                VEHICLE,
                inset=inset,
                top=paint,
            )
        if not across:
            _lamps(canvas, (x0, x1), z, light)

    return draw


def _panel(x: tuple[float, float], y: tuple[float, float], z: float) -> Points:  # 4 3
    """An upright rectangle that faces the camera."""
    return np.array([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)])


def _lamps(canvas: Canvas, x: tuple[float, float], z: float, light: Colour) -> None:
    for at in (x[0] + 0.28, x[1] - 0.28):
        lamp = _panel((at - 0.2, at + 0.2), (0.6, 0.78), z)
        canvas.quad(lamp, light, None, 1.0, shining=canvas.light.dark)
        if canvas.light.dark:
            spot = canvas.camera.project(lamp).mean(axis=0)
            glow = (light[0] * 0.4, light[1] * 0.4, light[2] * 0.4)
            canvas.glows.append((spot[0], spot[1], canvas.camera.focal / z * 0.35, glow))
    middle = (x[0] + x[1]) / 2
    canvas.quad(_panel((middle - 0.26, middle + 0.26), (0.32, 0.5), z), (226, 222, 206), None, 0.9)
    for at in (x[0] + 0.2, x[1] - 0.2):
        canvas.quad(_panel((at - 0.14, at + 0.14), (0.0, 0.3), z), (36, 36, 40), VEHICLE, 1.0)


def person_at(canvas: Canvas, rng: Generator, x: float, z: float) -> Callable[[], None]:
    height, stride, lean = rng.uniform(1.3, 1.9), rng.uniform(0.0, 0.14), rng.choice([-1, 1])
    top, bottom = pick(rng, _CLOTHES), pick(rng, _CLOTHES)
    skin, hair = pick(rng, _SKINS, 4), pick(rng, ((48, 38, 34), (110, 80, 54), (176, 150, 110), (70, 70, 74)), 6)
    skirt = rng.random() < 0.25

    def draw() -> None:
        foot = canvas.camera.project(np.array([[x, 0.0, z]]))[0]
        unit = canvas.camera.focal / z * height  # pixels
        canvas.shadow(foot[0], foot[1], 0.26 * unit, 0.05 * unit, 0.5)

        def part(outline: list[tuple[float, float]], colour: Colour, face: float = 1.0) -> None:
            turned = np.array(outline) * [lean * unit, -unit] + foot
            canvas.polygon(turned, canvas.light.shade(colour, z, face), PERSON)

        for swing, face in ((-stride, 0.8), (stride, 1.0)):
            part([(-0.06, 0.5), (0.06, 0.5), (swing + 0.05, 0.0), (swing - 0.05, 0.0)], bottom, face)
        if skirt:
            part([(-0.08, 0.55), (0.08, 0.55), (0.15, 0.24), (-0.15, 0.24)], bottom)
        part([(0.09, 0.8), (0.13, 0.77), (0.1 + stride, 0.44), (0.05 + stride, 0.44)], top, 0.8)
        part([(-0.1, 0.84), (0.1, 0.84), (0.12, 0.78), (0.09, 0.46), (-0.09, 0.46), (-0.12, 0.78)], top)
        part([(-0.12, 0.8), (-0.07, 0.82), (-0.08 - stride, 0.44), (-0.13 - stride, 0.44)], top, 0.88)
        part([(-0.03, 0.87), (0.03, 0.87), (0.03, 0.82), (-0.03, 0.82)], skin, 0.9)
        head = (foot[0], foot[1] - 0.925 * unit)
        canvas.ellipse(*head, 0.062 * unit, 0.075 * unit, canvas.light.shade(hair, z), PERSON)
        face_at = (head[0] + lean * 0.015 * unit, head[1] + 0.02 * unit)
        canvas.ellipse(*face_at, 0.048 * unit, 0.056 * unit, canvas.light.shade(skin, z), PERSON)

    return draw
