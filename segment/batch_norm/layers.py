"""Which batch normalisations a pass of a network reaches, and whether each is stochastic, fixed or refused.

A layer is a call of torch.nn.functional.batch_norm whose input depends on the image, whatever module makes it.
Must not know how statistics are recorded or replayed.
"""

from __future__ import annotations

import fnmatch
import glob
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.axes import Head, size_text
from segment.batch_norm.call import batch_norm_of, is_of_another_module
from segment.batch_norm.kinds import (
    check_traceable,
    is_frozen,
    is_lower_batch_norm,
    looks_like_bn,
    normalising_each_image,
    statistics_in,
)
from segment.errors import ModelRefused, NoBatchNorm, WrongUse, near
from segment.networks.modules import device_of, named_modules
from segment.tracing.call_kinds import reads_values
from segment.tracing.memory_layout import traced_in_a_layout
from segment.tracing.trace import Call, Trace, trace

ARGUMENTS_KEPT: tuple[Callable[..., Any], ...] = (
    functional.batch_norm, functional.relu, torch.relu, torch.relu_, functional.relu6, functional.hardtanh,
    functional.leaky_relu, functional.silu, functional.hardswish, torch.prelu, torch.conv2d,
)  # fmt: skip
"""Functions whose arguments the trace keeps: batch normalisation, and what may be fused with it."""

Status = Literal["stochastic", "fixed", "refused"]

