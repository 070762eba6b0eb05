"""The passes behind a probe: a few seeded inputs, a network's probabilities for them, and their rounding error.

Must not know a bank.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.draws.bank import Statistics
from segment.draws.float64_copy import in_float64, module_in_float64
from segment.draws.probe import Probe
from segment.draws.recording import BatchNormMode, in_precision, layers_in_order
from segment.errors import one_line
from segment.images.bands import from_raw
from segment.images.prepare import crop
from segment.images.specs import numbers_of
from segment.networks.load import Network
from segment.networks.modules import first_tensor
from segment.networks.preserve_state import preserve_state
from segment.networks.trial_images import at_smallest_side

log = logging.getLogger(__name__)

PIXELS, CLASSES = 24, 4
"""Pixels of each input, and most classes of each pixel, that a probe holds."""

PATCH = 16
"""Rows and columns of a patch of one colour."""

SEEDS = 3
"""Seeds that are tried where rounding changes the output much (an argmax that flips): the smallest change is kept."""

SMALL_ROUNDING = 1e-4
"""Rounding error of a probability up to which no other seed is tried."""


def probe_side(network: Network) -> int:
    """Rows and columns of the smallest inputs that the network accepts. Errors: ModelRefused where it accepts none."""

    def accepted(side: int) -> int:
        probabilities_under(network, probe_inputs(network, side, 0))
        return side

    return at_smallest_side(network.name, network.card.input.stride, accepted)


def probe_of(network: Network, drawn: BatchNormNetwork | None = None, draw: Statistics | None = None) -> Probe:
    """The network's probe in eval mode, and where there is a draw under that. Errors: ModelRefused as `probe_side`.

    drawn: the network with its BN layers, for a draw
    """
    side, layers, exact = probe_side(network), () if drawn is None else layers_in_order(drawn), _exact(network, drawn)
    best: Probe | None = None
    for seed in range(SEEDS):
        inputs = probe_inputs(network, side, seed)
        trained = probabilities_under(network, inputs)
        noise, under = _rounding(network, layers, exact, inputs, trained, None), None
        if draw is not None:
            under = probabilities_under(network, inputs, layers, draw)
            noise = max(noise, _rounding(network, layers, exact, inputs, under, draw))
        if best is None or noise < best.noise:
            images, outputs, height, width = trained.shape
            shape, places = (images, outputs, height, width), _places(trained, seed)
            at_places = None if under is None else under.flatten()[places]
            best = Probe(side, seed, shape, places, trained.flatten()[places], at_places, noise)
        if best.noise <= SMALL_ROUNDING:
            break
    assert best is not None
    log.info("Probe: %d numbers, rounding %.1e", len(best.trained) * (1 if draw is None else 2), best.noise)
    return best


Exact = tuple[nn.Module, Sequence[Layer]]
"""A network in float64, and its BN layers."""


def _exact(network: Network, drawn: BatchNormNetwork | None) -> Exact | None:
    if drawn is not None:
        copied = in_float64(drawn)
        return None if copied is None else (copied.module, layers_in_order(copied))
    module = module_in_float64(network.module)
    return None if module is None else (module, ())


def _rounding(
    network: Network,
    layers: Sequence[Layer],
    exact: Exact | None,
    inputs: Sequence[Tensor],
    outputs: Tensor,
    draw: Statistics | None,
) -> float:
    """The largest rounding error of float32 in these outputs, in probability, where both are finite.

    exact: the network in float64. Where that is None or does not run, float32 is compared with itself: under one
    rounding of the inputs, and with sums in another order.
    """
    references = _float64_outputs(network, exact, inputs, draw)
    if references is None:
        rounded = [x * (1 + 2**-23) for x in inputs]
        innermost = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        references = [probabilities_under(network, changed, layers, draw) for changed in (rounded, innermost)]
    largest = 0.0
    for reference in references:
        difference = (reference - outputs).abs()
        finite = difference.isfinite()
        largest = max(largest, float(difference[finite].max()) if finite.any() else 0.0)
    return largest


def _float64_outputs(
    network: Network, exact: Exact | None, inputs: Sequence[Tensor], draw: Statistics | None
) -> list[Tensor] | None:
    if exact is None:
        return None
    module, layers = exact
    try:
        return [probabilities_under(replace(network, module=module), inputs, layers, draw)]
    except Exception as error:  # whatever an unknown network raises in a type that it was not made for
        log.info("Rounding is measured in float32 alone: %s", one_line(error, 160))
        return None


def _bytes(count: int, *names: int) -> NDArray[np.uint8]:
    """Pseudo-random bytes that do not depend on the machine or on a library's version."""
    return np.frombuffer(hashlib.shake_128(repr(names).encode()).digest(count), np.uint8)


