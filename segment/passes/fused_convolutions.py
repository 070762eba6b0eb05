"""Convolution, batch normalisation and activation as one call on a CPU, read off a network's trace.

A draw's scale goes into the weights and its shift into a float32 bias, where the map is larger than the weights; where
it is not, the weights are packed once for all draws and the small map is normalised on its own. oneDNN runs the
convolution with its activation either way. Must not know an image, nor how draws are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.networks.preserve_state import version_of
from segment.passes.float32_calls import placing
from segment.passes.upsampled_convolutions import Doubled, Numbers, convolved, doubled, doublings, fits, joined, packed
from segment.tracing.batch_norm_call import batch_norm_of
from segment.tracing.bn_layers import BatchNormNetwork, Layer
from segment.tracing.call_kinds import READS_METADATA
from segment.tracing.trace import Call, Trace

PACK_BYTES = 256 * 2**20
"""Most bytes of packed weights that are kept between images."""

PACKED_DRAWS = 8
"""Draws whose packed weights are kept; those of further draws are packed anew, so that memory does not grow with T."""

Activation = tuple[str, list[float], str]
"""oneDNN's name, its numbers, its algorithm."""
NOTHING: Activation = ("none", [], "")


def _hardtanh(low: float = -1.0, high: float = 1.0, *_: Any, **named: Any) -> Activation:
    return "hardtanh", [float(named.get("min_val", low)), float(named.get("max_val", high))], ""


def _leaky(slope: float = 0.01, *_: Any, **named: Any) -> Activation:
    return "leaky_relu", [float(named.get("negative_slope", slope))], ""


def _prelu(weight: Tensor) -> Activation | None:
    return ("leaky_relu", [weight.detach().item()], "") if weight.numel() == 1 else None


ACTIVATIONS: dict[Callable[..., Any], Callable[..., Activation | None]] = {
    functional.relu: lambda *_, **__: ("relu", [], ""),
    torch.relu: lambda *_, **__: ("relu", [], ""),
    torch.relu_: lambda *_, **__: ("relu", [], ""),
    functional.relu6: lambda *_, **__: ("hardtanh", [0.0, 6.0], ""),
    functional.hardtanh: _hardtanh,
    functional.leaky_relu: _leaky,
    functional.silu: lambda *_, **__: ("swish", [], ""),
    functional.hardswish: lambda *_, **__: ("hardswish", [], ""),
    torch.prelu: _prelu,
}
"""What oneDNN may run behind a convolution."""


@dataclass(frozen=True)
class Fused:
    """One convolution and what may go into it.

    layer: the BN layer right behind it, None where there is none; norm: that BN's weight, bias (C, or None), epsilon
    alone: activation right behind the convolution; whole: behind its BN; each with the calls it makes needless
    """

    layer: Layer | None
    norm: tuple[Tensor | None, Tensor | None, float]
    alone: tuple[Activation, tuple[int, ...]]
    whole: tuple[Activation, tuple[int, ...]]


@dataclass(frozen=True)
class _Way:
    """How one convolution runs over an image of one shape.

    scaled: with the draw in its weights; through: the calls that its activation makes needless
    doubles: without the doubled image that it reads
    """

    scaled: bool
    numbers: Numbers
    groups: int
    activation: Activation
    through: tuple[int, ...]
    doubles: bool


def available(network: BatchNormNetwork) -> bool:
    """On a CPU, with oneDNN's fused convolution in this build of torch."""
    pointwise = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    return network.device.type == "cpu" and pointwise is not None and bool(torch._C._has_mkldnn)


def readers_of(trace: Trace) -> list[list[int]]:
    """Of each call, the later calls that read the values of its result; the number of calls stands for the output."""
    readers: list[list[int]] = [[] for _ in trace.calls]
    for index, call in enumerate(trace.calls):
        if getattr(call.function, "__name__", "") in READS_METADATA:
            continue
        for parent in call.parents:
            if parent >= 0:
                readers[parent].append(index)
    if trace.output >= 0:
        readers[trace.output].append(len(trace.calls))
    return readers


