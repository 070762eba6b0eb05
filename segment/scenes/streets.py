"""A generated street: its ground, buildings and trees, and where traffic is put.

Must not know sky, optics or sensor, nor how the labels are used. Lengths are metres, unless a name says pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segment.scenes.classes import BUILDING, ROAD, VEGETATION
from segment.scenes.painting import Canvas, Colour, Points
from segment.scenes.traffic import person_at, pick, vehicle_at

Ground = NDArray[np.float32]
"""The visible ground, rows W: metres, or brightness."""

_WALLS: tuple[Colour, ...] = (
    (198, 120, 92),
    (226, 200, 156),
    (238, 226, 202),
    (126, 136, 150),
    (120, 148, 146),
    (216, 166, 152),
    (160, 92, 76),
    (156, 154, 116),
    (168, 200, 218),
    (206, 206, 200),
    (104, 98, 104),
    (112, 138, 104),
)
_ROOFS: tuple[Colour, ...] = ((150, 78, 62), (92, 84, 92), (118, 96, 84), (110, 130, 130))
_LEAVES: tuple[tuple[Colour, ...], ...] = (
    ((88, 142, 76), (66, 120, 74), (116, 160, 86)),
    ((78, 128, 92), (96, 146, 108), (60, 106, 84)),
    ((206, 134, 66), (180, 98, 60), (216, 170, 82)),
    ((150, 150, 84), (120, 132, 72), (176, 166, 96)),
    ((226, 174, 190), (206, 150, 172), (236, 196, 204)),
)


class Street:
    """The widths of one street: half the road, pavement or verge on each side, where the facades begin."""

    def __init__(self, rng: Generator) -> None:
        self.half = rng.uniform(3.2, 7.0)
        self.beside = (rng.uniform(1.5, 5.0), rng.uniform(1.5, 5.0))
        self.green = (bool(rng.random() < 0.45), bool(rng.random() < 0.45))

    def facade(self, side: int) -> float:
        return self.half + self.beside[side] + 1.0


def lay_ground(canvas: Canvas, street: Street, rng: Generator) -> None:
    """Road, marks, pavement and grass, pixel by pixel from the ground's own coordinates."""
    top, x, z = canvas.camera.ground()  # x: rows W, z: rows 1
    asphalt = pick(rng, ((96, 98, 106), (122, 118, 116), (84, 88, 98), (140, 134, 124)), 6)
    paving = pick(rng, ((176, 168, 156), (154, 152, 150), (190, 174, 150)), 8)
    grass = pick(rng, ((108, 150, 80), (134, 148, 84), (92, 132, 88), (168, 156, 100)), 8)
    kerb = (paving[0] * 1.12, paving[1] * 1.12, paving[2] * 1.12)
    surface = np.zeros(x.shape, np.uint8)  # an index into `colours` and `labels`
    for side, sign in enumerate((-1, 1)):
        out = sign * x
        surface[out > street.half] = 1
        surface[out > street.half + 0.25] = 2 if street.green[side] else 3
        surface[out > street.facade(side) + 0.5] = 2
    surface[_marks(street, x, z, rng)] = 4
    colours = np.array([asphalt, kerb, grass, paving, (226, 222, 206)], np.float32)
    labels = np.array([ROAD, ROAD, VEGETATION, ROAD, ROAD], np.uint8)
    clear = np.exp(-canvas.light.haze * z)[..., None]  # rows 1 1
    lit = (colours * np.array(canvas.light.tint, np.float32))[surface] * _shade_on_ground(x, z, rng)[..., None]
    lit = np.minimum(lit, 255) * clear + np.array(canvas.light.sky[1], np.float32) * (1 - clear)
    canvas.image[top:], canvas.label[top:] = lit.astype(np.uint8), labels[surface]


def _marks(street: Street, x: Ground, z: Ground, rng: Generator) -> NDArray[np.bool_]:  # rows W
    """Where the road is painted white; not beyond 70 m, where paint would flicker."""
    dash, phase = rng.uniform(4, 9), rng.uniform(0, 9)
    mark = (np.abs(x) < 0.11) & ((z + phase) % dash < 0.55 * dash)
    if rng.random() < 0.5:
        mark |= np.abs(np.abs(x) - (street.half - 0.35)) < 0.07
    if rng.random() < 0.3:
        start = rng.uniform(9, 28)
        mark |= (z > start) & (z < start + 3.2) & (np.abs(x) < street.half - 0.3) & (x % 1.1 < 0.55)
    return mark & (z < 70)


