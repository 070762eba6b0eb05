"""What the values, colours and names of label files stand for, as a card says.

Must not know a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, WrongUse, near

BACKGROUND = frozenset({"background", "_background_", "unlabeled", "unlabelled"})
"""Names of the class of pixels that no shape covers."""

_NUMBERED = re.compile(r"class (\d+)")
"""Names of classes that a card does not name: `Network.class_names`."""

_SHOWN = 5


def are_given_names(classes: Sequence[str]) -> bool:
    """Whether these are the names of `Network.class_names` for a card that names no class.

    >>> are_given_names(["class 0", "class 1"]), are_given_names(["sky", "class 1"])
    (True, False)
    """
    return tuple(classes) == ("background", "foreground") or all(map(_NUMBERED.fullmatch, classes))


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """classes: names in the order of the ids; palette: RGB, one a class; void: the id that is not scored.

    labels: value, name or "#rrggbb" of a label file -> the id that it stands for
    """

    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    void: int | None = None
    labels: Mapping[int | str, int] = field(default_factory=dict)

    def ids(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids that values stand for; a value that is not named stays.

        >>> LabelScheme(labels={255: 1}).ids(np.array([[0, 255]])).tolist()
        [[0, 1]]
        """
        ids = values
        for value, id in self.labels.items():
            if isinstance(value, int):
                ids = ids.copy() if ids is values else ids
                ids[values == value] = id
        return ids

    def of_palette(self) -> dict[tuple[int, ...], int]:
        """The id of each colour of the palette and of `labels`. Errors: WrongUse for a colour of two classes."""
        colours: dict[tuple[int, ...], int] = {tuple(colour): id for id, colour in enumerate(self.palette)}
        if len(colours) < len(self.palette):
            raise WrongUse("Two classes have the same colour in the card's palette. Give each its own.")
        named = {_rgb(key): id for key, id in self.labels.items() if isinstance(key, str) and key.startswith("#")}
        return colours | named

    def of_colours(self, pixels: NDArray[Any], name: str) -> NDArray[np.int64]:  # H W 3 -> H W
        """The id of each pixel's colour, by the palette and `labels`. name: of the file, for messages.

        Errors: ImageUnreadable for colours that stand for nothing, with how many pixels have them.
        """
        known = self.of_palette()
        if not known:
            raise ImageUnreadable(
                f"{name!r} is a picture of colours, and nothing says what they stand for. Give the card a `palette:`, "
                "one colour a class, or save it as a grey or palette PNG whose values are the class indices."
            )
        codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
        distinct, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
        table = np.array([known.get((code >> 16, code >> 8 & 255, code & 255), -1) for code in distinct.tolist()])
        if unknown := [
            (count, code) for count, code, id in zip(counts.tolist(), distinct.tolist(), table, strict=True) if id < 0
        ]:
            shown = ", ".join(f"#{code:06x} ({count} pixels)" for count, code in sorted(unknown, reverse=True)[:_SHOWN])
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            advice, code = self._first_advice(distinct.tolist()), f"#{sorted(unknown)[-1][1]:06x}"
            raise ImageUnreadable(
                f"{name!r} holds colours that the palette does not: {shown}{more}. {advice} `palette:`, or say in the "
                f"card what they stand for: `labels: {{'{code}': ID}}`."
            )
        return table[places].reshape(codes.shape)

    def _first_advice(self, codes: Sequence[int]) -> str:
        """What to do before the palette is corrected, by all colours of a file as 0xrrggbb."""
        known = {*range(len(self.classes) or len(self.palette)), self.void, *self.labels}
        if all(code % 0x010101 == 0 and code & 255 in known for code in codes):  # indices in red, green and blue
            return "Its three channels are equal, and hold class indices: save it as one channel. Otherwise correct"
        return "Correct"

    def background(self, name: str, categories: Mapping[str, int | None]) -> int:
        """The id of pixels that no shape covers.

        categories: as `of_names` takes them; where the card names no classes, 0 is free only if none of them is a class
        Errors: ImageUnreadable where there is none.

        >>> LabelScheme().background("a.json", {"road": 1, "car": 2})
        0
        >>> LabelScheme(void=255).background("a.json", {"road": 1, "background": 2})
        2
        """
        for id, known in enumerate(self.classes):
            if known.lower() in BACKGROUND:
                return id
        if not self.classes:
            for shape, category in categories.items():
                id_of_shape = self._id_of(shape, category)
                if shape.lower() in BACKGROUND and id_of_shape is not None:
                    return id_of_shape
        if self.void is not None:
            return self.void
        taken = [s for s, id in categories.items() if self._id_of(s, id) == 0 or _NUMBERED.fullmatch(s)]
        if not self.classes and not taken:
            return 0
        why = "" if self.classes else f" ({taken[0]!r} is one of the classes from 0)"
        raise ImageUnreadable(
            f"Pixels of {name!r} that no shape covers have no class{why}: name a class `background` in the card, or "
            "set `void:`."
        )

    def of_names(self, shapes: Mapping[str, int | None], name: str) -> dict[str, int]:
        """The id of each name. shapes: name -> category id, or None.

        Where the card names no classes: N of "class N", as the files of a run name it, else the category id.
        Errors: ImageUnreadable for names that stand for nothing.

        >>> LabelScheme().of_names({"class 0": 1, "class 1": 2, "road": 3}, "coco.json")
        {'class 0': 0, 'class 1': 1, 'road': 3}
        """
        id_of_shape = {shape: self._id_of(shape, category) for shape, category in shapes.items()}
        ids = {shape: id for shape, id in id_of_shape.items() if id is not None}
        if unknown := Counter(shape for shape in shapes if shape not in ids):
            first = next(iter(unknown))
            shown = ", ".join(map(repr, list(unknown)[:_SHOWN]))
            raise ImageUnreadable(
                f"{name!r} holds shapes of {shown}, which are no classes of the card.{near(first, self.classes)} Name "
                f"them in `classes:`, or say what they stand for: `labels: {{{first}: ID}}`."
            )
        return ids

    def _id_of(self, shape: str, category: int | None) -> int | None:
        if shape in self.labels:
            return self.labels[shape]
        if self.classes:
            return self.classes.index(shape) if shape in self.classes else None
        numbered = _NUMBERED.fullmatch(shape)
        return category if numbered is None else int(numbered[1])


def _rgb(text: str) -> tuple[int, int, int]:
    """The colour of "#rrggbb".

    >>> _rgb("#ff0010")
    (255, 0, 16)
    """
    code = int(text.removeprefix("#"), 16)
    return code >> 16, code >> 8 & 255, code & 255
