"""Network, bank and images to T outputs, one pass a draw, in the bank's order.

Calls that do not depend on the draw (all before the first stochastic layer, or beside it) run once for all draws.
Fast passes are compared with plain passes on the first image and again at intervals.
Must not know what an output means: no classes, no moments, no files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.recording import Precision, in_precision, layers_in_order
from segment.errors import FastPathDiffers, WrongUse
from segment.networks.trial_images import uniform_noise
from segment.passes.comparison import beyond_rounding
from segment.passes.drawn_calls import PlainPass
from segment.passes.fast_passes import DrawnNetwork, FastPasses, changes_autocast
from segment.passes.fused import onednn
from segment.passes.openvino_passes import CompiledNetwork, OpenVinoPasses
from segment.tracing.batch_independence import mixing_call
from segment.tracing.sources import IMAGE
from segment.tracing.trace_cursor import OWN_AUTOCAST

log = logging.getLogger(__name__)

Engine = Literal["torch", "openvino"]
"""What runs the passes."""

CHECK_COST = 0.02
"""Largest share of the passes that comparisons with plain passes may take, after the first image."""

CHECKED_DRAWS = 8
"""Later comparisons take the first draws in turn: an image that needs few draws may use no more than these."""


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """How passes are run; outputs in fp32 do not depend on it beyond rounding.

    fold: draws in one pass, side by side along the batch axis, a count from 1 up; above 1, `share` has no effect
    share: compute what does not depend on the draw once for all draws
    precision: "fp32", or "bf16" / "fp16" autocast
    channels_last: run the images with channels innermost, where the network accepts that
    fuse: on a CPU, with `channels_last`, `share` and fold 1: convolution, BN and activation as one call
    engine: "openvino": in its compiled graphs, on a CPU, where these give torch's numbers; torch's passes where not
    """

    fold: int = 1
    share: bool = True
    precision: Precision = "fp32"
    channels_last: bool = False
    fuse: bool = False
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        if self.fold < 1:
            raise WrongUse(f"fold = {self.fold}, but it is a count of draws from 1 up.")
        if self.engine == "openvino" and (self.fold != 1 or self.precision == "fp16"):
            raise WrongUse("OpenVINO runs one draw a pass, in fp32 or bf16: leave --fold and --precision fp16 out.")


def check_engine(engine: Engine, device: torch.device) -> None:
    """Errors: WrongUse where the engine does not run on the device."""
    if engine == "openvino" and device.type != "cpu":
        raise WrongUse('OpenVINO runs on the processor: add --device cpu, in Python device="cpu".')


FAST = PassPlan(channels_last=True, fuse=True)
"""How predictions are made: the fast ways, which give the numbers of the plain one, in fp32."""


def held_passes(plan: PassPlan) -> int:
    """How many passes' tensors are alive at once.

    OpenVINO keeps the memory of its graphs: of the one in half precision, of the one in float32 that it is compared by,
    and beside them there is the plain pass of a comparison.
    """
    return 1 if plan.engine == "torch" else 2 if plan.precision == "fp32" else 3


SLOWER = "It takes longer and changes no map."


class Passes:
    """A network under a bank's draws. Called with images (N C H W), gives T outputs (N K ...), one at a time.

    The network is as it was before each output is yielded. plan: may be changed between images
    given_up: for each fast way that gave other numbers than plain passes, and is used no more, the difference in words
    unverified: calls since the last comparison without a difference
    """

    def __init__(self, network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None) -> None:
        bank.check_layers(network)
        self.network, self.bank = network, bank
        self.plan = plan or PassPlan()
        check_engine(self.plan.engine, network.device)
        if self.plan.precision == "bf16" and not onednn.computes_bfloat16(network.device):
            self.plan = replace(self.plan, fuse=False)  # oneDNN packs no weights for what it cannot compute
        self.unverified, self._comparisons, self.given_up = 0, 0, list[str]()
        self._foldable: dict[torch.Size, bool] = {}
        self._layers = layers_in_order(network)
        self._drawn = DrawnNetwork(network, bank)
        self._compiled = CompiledNetwork(network, bank) if self.plan.engine == "openvino" else None
        if self.plan.share and self.plan.fold == 1 and self._drawn.first_program.plain:
            log.info("Each draw runs the whole network: %s.", self._drawn.first_program.plain)

    def __reduce__(self) -> tuple[Callable[..., Passes], tuple[BatchNormNetwork, Bank, PassPlan]]:
        return _in_another_process, (self.network, self.bank, self.plan)

    def take_plain(self) -> None:
        """Make plain passes from now on."""
        self.plan = replace(self.plan, fold=1, share=False, fuse=False, engine="torch")

    @property
    def way(self) -> Literal["openvino", "fused", "shared", "plain"]:
        """How passes run since the first image: by OpenVINO, with fused calls, with shared results, or each in full."""
        if self.plan.engine == "openvino":
            return "openvino"
        if not self.plan.share or self._drawn.first_program.plain:
            return "plain"
        return "fused" if self.plan.fuse and self._drawn.fused else "shared"

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        if self.plan.fold > 1 and self._can_fold(images):
            self.unverified += 1
            if self.unverified > self._every():
                self._settle(self._folded_difference(images), "Draws in one pass")
            yield from self._folded(images)
            return
        if self._is_plain(images):
            yield from self._plain(images, range(len(self.bank)))
            return
        yield from self._shared(images)

    def _is_plain(self, images: Tensor) -> bool:
        """Whether each pass over these images runs the network's own code in full."""
        if self.plan.engine == "openvino":
            return False
        return not self.plan.share or bool(self._drawn.program_for(images.shape).plain)

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
        """Every draw by a fast pass, compared with plain passes when that is due."""
        placed = self.network.placed(images, channels_last=self.plan.channels_last)
        fast = self._fast_passes(placed, self.plan.precision)
        ahead = [fast(0)]
        first = self._comparisons == 0 or fast.retraced
        if first:  # a trace that no image was compared with: nothing is yielded before that
            checked = self._compared_first(images, placed, fast, ahead[0])
            if checked is None:
                yield from self._plain(images, range(len(self.bank)))
                return
            fast, ahead = checked
        due = not first and self.unverified >= self._every()
        compared = self._comparisons % min(len(self.bank), CHECKED_DRAWS) if due else -1
        self._comparisons += due
        self.unverified += not first  # also where the caller leaves before the draw that is compared
        for t in range(len(self.bank)):
            output = ahead[t] if t < len(ahead) else fast(t)
            if output is None:
                log.warning("The draws of this image share nothing: %s.", fast.reason)
                yield from self._plain(images, range(t, len(self.bank)))
                return
            if t == compared:
                self._settle(self._difference(images, placed, t, output), f"A fast pass under draw {t}")
            yield output

    def _fast_passes(self, placed: Tensor, precision: Precision) -> FastPasses | OpenVinoPasses:
        if self._compiled is not None and self.plan.engine == "openvino":
            return OpenVinoPasses(self._compiled, placed, precision)
        return FastPasses(self._drawn, placed, precision, fuse=self.plan.fuse and self.plan.channels_last)

    def _compared_first(
        self, images: Tensor, placed: Tensor, fast: FastPasses | OpenVinoPasses, output: Tensor | None
    ) -> tuple[FastPasses | OpenVinoPasses, list[Tensor | None]] | None:
        """The passes of these images and the outputs of the first draws, compared with plain passes.

        fast, output: the passes of these images, and their output under the first draw
        None where they differ, and fast passes are not used any more.
        """
        draws = range(min(2, len(self.bank)))
        while True:
            outputs = [output, *(fast(t) for t in draws[1:])]
            made = [output for output in outputs if output is not None]
            difference = fast.reason
            if self.plan.engine == "openvino" and changes_autocast(self._drawn, placed, self.plan.precision):
                made, difference = [], OWN_AUTOCAST  # which torch heeds and OpenVINO does not
            if self._compiled is not None:
                self._compiled.note_settings()
            if len(made) == len(draws):
                difference = next(filter(None, (self._difference(images, placed, t, made[t]) for t in draws)), "")
                if not difference:
                    self.unverified, self._comparisons = 0, self._comparisons + 1
                    return fast, outputs
                self.given_up.append(difference)
            else:  # raises where no pass takes the image, which says nothing about fast ones
                self._plain_pass(self.network.placed(images, channels_last=self.plan.channels_last), draws[:1], "fp32")
            self._give_up(difference)
            if self._is_plain(images):
                return None
            fast = self._fast_passes(placed, self.plan.precision)
            output = fast(0)

    def _give_up(self, difference: str) -> None:
        """Take the next slower way."""
        if self.plan.engine == "openvino":
            log.warning("OpenVINO does not run this network's passes, torch does: %s.", difference)
            self.plan, self._compiled = replace(self.plan, engine="torch"), None
        elif self.plan.fuse and self._drawn.fused:
            log.warning("This network's convolutions are not fused: %s. %s", difference, SLOWER)
            self.plan = replace(self.plan, fuse=False)
        else:
            log.warning("This network's draws share no work, each runs in full: %s. %s", difference, SLOWER)
            self.take_plain()

    def _settle(self, difference: str, what: str) -> None:
        """After a comparison of a fast pass. Errors: FastPathDiffers, after which passes are plain."""
        if not difference:
            self.unverified = 0
            return
        self.given_up.append(difference)
        self.unverified -= 1  # this one is begun again
        self.take_plain()
        raise FastPathDiffers(f"{what} gave {difference}; passes are plain from now on.")

    def _difference(self, images: Tensor, placed: Tensor, t: int, output: Tensor) -> str:
        """How a fast pass under draw t differs from a plain one in float32, in words; "" where by rounding only."""
        if self.plan.precision != "fp32":
            fast = self._fast_passes(placed, "fp32")
            again = [fast(u) for u in ((0, t) if t else (0,))][-1]
            if again is None:
                return fast.reason
            output = again
        return self._beyond_rounding(images, t, output)

    def _beyond_rounding(self, images: Tensor, t: int, output: Tensor) -> str:
        """How an output in float32 differs from a plain pass under draw t, in words; "" where by rounding only."""
        draws, random, last = range(t, t + 1), self._drawn.first_program.random, self.plan.channels_last

        def plain(channels_last: bool) -> Tensor:  # noqa: FBT001
            return self._plain_pass(self.network.placed(images, channels_last=channels_last), draws, "fp32")

        # random calls fill memory in its order, so they are compared in the layout of the fast pass alone
        made = map(plain, dict.fromkeys([last] if random else [False, last]))
        return beyond_rounding(self.network, self._drawn.draws(draws), images, output, made, random=random)

    def _every(self) -> int:
        """Images between two comparisons, so that they take CHECK_COST of the passes."""
        cost = 1.5 if self.plan.precision == "fp32" else 5.0  # in fast passes; half precision repeats both in float32
        return math.ceil(cost / (CHECK_COST * len(self.bank)))

    def _plain_pass(self, images: Tensor, chunk: range, precision: Precision) -> Tensor:  # D*N K ...
        mode, precise = PlainPass(self._layers, self._drawn.draws(chunk)), in_precision(precision, self.network.device)
        with torch.inference_mode(mode=False), torch.no_grad(), self._drawn.state(), precise, mode:
            images = torch.cat([images] * len(chunk))  # a copy even for one draw: a network may write into its image
            self._drawn.state.seed(chunk.start)
            output = self._drawn.state.own(self.network.forward(images))
        mode.end()
        if self._compiled is not None:
            self._compiled.note_settings()
        return output

    def _can_fold(self, images: Tensor) -> bool:
        """Whether several draws may share a pass over images of this size; settled by the first ones."""
        if images.shape not in self._foldable:
            image = self.network.placed(images, channels_last=False)[:1]
            mixing = mixing_call(self.network.module, self.network.forward, torch.cat([image, image.flip(-1)]))
            why = f"{mixing} may mix the images of a batch" if mixing else self._folded_difference(images)
            self._foldable[images.shape] = not why
            if why:
                log.warning("This network's draws run one by one: %s.", why)
        return self._foldable[images.shape]

    def _folded_difference(self, images: Tensor) -> str:
        """How the first folded pass differs from plain passes, in words; "" where by rounding only."""
        placed = self.network.placed(images, channels_last=self.plan.channels_last)
        chunk = range(min(self.plan.fold, len(self.bank)))
        outputs = self._plain_pass(placed, chunk, "fp32").chunk(len(chunk))
        last = chunk[-1]
        return self._beyond_rounding(images, 0, outputs[0]) or self._beyond_rounding(images, last, outputs[last])


def _in_another_process(network: BatchNormNetwork, bank: Bank, plan: PassPlan) -> Passes:
    """Passes after pickling, under a new trace: some of torch's functions are others once they were pickled."""
    shape = next((call.shape for call in network.calls if call.sources[:1] == (IMAGE,)), None)
    if shape is not None:
        image = uniform_noise(*shape)
        network = network.retraced(network.placed(image))
    return Passes(network, bank, plan)