def _shade_on_ground(x: Ground, z: Ground, rng: Generator) -> Ground:  # rows W
    """Long shadows across the street, and worn lanes."""
    bright = 1 - 0.07 * np.exp((np.abs(x) - 1.7) ** 2 / -0.3)
    along = z + rng.uniform(-1.2, 1.2) * x
    for _ in range(rng.integers(0, 5)):
        start, length = rng.uniform(5, 50), rng.uniform(1.5, 9)
        bright[(along > start) & (along < start + length)] *= rng.uniform(0.55, 0.8)
    return bright.astype(np.float32)


def skyline(canvas: Canvas, rng: Generator) -> None:
    """Distant roofs and tree tops along the horizon."""
    camera = canvas.camera
    unit = camera.focal / 150  # pixels a metre, 150 m away
    if rng.random() < 0.8:
        leaves = _LEAVES[rng.integers(4)]
        for x in np.arange(-20.0, camera.width + 20, 9):
            size = unit * rng.uniform(2.5, 7)
            shade = canvas.light.shade(pick(rng, leaves), rng.uniform(60, 130))
            canvas.ellipse(x, camera.horizon, 1.3 * size, size, shade, VEGETATION)
    x = -10.0
    while x < camera.width:
        width, height = unit * rng.uniform(8, 22), unit * rng.uniform(5, 26)
        if rng.random() < 0.5:
            ground, top = camera.horizon, camera.horizon - height
            corners = np.array([[x, ground], [x + width, ground], [x + width, top], [x, top]])
            canvas.polygon(corners, canvas.light.shade(pick(rng, _WALLS), rng.uniform(90, 150)), BUILDING)
        x += width * rng.uniform(0.8, 1.6)


def furnish(canvas: Canvas, street: Street, rng: Generator) -> None:
    """Paint buildings and gardens, far before near; then what stands between them, far before near."""
    behind: list[tuple[float, Callable[[], None]]] = []
    between: list[tuple[float, Callable[[], None]]] = []
    leaves = _LEAVES[rng.choice(5, p=[0.36, 0.22, 0.18, 0.14, 0.10])]
    for side, sign in enumerate((-1, 1)):
        behind += _row(canvas, street, rng, side, sign, leaves)
        for z in rng.uniform(9, 60, rng.integers(0, 6)):
            x = sign * (street.half + rng.uniform(0.4, 0.9) * street.beside[side])
            between.append((z, _tree_at(canvas, rng, x, z, rng.uniform(2.8, 5.5), leaves)))
        for z in np.exp(rng.uniform(np.log(8), np.log(45), rng.integers(0, 6))):
            x = sign * (street.half + rng.uniform(0.1, 0.9) * street.beside[side])
            between.append((z, person_at(canvas, rng, x, z)))
        if rng.random() < 0.5:
            for z in np.arange(rng.uniform(8, 16), 60, rng.uniform(5.5, 9)):
                between.append((z, vehicle_at(canvas, rng, sign * (street.half - 1.15), z)))
    for z in np.exp(rng.uniform(np.log(9), np.log(60), rng.integers(0, 4))):
        lane = rng.choice([-1, 1]) * street.half * rng.uniform(0.25, 0.5)
        between.append((z, vehicle_at(canvas, rng, lane, z)))
    for z in rng.uniform(9, 30, rng.integers(0, 3)):
        between.append((z, person_at(canvas, rng, rng.uniform(-1, 1) * street.half, z)))
    for things in (behind, between):
        for _, draw in sorted(things, key=lambda thing: -thing[0]):
            draw()


def _row(
    canvas: Canvas, street: Street, rng: Generator, side: int, sign: int, leaves: tuple[Colour, ...]
) -> list[tuple[float, Callable[[], None]]]:
    """One side of the street: buildings, and gardens in the gaps."""
    things: list[tuple[float, Callable[[], None]]] = []
    built, tall = rng.uniform(0.35, 0.95), rng.uniform(5, 15)
    z = rng.uniform(3, 14)
    while z < 110:
        depth = rng.uniform(7, 20)
        x = sign * street.facade(side)
        if rng.random() < built:
            height = tall * rng.uniform(0.6, 1.5)
            things.append((z, _building_at(canvas, rng, x, sign, (z, z + depth), height)))
        else:
            for _ in range(rng.integers(1, 5)):
                tree_x, tree_z = x + sign * rng.uniform(0, 7), z + rng.uniform(1, depth)
                things.append((tree_z, _tree_at(canvas, rng, tree_x, max(tree_z, 8), rng.uniform(3, 8), leaves)))
        z += depth + rng.choice([0.0, 0.5, 4.0], p=[0.6, 0.2, 0.2])
    return things


