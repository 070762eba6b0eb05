"""Network, bank and images to T outputs, one pass a draw, in the bank's order.

What no draw can change (all that runs before the first stochastic layer, or beside it) is computed once for all draws.
Must not know what an output means: no classes, no moments, no files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.draws.bank import Bank
from segment.draws.recording import Precision, half, met
from segment.errors import ModelRefused, SegmentError, WrongUse
from segment.networks.batchnorm import BatchNormNetwork, Layer
from segment.networks.tracing import Loan, hollow, shared_results, tensors_in
from segment.sampling.exactness import exact_calls, in_float32
from segment.sampling.fusing import FusedConvolutions, UnderDraw, available

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """How passes are run; the numbers do not depend on it beyond rounding.

    fold: draws in one pass, side by side along the batch axis, a count from 1 up
    share: compute what no draw can change once for all draws
    precision: "fp32", or "bf16" / "fp16" autocast
    channels_last: run the images with channels innermost
    fuse: on a CPU, with `channels_last`, `share` and one draw a pass: convolution, BN and activation as one call
    """

    fold: int = 1
    share: bool = True
    precision: Precision = "fp32"
    channels_last: bool = False
    fuse: bool = False

    def __post_init__(self) -> None:
        if self.fold < 1:
            raise WrongUse(f"fold = {self.fold}, but it is a count of draws from 1 up.")


class _Diverged(Exception):
    """The network made other calls than on its tape; no refusal, the pass is run again without it."""


@dataclass(frozen=True)
class _Program:
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
    def of(network: BatchNormNetwork) -> _Program:
        calls = network.calls
        layer_of = {layer.call: layer for layer in network.layers if layer.call is not None}
        stochastic = {layer.call for layer in network.stochastic}
        depends: list[bool] = []
        for index, call in enumerate(calls):
            depends.append(index in stochastic or any(parent >= 0 and depends[parent] for parent in call.parents))
        kept, shareable = shared_results(calls, depends)
        acts = any(call.leaves and depends[index] for index, call in enumerate(calls))
        exact = exact_calls(calls, depends)
        return _Program(network, tuple(depends), kept, layer_of, exact, shareable and not acts, not acts)


class _Replay(TorchFunctionMode):
    """One pass under D draws: BN layers normalise with the draws' statistics; shared results are kept or reused."""

    def __init__(
        self,
        program: _Program,
        draws: Mapping[str, tuple[Tensor, Tensor]],  # D C, D C
        image: Tensor,
        shared: dict[int, Any] | None,
        fused: UnderDraw | None = None,
        exact: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self.fused = fused
        self.exact = exact
        self.device = image.device.type
        self.through: set[int] = set()
        self.program = program
        self.draws = draws
        self.fold = len(next(iter(draws.values()))[0])
        self.shared = shared  # None: nothing is shared, and the images come repeated D times
        self.reuse = bool(shared)
        self.spread: dict[int, Tensor] = {}
        self.at = 0
        self.layers = iter(layer for _, layer in sorted(program.layer_of.items()))
        if shared is not None and self.fold > 1:
            self._spreads(image)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.shared is None:
            if func is not functional.batch_norm:
                return func(*args, **kwargs)
            return self._normalise(next(self.layers, None), args, kwargs)
        index = self.at
        self.at += 1
        if index in self.exact and not (self.reuse and not self.program.depends[index]):
            with torch.autocast(self.device, enabled=False):
                return self._call(index, func, in_float32(args), in_float32(kwargs))
        return self._call(index, func, args, kwargs)

    def _call(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        calls = self.program.network.calls
        if index >= len(calls) or calls[index].function != func:
            raise _Diverged
        if not self.program.depends[index]:
            return self._shared(index, func, args, kwargs)
        if index in self.through:
            return args[0]
        if self.fused is not None and index in self.fused:
            result, through = self.fused(index, func, args, kwargs)
            self.through.update(through)
            return result
        drawn = [parent >= 0 and self.program.depends[parent] for parent in calls[index].parents]
        layer = self.program.layer_of.get(index)
        if layer is not None:
            return self._normalise(layer, args, kwargs, first=not any(drawn))
        if self.spread and not all(drawn):
            args, kwargs = self._repeated(args), self._repeated(kwargs)
        return func(*args, **kwargs)

    def _shared(self, index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        assert self.shared is not None
        if not self.reuse:
            result = func(*args, **kwargs)
            keep = self.program.kept[index]
            self.shared[index] = result if keep else hollow(result)
        else:
            result = self.shared[index]
        if self.fold > 1 and self.program.kept[index] and self.program.network.calls[index].reads_image:
            self._spreads(result)
        return result

    def _spreads(self, result: Any) -> None:
        for tensor in tensors_in(result):
            if tensor.ndim > 0:
                self.spread[id(tensor)] = tensor

    def _repeated(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self.spread:
                return value
            return torch.cat([value] * self.fold)
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self._repeated(item) for item in value)
        return {key: self._repeated(item) for key, item in value.items()} if isinstance(value, dict) else value

    def _normalise(self, layer: Layer | None, args: Any, kwargs: Any, *, first: bool = False) -> Tensor:
        x: Tensor = args[0]
        layer = met(layer, *args, **kwargs)
        if layer.status != "stochastic":
            return functional.batch_norm(*args, **kwargs)
        # the first stochastic layer gets its images once, for all draws of the pass
        parts = [x] * self.fold if first else x.chunk(self.fold)
        return _batch_norm(parts, self.draws[layer.name], *args[1:], **kwargs)


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


class Passes:
    """A network under a bank's draws. Called with images (N C H W), gives T outputs (N K ...), one at a time.

    The network has been given back before each output is yielded. The first images are also passed the plain way, and
    sharing and folding are given up, with a warning, where the two disagree or the network cannot be followed.
    """

    def __init__(self, network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None) -> None:
        bank.check_layers(network)
        self.network = network
        self.bank = bank
        self.plan = plan or PassPlan()
        self._program = _Program.of(network)
        if not self._program.shareable:
            self.plan = replace(self.plan, share=False)
        if not self._program.foldable:
            self.plan = replace(self.plan, fold=1)
        self._checked = not self.plan.share and self.plan.fold == 1
        self._lent = Loan(network.module)
        device = network.device
        self._mean = {layer.name: bank.mean[layer.name].to(device) for layer in network.stochastic}
        self._var = {layer.name: bank.var[layer.name].to(device) for layer in network.stochastic}
        self._fused: FusedConvolutions | None = None
        if self.plan.fuse and self.plan.share and self.plan.channels_last and available(network):
            statistics = {name: (self._mean[name], self._var[name]) for name in self._mean}
            self._fused = FusedConvolutions(network, self._program.depends, statistics)

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        images = images.to(self.network.device)
        if self.plan.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        if not self._checked:
            self._check(images)
        shared: dict[int, Any] | None = {} if self.plan.share else None
        for start in range(0, len(self.bank), self.plan.fold):
            chunk = range(start, min(start + self.plan.fold, len(self.bank)))
            try:
                outputs = self._pass(images, chunk, shared, self.plan.precision)
            except _Diverged:
                log.warning(
                    "The network made other calls for this image than before; nothing is shared between its draws."
                )
                shared = None
                outputs = self._pass(images, chunk, shared, self.plan.precision)
            yield from outputs.chunk(len(chunk))

    def _pass(
        self, images: Tensor, chunk: range, shared: dict[int, Any] | None, precision: Precision
    ) -> Tensor:  # D*N K ...
        rows = slice(chunk.start, chunk.stop)
        draws = {name: (self._mean[name][rows], self._var[name][rows]) for name in self._mean}
        # a copy even for one draw: a network may write into its image
        images = torch.cat([images] * len(chunk)) if shared is None else images.clone()
        network = self.network
        exact = self._program.exact if precision != "fp32" else frozenset()
        fused = None
        if self._fused is not None and shared is not None and len(chunk) == 1:
            fused = self._fused.under(chunk.start, torch.bfloat16 if precision == "bf16" else torch.float32, exact)
        mode = _Replay(self._program, draws, images, shared, fused, exact)
        with torch.no_grad(), self._lent(), half(precision, network.device), mode:
            outputs = network.forward(images)
        if shared is not None and mode.at != len(network.calls):
            shared.clear()
            raise _Diverged
        if shared is None and next(mode.layers, None) is not None:
            raise ModelRefused("The network took another way through its BN layers than when they were listed.")
        return outputs

    def _check(self, images: Tensor) -> None:
        """Hold the plan's way against plain passes, in fp32; fall back where it cannot be trusted."""
        self._checked = True
        draws = range(min(2, len(self.bank)))
        plain = torch.cat([self._pass(images, range(t, t + 1), None, "fp32") for t in draws]).float()
        allowed = 1e-3 * (1 + float(plain.abs().amax()))
        while self.plan.share or self.plan.fold > 1:
            try:
                size = min(self.plan.fold, len(draws))
                shared: dict[int, Any] | None = {} if self.plan.share else None
                for _ in range(2):  # the second time from what the first has kept
                    chunks = [draws[t : t + size] for t in draws[::size]]
                    found = torch.cat([self._pass(images, chunk, shared, "fp32") for chunk in chunks]).float()
                    if found.shape != plain.shape or float((found - plain).abs().amax()) > allowed:
                        raise ValueError("other numbers than plain passes")
                return
            except (_Diverged, RuntimeError, ValueError, TypeError, SegmentError) as problem:
                log.info("Sharing %s, fold %d: %s", self.plan.share, self.plan.fold, problem)
            if self._fused is not None:
                log.warning("This network's convolutions cannot be fused; they run as they are.")
                self._fused = None
            elif self.plan.share:
                log.warning("This network's draws cannot share work; each pass runs in full.")
                self.plan = replace(self.plan, share=False)
            else:
                log.warning("This network's draws cannot be folded into one pass; they run one by one.")
                self.plan = replace(self.plan, fold=1)


def passes(network: BatchNormNetwork, bank: Bank, images: Tensor, plan: PassPlan | None = None) -> Iterator[Tensor]:
    """The outputs (N K ...) of the network under each draw of the bank, in order."""
    yield from Passes(network, bank, plan)(images)
