"""A canvas behind a street camera: metres in, coloured and labelled pixels out.

Must not know what a street holds: no cars, no classes, no randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""RGB, 0..255, by white daylight."""
Points = NDArray[np.float64]
"""n 2 (pixels x, y) or n 3 (metres X to the right, Y up, Z ahead)."""

_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
RING: Points = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # the unit circle
SHIFT = 4  # OpenCV draws in 1/16 pixel: a distant object must not snap to whole pixels


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole above the middle of the road.

    height, width: pixels of the canvas
    horizon, centre: pixels, where the road vanishes
    focal: pixels
    eye: metres above the road
    bend: 1/metres, the road's sideways drift is bend * Z^2
    """

    height: int
    width: int
    horizon: float
    centre: float
    focal: float
    eye: float
    bend: float

    def project(self, points: Points) -> Points:  # n 3, metres -> n 2, pixels
        x, y, z = points.T
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.centre + self.focal * (x / z + self.bend * z)
        pixels[:, 1] = self.horizon + self.focal * (self.eye - y) / z
        return pixels

    def ground(self) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
        """The first row below the horizon, and from there down the metres X (rows W) and Z (rows 1) of the ground."""
        top = max(0, int(np.ceil(self.horizon)))
        below = np.arange(top, self.height, dtype=np.float32)[:, None] + np.float32(0.8 - self.horizon)
        z = np.float32(self.focal * self.eye) / below
        columns = np.arange(self.width, dtype=np.float32)[None] + np.float32(0.5 - self.centre)
        return top, (columns / np.float32(self.focal) - np.float32(self.bend) * z) * z, z


@dataclass(frozen=True, kw_only=True)
class Light:
    """What daylight and air do to a colour.

    sky: RGB at the zenith and at the horizon
    tint: factors a channel, 1 is white daylight
    haze: 1/metres, the share of the horizon's colour after Z metres is 1 - exp(-haze Z)
    sides: brightness of the faces that face left, towards the camera, and right
    """

    sky: tuple[Colour, Colour]
    tint: Colour
    haze: float
    sides: tuple[float, float, float]

    @property
    def dark(self) -> bool:
        """Lamps are on."""
        return max(self.tint) < 0.7

    def shade(self, colour: Colour, z: float, face: float = 1.0, *, shining: bool = False) -> Colour:
        clear = float(np.exp(-self.haze * z))
        tint = (1.0, 1.0, 1.0) if shining else self.tint
        red, green, blue = (
            min(255.0, c * t * face) * clear + far * (1 - clear)
            for c, t, far in zip(colour, tint, self.sky[1], strict=True)
        )
        return red, green, blue


class Canvas:
    """Colours and labels drawn together, so that every label is exact.

    >>> camera = Camera(height=8, width=8, horizon=2, centre=4, focal=8, eye=2, bend=0)
    >>> light = Light(sky=((0, 0, 0), (0, 0, 0)), tint=(1, 1, 1), haze=0, sides=(1, 1, 1))
    >>> canvas = Canvas(camera, light)
    >>> canvas.polygon(np.array([[0, 0], [8, 0], [8, 3], [0, 3]]), (9, 9, 9), 5)
    >>> int((canvas.label == 5).sum()), int((canvas.image[..., 0] == 9).sum())
    (32, 32)
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.image: NDArray[np.uint8] = np.zeros((camera.height, camera.width, 3), np.uint8)  # H W 3
        self.label: NDArray[np.uint8] = np.zeros((camera.height, camera.width), np.uint8)  # H W
        self.glows: list[tuple[float, float, float, Colour]] = []  # x, y, radius in pixels; RGB

    def polygons(self, outlines: Sequence[Points], colour: Colour, label: int | None) -> None:
        """Fill outlines in pixels; a label of None paints on what is there (a window, a shadow)."""
        limit = 64 * max(self.camera.height, self.camera.width)  # far outside the canvas OpenCV would overflow
        if len(outlines):
            fixed = [np.clip(outline * (1 << SHIFT), -limit, limit).round().astype(np.int32) for outline in outlines]
            cv2.fillPoly(self.image, fixed, colour, shift=SHIFT)
            if label is not None:
                cv2.fillPoly(self.label, fixed, (label,), shift=SHIFT)

    def polygon(self, outline: Points, colour: Colour, label: int | None) -> None:
        self.polygons([outline], colour, label)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, label: int | None) -> None:
        self.polygon(RING * (rx, ry) + (x, y), colour, label)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float) -> None:
        """Darken the ground under a thing, pixels; the label stays the ground's."""
        x0, x1 = int(max(0, x - rx)), int(min(self.camera.width, x + rx + 1))
        y0, y1 = int(max(0, y - ry)), int(min(self.camera.height, y + ry + 1))
        if x0 >= x1 or y0 >= y1:
            return
        dx = (np.arange(x0, x1) - x) / max(rx, 1e-3)
        dy = (np.arange(y0, y1) - y) / max(ry, 1e-3)
        dark = 1 - strength * np.clip(1.6 * (1 - dx[None] ** 2 - dy[:, None] ** 2), 0, 1)
        self.image[y0:y1, x0:x1] = (self.image[y0:y1, x0:x1] * dark[..., None]).astype(np.uint8)

    def quad(self, corners: Points, colour: Colour, label: int | None, face: float, *, shining: bool = False) -> None:
        """One flat face, 4 3 metres."""
        shaded = self.light.shade(colour, float(corners[:, 2].min()), face, shining=shining)
        self.polygon(self.camera.project(corners), shaded, label)

    def block(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        label: int,
        *,
        inset: tuple[float, float] = (0.0, 0.0),
        top: Colour | None = None,
    ) -> list[tuple[Points, float]]:
        """A block on the street, metres; its top is smaller by `inset` (X, Z) on each side.

        Returns the visible faces, far ones first, each with its brightness.
        """
        (x0, x1), (y0, y1), (z0, z1), (ix, iz) = x, y, z, inset
        low = [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)]
        high = [(x0 + ix, y1, z0 + iz), (x1 - ix, y1, z0 + iz), (x1 - ix, y1, z1 - iz), (x0 + ix, y1, z1 - iz)]
        left, front, right = self.light.sides
        faces = [
            (np.array(low[::-1]), 0.5, colour),
            (np.array(high), 1.08, top or colour),
            (np.array([low[3], low[0], high[0], high[3]]), left, colour),
            (np.array([low[1], low[2], high[2], high[1]]), right, colour),
            (np.array([low[0], low[1], high[1], high[0]]), front, colour),
        ]
        seen = []
        for corners, brightness, paint in faces:
            a, b, c, d = self.camera.project(corners)
            if (c[0] - a[0]) * (d[1] - b[1]) < (c[1] - a[1]) * (d[0] - b[0]):  # it faces the camera
                self.quad(corners, paint, label, brightness)
                seen.append((corners, brightness))
        return seen
