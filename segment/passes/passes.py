"""Network, bank and images to T outputs, one pass a draw, in the bank's order.

What no draw can change (all that runs before the first stochastic layer, or beside it) is computed once for all draws.
Every fast way is compared with plain passes on the first images and again now and then.
Must not know what an output means: no classes, no moments, no files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from segment.draws.bank import Bank
from segment.draws.recording import Precision, half, layers_in_order
from segment.errors import FastPathDiffers, SegmentError, WrongUse, error_message
from segment.networks.preserve_state import StateKeeper
from segment.passes.comparison import NOISE_FACTOR, TOLERANCE, float32_noise, largest_difference
from segment.passes.drawn_calls import DrawnCalls, PlainPass, Program, RecordedPass, Statistics
from segment.passes.fused_convolutions import FusedConvolutions, available
from segment.tracing.batch_independence import mixing_call
from segment.tracing.bn_layers import BatchNormNetwork
from segment.tracing.pass_memory import ran_out_of_memory
from segment.tracing.replay import OtherShapes, Recording
from segment.tracing.trace_cursor import Diverged

log = logging.getLogger(__name__)

CHECK_COST = 0.02
"""Largest share of the passes that comparing fast passes with plain ones may take, after the first images."""

CHECKED_DRAWS = 8
"""Later comparisons take the first draws in turn: an image whose draws suffice may use no more than these."""

PROGRAMS = 4
"""Sizes of image for which a trace of their own is kept, where they lead the network another way."""


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """How passes are run; the numbers do not depend on it beyond rounding.

    fold: draws in one pass, side by side along the batch axis, a count from 1 up; more than 1 shares nothing
    share: compute what no draw can change once for all draws
    precision: "fp32", or "bf16" / "fp16" autocast
    channels_last: run the images with channels innermost, where the network takes that
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

    The network is as it was before each output is yielded. plan: may be changed between images
    differed: what the last comparison with plain passes found, "" where fast and plain passes agree
    unverified: calls since the last comparison that found none
    """

    def __init__(self, network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None) -> None:
        bank.check_layers(network)
        self.network = network
        self.bank = bank
        self.plan = plan or PassPlan()
        self.differed = ""
        self.unverified = 0
        self._comparisons = 0
        self._foldable: bool | None = None
        self._state = StateKeeper(network.module)
        self._layers = layers_in_order(network)
        device = network.device
        self._mean = {layer.name: bank.mean[layer.name].to(device) for layer in network.stochastic}
        self._var = {layer.name: bank.var[layer.name].to(device) for layer in network.stochastic}
        self._first_program = Program.of(network)
        self._programs: dict[torch.Size, Program] = {}
        self._fused: dict[int, FusedConvolutions] = {}
        if self.plan.share and self.plan.fold == 1 and self._first_program.plain:
            log.info("Each draw runs the whole network: %s.", self._first_program.plain)

    @property
    def way(self) -> Literal["fused", "shared", "plain"]:
        """How passes run, settled by the first images: as fused calls, with shared results, or each in full."""
        if not self.plan.share or self._first_program.plain:
            return "plain"
        return "fused" if self._fused else "shared"

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        if self.plan.fold > 1 and self._can_fold(images):
            yield from self._folded(images)
            return
        program = self._programs.get(images.shape, self._first_program)
        if not self.plan.share or program.plain:
            yield from self._plain(images, range(len(self.bank)))
            return
        yield from self._shared(images)

    def _plain(self, images: Tensor, draws: range) -> Iterator[Tensor]:
        placed = self.network.placed(images, channels_last=self.plan.channels_last)
        for t in draws:
            yield self._plain_pass(placed, range(t, t + 1), self.plan.precision)

    def _folded(self, images: Tensor) -> Iterator[Tensor]:
        placed = self.network.placed(images, channels_last=self.plan.channels_last)
        total, fold = len(self.bank), self.plan.fold
        for start in range(0, total, fold):
            chunk = range(start, min(start + fold, total))
            yield from self._plain_pass(placed, chunk, self.plan.precision).chunk(len(chunk))

    def _shared(self, images: Tensor) -> Iterator[Tensor]:
        """Every draw by the fast way, compared with plain passes when that is due."""
        placed = self.network.placed(images, channels_last=self.plan.channels_last)
        first = self._comparisons == 0
        ahead = range(min(2, len(self.bank))) if first else range(0)
        if first:
            outputs = self._compared_first(images, placed, ahead)
            if outputs is None:
                yield from self._plain(images, range(len(self.bank)))
                return
            yield from outputs
        due = not first and self.unverified >= self._every()
        compared = self._comparisons % min(len(self.bank), CHECKED_DRAWS) if due else -1
        self.unverified += not (first or due)
        fast = _FastPasses(self, placed, self.plan.precision)
        for t in range(len(ahead), len(self.bank)):
            output = fast(t)
            if output is None:
                log.warning("The draws of this image share nothing: %s.", fast.reason)
                yield from self._plain(images, range(t, len(self.bank)))
                return
            if t == compared:
                self._compare(images, placed, t, output)
            yield output

    def _compared_first(self, images: Tensor, placed: Tensor, draws: range) -> list[Tensor] | None:
        """The first draws, or None where fast passes give other numbers than plain ones and are given up."""
        self._comparisons += 1
        while True:
            fast = _FastPasses(self, placed, self.plan.precision)
            outputs = [fast(t) for t in draws]
            made = [output for output in outputs if output is not None]
            difference = fast.reason
            if len(made) == len(draws):
                difference = next(filter(None, (self._difference(images, placed, t, made[t]) for t in draws)), "")
                if not difference:
                    self.unverified = 0
                    return made
            if self.plan.fuse and self._fused:
                log.warning("This network's convolutions are not fused: %s.", difference)
                self.plan = replace(self.plan, fuse=False)
            else:
                log.warning("This network's draws share no work, each runs in full: %s.", difference)
                self.plan = replace(self.plan, share=False, fuse=False)
                return None

    def _compare(self, images: Tensor, placed: Tensor, t: int, output: Tensor) -> None:
        """Errors: FastPathDiffers, after which passes are plain."""
        self._comparisons += 1
        difference = self._difference(images, placed, t, output)
        if not difference:
            self.unverified = 0
            self.differed = ""
            return
        self.differed = difference
        self.plan = replace(self.plan, share=False, fuse=False)
        raise FastPathDiffers(f"A fast pass under draw {t} gave {difference}; passes are plain from now on.")

    def _difference(self, images: Tensor, placed: Tensor, t: int, output: Tensor) -> str:
        """What a fast pass under draw t differs by from a plain one in float32, "" where by rounding only."""
        if self.plan.precision != "fp32":
            fast = _FastPasses(self, placed, "fp32")
            again = [fast(u) for u in ((0, t) if t else (0,))][-1]
            if again is None:
                return fast.reason
            output = again
        # random calls fill memory in its order, so they are compared in the same layout
        layout = self.plan.channels_last and self._first_program.random
        plain_images = self.network.placed(images, channels_last=layout)
        plain = self._plain_pass(plain_images, range(t, t + 1), "fp32")
        difference = largest_difference(output, plain, self.network.head)
        if difference <= TOLERANCE:
            return ""
        allowed = TOLERANCE
        if math.isfinite(difference):
            allowed = max(
                allowed, NOISE_FACTOR * float32_noise(self.network, self._draws(range(t, t + 1)), images, plain)
            )
        if difference <= allowed:
            return ""
        what = "of a probability" if self.network.head else "of an output"
        return f"other numbers than a plain pass (largest difference {what} {difference:.2g}, {allowed:.2g} allowed)"

    def _every(self) -> int:
        """Images between two comparisons, so that they cost CHECK_COST of the passes."""
        cost = 1.5 if self.plan.precision == "fp32" else 5.0  # in fast passes; half precision runs both ways in float32
        return math.ceil(cost / (CHECK_COST * len(self.bank)))

    def _draws(self, chunk: range) -> Statistics:
        rows = slice(chunk.start, chunk.stop)
        return {name: (self._mean[name][rows], self._var[name][rows]) for name in self._mean}

    def _plain_pass(self, images: Tensor, chunk: range, precision: Precision) -> Tensor:  # D*N K ...
        images = torch.cat([images] * len(chunk))  # a copy even for one draw: a network may write into its image
        mode = PlainPass(self._layers, self._draws(chunk))
        with torch.no_grad(), self._state(), half(precision, self.network.device), mode:
            self._seed(chunk.start)
            output = self.network.forward(images)
        mode.end()
        return output

    def _seed(self, t: int) -> None:
        """Random calls of the network itself have a stream of their own for each draw."""
        if self._first_program.random:
            self._state.seed(t)

    def _can_fold(self, images: Tensor) -> bool:
        """Whether several draws may share a pass; asked once."""
        if self._foldable is None:
            pair = self.network.placed(images, channels_last=False)[:1]
            mixing = mixing_call(self.network.module, self.network.forward, torch.cat([pair, pair.flip(-1)]))
            self._foldable = not mixing
            if mixing:
                log.warning("This network's draws run one by one: %s may mix the images of a batch.", mixing)
        return self._foldable

    def _program_for(self, shape: torch.Size) -> Program:
        return self._programs.get(shape, self._first_program)

    def _retrace(self, placed: Tensor) -> Program:
        """A trace of these images, kept for others of their size. Errors: ModelRefused."""
        program = Program.of(self.network.retraced(placed))
        if len(self._programs) >= PROGRAMS:
            oldest = next(iter(self._programs))
            self._fused.pop(id(self._programs.pop(oldest)), None)
        self._programs[placed.shape] = program
        return program

    def _fused_for(self, program: Program) -> FusedConvolutions | None:
        wanted = self.plan.fuse and self.plan.channels_last and self.network.channels_last
        if not wanted or not available(self.network):
            return None
        fused = self._fused.get(id(program))
        if fused is None or fused.stale:
            statistics = {name: (self._mean[name], self._var[name]) for name in self._mean}
            fused = self._fused[id(program)] = FusedConvolutions(program.network, program.depends, statistics)
        return fused


class _FastPasses:
    """The passes of one image: the first through the network's own code, the others replayed from it."""

    def __init__(self, passes: Passes, images: Tensor, precision: Precision) -> None:
        self._passes = passes
        self._images = images
        self._precision = precision
        self._program = passes._program_for(images.shape)
        self._recording: Recording | None = None
        self._fused = passes._fused_for(self._program)
        self.reason = ""

    def __call__(self, t: int) -> Tensor | None:
        """The output under draw t; None, with the reason, where this draw cannot be made so."""
        try:
            return self._record(t) if self._recording is None else self._replay(self._recording, t)
        except SegmentError:
            raise
        except OtherShapes:
            self.reason = "a draw gives a tensor of another shape"
        except Exception as error:  # whatever a call raises that a plain pass may not
            if ran_out_of_memory(error):
                raise
            self.reason = error_message(error)
        return None

    def _replay(self, recording: Recording, t: int) -> Tensor:
        with torch.no_grad(), self._passes._state.random_state(), half(self._precision, self._images.device):
            self._passes._seed(t)
            return recording.run(self._calls(t))

    def _record(self, t: int) -> Tensor | None:
        for _ in range(3):  # a network that keeps something for a size takes two passes until it has it
            try:
                return self._pass(t)
            except Diverged as way:
                log.info("The image is traced anew: %s.", way)
                self._program = self._passes._retrace(self._images)
                self._fused = self._passes._fused_for(self._program)
                if self._program.plain:
                    self.reason = self._program.plain
                    return None
        self.reason = "two passes over the same image make other calls"
        return None

    def _pass(self, t: int) -> Tensor | None:
        passes = self._passes
        images = self._images.clone()  # a network may write into its image
        mode = RecordedPass(self._program, self._calls(t), images)
        with torch.no_grad(), passes._state(), half(self._precision, images.device), mode:
            passes._seed(t)
            output = passes.network.forward(images)
        if not mode.end(output):
            self.reason = "its output is not a tensor that a recorded call made"
            return None
        self._recording = mode.recording
        return output

    def _calls(self, t: int) -> DrawnCalls:
        exact = self._program.exact if self._precision != "fp32" else frozenset()
        fused = None
        if self._fused is not None:
            fused = self._fused.under(t, torch.bfloat16 if self._precision == "bf16" else torch.float32, exact)
        return DrawnCalls(self._program, self._passes._draws(range(t, t + 1)), fused, exact)


def passes(network: BatchNormNetwork, bank: Bank, images: Tensor, plan: PassPlan | None = None) -> Iterator[Tensor]:
    """The outputs (N K ...) of the network under each draw of the bank, in order."""
    yield from Passes(network, bank, plan)(images)
