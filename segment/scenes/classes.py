"""The classes of the generated scenes: indices, names, colours."""

from __future__ import annotations

SKY, ROAD, BUILDING, VEGETATION, VEHICLE, PERSON, UNSEEN = range(7)
CLASSES: tuple[str, ...] = ("sky", "road", "building", "vegetation", "vehicle", "person")
"""In the order of the indices; `road` is every paved surface. Label 6, UNSEEN, is in no training scene."""
PALETTE: tuple[tuple[int, int, int], ...] = (
    (142, 190, 224),
    (104, 104, 124),
    (222, 164, 122),
    (106, 160, 104),
    (52, 98, 168),
    (214, 72, 88),
)