def fusions(network: BatchNormNetwork, depends: Sequence[bool], readers: Sequence[Sequence[int]]) -> dict[int, Fused]:
    """Index of a convolution's call -> what goes into it, for the calls that every draw makes anew.

    Its weights are kept from image to image, so all but its input must be the network's own parameters.
    """
    calls = network.calls
    layers = {layer.call: layer for layer in network.layers if layer.call is not None}
    decide = placing(calls)  # other rounding would turn which of two equal values is the first
    fused = {}
    for index, call in enumerate(calls):
        fusable = call.function is torch.conv2d and call.shape is not None and len(call.shape) == 4
        if (
            not fusable
            or _padded_by_name(call)
            or not depends[index]
            or index in decide
            or call.dtype != torch.float32
            or not _by_own(call)
        ):
            continue
        following = _only(readers[index])
        layer = None if following is None else layers.get(following)
        drawable = layer is not None and (layer.status == "stochastic" or layer.trained is not None)
        if following is None or not drawable or not _by_own(calls[following]):
            fused[index] = Fused(None, (None, None, 0.0), _activated(following, calls), (NOTHING, ()))
            continue
        activation, through = _activated(_only(readers[following]), calls)
        fused[index] = Fused(layer, _norm_of(calls[following]), (NOTHING, ()), (activation, (following, *through)))
    return fused


def _padded_by_name(call: Call) -> bool:
    """Padding "same" or "valid", whose numbers torch works out itself."""
    positional, named = call.arguments or ((), {})
    return any(isinstance(value, str) for value in (*positional, *named.values()))


def _by_own(call: Call) -> bool:
    """Whether all that a call reads besides its first tensor are parameters or buffers themselves."""
    return all(tensor is not None for tensor in call.registered[1:])


def _only(readers: Sequence[int]) -> int | None:
    return readers[0] if len(readers) == 1 else None


def _activated(index: int | None, calls: Sequence[Call]) -> tuple[Activation, tuple[int, ...]]:
    if index is None or index >= len(calls) or calls[index].function not in ACTIVATIONS or not _by_own(calls[index]):
        return NOTHING, ()
    arguments = calls[index].arguments
    assert arguments is not None
    named = {key: value for key, value in arguments[1].items() if key != "inplace"}
    activation = ACTIVATIONS[calls[index].function](*arguments[0], **named)
    return (NOTHING, ()) if activation is None else (activation, (index,))


def _norm_of(call: Call) -> tuple[Tensor | None, Tensor | None, float]:
    arguments = batch_norm_of(call)
    return arguments.weight, arguments.bias, float(arguments.eps)


