"""One pass of a network under draws: through its own code, or by the calls that an earlier pass has noted.

A TorchFunctionMode meets every call of the network; the tape tells which a draw can change. Those are made anew, the
others once for all draws. Must not know where a draw comes from, nor what an output means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.draws.recording import met
from segment.errors import ModelRefused
from segment.passes.float32_calls import exact_calls, in_float32
from segment.passes.fused_convolutions import UnderDraw
from segment.tracing.bn_layers import BatchNormNetwork, Layer
from segment.tracing.replay import Script, asks
from segment.tracing.trace import Along, hollow, shared_results, tensors_in


@dataclass(frozen=True)
class Program:
    """What the tape says for one set of stochastic layers.

    depends[i]: a draw can change the result of call i
    kept[i]: call i does not depend on the draw, but a call that does reads it
    layer_of: call index -> BN layer; exact: calls that stay in float32 under half precision
    shareable, foldable: not so where the network writes over what draws share, or acts on the values of a draw
    """

    network: BatchNormNetwork
    depends: tuple[bool, ...]
    kept: tuple[bool, ...]
    layer_of: Mapping[int, Layer]
    exact: frozenset[int]
    shareable: bool
    foldable: bool

    @staticmethod
    def of(network: BatchNormNetwork) -> Program:
        calls = network.calls
        layer_of = {layer.call: layer for layer in network.layers if layer.call is not None}
        stochastic = {layer.call for layer in network.stochastic}
        depends: list[bool] = []
        for index, call in enumerate(calls):
            depends.append(index in stochastic or any(parent >= 0 and depends[parent] for parent in call.parents))
        kept, shareable = shared_results(calls, depends)
        acts = any(call.leaves and depends[index] for index, call in enumerate(calls))
        exact = exact_calls(calls, depends)
        return Program(network, tuple(depends), kept, layer_of, exact, shareable and not acts, not acts)


@dataclass
class Shared:
    """What passes over the same images have in common.

    results: of the calls that no draw can change; script: the calls that draws repeat, once a pass has been through
    scriptable: not so where such a call gives results of another shape under another draw
    """

    results: dict[int, Any] = field(default_factory=dict)
    script: Script | None = None
    scriptable: bool = True


class UnderDraws:
    """How the calls of one pass that draws can change are made under D draws, side by side along the batch axis.

    draws: of each stochastic layer its means and variances, (D C) each
    fused: the convolutions that run as one call with what follows them; exact: calls that stay in float32
    """

    def __init__(
        self, program: Program, draws: Mapping[str, tuple[Tensor, Tensor]], fused: UnderDraw | None = None,
        exact: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.fold = len(next(iter(draws.values()))[0])
        self._program = program
        self._draws = draws
        self._fused = fused
        self._exact = exact
        self._device = program.network.device.type
        self._done: set[int] = set()  # by a fused call, ahead
        self._spread: dict[int, Tensor] = {}  # what the draws share and each needs its own copy of, by id

    def __call__(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of call `index` of the tape, also where no draw can change it."""
        if index in self._exact:
            with torch.autocast(self._device, enabled=False):
                return self._made(index, func, in_float32(args), in_float32(kwargs))
        return self._made(index, func, args, kwargs)

    def done(self, index: int) -> bool:
        """Whether an earlier call has done this one's work, so that it gives back what it is given."""
        return index in self._done

    def spread(self, result: Any) -> None:
        """Images, or a result that depends on them, that all draws of the pass read."""
        if self.fold > 1:
            for tensor in tensors_in(result):
                if tensor.ndim > 0:
                    self._spread[id(tensor)] = tensor

    def normalise(self, layer: Layer | None, args: Any, kwargs: Any, *, first: bool = False) -> Tensor:
        """A call of `torch.nn.functional.batch_norm`; first: its images come once, for all draws of the pass."""
        x: Tensor = args[0]
        layer = met(layer, *args, **kwargs)
        if layer.status != "stochastic":
            return functional.batch_norm(*args, **kwargs)
        parts = [x] * self.fold if first else x.chunk(self.fold)
        return _batch_norm(parts, self._draws[layer.name], *args[1:], **kwargs)

    def _made(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if index in self._done:
            return args[0]
        if self._fused is not None and index in self._fused:
            result, through = self._fused(index, func, args, kwargs)
            self._done.update(through)
            return result
        depends = self._program.depends
        if not depends[index]:
            return func(*args, **kwargs)
        drawn = [parent >= 0 and depends[parent] for parent in self._program.network.calls[index].parents]
        layer = self._program.layer_of.get(index)
        if layer is not None:
            return self.normalise(layer, args, kwargs, first=not any(drawn))
        if self._spread and not all(drawn):
            args, kwargs = self._repeated(args), self._repeated(kwargs)
        return func(*args, **kwargs)

    def _repeated(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._spread:
                return value
            return torch.cat([value] * self.fold)
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self._repeated(item) for item in value)
        return {key: self._repeated(item) for key, item in value.items()} if isinstance(value, dict) else value


class Replay(TorchFunctionMode):
    """One pass through the network's own code.

    shared: what is kept of it for later passes, or of earlier ones for it; None: nothing, and the images come repeated
    """

    def __init__(self, program: Program, under: UnderDraws, images: Tensor, shared: Shared | None) -> None:
        super().__init__()
        self._program = program
        self._under = under
        self._shared = shared
        self._reuse = shared is not None and bool(shared.results)
        self._script = Script() if shared is not None and shared.scriptable and under.fold == 1 else None
        self._along = Along(program.network.calls)
        self._layers = iter(layer for _, layer in sorted(program.layer_of.items()))
        if shared is not None:
            under.spread(images)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._shared is None:
            if func is not functional.batch_norm:
                return func(*args, **kwargs)
            return self._under.normalise(next(self._layers, None), args, kwargs)
        index = self._along.next(func)
        if not self._program.depends[index]:
            return self._result_shared(self._shared, index, func, args, kwargs)
        needless = self._under.done(index)
        result = self._under(index, func, args, kwargs)
        if self._script is not None and not needless and not asks(func, result):
            self._script.note(index, func, args, kwargs, result)
        return result

    def end(self, output: Tensor) -> None:
        """Called with the pass's output. Errors: Diverged, ModelRefused where calls of the tape were left out."""
        if self._shared is None:
            if next(self._layers, None) is not None:
                raise ModelRefused("The network took another way through its BN layers than when they were listed.")
            return
        self._along.end()
        if self._script is not None and self._script.finish(output):
            self._shared.script = self._script

    def _result_shared(self, shared: Shared, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        keep = self._program.kept[index]
        if self._reuse:
            result = shared.results[index]
        else:
            result = self._under(index, func, args, kwargs)
            shared.results[index] = result if keep else hollow(result)
        if keep and self._program.network.calls[index].reads_image:
            self._under.spread(result)
        return result


def _batch_norm(
    parts: Sequence[Tensor], draws: tuple[Tensor, Tensor],
    running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,  # noqa: FBT001, FBT002 - torch's own signature
) -> Tensor:  # fmt: skip
    means, variances = (drawn.double() if parts[0].dtype is torch.float64 else drawn for drawn in draws)
    normalised = [
        functional.batch_norm(part, mean, var, weight, bias, training=False, momentum=0.0, eps=eps)
        for part, mean, var in zip(parts, means, variances, strict=True)
    ]
    return normalised[0] if len(normalised) == 1 else torch.cat(normalised)