OF_WEIGHTS = "it normalises weights, not data"
PER_IMAGE = "it normalises each image by its own statistics: replace it by torch.nn.InstanceNorm2d"
FROZEN = "frozen: its statistics were constants in training, no mini-batch's"
FOREIGN = "it belongs to no module of the network, but to one that a hook or a closure holds: make that a submodule"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One batch normalisation, in the order in which data reaches it.

    name: the module's; its nth call (n >= 2) is "name#n"; a functional call has its enclosing module's name
    kind: the module's class
    channels: C; values: how many values of one image a channel has at the traced size (H * W)
    status, reason: stochastic; fixed with a reason; or refused with a reason (its arithmetic cannot be reached)
    trained: running mean and variance (C) that eval mode uses; None: it has none, and is always stochastic
    weight: its scale (C) where that is a parameter, by which it is known from other layers without trained statistics
    call: index in the network's trace, None where the pass did not reach it
    """

    name: str
    kind: str
    channels: int
    values: int
    status: Status
    reason: str = ""
    trained: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)
    weight: nn.Parameter | None = field(default=None, repr=False, compare=False)
    call: int | None = None

    @property
    def constant_in_training(self) -> bool:
        """Whether no mini-batch of training changed its statistics: a frozen one, or one that normalises a weight."""
        return self.reason in (OF_WEIGHTS, FROZEN)


@dataclass(frozen=True)
class BatchNormNetwork:
    """A network with stochastic BN layers: the input of every pass, recording and distillation.

    module: the network itself; forward: images N C H W -> outputs N K ..., which runs it
    trace: the calls of one pass; layers: the BN layers in data order
    channels_last: it gives the same numbers for images with channels innermost
    head: what its outputs mean, None where unknown
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    trace: Trace = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    channels_last: bool = True
    head: Head | None = None

    @property
    def calls(self) -> tuple[Call, ...]:
        return self.trace.calls

    @property
    def stochastic(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.status == "stochastic")

    @property
    def untracked(self) -> list[str]:
        """Names of the stochastic layers that have no running statistics."""
        return [layer.name for layer in self.stochastic if layer.trained is None]

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    def placed(self, images: Tensor, *, channels_last: bool = True) -> Tensor:  # N C ... -> N C ...
        """Images on the network's device, channels innermost if asked and the network accepts it."""
        images = images.to(self.device)
        if channels_last and self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def writable(self, images: Tensor) -> Tensor:  # N C ... -> N C ...
        """Images as `placed` gives them, in memory that is not the caller's: a network may write into its image."""
        with torch.inference_mode(mode=False):  # outside inference mode no inference tensor can be written into
            placed = self.placed(images)
            shared = placed.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
            return placed.clone() if shared else placed

    def retraced(self, images: Tensor) -> BatchNormNetwork:
        """The same network, traced over these images (N C H W), for whose size or values it makes other calls.

        Errors: ModelRefused where it does not reach the same BN layers in the same order.
        """
        traced = trace(self.module, self.forward, images, keep_arguments=ARGUMENTS_KEPT)
        status = {layer.name: (layer.status, layer.reason) for layer in self.layers}
        listed = [layer for layer in self.layers if layer.call is not None]
        reached = _layers_of(self.module, traced.calls)
        if [layer.name for layer in reached] != [layer.name for layer in listed]:
            raise ModelRefused(
                f"For images of {size_text(images.shape[-2:])} the network takes another way through its BN "
                "layers than when they were listed, so a bank cannot hold draws for both: resize or crop the images."
            )
        layers = tuple(replace(layer, status=status[layer.name][0], reason=status[layer.name][1]) for layer in reached)
        return replace(self, trace=traced, layers=layers)

    def select(self, globs: str | Sequence[str] = "all") -> BatchNormNetwork:
        """The same network with only the layers whose names match a glob stochastic; "all" keeps every one.

        Errors: WrongUse where a glob matches nothing; ModelRefused where a layer without running statistics is left
        out, or a refused one is asked for; NoBatchNorm where nothing is left to draw.
        """
        globs_asked = [part.strip() for part in globs.split(",")] if isinstance(globs, str) else list(globs)
        everything = globs_asked == ["all"]
        names = [layer.name for layer in self.layers]
        for pattern in globs_asked if not everything else ():
            if not fnmatch.filter(names, pattern):
                raise WrongUse(
                    f"No BN layer matches {pattern!r}.{near(pattern, names)} `segment inspect` lists all {len(names)}."
                )
        chosen = []
        for layer in self.layers:
            asked = everything or any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in globs_asked)
            if layer.status == "refused" and asked:
                raise ModelRefused(f"BN layer {layer.name!r} ({layer.kind}) cannot be drawn: {layer.reason}")
            if layer.status == "stochastic" and not asked:
                if layer.trained is None:
                    raise ModelRefused(
                        f"BN layer {layer.name!r} has no running statistics to fall back on, so it is always "
                        f"stochastic; add it to --layers {','.join(globs_asked)!r}."
                    )
                layer = replace(layer, status="fixed", reason="not among the layers asked for")
            chosen.append(layer)
        return _drawable(replace(self, layers=tuple(chosen)))

    def select_names(self, names: Iterable[str]) -> BatchNormNetwork:
        """The same network with only these layers stochastic, by names, not globs, whose signs a name may hold.

        Errors: as `select`.
        """
        return self.select([glob.escape(name) for name in names])


def survey(
    module: nn.Module, forward: Callable[[Tensor], Tensor], image: Tensor, head: Head | None = None
) -> BatchNormNetwork:
    """Trace one eval pass over `image` (N C H W; any values, a usual size) and list the BN layers that it reaches.

    Errors: NoBatchNorm where the pass reaches none; ModelRefused where a BN was never initialised, or a part is
    compiled.
    """
    check_traceable(module)
    traced, channels_last = traced_in_a_layout(module, forward, image, ARGUMENTS_KEPT)
    readers = _readers_of_registered(traced.calls)
    layers = [_refused_where_read(layer, readers) for layer in _layers_of(module, traced.calls)]
    untracked = {layer.call for layer in layers if layer.trained is None and layer.call is not None}
    alone = normalising_each_image(module, forward, image, traced.calls, untracked)
    layers = [replace(layer, status="refused", reason=PER_IMAGE) if layer.call in alone else layer for layer in layers]
    reached = {layer.name for layer in layers}
    run = {call.module for call in traced.calls if call.origin != "constant"}
    lower = {call.module for call in traced.calls if call.origin != "constant" and is_lower_batch_norm(call.function)}
    layers += [
        _unreached(name or "(root)", child, run=name in run or name in traced.entered or _is_read(child, readers))
        for name, child in named_modules(module)
        if (name or "(root)") not in reached and (looks_like_bn(child) or name in lower)
    ]
    return _drawable(BatchNormNetwork(module, forward, traced, tuple(layers), channels_last, head))


