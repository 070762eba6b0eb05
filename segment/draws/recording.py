"""A network and mini-batches to draws: Teye et al. 2018, Algorithm 1.

The network stays in eval mode, so dropout is off; only batch normalisation uses the mini-batch.
Must not know what an image file is, nor how draws are stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.draws.bank import Statistics
from segment.errors import ModelRefused, PredictionFailed, WrongUse
from segment.tracing.trace import state_keeper

Precision = Literal["fp32", "bf16", "fp16"]


_ROUNDING: tuple[Any, ...] = (
    *(torch.backends, torch.backends.cudnn, torch.backends.mkldnn),
    *(torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul),  # type: ignore[attr-defined]
    *(torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul),  # type: ignore[attr-defined]
)
"""Where torch is told how to round the factors of float32 products (to TF32 on a GPU, to bfloat16 on a CPU).

What is not said for an operation is taken from its backend, and then from the first of these.
"""


@contextmanager
def in_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Autocast to a half precision; for fp32 neither autocast, also of the caller, nor TF32.

    TF32 has the 10 bits of fp16; torch uses it for the convolutions of a GPU unless it is told not to.
    """
    if precision != "fp32":
        with torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16):
            yield
        return
    with _NO_ROUNDING, torch.autocast(device.type, enabled=False):
        yield


class _NoRounding:
    """While any thread is inside, float32 products are not rounded; the last to leave restores torch's settings.

    The settings are the process's: the pass of one thread must not end what that of another needs.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._changed: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            for place in _ROUNDING:
                if (value := place.fp32_precision) != "ieee":  # said here; what follows another is changed with it
                    self._changed.append((place, value))
                    place.fp32_precision = "ieee"

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            while self._changed and not self._inside:
                place, value = self._changed.pop()
                place.fp32_precision = value


_NO_ROUNDING = _NoRounding()


ROWS = 256
"""Values of a channel in one float32 sum: of 2^14 the error of a mean reaches 1e-5 standard deviations."""


def biased_statistics(x: Tensor) -> tuple[Tensor, Tensor]:  # M C ... -> C, C
    """Mean and biased variance of each channel over all other axes, in float32 or better.

    Two passes over the data, so a mean far above the deviation costs no digits; on a CPU, of channels innermost, in
    groups that are merged in float64. Error: that of `torch.var_mean`, under 1e-6 relative.
    """
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if x.device.type != "cpu":
        var, mean = torch.var_mean(x, dim=[axis for axis in range(x.ndim) if axis != 1], correction=0)
        return mean, var
    channels = x.shape[1]
    if x.numel() <= ROWS * channels or (x.ndim > 2 and x.is_contiguous()):
        return _of_piece(x)
    values = x.movedim(1, -1).reshape(-1, channels)
    groups = len(values) // ROWS
    pieces = [values[: groups * ROWS].reshape(ROWS, groups * channels), values[groups * ROWS :]]
    pieces = [piece for piece in pieces if len(piece)]  # the first as if each group had channels of its own
    statistics = [_of_piece(piece[None, :, None].permute(0, 3, 1, 2)) for piece in pieces]  # channels last, no copy
    means, variances = (
        torch.cat([each[part].reshape(-1, channels) for each in statistics]).double() for part in (0, 1)
    )
    counts = torch.full((len(means), 1), ROWS / len(values), dtype=torch.float64, device=x.device)
    if len(pieces) > 1:
        counts[-1] = len(pieces[1]) / len(values)
    mean = (counts * means).sum(dim=0)
    var = (counts * (variances + (means - mean) ** 2)).sum(dim=0)  # Chan, Golub & LeVeque 1983
    return mean.to(x.dtype), var.to(x.dtype)


def _of_piece(x: Tensor) -> tuple[Tensor, Tensor]:
    # the statistics half of train-mode batch norm, up to 15 times faster than var_mean
    mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 1.0)
    return mean, var


def expected_layer(layer: Layer | None, call: BatchNormCall) -> Layer:
    """The layer that should come next, if the call is that layer's.

    Errors: ModelRefused where it is another's, by channels, running statistics or weight.
    """
    running_mean = call.running_mean
    listed = None if layer is None or layer.trained is None else layer.trained[0]
    same = listed is None or running_mean is None or running_mean is listed or torch.equal(running_mean, listed)
    if layer is not None and layer.weight is not None and call.weight is not None:
        same = same and (call.weight is layer.weight or torch.equal(call.weight, layer.weight))
    if layer is None or layer.channels != call.input.shape[1] or not same:
        raise ModelRefused("The network took another way through its BN layers than when they were listed.")
    return layer


class BatchNormMode(TorchFunctionMode):
    """A pass whose BN layers, in the order listed, are computed by `normalise`; those constant in training stay."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self._layers = iter(layers)
        self._refusal: ModelRefused | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.batch_norm:
            return func(*args, **kwargs)
        call = BatchNormCall(*args, **kwargs)
        try:
            layer = expected_layer(next(self._layers, None), call)
        except ModelRefused as refusal:  # kept for `end`, for a network may catch it
            self._refusal = refusal
            raise
        return call.unchanged() if layer.constant_in_training else self.normalise(layer, call)

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        """The result of a call that this layer has made."""
        raise NotImplementedError

    def end(self) -> None:
        """Called after the pass. Errors: ModelRefused where a listed layer was not reached."""
        if self._refusal is not None:
            raise self._refusal
        missing = next(self._layers, None)
        if missing is not None:
            raise ModelRefused(
                f"BN layer {missing.name!r} was not reached: the network takes another way for these images than for "
                "those with which its layers were listed."
            )


