"""Convolution, batch normalisation and activation as one call on a CPU.

Where a map is larger than the convolution's weights, the draw's scale goes into the weights and its shift into a
float32 bias. Where it is not, the weights are packed once for all draws and the small map is normalised on its own.
oneDNN runs the convolution with its activation either way.

Gain: smp.Unet with the encoder resnet34 at 128 x 160, fp32, one thread, T = 16, processor time without over time with:
1.51 (quartiles 1.47 and 1.53), and 1.55 (1.48 and 1.60) with upsampled convolutions too. Must not know how draws are
chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.passes.fused import onednn
from segment.passes.fused.fusions import Absorbed, fusions, readers_of
from segment.passes.fused.onednn import Geometry
from segment.passes.fused.upsampled_convolutions import (
    Upsampled,
    concatenated,
    convolve,
    pack_weights,
    supported,
    upsampled,
    upsampling_calls,
)
from segment.passes.unchanged import Unchanged

PACK_BYTES = 256 * 2**20
"""Most bytes of packed weights that are kept between images."""

PACKED_DRAWS = 8
"""Draws whose packed weights are kept; those of further draws are packed anew, so that memory does not grow with T."""

Packed = tuple[Any, Tensor | None]
"""Packed weights (of an upsampled image's convolution: two of them), and the bias."""


@dataclass(frozen=True)
class _Variant:
    """How one convolution runs over an image of one shape.

    scaled: with the draw in its weights; absorbed: what it computes besides
    upsamples: it can read an image that is upsampled without it being made
    """

    scaled: bool
    geometry: Geometry
    groups: int
    absorbed: Absorbed
    upsamples: bool


class FusedConvolutions:
    """Runs fused convolutions; packed weights of PACKED_DRAWS draws are kept between images, up to PACK_BYTES.

    network: with its trace; depends[i]: call i depends on the draw
    statistics: layer name -> means and variances of all draws (T C); a fixed layer uses its trained ones
    """

    def __init__(
        self, network: BatchNormNetwork, depends: Sequence[bool], statistics: Mapping[str, tuple[Tensor, Tensor]]
    ) -> None:
        readers = readers_of(network.trace)
        self.fusions = fusions(network, depends, readers)
        self.upsampling = upsampling_calls(network.calls, readers, self.fusions)
        self._statistics = statistics
        self._packed: dict[tuple[Any, ...], Packed] = {}
        self._bytes = 0
        self._variants: dict[tuple[Any, ...], _Variant] = {}
        read = {*self.fusions, *(index for fusion in self.fusions.values() for index in fusion.absorbed_calls)}
        own = {id(tensor): tensor for index in read for tensor in network.calls[index].registered if tensor is not None}
        self._unchanged = Unchanged(own.values)

    @property
    def stale(self) -> bool:
        """Whether a parameter or buffer that was packed has changed since."""
        return not self._unchanged

    def under(self, draw: int, dtype: torch.dtype, exact: Container[int]) -> FusedCalls:
        """The fused calls of one pass; see `FusedCalls`."""
        return FusedCalls(self, draw, dtype, exact)

    def run(
        self,
        index: int,
        draw: int,
        dtype: torch.dtype,
        x: Tensor | Upsampled,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The convolution of call `index` under a draw, and the later calls that it has absorbed."""
        shape = x.placeholder.shape if isinstance(x, Upsampled) else x.shape
        geometry = _pair(padding), _pair(stride), _pair(dilation)
        key = (index, shape, *map(tuple, geometry), groups)
        variant = self._variants.get(key)
        if variant is None:
            variant = self._variants[key] = self._variant(index, shape, weight, geometry, groups)
        if isinstance(x, Upsampled) and not variant.upsamples:
            x = x.make()
        packed, shift = self._ready(index, draw if variant.scaled else None, dtype, x, weight, bias, variant)
        activation = variant.absorbed.activation
        if isinstance(x, Upsampled):
            return convolve(x, packed, shift, activation), variant.absorbed.calls
        result = onednn.convolution(x.to(dtype), packed, shift, geometry, groups, activation)
        return result, variant.absorbed.calls

    def _variant(self, index: int, shape: torch.Size, weight: Tensor, geometry: Geometry, groups: int) -> _Variant:
        fusion = self.fusions[index]
        rows, columns = (side // step for side, step in zip(shape[2:], geometry[1], strict=True))
        # scaling the weights anew for a draw costs more than normalising a map that is smaller than they are
        scaled = fusion.layer is not None and rows * columns * len(weight) >= weight.numel()
        absorbed = fusion.with_norm if scaled else fusion.without_norm
        return _Variant(scaled, geometry, groups, absorbed, supported(weight, geometry, groups, absorbed.activation[0]))

    def _ready(
        self,
        index: int,
        draw: int | None,
        dtype: torch.dtype,
        x: Tensor | Upsampled,
        weight: Tensor,
        bias: Tensor | None,
        variant: _Variant,
    ) -> Packed:
        """Packed weights, with the draw's scale in them, and the bias."""
        fusion = self.fusions[index]
        shape = x.placeholder.shape if isinstance(x, Upsampled) else x.shape
        drawn = draw is not None and fusion.layer is not None and fusion.layer.name in self._statistics
        geometry = map(tuple, variant.geometry)
        key = (index, draw if drawn else None, dtype, shape, isinstance(x, Upsampled), *geometry, variant.groups)
        ready = self._packed.get(key)
        if ready is None:
            size = weight.numel() * dtype.itemsize * (2 if isinstance(x, Upsampled) else 1)
            if draw is not None:
                weight, bias = _scaled(fusion.norm, self._statistics_of(fusion.layer, draw), weight, bias)
            packed: Any
            if isinstance(x, Upsampled):
                packed = pack_weights(x, weight, dtype)
            else:
                packed = onednn.pack(weight.to(dtype), variant.geometry, variant.groups, shape)
            ready = packed, None if bias is None else bias.float()
            if (draw or 0) < PACKED_DRAWS and self._bytes + size <= PACK_BYTES:
                self._bytes += size
                self._packed[key] = ready
        return ready

    def _statistics_of(self, layer: Layer | None, draw: int) -> tuple[Tensor, Tensor]:  # -> C, C
        assert layer is not None
        if layer.name not in self._statistics:
            assert layer.trained is not None
            return layer.trained
        mean, var = self._statistics[layer.name]
        return mean[draw], var[draw]


class FusedCalls:
    """The fused convolutions of one pass, and the upsampled images that they read; `in`: whether a call is one of them.

    dtype: of the fused convolutions, except those in `exact`, which run in float32
    """

    def __init__(self, convolutions: FusedConvolutions, draw: int, dtype: torch.dtype, exact: Container[int]) -> None:
        self._convolutions = convolutions
        self._draw, self._dtype, self._exact = draw, dtype, exact
        self._upsampled: dict[int, Upsampled] = {}  # by the id of its placeholder

    def __contains__(self, index: int) -> bool:
        return index in self._convolutions.fusions or index in self._convolutions.upsampling

    def __call__(
        self, index: int, function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[Any, tuple[int, ...]]:
        """The result of call `index`, or its placeholder; and the later calls that it has absorbed."""
        named = dict(named)
        first = arguments[0] if arguments else named.pop("tensors" if function is torch.cat else "input")
        rest = arguments[1:]
        if index in self._convolutions.fusions:
            dtype = torch.float32 if index in self._exact else self._dtype
            x = self._upsampled.get(id(first), first)
            return self._convolutions.run(index, self._draw, dtype, x, *rest, **named)
        if function is torch.cat:
            before = self._upsampled.get(id(first[0]))
            others = [self._made(image) for image in first[1:]]
            image = None if before is None else concatenated(before, others, *rest, **named)
            first = [self._made(first[0]), *others] if image is None else first
        else:
            image = upsampled(first, *rest, **named)
        if image is None:
            return function(first, *rest, **named), ()
        self._upsampled[id(image.placeholder)] = image
        return image.placeholder, ()

    def _made(self, image: Tensor) -> Tensor:
        """The image itself, where this is a placeholder."""
        waiting = self._upsampled.get(id(image))
        return image if waiting is None else waiting.make()


def _scaled(
    norm: tuple[Tensor | None, Tensor | None, float],
    statistics: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the BN behind it as one convolution."""
    mean, var = statistics
    gamma, beta, eps = norm
    scale = (var + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if bias is None else (bias - mean) * scale
    return weight * scale[:, None, None, None], shift if beta is None else shift + beta


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value]
