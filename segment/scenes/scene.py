"""A seed → a generated street scene and its exact labels.

Must not know any network. The scenes replace photographs, which may not be shipped: perspective streets by day, dusk
and night, in clear air and haze, drawn at twice their size and averaged down.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.scenes.classes import BUILDING, CLASSES, PALETTE, PERSON, ROAD, SKY, UNSEEN, VEGETATION, VEHICLE
from segment.scenes.painting import Camera, Canvas, Colour, Light
from segment.scenes.streets import Street, furnish, lay_ground, skyline
from segment.scenes.unseen import add_unseen_object

__all__ = ["CLASSES", "PALETTE", "SIZE", "TEST", "TRAIN", "UNSEEN", "VALIDATION", "Scene", "scene"]

TRAIN = range(0, 300)
VALIDATION = range(50_000, 50_100)
TEST = range(100_000, 101_000)
"""Seeds; disjoint; training and banks use TRAIN only."""
SIZE = (128, 192)  # H, W

_GRAIN = {SKY: 0.01, ROAD: 0.10, BUILDING: 0.07, VEGETATION: 0.26, VEHICLE: 0.02, PERSON: 0.04, UNSEEN: 0.05}

_HOURS: tuple[tuple[float, tuple[Colour, Colour], Colour], ...] = (  # share, sky, tint
    (0.34, ((96, 160, 218), (206, 226, 236)), (1.0, 0.99, 0.96)),  # day
    (0.20, ((116, 146, 196), (250, 212, 160)), (1.0, 0.86, 0.70)),  # golden hour
    (0.18, ((164, 174, 184), (206, 210, 212)), (0.80, 0.82, 0.84)),  # overcast
    (0.14, ((64, 66, 118), (232, 150, 128)), (0.60, 0.50, 0.58)),  # dusk
    (0.14, ((16, 22, 48), (58, 64, 100)), (0.27, 0.31, 0.45)),  # night
)


@dataclass(frozen=True)
class Scene:
    """A generated image and its labels.

    image: H W 3 uint8, RGB
    label: H W uint8, an index into CLASSES, or UNSEEN
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def scene(seed: int, *, size: tuple[int, int] = SIZE, unseen: bool = False) -> Scene:
    """Draw a street; the same seed and size give the same bytes.

    seed: an integer from 0 up (TRAIN, VALIDATION and TEST are the ranges in use)
    size: H, W in pixels, 32 or more
    unseen: add an object of no trained class; all other pixels stay byte for byte the same

    >>> street_scene = scene(7, size=(64, 96))
    >>> street_scene.image.shape, street_scene.label.shape
    ((64, 96, 3), (64, 96))
    """
    if seed < 0 or min(size) < 32:
        raise WrongUse(f"A scene needs a seed from 0 up and at least 32 x 32 pixels; got seed {seed}, size {size}.")
    plain = _drawn(seed, size, unseen=False)
    if not unseen:
        return plain
    with_object = _drawn(seed, size, unseen=True)
    on_object = with_object.label == UNSEEN
    image = np.where(on_object[..., None], with_object.image, plain.image)
    return Scene(image, np.where(on_object, with_object.label, plain.label).astype(np.uint8))


def _drawn(seed: int, size: tuple[int, int], *, unseen: bool) -> Scene:
    rng = np.random.default_rng([seed, 0])
    canvas = Canvas(_camera(rng, size), _light(rng))
    clouds = _fractal(rng, canvas.label.shape)
    _paint_sky(canvas, rng, clouds)
    street = Street(rng)
    skyline(canvas, rng)
    lay_ground(canvas, street, rng)
    furnish(canvas, street, rng)
    if unseen:
        add_unseen_object(canvas, np.random.default_rng([seed, 1]))
    return Scene(_finished(canvas, rng), _halved_labels(canvas.label))


def _camera(rng: Generator, size: tuple[int, int]) -> Camera:
    height, width = 2 * size[0], 2 * size[1]
    return Camera(
        height=height,
        width=width,
        horizon=height * rng.uniform(0.38, 0.52),
        centre=width * rng.uniform(0.32, 0.68),
        focal=1.5 * height * rng.uniform(0.85, 1.15),
        eye=rng.uniform(1.9, 2.8),
        bend=rng.normal(0, 0.0007),
    )