def layers_in_order(network: BatchNormNetwork) -> list[Layer]:
    """The BN layers that a pass reaches, in the order of its calls, also those that are constant."""
    reached = [layer for layer in network.layers if layer.call is not None]
    return sorted(reached, key=lambda layer: layer.call or 0)


class _MiniBatchPass(BatchNormMode):
    """Every BN layer normalises with the statistics of its input, and these are kept as the draw."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.draw: dict[str, tuple[Tensor, Tensor]] = {}

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        x = call.input
        if x.numel() == x.shape[1]:
            if layer.status == "fixed" and layer.trained is not None:
                return call.under(*layer.trained)
            raise WrongUse(
                f"BN layer {layer.name!r} sees one value a channel at M = 1 and a 1x1 map: it has no variance. "
                "Use --batch 2 or more, or leave the layer out with --layers."
            )
        mean, var = biased_statistics(x)
        check_finite(layer, mean, var)
        self.draw[layer.name] = (mean, var)
        return call.under(mean, var)


def check_finite(layer: Layer, mean: Tensor, var: Tensor) -> None:
    """Errors: PredictionFailed where the statistics of a layer are not finite."""
    if not torch.isfinite(mean).all() or not torch.isfinite(var).all():
        raise PredictionFailed(
            f"The statistics of BN layer {layer.name!r} are not finite: check the network's weights and the "
            "statistics images, or record with --precision fp32."
        )


def record(
    network: BatchNormNetwork, batches: Iterable[Tensor], *, precision: Precision = "fp32", first: int = 0
) -> Iterator[Statistics]:
    """One draw for each mini-batch (M C H W): every BN layer normalises with that batch's own statistics.

    Those that were constant in training keep theirs. A draw holds the stochastic layers only, on the CPU, as float32;
    the biased variance, as train mode uses it. Random calls of the network itself are seeded by the number of the draw,
    which begins at `first`.
    Errors: WrongUse where a layer sees one value a channel; PredictionFailed where statistics are not finite;
    ModelRefused where the network takes another way than when its layers were listed.
    """
    layers = layers_in_order(network)
    stochastic = [layer.name for layer in network.stochastic]
    state = state_keeper(network.module, network.trace)
    for number, batch in enumerate(batches, start=first):
        mode = _MiniBatchPass(layers)
        images = network.writable(batch)  # statistics of a channel are faster to compute where channels are innermost
        in_own_precision = in_precision(precision, network.device)
        with torch.inference_mode(mode=False), torch.no_grad(), state(), in_own_precision, mode:
            state.seed(number)
            network.forward(images)
        mode.end()
        yield {name: (mode.draw[name][0].float().cpu(), mode.draw[name][1].float().cpu()) for name in stochastic}
