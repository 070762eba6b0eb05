"""The protocol of a method: weighted passes over images, and what the caller must know to run them.

Must not know what an output means, nor how one method makes its passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor

from segment.passes.passes import Engine


class Method(Protocol):
    """Called with images (N C H W, normalised, not padded), gives (weight, output N K H W) once a draw.

    Weights sum to 1, and outputs have the images' size.
    name: its name in messages and tables; note: a sentence for readers of its maps, or ""
    draws: T, how many passes; random: whether they are a random sample, so that their mean has a standard error
    tileable: whether a pass over a part of an image gives that part of the output; not so for a mirrored or rescaled
    image, nor for a dropout mask, which would differ from tile to tile
    fold: draws in one pass
    engine: what runs its passes now; "openvino" where that runs any of them
    in_eval_mode: whether any of its passes is the plain module's, whose BN may take the statistics of the batch at hand
    unverified: images estimated since a fast path was last compared with plain passes; 0 without a fast path
    Raises: `FastPathDiffers` in the middle of an image where they differ; passes are plain from then on.
    """

    @property
    def name(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def draws(self) -> int: ...
    @property
    def random(self) -> bool: ...
    @property
    def tileable(self) -> bool: ...
    @property
    def fold(self) -> int: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def in_eval_mode(self) -> bool: ...
    @property
    def unverified(self) -> int: ...
    def of(self, identity: str) -> Method:
        """The method for the image of that id, which seeds its random passes."""
        ...

    def few_passes(self) -> Method:
        """The method with a few passes, with the peak memory of all, made by calls whose tensors can be counted."""
        ...

    def halve(self) -> bool:
        """Halve the number of draws in a pass from now on; False where it is 1 already."""
        ...

    def take_plain_passes(self) -> None:
        """No fast path from now on: one has differed, in another process."""
        ...

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]: ...


class OnePass:
    """The defaults of a method whose passes hold one draw each and are the same for every image."""

    tileable = True
    fold = 1
    engine: Engine = "torch"
    in_eval_mode = False
    unverified = 0

    def of(self, identity: str) -> Self:
        return self

    def few_passes(self) -> Self:
        return self

    def halve(self) -> bool:
        return False

    def take_plain_passes(self) -> None:
        return


@dataclass(frozen=True)
class Composite:
    """The defaults of a method made of other methods, its members, each of which gives its passes in turn."""

    members: tuple[Method, ...]

    @property
    def draws(self) -> int:
        return sum(member.draws for member in self.members)

    @property
    def tileable(self) -> bool:
        return all(member.tileable for member in self.members)

    @property
    def fold(self) -> int:
        return max(member.fold for member in self.members)

    @property
    def engine(self) -> Engine:
        return next((member.engine for member in self.members if member.engine != "torch"), "torch")

    @property
    def in_eval_mode(self) -> bool:
        return any(member.in_eval_mode for member in self.members)

    @property
    def unverified(self) -> int:
        return max(member.unverified for member in self.members)

    def of(self, identity: str) -> Self:
        return replace(self, members=tuple(member.of(identity) for member in self.members))

    def few_passes(self) -> Self:
        return replace(self, members=tuple(member.few_passes() for member in self.members))

    def halve(self) -> bool:
        halved = [member.halve() for member in self.members]
        return any(halved)

    def take_plain_passes(self) -> None:
        for member in self.members:
            member.take_plain_passes()