def _building_at(
    canvas: Canvas, rng: Generator, x: float, sign: int, z: tuple[float, float], height: float
) -> Callable[[], None]:
    wall, roof = pick(rng, _WALLS), pick(rng, _ROOFS)
    width, storey = rng.uniform(7, 14), rng.uniform(2.8, 3.6)
    pitched, lit = rng.random() < 0.4, rng.uniform(0.1, 0.5)
    size, pace = rng.uniform(0.35, 0.7), rng.uniform(2.2, 3.4)
    pane = pick(rng, ((70, 84, 104), (96, 120, 140), (56, 62, 74), (150, 178, 196)))
    seed = int(rng.integers(1 << 31))

    def draw() -> None:
        own = np.random.default_rng(seed)
        span = (x, x + sign * width) if sign > 0 else (x - width, x)
        for corners, brightness in canvas.block(span, (0, height), z, wall, BUILDING):
            if abs(corners[0, 1] - corners[2, 1]) > 1:  # a wall, not the top
                _windows(canvas, own, corners, brightness, (storey, pace, size), pane, lit)
        if pitched:
            wide = (span[0] - 0.3, span[1] + 0.3)
            canvas.block(wide, (height, height + 0.3 * width), z, roof, BUILDING, inset=(0.42 * width, 0.0))
        else:
            rim = (wall[0] * 0.86, wall[1] * 0.86, wall[2] * 0.86)
            canvas.block((span[0] - 0.2, span[1] + 0.2), (height - 0.5, height), z, rim, BUILDING)

    return draw


def _windows(
    canvas: Canvas,
    rng: Generator,
    wall: Points,  # 4 3: two lower corners, then the two above them, turning
    brightness: float,
    measures: tuple[float, float, float],
    pane: Colour,
    lit: float,
) -> None:
    storey, pace, size = measures
    height, length = wall[2, 1] - wall[0, 1], float(np.linalg.norm(wall[1] - wall[0]))
    rows, columns = int(height / storey), int(length / pace)
    if rows == 0 or columns == 0:
        return
    u = (np.arange(columns)[:, None] + 0.5 + size * np.array([-0.5, 0.5])) / columns  # columns 2
    v = (np.arange(rows)[:, None] + 0.5 + 0.62 * np.array([-0.5, 0.5])) * storey / height  # rows 2
    grid_u = u[None, :, [0, 1, 1, 0]]
    grid_v = v[:, None, [0, 0, 1, 1]]
    across, up = wall[1] - wall[0], wall[3] - wall[0]
    corners = wall[0] + grid_u[..., None] * across + grid_v[..., None] * up  # rows columns 4 3
    outlines = canvas.camera.project(corners.reshape(-1, 3)).reshape(-1, 4, 2)
    glowing = rng.random(len(outlines)) < (lit if canvas.light.dark else 0.0)
    z = float(wall[:, 2].min())
    canvas.polygons(list(outlines[~glowing]), canvas.light.shade(pane, z, brightness), None)
    canvas.polygons(list(outlines[glowing]), canvas.light.shade((250, 206, 124), z, shining=True), None)


def _tree_at(
    canvas: Canvas, rng: Generator, x: float, z: float, height: float, leaves: tuple[Colour, ...]
) -> Callable[[], None]:
    bare = rng.uniform(0.15, 0.35)  # share of the height that is trunk
    spread = rng.uniform(0.24, 0.42)
    puffs = [(rng.normal(0, 0.4), rng.uniform(0.2, 0.9), rng.uniform(0.35, 0.62)) for _ in range(rng.integers(6, 12))]
    colours = [pick(rng, leaves, 7) for _ in puffs]

    def draw() -> None:
        foot = canvas.camera.project(np.array([[x, 0.0, z]]))[0]
        unit = canvas.camera.focal / z * height  # pixels
        canvas.shadow(foot[0], foot[1], 0.5 * unit, 0.06 * unit, 0.35)
        trunk = np.array([[-0.03, 0], [0.03, 0], [0.018, -0.6], [-0.018, -0.6]]) * unit + foot
        canvas.polygon(trunk, canvas.light.shade((104, 80, 64), z), VEGETATION)
        crown = 1 - bare
        for (dx, up, radius), colour in sorted(zip(puffs, colours, strict=True), key=lambda puff: puff[0][1]):
            face = 0.78 + 0.34 * up  # the top of a crown catches the light
            centre = (foot[0] + dx * spread * unit, foot[1] - (bare + crown * (0.25 + 0.6 * up)) * unit)
            size = radius * spread * unit
            canvas.ellipse(*centre, size, 0.9 * size, canvas.light.shade(colour, z, face), VEGETATION)

    return draw