class FusedConvolutions:
    """Runs fused convolutions; packed weights of PACKED_DRAWS are kept between images, as they fit into PACK_BYTES."""

    def __init__(
        self, network: BatchNormNetwork, depends: Sequence[bool], statistics: Mapping[str, tuple[Tensor, Tensor]]
    ) -> None:
        readers = readers_of(network.trace)
        self.fused = fusions(network, depends, readers)
        self.doubling = doublings(network.calls, readers, self.fused)
        self._statistics = statistics  # T C, T C
        self._packed: dict[tuple[Any, ...], tuple[Any, Tensor | None]] = {}
        self._bytes = 0
        self._ways: dict[tuple[Any, ...], _Way] = {}
        read = {*self.fused, *(index for each in self.fused.values() for index in (*each.alone[1], *each.whole[1]))}
        own = {id(tensor): tensor for index in read for tensor in network.calls[index].registered if tensor is not None}
        self._versions = [(tensor, version_of(tensor)) for tensor in own.values()]

    @property
    def stale(self) -> bool:
        """Whether a parameter or buffer that was packed has been written into since."""
        return any(version_of(tensor) != version for tensor, version in self._versions)

    def under(self, draw: int, dtype: torch.dtype, exact: Container[int]) -> FusedCalls:
        return FusedCalls(self, draw, dtype, exact)

    def run(
        self,
        index: int,
        draw: int,
        dtype: torch.dtype,
        x: Tensor | Doubled,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The convolution of call `index` under a draw, and the later calls that it has done already."""
        shape = x.place.shape if isinstance(x, Doubled) else x.shape
        numbers = _pair(padding), _pair(stride), _pair(dilation)
        key = (index, shape, *map(tuple, numbers), groups)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = self._way(index, shape, weight, numbers, groups)
        if isinstance(x, Doubled) and not way.doubles:
            x = x.make()
        ready = self._ready(index, draw if way.scaled else None, dtype, x, shape, weight, bias, way)
        if isinstance(x, Doubled):
            return convolved(x, *ready, way.activation), way.through
        result = torch.ops.mkldnn._convolution_pointwise(x.to(dtype), *ready, *way.numbers, groups, *way.activation)
        return result, way.through

    def _way(self, index: int, shape: torch.Size, weight: Tensor, numbers: Numbers, groups: int) -> _Way:
        what = self.fused[index]
        rows, columns = (side // step for side, step in zip(shape[2:], numbers[1], strict=True))
        # scaling the weights anew for a draw costs more than normalising a map that is smaller than they are
        scaled = what.layer is not None and rows * columns * len(weight) >= weight.numel()
        activation, through = what.whole if scaled else what.alone
        return _Way(scaled, numbers, groups, activation, through, fits(weight, numbers, groups, activation[0]))

    def _ready(
        self,
        index: int,
        draw: int | None,
        dtype: torch.dtype,
        x: Tensor | Doubled,
        shape: torch.Size,
        weight: Tensor,
        bias: Tensor | None,
        way: _Way,
    ) -> tuple[Any, Tensor | None]:
        """Packed weights, with the draw's scale in them, and the bias."""
        what = self.fused[index]
        drawn = draw is not None and what.layer is not None and what.layer.name in self._statistics
        key = (
            index,
            draw if drawn else None,
            dtype,
            shape,
            isinstance(x, Doubled),
            *map(tuple, way.numbers),
            way.groups,
        )
        ready = self._packed.get(key)
        if ready is None:
            size = weight.numel() * dtype.itemsize * (2 if isinstance(x, Doubled) else 1)
            if draw is not None:
                weight, bias = _scaled(what.norm, self._of(what.layer, draw), weight, bias)
            if isinstance(x, Doubled):
                weights = packed(x, weight, dtype)
            else:
                plain = weight.to(dtype).contiguous()
                weights = torch.ops.mkldnn._reorder_convolution_weight(plain, *way.numbers, way.groups, list(shape))
            ready = weights, None if bias is None else bias.float()
            if (draw or 0) < PACKED_DRAWS and self._bytes + size <= PACK_BYTES:
                self._bytes += size
                self._packed[key] = ready
        return ready

    def _of(self, layer: Layer | None, draw: int) -> tuple[Tensor, Tensor]:
        assert layer is not None
        if layer.name not in self._statistics:
            assert layer.trained is not None
            return layer.trained
        mean, var = self._statistics[layer.name]
        return mean[draw], var[draw]


class FusedCalls:
    """The fused convolutions of one pass, and the doubled images that wait for theirs; `in` tells whether a call is.

    dtype: that they run in, but for the calls in `exact`, which run in float32
    """

    def __init__(self, convolutions: FusedConvolutions, draw: int, dtype: torch.dtype, exact: Container[int]) -> None:
        self._convolutions = convolutions
        self._draw, self._dtype, self._exact = draw, dtype, exact
        self._waiting: dict[int, Doubled] = {}  # by the id of what stands for it

    def __contains__(self, index: int) -> bool:
        return index in self._convolutions.fused or index in self._convolutions.doubling

    def __call__(
        self, index: int, function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[Any, tuple[int, ...]]:
        """The result of call `index`, or what stands for it; and the later calls that it has done already."""
        named = dict(named)
        first = arguments[0] if arguments else named.pop("tensors" if function is torch.cat else "input")
        rest = arguments[1:]
        if index in self._convolutions.fused:
            dtype = torch.float32 if index in self._exact else self._dtype
            return self._convolutions.run(index, self._draw, dtype, self._waiting.get(id(first), first), *rest, **named)
        if function is torch.cat:
            waiting = self._waiting.get(id(first[0]))
            made = [self._made(image) for image in first[1:]]
            standing = None if waiting is None else joined(waiting, made, *rest, **named)
            first = [self._made(first[0]), *made] if standing is None else first
        else:
            standing = doubled(first, *rest, **named)
        if standing is None:
            return function(first, *rest, **named), ()
        self._waiting[id(standing.place)] = standing
        return standing.place, ()

    def _made(self, image: Tensor) -> Tensor:
        waiting = self._waiting.get(id(image))
        return image if waiting is None else waiting.make()


def _scaled(
    norm: tuple[Tensor | None, Tensor | None, float],
    statistics: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weights and bias of the convolution and its BN in one."""
    mean, var = statistics
    gamma, beta, epsilon = norm
    scale = (var + epsilon).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if bias is None else (bias - mean) * scale
    return weight * scale[:, None, None, None], shift if beta is None else shift + beta


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value]
