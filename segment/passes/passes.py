"""Network, bank and images to T outputs, one pass a draw, in the bank's order.

What no draw can change (all that runs before the first stochastic layer, or beside it) is computed once for all draws.
Must not know what an output means: no classes, no moments, no files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segment.draws.bank import Bank
from segment.draws.recording import Precision, half
from segment.errors import SegmentError, WrongUse
from segment.passes.drawn_calls import Program, Replay, Shared, UnderDraws
from segment.passes.fused_convolutions import FusedConvolutions, available
from segment.tracing.bn_layers import BatchNormNetwork
from segment.tracing.replay import OtherShapes
from segment.tracing.trace import Diverged, Loan

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
        self._program = Program.of(network)
        if not self._program.shareable:
            self.plan = replace(self.plan, share=False)
        if not self._program.foldable:
            self.plan = replace(self.plan, fold=1)
        self.unverified = 0  # images since the last comparison with plain passes
        self.differed = ""  # how a fast path differed from plain passes
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
        shared = Shared() if self.plan.share else None
        for start in range(0, len(self.bank), self.plan.fold):
            chunk = range(start, min(start + self.plan.fold, len(self.bank)))
            try:
                outputs = self._pass(images, chunk, shared, self.plan.precision)
            except Diverged:
                log.warning(
                    "The network made other calls for this image than before; nothing is shared between its draws."
                )
                shared = None
                outputs = self._pass(images, chunk, shared, self.plan.precision)
            yield from outputs.chunk(len(chunk))

    def _pass(self, images: Tensor, chunk: range, shared: Shared | None, precision: Precision) -> Tensor:  # D*N K ...
        rows = slice(chunk.start, chunk.stop)
        draws = {name: (self._mean[name][rows], self._var[name][rows]) for name in self._mean}
        exact = self._program.exact if precision != "fp32" else frozenset()
        fused = None
        if self._fused is not None and shared is not None and len(chunk) == 1:
            fused = self._fused.under(chunk.start, torch.bfloat16 if precision == "bf16" else torch.float32, exact)
        under = UnderDraws(self._program, draws, fused, exact)
        network = self.network
        if shared is not None and shared.script is not None and len(chunk) == 1:
            try:
                with torch.no_grad(), self._lent.random(), half(precision, network.device):
                    return shared.script.run(under)
            except OtherShapes:
                shared.script, shared.scriptable = None, False
                return self._pass(images, chunk, shared, precision)
        # a copy even for one draw: a network may write into its image
        images = torch.cat([images] * len(chunk)) if shared is None else images.clone()
        replay = Replay(self._program, under, images, shared)
        with torch.no_grad(), self._lent(), half(precision, network.device), replay:
            outputs = network.forward(images)
        replay.end(outputs)
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
                shared = Shared() if self.plan.share else None
                for _ in range(2):  # the second time from what the first has kept
                    chunks = [draws[t : t + size] for t in draws[::size]]
                    found = torch.cat([self._pass(images, chunk, shared, "fp32") for chunk in chunks]).float()
                    if found.shape != plain.shape or float((found - plain).abs().amax()) > allowed:
                        raise ValueError("other numbers than plain passes")
                return
            except (Diverged, RuntimeError, ValueError, TypeError, SegmentError) as problem:
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
