"""Which convolutions of a trace may run as one call with the batch normalisation and the activation behind them.

Must not know an image, nor how the fused call is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.batch_norm.call import batch_norm_of
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.passes.float32_calls import position_calls
from segment.passes.fused.onednn import NO_ACTIVATION, RELU, Activation
from segment.tracing.call_kinds import READS_METADATA
from segment.tracing.trace import Call, Trace


def _hardtanh(low: float = -1.0, high: float = 1.0, *_: Any, **named: Any) -> Activation:
    return "hardtanh", [float(named.get("min_val", low)), float(named.get("max_val", high))], ""


def _leaky_relu(slope: float = 0.01, *_: Any, **named: Any) -> Activation:
    return "leaky_relu", [float(named.get("negative_slope", slope))], ""


def _prelu(weight: Tensor) -> Activation | None:
    return ("leaky_relu", [weight.detach().item()], "") if weight.numel() == 1 else None


ACTIVATIONS: dict[Callable[..., Any], Callable[..., Activation | None]] = {
    functional.relu: lambda *_, **__: RELU,
    torch.relu: lambda *_, **__: RELU,
    torch.relu_: lambda *_, **__: RELU,
    functional.relu6: lambda *_, **__: ("hardtanh", [0.0, 6.0], ""),
    functional.hardtanh: _hardtanh,
    functional.leaky_relu: _leaky_relu,
    functional.silu: lambda *_, **__: ("swish", [], ""),
    functional.hardswish: lambda *_, **__: ("hardswish", [], ""),
    torch.prelu: _prelu,
}
"""The activations that oneDNN can run behind a convolution: torch's function -> its arguments to oneDNN's."""


@dataclass(frozen=True)
class Absorbed:
    """What a fused convolution computes besides: an activation, and the later calls that it makes needless."""

    activation: Activation = NO_ACTIVATION
    calls: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fusion:
    """One convolution and what may be fused with it.

    layer: the BN layer that reads its result, None where there is none
    norm: that layer's weight and bias (C, or None) and its eps
    without_norm, with_norm: what the fused call absorbs where the BN is not part of it, and where it is
    """

    layer: Layer | None
    norm: tuple[Tensor | None, Tensor | None, float]
    without_norm: Absorbed
    with_norm: Absorbed

    @property
    def absorbed_calls(self) -> tuple[int, ...]:
        return (*self.without_norm.calls, *self.with_norm.calls)


def readers_of(trace: Trace) -> list[list[int]]:
    """For each call, the later calls that read the values of its result; the number of calls stands for the output."""
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


def fusions(network: BatchNormNetwork, depends: Sequence[bool], readers: Sequence[Sequence[int]]) -> dict[int, Fusion]:
    """Index of a convolution's call -> what may be fused with it, for the calls that depend on the draw.

    Packed weights are kept from image to image, so all that a call reads but its input must be the network's own
    parameters and buffers.
    """
    calls = network.calls
    layers = {layer.call: layer for layer in network.layers if layer.call is not None}
    positions = position_calls(calls)  # other rounding would change which of two equal values is the first
    result = {}
    for index, call in enumerate(calls):
        if not _fusable(call) or not depends[index] or index in positions:
            continue
        following = _only(readers[index])
        layer = None if following is None else layers.get(following)
        known = layer is not None and (layer.status == "stochastic" or layer.trained is not None)
        if following is None or not known or not _reads_own_tensors(calls[following]):
            result[index] = Fusion(None, (None, None, 0.0), _activation_of(following, calls), Absorbed())
            continue
        arguments = batch_norm_of(calls[following])
        norm = arguments.weight, arguments.bias, float(arguments.eps)
        behind = _activation_of(_only(readers[following]), calls)
        result[index] = Fusion(layer, norm, Absorbed(), Absorbed(behind.activation, (following, *behind.calls)))
    return result


def _fusable(call: Call) -> bool:
    """Whether a call is a float32 convolution of images (N C H W) with weights of the network's own."""
    if call.function is not torch.conv2d or call.shape is None or len(call.shape) != 4 or call.dtype != torch.float32:
        return False
    positional, named = call.arguments or ((), {})
    padded_by_name = any(isinstance(value, str) for value in (*positional, *named.values()))  # "same" or "valid"
    return not padded_by_name and _reads_own_tensors(call)


def _reads_own_tensors(call: Call) -> bool:
    """Whether all that a call reads besides its first tensor are parameters, buffers or attributes themselves."""
    return all(tensor is not None for tensor in call.registered[1:])


def _only(readers: Sequence[int]) -> int | None:
    return readers[0] if len(readers) == 1 else None


def _activation_of(index: int | None, calls: Sequence[Call]) -> Absorbed:
    """The activation that call `index` computes, if oneDNN can run it."""
    if index is None or index >= len(calls):
        return Absorbed()
    call = calls[index]
    if call.function not in ACTIVATIONS or not _reads_own_tensors(call):
        return Absorbed()
    assert call.arguments is not None
    named = {key: value for key, value in call.arguments[1].items() if key != "inplace"}
    activation = ACTIVATIONS[call.function](*call.arguments[0], **named)
    return Absorbed() if activation is None else Absorbed(activation, (index,))
