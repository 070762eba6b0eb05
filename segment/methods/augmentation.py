"""Test-time augmentation: a method's passes over mirrored and rescaled views of the image, mapped back onto it.

Views are made of the image before padding. The method pads each view itself, so that a mirrored image is padded on the
same sides as any other. Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product, zip_longest

from torch import Tensor
from torch.nn import functional

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.images.specs import InputSpec
from segment.methods.dropout import Dropout
from segment.methods.mcbn import UNPADDED, mcbn
from segment.methods.method import Composite, Method
from segment.passes.passes import PassPlan

SEEDS = 1_000_003
"""Between the seeds of the dropout masks of two views."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of test-time augmentation. flip: mirrored left to right; scale: factor on height and width, above 0."""

    flip: bool = False
    scale: float = 1.0

    def applied(self, images: Tensor) -> Tensor:  # N C H W -> N C H' W'
        """The images mirrored and rescaled; downscaled with antialiasing, as in training."""
        if self.scale != 1.0:
            size = [max(1, round(length * self.scale)) for length in images.shape[-2:]]
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return images.flip(-1) if self.flip else images

    def undone(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:  # N K H' W' -> N K H W
        """Outputs of the view, mapped back onto the image."""
        outputs = outputs.flip(-1) if self.flip else outputs
        if outputs.shape[-2:] == size:
            return outputs
        return functional.interpolate(outputs.float(), size=size, mode="bilinear", align_corners=False)


def views(text: str) -> tuple[View, ...]:
    """The views of a text such as `flip,0.75,1.25`: the image itself, its mirror image, and both at each scale.

    >>> views("flip")
    (View(flip=False, scale=1.0), View(flip=True, scale=1.0))
    >>> len(views("flip,0.75,1.25"))
    6
    """
    flips, scales = [False], [1.0]
    for part in (part.strip() for part in text.split(",") if part.strip()):
        if part == "flip":
            flips = [False, True]
            continue
        try:
            scale = float(part)
        except ValueError:
            scale = 0.0
        if not 0.1 <= scale <= 10:
            raise WrongUse(f"No view is called {part!r}. Write flip, or a scale within 0.1 and 10, with commas.")
        scales += [scale] if scale not in scales else []
    return tuple(View(flip=flip, scale=scale) for scale, flip in product(scales, flips))


@dataclass(frozen=True)
class Augmented(Composite):
    """One method for each view, whose passes are made in turn; each view has the same total weight.

    So the first T passes, T a multiple of the number of views, are a run of their own.
    """

    views: tuple[View, ...]
    name: str
    random: bool = False
    note: str = "its views are no random sample"

    @property
    def tileable(self) -> bool:
        return self.views == (View(),) and super().tileable

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        size = (images.shape[-2], images.shape[-1])
        running = [iter(method(view.applied(images))) for view, method in zip(self.views, self.members, strict=True)]
        for in_turn in zip_longest(*running):
            for view, made in zip(self.views, in_turn, strict=True):
                if made is not None:
                    weight, output = made
                    yield weight / len(self.views), view.undone(output, size)


def augmented(method: Method, chosen: tuple[View, ...], name: str = "tta") -> Augmented:
    """Every view of the image under the method's passes."""
    return Augmented((method,) * len(chosen), chosen, name)


def dropout_augmented(method: Dropout, chosen: tuple[View, ...]) -> Augmented:
    """MC dropout whose passes are divided among the views, each with masks of its own; one pass a view at least."""
    count = len(chosen)
    members = tuple(
        replace(method, draws=max(1, len(range(start, method.draws, count))), seed=method.seed + SEEDS * start)
        for start in range(count)
    )
    return Augmented(members, chosen, "dropout+tta")


def mcbn_augmented(
    network: BatchNormNetwork,
    bank: Bank,
    chosen: tuple[View, ...],
    plan: PassPlan | None = None,
    spec: InputSpec = UNPADDED,
) -> Augmented:
    """MCBN whose draws are divided among the views, so that it takes as many passes as MCBN alone.

    A distilled bank, whose draws belong together, and one with fewer draws than there are views, is used whole for each
    view: T passes a view.
    """
    whole = bank.distilled or len(bank) < len(chosen)
    parts = [bank if whole else bank.take(range(start, len(bank), len(chosen))) for start in range(len(chosen))]
    return Augmented(tuple(mcbn(network, part, plan, spec) for part in parts), chosen, "mcbn+tta")
