"""Network under a method, and an image, to an Estimate: mask, mean probability and maps.

Outputs are added to the moments as they come; never are all T kept. Must not know a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from segment.axes import Head, Plane
from segment.errors import PredictionFailed
from segment.images.prepare import crop
from segment.methods.method import Method
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import MEASURES, needed, prediction
from segment.uncertainty.moments import DrawMoments
from segment.uncertainty.stopping import Stop, Watch


@dataclass(frozen=True)
class Estimate:
    """What T draws say of N images; measures are also attributes: `estimate.variance`.

    prediction: (N H W) class indices, int64; multi-label: (N K H W) of 0 and 1
    probability: (N K H W) mean over draws, float32
    maps: measure -> (N H W); withheld: measure -> why it has no map; draws: T
    reached_error: the standard error that stopped the draws (`segment.uncertainty.stopping`), None where all were used
    For one image given as (C H W) the axis N is absent everywhere.
    """

    prediction: Tensor
    probability: Tensor
    maps: Mapping[str, Tensor]
    draws: int
    withheld: Mapping[str, str] = field(default_factory=dict)
    reached_error: float | None = None

    def __getattr__(self, name: str) -> Tensor:
        if not name.startswith("_") and name in self.maps:
            return self.maps[name]
        why = self.withheld.get(name) if not name.startswith("_") else None
        raise AttributeError(
            why or f"An estimate has no {name!r}; it has prediction, probability, {', '.join(self.maps)}."
        )

    def image(self, index: int) -> Estimate:
        """One of the N images."""
        maps = {name: value[index] for name, value in self.maps.items()}
        return replace(self, prediction=self.prediction[index], probability=self.probability[index], maps=maps)


@dataclass(frozen=True)
class Planes:
    """An estimate of one image as arrays, in memory or not.

    prediction: (H W) class indices, of the smallest type; multi-label: (K H W) of 0 and 1
    maps: measure -> (H W) float32; probability: (K H W) float32, None where it is not wanted
    draws, withheld, reached_error: as in an `Estimate`
    """

    prediction: Plane
    probability: Plane | None
    maps: Mapping[str, Plane]
    draws: int
    withheld: Mapping[str, str]
    reached_error: float | None = None


def moments_of(
    method: Method, images: Tensor, *, head: Head, keep: Iterable[str], size: tuple[int, int] | None = None,
    temperature: float = 1.0, stop: Stop | None = None,
) -> DrawMoments:  # fmt: skip
    """Every pass of a method over images (N C H W), as moments of its probabilities (N K ...), float32 or better.

    size: (H, W) to crop a padded image's outputs to; temperature: divides the logits; stop: ends the draws early
    Errors: PredictionFailed where an output is not finite.
    """
    moments = DrawMoments(head, keep)
    for weight, logits in method(images):
        if size is not None:
            logits = crop(logits, *size)
        if temperature != 1.0:
            logits = logits.float() / temperature
        p = probabilities(logits, head)
        moments.update(p, weight)
        if stop is not None and stop(p, weight):
            break
    if not bool(torch.isfinite(moments.mean).all()):
        bad = float((~torch.isfinite(moments.mean)).float().mean())
        raise PredictionFailed(
            f"The network's output is not finite for {bad:.1%} of the values (NaN or infinity): "
            "try --precision fp32, and look at the weights and the bank."
        )
    return moments


def estimate(
    method: Method, images: Tensor, *, head: Head, measures: Iterable[str] = tuple(MEASURES),
    size: tuple[int, int] | None = None, temperature: float = 1.0, stop: Stop | None = None,
) -> Estimate:  # fmt: skip
    """Mask, mean probability and the named maps of images (N C H W) under a method."""
    wanted = list(measures)
    moments = moments_of(method, images, head=head, keep=needed(wanted), size=size, temperature=temperature, stop=stop)
    withheld = {}
    if "standard_error" in wanted and not (method.random and moments.effective_draws > 1):
        why = "one draw has no spread" if moments.draws == 1 else method.note or "its draws are no random sample"
        withheld["standard_error"] = f"No Monte Carlo standard error: {why}."
        wanted.remove("standard_error")
    maps = {name: MEASURES[name].of(moments) for name in wanted}
    error = stop.error if isinstance(stop, Watch) else None
    return Estimate(prediction(moments.mean, head), moments.mean, maps, moments.draws, withheld, error)
