"""The fast passes of one image: the first runs the network's own code, the others replay its calls.

Gain of sharing and replay without fused convolutions: smp.Unet with the encoder resnet34 at 128 x 160, fp32, one
thread, T = 16, processor time of plain passes over that of fast ones: 1.07 (quartiles 1.06 and 1.08). Must not know how
a fast pass is checked.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.recording import Precision, in_precision
from segment.errors import SegmentError, error_message, ran_out_of_memory
from segment.passes.drawn_calls import DrawnCalls, Program, RecordedPass, StackedStatistics
from segment.passes.fused import onednn
from segment.passes.fused.convolutions import FusedConvolutions
from segment.tracing.replay import NotReplayable, OtherShapes, Recording
from segment.tracing.trace import may_draw, state_keeper
from segment.tracing.trace_cursor import OWN_AUTOCAST, Diverged, refuse_scripted_values

log = logging.getLogger(__name__)

PROGRAMS = 4
"""Image sizes for which a trace of their own is kept, where the network makes other calls for them."""


class DrawnNetwork:
    """A network and the draws of a bank, with what is kept from image to image: traces and packed weights.

    first_program: of the trace with which the network was listed; state: keeps the network's flags and buffers
    """

    def __init__(self, network: BatchNormNetwork, bank: Bank) -> None:
        device = network.device
        self.network = network
        self.state = state_keeper(network.module, network.trace)
        self.first_program = Program.of(network)
        self._statistics = {
            layer.name: (bank.mean[layer.name].to(device), bank.var[layer.name].to(device))
            for layer in network.stochastic
        }
        self._programs: dict[torch.Size, Program] = {}
        self._fused: list[tuple[Program, FusedConvolutions]] = []

    @property
    def fused(self) -> bool:
        """Whether an image has used fused convolutions."""
        return bool(self._fused)

    def draws(self, chunk: range) -> StackedStatistics:
        rows = slice(chunk.start, chunk.stop)
        return {name: (mean[rows], var[rows]) for name, (mean, var) in self._statistics.items()}

    def program_for(self, shape: torch.Size) -> Program:
        return self._programs.get(shape, self.first_program)

    def retrace(self, images: Tensor) -> Program:
        """A trace of these images, kept for others of their size. Errors: ModelRefused."""
        retraced = self.network.retraced(images)
        self.state.random = self.state.random or may_draw(retraced.trace)
        program = Program.of(retraced)
        self._programs.pop(images.shape, None)
        if len(self._programs) >= PROGRAMS:
            self._programs.pop(next(iter(self._programs)))
        self._programs[images.shape] = program
        kept = (self.first_program, *self._programs.values())
        self._fused = [(used, fused) for used, fused in self._fused if any(used is program for program in kept)]
        return program

    def fused_for(self, program: Program) -> FusedConvolutions | None:
        """The fused convolutions of a program; None where they are not available."""
        if not self.network.channels_last or self.network.device.type != "cpu" or not onednn.available():
            return None
        fused = next((fused for used, fused in self._fused if used is program), None)
        if fused is None or fused.stale:
            fused = FusedConvolutions(program.network, program.depends, self._statistics)
            self._fused = [*((used, kept) for used, kept in self._fused if used is not program), (program, fused)]
        return fused


class FastPasses:
    """Called with a draw's number, gives the output (N K ...) of one image, or None and then the `reason`.

    retraced: the first of them needed a trace of its own
    images: (N C ...), placed on the network's device; fuse: with fused convolutions where these are available
    """

    def __init__(self, drawn: DrawnNetwork, images: Tensor, precision: Precision, *, fuse: bool) -> None:
        self._drawn = drawn
        self._images = images
        self._precision = precision
        self._fuse = fuse
        self._recording: Recording | None = None
        self._use(drawn.program_for(images.shape))
        self.reason = ""
        self.retraced = False

    def __call__(self, t: int) -> Tensor | None:
        try:
            return self._record(t) if self._recording is None else self._replay(self._recording, t)
        except SegmentError:
            raise
        except OtherShapes:
            self.reason = "a draw gives a tensor of another shape"
        except NotReplayable as error:
            self.reason = str(error)
        except Exception as error:  # whatever a call raises that a plain pass may not
            if ran_out_of_memory(error):
                raise
            self.reason = error_message(error)
        return None

    def _use(self, program: Program) -> None:
        self._program = program
        self._fused = self._drawn.fused_for(program) if self._fuse else None

    def _replay(self, recording: Recording, t: int) -> Tensor:
        random, precision = self._drawn.state.random_state(), in_precision(self._precision, self._images.device)
        with torch.inference_mode(mode=False), torch.no_grad(), random, precision:
            self._drawn.state.seed(t)  # the network's own random calls: another stream for each draw
            return recording.run(self._calls(t))

    def _record(self, t: int) -> Tensor | None:
        for _ in range(3):  # a network that keeps something for a size takes two passes until it has it
            try:
                return self._pass(t)
            except Diverged as divergence:
                log.info("The image is traced anew: %s.", divergence)
                self.retraced = True
                self._use(self._drawn.retrace(self._images))
                if self._program.plain:
                    self.reason = self._program.plain
                    return None
        self.reason = "two passes over the same image make other calls"
        return None

    def _pass(self, t: int) -> Tensor | None:
        with torch.inference_mode(mode=False):  # else the network could write into this copy no more
            images = self._images.clone()  # a network may write into its image
        mode = RecordedPass(self._program, self._calls(t), images)
        kept, precision = self._drawn.state(), in_precision(self._precision, images.device)
        with torch.inference_mode(mode=False), torch.no_grad(), kept, precision, refuse_scripted_values(), mode:
            self._drawn.state.seed(t)  # the network's own random calls: another stream for each draw
            output = self._drawn.network.forward(images)
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
        return DrawnCalls(self._program, self._drawn.draws(range(t, t + 1)), fused, exact)


def changes_autocast(drawn: DrawnNetwork, images: Tensor, precision: Precision) -> bool:
    """Whether a pass in half precision changes the precision of its calls itself, by one of torch's passes."""
    if precision == "fp32":
        return False
    by_torch = FastPasses(drawn, images, precision, fuse=False)
    return by_torch(0) is None and by_torch.reason == OWN_AUTOCAST