def _light(rng: Generator) -> Light:
    hour = rng.choice(len(_HOURS), p=[share for share, _, _ in _HOURS])
    _, sky, tint = _HOURS[hour]
    haze = float(np.exp(rng.uniform(np.log(0.0025), np.log(0.028))))
    low, high = rng.uniform(0.58, 0.74), rng.uniform(0.98, 1.08)
    left, right = (low, high) if rng.random() < 0.5 else (high, low)
    brightness = rng.uniform(0.85, 1.08)
    return Light(
        sky=sky,
        tint=(tint[0] * brightness, tint[1] * brightness, tint[2] * brightness),
        haze=haze,
        sides=(left, rng.uniform(0.8, 0.95), right),
    )


def _fractal(rng: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:  # -> H W
    """Soft noise of several sizes, about 0 +- 1."""
    height, width = shape
    total = np.zeros((height, width), np.float32)
    for cells, share in ((4, 0.8), (9, 0.5), (20, 0.3)):
        grid = rng.standard_normal((cells, cells), np.float32)
        total += share * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total


def _paint_sky(canvas: Canvas, rng: Generator, clouds: NDArray[np.float32]) -> None:
    camera, (zenith, low) = canvas.camera, canvas.light.sky
    fall = np.clip(np.arange(camera.height, dtype=np.float32) / camera.horizon, 0, 1)[:, None, None]
    sky = np.array(zenith, np.float32) * (1 - fall) + np.array(low, np.float32) * fall  # H 1 3
    cover = np.clip((clouds - rng.uniform(-0.2, 1.2)) * 1.4, 0, 1)[..., None] * np.float32(rng.uniform(0.3, 0.85))
    white = 0.35 * np.array(low, np.float32) + 0.65 * np.minimum(np.array(canvas.light.tint, np.float32) * 250, 250)
    canvas.image[:] = (sky * (1 - cover) + white * cover).astype(np.uint8)
    canvas.label[:] = SKY
    x, y = rng.uniform(0, camera.width), rng.uniform(0.05, 0.8) * camera.horizon
    size = camera.height * rng.uniform(0.02, 0.035)
    if rng.random() < 0.55:
        canvas.ellipse(x, y, size, size, (255, 246, 220), None)
        canvas.glows.append((x, y, 3 * size, (110, 96, 70)))
    if max(canvas.light.tint) < 0.5:
        ys, xs = rng.uniform(0, camera.horizon, 40).astype(int), rng.uniform(0, camera.width, 40).astype(int)
        canvas.image[ys, xs] = 220


def _finished(canvas: Canvas, rng: Generator) -> NDArray[np.uint8]:
    """Texture, glow, optics and sensor; H W 3 at half the canvas's size."""
    height, width = canvas.label.shape
    strength = np.array([_GRAIN[k] for k in sorted(_GRAIN)], np.float32) * np.float32(rng.uniform(0.3, 1.3))
    fine = rng.standard_normal((height // 2, width // 2), np.float32)
    coarse = rng.standard_normal((height // 10, width // 10), np.float32)
    grain = cv2.resize(fine, (width, height)) + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = canvas.image.astype(np.float32) * (1 + 0.6 * strength[canvas.label] * grain)[..., None]
    image = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    if canvas.glows:
        shine = np.zeros((height // 4, width // 4, 3), np.float32)
        for x, y, radius, colour in canvas.glows:
            cv2.circle(shine, (int(x / 4), int(y / 4)), max(1, round(radius / 4)), colour, -1)
        image += cv2.resize(cv2.GaussianBlur(shine, (0, 0), height / 64), (width // 2, height // 2))
    blur = rng.uniform(0, 1) ** 4 * height / 180
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = (image - 128) * rng.uniform(0.8, 1.12) + 128 + rng.uniform(-12, 12)
    noise = rng.standard_normal((*image.shape[:2], 4), np.float32)  # brightness, and a little of each colour
    image += np.float32(rng.uniform(1, 8)) * (0.9 * noise[..., :1] + 0.45 * noise[..., 1:])
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _halved_labels(label: NDArray[np.uint8]) -> NDArray[np.uint8]:  # 2H 2W -> H W
    """The most frequent of the four labels under a pixel; of equally frequent ones the upper left."""
    a, b, c, d = label[::2, ::2], label[::2, 1::2], label[1::2, ::2], label[1::2, 1::2]
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, rest).astype(np.uint8)
