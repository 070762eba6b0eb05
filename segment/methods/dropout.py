"""MC dropout: passes in which only dropout is random, BN keeps its trained statistics (Gal & Ghahramani 2016).

Dropout is every call of torch.nn.functional's dropout functions. Its masks come from a generator of this module, so
the network's flags and the global random state stay as they are. Must not know what an output means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.errors import ModelRefused, WrongUse
from segment.methods.method import Method
from segment.networks.modules import module_named, named_modules
from segment.passes.passes import Engine
from segment.tracing.trace import Call

CHANNELS = (functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Functions that drop whole channels; functional.dropout drops single values."""
UNSUPPORTED = (functional.alpha_dropout, functional.feature_alpha_dropout)


class _Masks(TorchFunctionMode):
    """Every dropout call drops, with masks from one generator; other calls run unchanged."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout or func in CHANNELS:
            return self._dropped(*args, **kwargs, channels=func in CHANNELS)
        if func in UNSUPPORTED:
            raise ModelRefused("MC dropout of AlphaDropout is not supported; leave `dropout` out of --methods.")
        return func(*args, **kwargs)

    def _dropped(
        self,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,  # noqa: FBT001, FBT002 (as torch calls it)
        inplace: bool = False,  # noqa: FBT001, FBT002
        *,
        channels: bool,
    ) -> Tensor:
        if p == 0:
            return input
        shape = torch.Size([*input.shape[:2], *[1] * (input.ndim - 2)]) if channels else input.shape
        # on the CPU: the same masks on every device
        kept = torch.rand(shape, device="cpu", generator=self._generator) >= p
        factor = kept.to(input.device, input.dtype) / (1 - p if p < 1 else 1)
        return input.mul_(factor) if inplace else input * factor


def dropouts(calls: Sequence[Call], module: nn.Module) -> list[str]:
    """The names of the modules whose dropout a pass calls, without those of p = 0."""
    modules = dict(named_modules(module))
    calling = [call.module for call in calls if call.function in (functional.dropout, *CHANNELS, *UNSUPPORTED)]
    return [name for name in calling if getattr(modules[name], "p", 1) != 0]


@dataclass(frozen=True)
class Inserted:
    """Dropout2d inserted into a network without dropout, by hooks, for the time of a pass.

    p: probability of a channel to be dropped
    after: modules whose output is dropped; before: a module whose input is dropped, or none
    """

    module: nn.Module
    p: float
    after: tuple[str, ...] = ()
    before: str | None = None

    def __str__(self) -> str:
        where = f"after {', '.join(self.after)}" if self.after else f"before {self.before}"
        return f"Dropout2d(p={self.p:g}) {where}; the network was trained without it"

    @contextmanager
    def active(self) -> Iterator[None]:
        handles = []
        try:
            for name in self.after:
                stage = module_named(self.module, name)
                handles.append(stage.register_forward_hook(lambda _m, _a, output: self._drop(output)))
            if self.before is not None:
                last = module_named(self.module, self.before)
                handles.append(last.register_forward_pre_hook(lambda _m, inputs: (self._drop(inputs[0]), *inputs[1:])))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x, self.p, training=False)  # _Masks replaces this call


def inserted(calls: Sequence[Call], module: nn.Module, p: float) -> Inserted:
    """Where dropout goes in a network without it: after each stage of its decoder, else before its last convolution.

    A decoder's stages are the children of `decoder.blocks`, as segmentation-models-pytorch calls them.
    """
    if not 0 < p < 1:
        raise WrongUse(f"--insert-dropout {p:g}: a probability above 0 and below 1.")
    modules = dict(named_modules(module))
    called = [call.module for call in calls]
    blocks = "decoder.blocks"
    stages = [name for name in modules if name.rpartition(".")[0] == blocks]
    after = tuple(stage for stage in stages if any(name.startswith(f"{stage}.") for name in called))
    if after:
        return Inserted(module, p, after=after)
    last = [name for name in called if isinstance(modules[name], nn.Conv2d | nn.ConvTranspose2d)]
    if not last:
        raise ModelRefused("The network has no convolution to put dropout before; leave `dropout` out of --methods.")
    return Inserted(module, p, before=last[-1])


@dataclass(frozen=True)
class Dropout:
    """T passes of a one-pass method, whose masks depend on seed, image and pass alone, not on the order.

    inner: one deterministic pass, which must not share results between draws
    identity: of the image, see `of`
    """

    inner: Method
    draws: int
    seed: int = 0
    insert: Inserted | None = None
    identity: str = ""
    name: str = "dropout"
    random: bool = True
    tileable: bool = False

    @property
    def fold(self) -> int:
        return self.inner.fold

    @property
    def engine(self) -> Engine:
        return self.inner.engine

    @property
    def in_eval_mode(self) -> bool:
        return self.inner.in_eval_mode

    @property
    def unverified(self) -> int:
        return self.inner.unverified

    @property
    def note(self) -> str:
        return str(self.insert) if self.insert else ""

    def of(self, identity: str) -> Dropout:
        """The method for one image, by its id."""
        return replace(self, identity=identity)

    def few_passes(self) -> Dropout:
        return replace(self, inner=self.inner.few_passes(), draws=1)

    def halve(self) -> bool:
        return self.inner.halve()

    def take_plain_passes(self) -> None:
        self.inner.take_plain_passes()

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        for t in range(self.draws):
            name = f"{self.seed} {t} {self.identity}".encode()
            seed = int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
            masks = _Masks(torch.Generator().manual_seed(seed))
            if self.insert is None:
                with masks:
                    ((_, output),) = self.inner(images)
            else:
                with self.insert.active(), masks:
                    ((_, output),) = self.inner(images)
            yield 1 / self.draws, output