def probe_inputs(network: Network, side: int, seed: int) -> list[Tensor]:  # each 1 C H W
    """Noise, and coloured patches under noise, through the card's preprocessing; 16-bit too where it sets `white`."""
    spec = network.card.input
    length = side - spec.stride // 2  # so that padding is probed too
    patches, planes = -(-length // PATCH), network.accept.planes

    def pixels(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        noise = _bytes(length * length * planes, seed, number, 0).reshape(length, length, planes)
        coarse = _bytes(patches * patches * planes, seed, number, 1).reshape(patches, patches, planes)
        return noise, coarse.repeat(PATCH, axis=0).repeat(PATCH, axis=1)[:length, :length]

    noise, patched = pixels(0)[0], pixels(1)
    images: list[NDArray[Any]] = [noise, patched[1] // 8 * 7 + patched[0] // 8]
    if spec.white is not None:
        low, high = pixels(2)
        images.append(from_raw(high.astype(np.uint16) * 256 + low, numbers_of(spec.white, planes)))
    like = first_tensor(network.module)
    return [network.accept.prepared(image)[None].to(like) for image in images]


def _places(outputs: Tensor, seed: int) -> Tensor:  # I K' H W -> V
    """Positions of corners and other pixels; of each the likeliest classes, and others in turn."""
    images, classes, height, width = outputs.shape
    picked = _bytes(PIXELS * 8, seed, 3).view("<u4").astype(np.int64).reshape(PIXELS, 2)
    rows, columns = picked[:, 0] % height, picked[:, 1] % width
    rows[:4], columns[:4] = (0, 0, height - 1, height - 1), (0, width - 1, 0, width - 1)
    places: list[int] = []
    for image in range(images):
        for pixel, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            likeliest = outputs[image, :, row, column].topk(min(classes, CLASSES // 2)).indices.tolist()
            turn = CLASSES // 2 * (image * PIXELS + pixel)
            others = [(turn + step) % classes for step in range(CLASSES - len(likeliest))]
            chosen = range(classes) if classes <= CLASSES else dict.fromkeys([*likeliest, *others])
            places += [((image * classes + k) * height + row) * width + column for k in chosen]
    return torch.tensor(places, device="cpu")


class _UnderDraw(BatchNormMode):
    """A pass in which the layers of one draw have its statistics, and the others their own."""

    def __init__(self, layers: Sequence[Layer], draw: Statistics) -> None:
        super().__init__(layers)
        self._draw = draw

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        if layer.name not in self._draw:
            return call.unchanged()
        like = call.input if layer.trained is None else layer.trained[0]
        mean, var = (value.to(like) for value in self._draw[layer.name])
        return call.under(mean, var)


def probabilities_under(
    network: Network, inputs: Sequence[Tensor], layers: Sequence[Layer] = (), draw: Statistics | None = None
) -> Tensor:  # -> I K' H W, on the CPU
    """The network's probabilities for each input alone, in its own precision; draw None: in eval mode."""
    outputs = []
    like = first_tensor(network.module)
    spec = network.card.input
    for image in inputs:
        length = image.shape[-1] - spec.stride // 2
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            preserve_state(network.module),
            in_precision("fp32", like.device),
        ):
            _seed_all(like.device)
            copy = image.to(like).clone()  # a network may write into its image
            if draw is None:
                logits = network(copy)
            else:
                with _UnderDraw(layers, draw) as mode:
                    logits = network(copy)
                mode.end()
        logits = crop(logits, length, length)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        outputs.append((logits.softmax(dim=1) if network.card.head == "softmax" else logits.sigmoid()).float().cpu())
    return torch.cat(outputs)


def _seed_all(device: torch.device) -> None:
    """Make random operations of the network repeatable; the caller's generators are restored by `preserve_state`."""
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.manual_seed(0)
