"""The difference between the outputs of a fast pass and of a plain one, and how large it may be.

Must not know how either pass was made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.float64_copy import in_float64
from segment.draws.recording import layers_in_order
from segment.errors import one_line
from segment.networks.preserve_state import preserve_state
from segment.passes.drawn_calls import PlainPass
from segment.uncertainty.heads import probabilities

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference that counts as none: of a probability; of an output without a head, relative to 1 + its size."""

NOISE_FACTOR = 4
"""A difference counts as rounding up to this many times that of the network in float32 and in float64."""


def output_differences(fast: Tensor, plain: Tensor, head: Head | None) -> Tensor:  # N K ..., N K ... -> P
    """The largest difference of each pixel over its classes, of probabilities where the head is known.

    Infinite where shapes differ, or where entries that are not finite are other ones or of another kind.
    """
    if fast.shape != plain.shape:
        return torch.tensor([math.inf])
    fast, plain = fast.float(), plain.float()
    if any(not torch.equal(kind(fast), kind(plain)) for kind in (torch.isnan, torch.isposinf, torch.isneginf)):
        return torch.tensor([math.inf])
    if head is None:
        difference = (fast - plain).abs() / (1 + plain.abs())
    else:
        difference = (probabilities(fast, head) - probabilities(plain, head)).abs()
    finite = difference.where(difference.isfinite(), 0.0)
    return (finite.amax(dim=1) if finite.ndim > 1 and finite.shape[1] else finite).flatten().cpu()


def within_noise(differences: Tensor, noise: Tensor) -> bool:  # P, P
    """Whether differences are as those that rounding makes: the same pass in float32 and in float64.

    Largest by largest: beyond its 4k largest, no difference is above TOLERANCE and 4 times the noise beyond its k
    largest. A hard decision that rounding flips at one pixel so excuses a few pixels, and no others.
    """
    most, noisiest = (values.sort(descending=True).values for values in (differences, noise))
    k = 0
    while NOISE_FACTOR * k < len(most):
        if float(most[NOISE_FACTOR * k]) > max(TOLERANCE, NOISE_FACTOR * float(noisiest[min(k, len(noisiest) - 1)])):
            return False
        k = 2 * k or 1
    return True


def beyond_rounding(
    network: BatchNormNetwork,
    draw: Mapping[str, tuple[Tensor, Tensor]],
    images: Tensor,
    output: Tensor,
    plain: Iterable[Tensor],
    *,
    random: bool,
) -> str:
    """How an output in float32 differs from plain passes under a draw, in words; "" where by rounding only.

    draw: of each stochastic layer mean and variance (1 C)
    plain: the pass in one memory layout after another, made when it is needed: where a pool takes another of two values
    that rounding makes equal, the plain pass in the fast one's layout does so too, and a slower way gains nothing
    random: the network draws random numbers, so that no float64 pass says how much rounding does
    """
    first, noise = torch.zeros(0), torch.zeros(1)
    for number, reference in enumerate(plain):
        differences = output_differences(output, reference, network.head)
        difference = float(differences.max())
        if difference <= TOLERANCE:
            return ""
        if number:
            continue
        first = differences
        if math.isfinite(difference) and not random:  # other masks are no rounding
            noise = float32_noise(network, draw, images, reference)
        if within_noise(first, noise):
            return ""
    return difference_text(first, noise, network.head)


def difference_text(differences: Tensor, noise: Tensor, head: Head | None) -> str:  # P, P
    """Differences that rounding does not explain."""
    above, rounded = (int((values > TOLERANCE).sum()) for values in (differences, noise))
    what = "of a probability" if head else "of an output"
    return (
        f"other numbers than a plain pass (largest difference {what} {float(differences.max()):.2g}, in {above} pixels "
        f"above {TOLERANCE:.2g}; by float32's rounding {float(noise.max()):.2g}, in {rounded})"
    )


def float32_noise(
    network: BatchNormNetwork, draw: Mapping[str, tuple[Tensor, Tensor]], images: Tensor, plain: Tensor
) -> Tensor:  # P
    """The differences, pixel by pixel, between a plain pass in float32 and the same pass in float64.

    draw: of each stochastic layer mean and variance (1 C); plain: the float32 output
    0 where a float64 copy of the network cannot be made or does not run.
    """
    exact = in_float64(network)
    if exact is None:
        return torch.zeros(1)
    try:
        with torch.no_grad(), preserve_state(exact.module), PlainPass(layers_in_order(exact), draw):
            output = exact.forward(images.to(network.device).double())
    except Exception as error:  # whatever an unknown network raises in a type that it was not made for
        log.info("Float32's rounding is not known: %s", one_line(error, 160))
        return torch.zeros(1)
    noise = output_differences(output, plain, network.head)
    return noise if bool(noise.isfinite().all()) else torch.zeros(1)