def _layers_of(module: nn.Module, calls: Sequence[Call]) -> list[Layer]:
    """The BN layers that a pass reaches; a BN whose inputs are all constants normalises weights."""
    modules = dict(named_modules(module))
    seen: Counter[str] = Counter()
    layers = []
    for index, call in enumerate(calls):
        if call.function is not functional.batch_norm:
            continue
        module_of_call = modules[call.module]
        if call.origin == "constant":
            layers.append(_named(call.module, module_of_call, index, call, "fixed", OF_WEIGHTS))
            continue
        seen[call.module] += 1
        name = call.module if seen[call.module] == 1 else f"{call.module}#{seen[call.module]}"
        status, reason = _status_of(module_of_call, call)
        layers.append(_named(name, module_of_call, index, call, status, reason))
    return layers


def _status_of(module_of_call: nn.Module, call: Call) -> tuple[Status, str]:
    if is_of_another_module(call):
        return "refused", FOREIGN
    return ("fixed", FROZEN) if is_frozen(module_of_call) else ("stochastic", "")


def _readers_of_registered(calls: Sequence[Call]) -> dict[int, str]:
    """Id of a parameter or buffer -> a call that reads its values, batch normalisation left out."""
    return {
        id(tensor): call.name
        for call in calls
        if call.function is not functional.batch_norm and reads_values(call.function)
        for tensor in call.registered
        if tensor is not None
    }


def _refused_where_read(layer: Layer, readers: Mapping[int, str]) -> Layer:
    """A layer whose running statistics another call reads cannot be drawn: that call would keep the trained ones."""
    reader = next((readers[id(value)] for value in layer.trained or () if id(value) in readers), None)
    if reader is None or layer.status != "stochastic":
        return layer
    reason = f"its running statistics are also read by {reader}, which would keep the trained ones"
    return replace(layer, status="refused", reason=reason)


def _is_read(child: nn.Module, readers: Mapping[int, str]) -> bool:
    return any(id(value) in readers for value in statistics_in(child))


def _drawable(network: BatchNormNetwork) -> BatchNormNetwork:
    if not network.stochastic:
        raise NoBatchNorm(_nothing_to_draw(network.layers))
    return network


def _named(name: str, module_of_call: nn.Module, index: int, call: Call, status: Status, reason: str) -> Layer:
    shape = call.shape
    assert shape is not None
    arguments = batch_norm_of(call)
    mean, var = arguments.running_mean, arguments.running_var
    values = shape[2:].numel() if len(shape) > 2 else 1
    trained = None if mean is None or var is None or arguments.training else (mean, var)
    return Layer(
        name=name or "(root)",
        kind=type(module_of_call).__name__,
        channels=shape[1],
        values=values,
        status=status,
        reason=reason,
        trained=trained,
        weight=arguments.weight if isinstance(arguments.weight, nn.Parameter) else None,
        call=index,
    )


def _unreached(name: str, child: nn.Module, *, run: bool) -> Layer:
    frozen = is_frozen(child)
    if frozen:
        reason = FROZEN
    elif not run:
        reason = "an image does not reach it in eval mode"
    else:
        reason = "it does not call torch.nn.functional.batch_norm; replace it by torch.nn.BatchNorm2d"
    return Layer(
        name=name,
        kind=type(child).__name__,
        channels=next((len(value) for value in statistics_in(child) if isinstance(value, Tensor) and value.ndim), 0),
        values=0,
        status="refused" if run and not frozen else "fixed",
        reason=reason,
    )


def _nothing_to_draw(layers: Sequence[Layer]) -> str:
    way_out = "Use MC dropout or test-time augmentation instead, or a network with batch normalisation."
    if not layers:
        return f"The network has no batch normalisation, so there is nothing to draw. {way_out}"
    kept = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:3])
    more = f" (and {len(layers) - 3} more)" if len(layers) > 3 else ""
    return f"None of the {len(layers)} BN layers can be drawn ({kept}{more}). {way_out}"
