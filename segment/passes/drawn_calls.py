"""The calls of one pass under a draw: made by the network's own code, or replayed from an earlier pass of the image.

The trace lists which calls depend on the draw. Those are made for each draw, the others once for the image.
Must not know where a draw comes from, nor what an output means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.draws.recording import BatchNormMode, expected_layer
from segment.passes.float32_calls import exact_calls, in_float32
from segment.passes.fused.convolutions import FusedCalls
from segment.tracing.replay import Recording, reads_metadata
from segment.tracing.sources import UNKNOWN, constants_of
from segment.tracing.trace import depends_on_draw, writes_over_shared
from segment.tracing.trace_cursor import TraceCursor

StackedStatistics = Mapping[str, tuple[Tensor, Tensor]]
"""Layer name -> means and variances of the draws of a pass, (D C) each."""


@dataclass(frozen=True)
class Program:
    """What a network's trace gives for one set of stochastic layers.

    depends[i]: call i depends on the draw; layer_of: call index -> BN layer
    exact: calls that stay in float32 under half precision; constants: the network's tensors when it was traced
    plain: why each draw must run the network's own code in full; "" where draws may share results
    random: the network draws random numbers of its own
    """

    network: BatchNormNetwork
    depends: tuple[bool, ...]
    layer_of: Mapping[int, Layer]
    exact: frozenset[int]
    constants: tuple[Tensor, ...]
    plain: str
    random: bool

    @staticmethod
    def of(network: BatchNormNetwork) -> Program:
        calls = network.calls
        layer_of = {layer.call: layer for layer in network.layers if layer.call is not None}
        depends = depends_on_draw(calls, {layer.call for layer in network.stochastic})
        return Program(
            network,
            depends,
            layer_of,
            exact_calls(calls, depends),
            tuple(constants_of(network.module)),
            _reason_for_plain(network, depends),
            any(call.random for call in calls),
        )


def _reason_for_plain(network: BatchNormNetwork, depends: Sequence[bool]) -> str:
    calls = network.calls
    for index, call in enumerate(calls):
        if call.gives_values and depends[index]:
            return f"{call.name} gives values that depend on the draw to Python"
        if UNKNOWN in call.sources:
            return f"{call.name} reads a tensor that no torch call of this pass made"
        if call.autocast:
            return f"{call.name} runs under the network's own autocast"
        if call.inference:
            return f"{call.name} runs in the network's own inference mode, which hides what it writes into"
    if network.trace.output < 0 or not depends[network.trace.output]:
        return "its output does not come from a torch call that depends on the draw"
    overwriting = writes_over_shared(calls, depends)
    return (
        "" if overwriting is None else f"{calls[overwriting].name} writes over results that the draws of an image share"
    )


class DrawnCalls:
    """Makes the calls of one pass under one draw.

    draw: of each stochastic layer its means and variances, (1 C) each
    fused: the convolutions that run as one call with what is behind them; exact: calls that stay in float32
    """

    def __init__(
        self,
        program: Program,
        draw: StackedStatistics,
        fused: FusedCalls | None = None,
        exact: frozenset[int] = frozenset(),
    ) -> None:
        self._program = program
        self._draw = draw
        self._fused = fused
        self._exact = exact
        self._device = program.network.device.type
        self._absorbed: set[int] = set()  # calls that an earlier fused call has absorbed

    def __call__(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of call `index` of the trace, whether it depends on the draw or not."""
        if index in self._exact:
            with torch.autocast(self._device, enabled=False):
                return self._result(index, func, in_float32(args), in_float32(kwargs))
        return self._result(index, func, args, kwargs)

    def absorbed(self, index: int) -> bool:
        """Whether an earlier fused call has absorbed this one, so that it returns its input."""
        return index in self._absorbed

    def _result(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if index in self._absorbed:
            return args[0]
        if self._fused is not None and index in self._fused:
            result, absorbed = self._fused(index, func, args, kwargs)
            self._absorbed.update(absorbed)
            return result
        layer = self._program.layer_of.get(index)
        if layer is not None and layer.status == "stochastic":
            call = BatchNormCall(*args, **kwargs)
            expected_layer(layer, call)
            return normalised(call, self._draw[layer.name])
        return func(*args, **kwargs)


class RecordedPass(TorchFunctionMode):
    """One pass through the network's own code, compared with its trace, that leaves a recording for later draws."""

    def __init__(self, program: Program, calls: DrawnCalls, images: Tensor) -> None:
        super().__init__()
        self._program = program
        self._calls = calls
        self._cursor = TraceCursor(program.network.calls, images, program.constants)
        self.recording = Recording()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        index = self._cursor.next(func, args, kwargs)
        needless = self._calls.absorbed(index)
        result = self._calls(index, func, args, kwargs)
        if self._program.depends[index] and not needless and not reads_metadata(func, result):
            self.recording.add(index, func, args, kwargs, result)
        self._cursor.record(index, result, made=not needless)
        return result

    def end(self, output: Tensor) -> bool:
        """Whether later draws can replay the pass. Errors: Diverged where calls of the trace were left out."""
        self._cursor.end(output, self._program.network.trace.output)
        return self.recording.finish(output)


class PlainPass(BatchNormMode):
    """One pass through the network's own code under D draws, side by side along the batch axis; no result is shared."""

    def __init__(self, layers: Iterable[Layer], draws: StackedStatistics) -> None:
        super().__init__(layers)
        self._draws = draws

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        if layer.status != "stochastic":
            return call.unchanged()
        return normalised(call, self._draws[layer.name])


def normalised(call: BatchNormCall, draws: tuple[Tensor, Tensor]) -> Tensor:
    """The call on D equal parts of its input (D*N C ...), each with its own mean and variance (D C)."""
    means, variances = (drawn.double() if call.input.dtype is torch.float64 else drawn for drawn in draws)
    parts = [
        replace(call, input=part).under(mean, var)
        for part, mean, var in zip(call.input.chunk(len(means)), means, variances, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
