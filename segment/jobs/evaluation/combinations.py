"""The names of methods: how passes are made, augmented and calibrated, joined by "+".

Must not know how a pass is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from segment.errors import WrongUse, near

DETERMINISTIC = "deterministic"
PASSES = ("mcbn", DETERMINISTIC, "mean_statistics", "dropout", "ensemble")
"""Ways to make passes; a name has one of them at most, and deterministic is not named beside other parts."""
TTA = "tta"
SCALINGS = ("temperature", "vector_scaling")
"""Fitted on validation images: one number, or a factor and an offset for each class."""
PARTS = (*PASSES, TTA, *SCALINGS)

TUNED = "tuned"
"""What an evaluation calls the method of a tuned setting."""


@dataclass(frozen=True)
class Combination:
    """A method: one of PASSES, whether its passes are dealt out to the views of test-time augmentation, a scaling."""

    passes: str = DETERMINISTIC
    augmented: bool = False
    scaling: str = ""

    @property
    def name(self) -> str:
        """The one name of the combination, whatever the order of the parts was.

        >>> Combination("mcbn", True, "temperature").name, Combination(scaling="temperature").name
        ('mcbn+tta+temperature', 'temperature')
        """
        parts = [self.passes] if self.passes != DETERMINISTIC else []
        parts += [TTA] if self.augmented else []
        parts += [self.scaling] if self.scaling else []
        return "+".join(parts) or DETERMINISTIC

    @property
    def banked(self) -> bool:
        """Whether it needs a bank."""
        return self.passes in ("mcbn", "mean_statistics")

    @property
    def fitted(self) -> bool:
        """Whether it needs validation images."""
        return bool(self.scaling)

    @property
    def prefixed(self) -> bool:
        """Whether its first T passes are a run of their own; dealt out to views, they are so for multiples of these."""
        return self.passes in ("mcbn", "dropout")


def combination(name: str) -> Combination:
    """The method of that name, its parts in any order.

    Raises:
        WrongUse: A part is unknown or stands twice, or there are two ways to make passes, or two scalings.

    >>> combination("tta+mcbn"), combination("temperature")
    (Combination(passes='mcbn', augmented=True, scaling=''), Combination(passes='deterministic', augmented=False, \
scaling='temperature'))

    """
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in PARTS:
            raise WrongUse(
                f"No method is called {name!r}: {part!r} is not known.{near(part, PARTS)} A method is one of "
                f"{', '.join(PASSES)}, and tta and temperature or vector_scaling joined to it by +."
            )
    passes, scalings = ([part for part in parts if part in kind] for kind in (PASSES, SCALINGS))
    if len(set(parts)) < len(parts) or len(passes) > 1 or len(scalings) > 1:
        raise WrongUse(
            f"Method {name!r} names a part twice, two ways to make passes or two scalings. A method is one of "
            f"{', '.join(PASSES)}, and tta and temperature or vector_scaling joined to it by +."
        )
    return Combination(
        passes[0] if passes else DETERMINISTIC, augmented=TTA in parts, scaling=scalings[0] if scalings else ""
    )
