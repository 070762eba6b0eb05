"""What a method is: weighted passes over images, and what whoever runs them must know of it.

Must not know what an output means, nor how one method makes its passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor


class Method(Protocol):
    """Called with images (N C H W, normalised, not padded), gives (weight, output N K H W) once a draw.

    Weights sum to 1, and outputs have the images' size.
    name: what messages and tables call it; note: what a reader of its maps should know, or ""
    draws: T, how many passes; random: whether they are a random sample, so that their mean has a standard error
    tileable: whether a pass over a part of an image gives that part of the output; no for a mirrored or rescaled image
    and for a dropout mask, which would be another one in each tile
    unverified: images estimated since a fast path was last held against plain passes; 0 without a fast path
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
    def unverified(self) -> int: ...
    def of(self, identity: str) -> Method:
        """The same for the image of that id, which seeds what is random in its passes."""
        ...

    def probe(self) -> Method:
        """A few of its passes, which take as much memory as all, by calls whose tensors can be counted."""
        ...

    def halve(self) -> bool:
        """Half as many draws in a pass from now on; False where a pass holds one already."""
        ...

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]: ...


class OnePass:
    """The members that a method of one pass at a time, the same for every image, has by default."""

    tileable = True
    unverified = 0

    def of(self, identity: str) -> Self:
        return self

    def probe(self) -> Self:
        return self

    def halve(self) -> bool:
        return False


@dataclass(frozen=True)
class Composite:
    """The members that a method made of others has; each gives its passes in turn."""

    members: tuple[Method, ...]

    @property
    def draws(self) -> int:
        return sum(member.draws for member in self.members)

    @property
    def tileable(self) -> bool:
        return all(member.tileable for member in self.members)

    @property
    def unverified(self) -> int:
        return max(member.unverified for member in self.members)

    def of(self, identity: str) -> Self:
        return replace(self, members=tuple(member.of(identity) for member in self.members))

    def probe(self) -> Self:
        return replace(self, members=tuple(member.probe() for member in self.members))

    def halve(self) -> bool:
        halved = [member.halve() for member in self.members]
        return any(halved)
