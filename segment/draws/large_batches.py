"""The draw of a mini-batch with a few of its images in the network at a time: Teye et al. 2018, Algorithm 1.

The images go through part by part, each part from one BN layer to the next by the calls that a first pass has noted;
there they wait until the layer's count, mean and squared deviations are merged over all parts, in float64. One image's
results stay in a processor's caches where those of a whole mini-batch do not, so on a CPU this takes less time than one
pass over all images, and it needs no more memory.

Where the results that wait do not fit into `keep_bytes`, their parts start at the images again at every layer: a
network of L layers takes up to L sweeps, about L/2 passes over the mini-batch.

Must not know what an image file is, nor how draws are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.draws.bank import Statistics
from segment.draws.recording import ByLayer, Precision, biased_statistics, half, met, record
from segment.errors import ModelRefused, PredictionFailed, SegmentError, WrongUse
from segment.tracing.bn_layers import BatchNormNetwork, Layer
from segment.tracing.replay import OtherShapes, Script, asks
from segment.tracing.trace import Along, Diverged, Loan

log = logging.getLogger(__name__)

CLOSE = 0.02
"""Largest relative difference to a plain pass over two images, above which a network is not followed."""


class _Reached(BaseException):
    """The layer that this sweep settles has been met; no Exception, for a network may catch those."""


class MergedStatistics:
    """Count, mean and squared deviations of each channel over parts (m C ...), merged in float64.

    Source: Chan, Golub & LeVeque 1983: no sum of squares, so a mean far above the deviation costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | float = 0.0  # C
        self._square: Tensor | float = 0.0  # C

    def add(self, x: Tensor) -> None:  # m C ...
        count = x.numel() // x.shape[1]
        mean, var = (value.double() for value in biased_statistics(x))
        total = self.count + count
        delta = mean - self._mean
        self._square = self._square + var * count + delta**2 * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    def compute(self, like: torch.dtype) -> tuple[Tensor, Tensor]:  # -> C, C
        """Mean and biased variance, in float32 or better."""
        if isinstance(self._mean, float) or isinstance(self._square, float):
            raise WrongUse("No part was added yet, so there are no statistics.")
        dtype = torch.float64 if like is torch.float64 else torch.float32
        return self._mean.to(dtype), (self._square / self.count).to(dtype)


class _Noting(TorchFunctionMode):
    """Writes down a pass over one part, up to its last BN layer; the numbers in it mean nothing."""

    def __init__(self, parts: _InParts, images: Tensor) -> None:
        super().__init__()
        self.script = Script(images)
        self._along = Along(parts.network.calls)
        self._layer_of = parts.layer_of

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        index = self._along.next(func)
        if index in self._layer_of:
            x: Tensor = args[0]
            dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
            still = x.new_zeros(x.shape[1], dtype=dtype), x.new_ones(x.shape[1], dtype=dtype)
            result = _normalised(still, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if not asks(func, result):
            self.script.note(index, func, args, kwargs, result)
        if index == max(self._layer_of):
            raise _Reached
        return result


@dataclass(frozen=True)
class _Standing:
    """Where a part stands: noted calls that it has made, and those of their results that are still to be read."""

    step: int
    made: Mapping[int, Tensor]
    nbytes: int

    @staticmethod
    def at(step: int, made: Mapping[int, Tensor]) -> _Standing:
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in made.values()}
        return _Standing(step, made, sum(storages.values()))


class _PlainSweep(ByLayer):
    """One part on its way to one layer, for networks whose tape does not hold: BN layers are counted, nothing else."""

    def __init__(
        self, layers: Sequence[Layer], known: Mapping[str, tuple[Tensor, Tensor]], sums: MergedStatistics
    ) -> None:
        super().__init__(layers)
        self.known, self.sums = known, sums

    def normalise(self, layer: Layer, *args: Any, **kwargs: Any) -> Tensor:
        if layer.name in self.known:
            return _normalised(self.known[layer.name], *args, **kwargs)
        self.sums.add(args[0])
        raise _Reached


def _normalised(
    statistics: tuple[Tensor, Tensor], x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,  # noqa: FBT001, FBT002 - torch's own signature
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    return functional.batch_norm(x, *statistics, weight, bias, training=False, momentum=0.0, eps=eps)


class _InParts:
    """Draws of mini-batches of one network, `at_once` images in it at a time."""

    def __init__(self, network: BatchNormNetwork, at_once: int, keep_bytes: float, precision: Precision) -> None:
        self.network = network
        self.at_once = at_once
        self.keep_bytes = keep_bytes
        self.precision = precision
        self.listed = sorted((la for la in network.layers if la.call is not None), key=lambda layer: layer.call or 0)
        self.layer_of = {layer.call: layer for layer in self.listed if layer.call is not None and not layer.of_weights}
        self.followed = not any(call.leaves and call.reads_image for call in network.calls)
        self._scripts: dict[torch.Size, Script] = {}
        self._lent = Loan(network.module)
        self._device = network.device

    def draw(self, batch: Tensor) -> Statistics:  # M C H W
        known: dict[str, tuple[Tensor, Tensor]] = {}
        parts = torch.split(batch, self.at_once)
        standing: list[_Standing | None] = [None] * len(parts)
        for call, layer in self.layer_of.items():
            sums = MergedStatistics()
            if self.followed:
                self._sweep(call, parts, standing, known, sums)
            else:
                for part in parts:
                    self._pass(part, _PlainSweep(self.listed, known, sums))
            mean, var = sums.compute(torch.float64 if batch.dtype is torch.float64 else torch.float32)
            if not torch.isfinite(mean).all() or not torch.isfinite(var).all():
                raise PredictionFailed(
                    f"The statistics of BN layer {layer.name!r} are not finite: look at the network's weights and at "
                    "the statistics images, or record with --precision fp32."
                )
            known[layer.name] = (mean, var)
        kept = [layer.name for layer in self.network.stochastic]
        return {name: (known[name][0].float().cpu(), known[name][1].float().cpu()) for name in kept}

    def _sweep(
        self, call: int, parts: Sequence[Tensor], standing: list[_Standing | None],
        known: Mapping[str, tuple[Tensor, Tensor]], sums: MergedStatistics,
    ) -> None:  # fmt: skip
        """Every part on to the BN layer of call number `call`, whose input is added to `sums`."""
        held = sum(each.nbytes for each in standing if each is not None)

        def make(index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            layer = self.layer_of.get(index)
            return func(*args, **kwargs) if layer is None else _normalised(known[layer.name], *args, **kwargs)

        for number, part in enumerate(parts):
            script = self._script(part)
            was = standing[number]
            made = {0: self._images(part)} if was is None else dict(was.made)
            step = script.calls.index(call)
            with torch.no_grad(), self._lent.random(), half(self.precision, self._device):
                script.advance(make, made, 0 if was is None else was.step, step)
            args, kwargs = script.reads(step, made)
            met(self.layer_of[call], *args, **kwargs)
            sums.add(args[0])
            held -= 0 if was is None else was.nbytes
            left, after = was, _Standing.at(step, made)
            if held + after.nbytes <= self.keep_bytes:
                left = after
            elif was is not None and self._changed_from(script.calls[was.step]):
                left = None
            held += 0 if left is None else left.nbytes
            standing[number] = left

    def _changed_from(self, call: int) -> bool:
        """Whether that call or a later one writes into what earlier ones have left: it can be made but once."""
        return any(target < call for later in self.network.calls[call:] for target in later.writes)

    def _script(self, part: Tensor) -> Script:
        """The calls of a pass over such a part; from one pass over it."""
        script = self._scripts.get(part.shape)
        if script is None:
            images = self._images(part)
            noting = _Noting(self, images)
            try:
                with torch.no_grad(), self._lent(), half(self.precision, self._device), noting:
                    self.network.forward(images)
            except _Reached:
                script = self._scripts[part.shape] = noting.script
                script.finish(None)
                return script
            raise Diverged
        return script

    def _images(self, part: Tensor) -> Tensor:
        images = part.to(self._device)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.clone() if images.data_ptr() == part.data_ptr() else images  # a network may write into its image

    def _pass(self, part: Tensor, mode: TorchFunctionMode) -> None:
        try:
            with torch.no_grad(), self._lent(), half(self.precision, self._device), mode:
                self.network.forward(self._images(part))
        except _Reached:
            return
        raise ModelRefused(
            f"The mini-batch ({'x'.join(map(str, part.shape))}) did not reach every BN layer: the network takes "
            "another way at this size than at the one where its layers were listed."
        )

    def check(self, pair: Tensor) -> None:  # 2 C H W
        """Hold a draw of two images, one at a time, against a plain one; follow the network less closely if it fails.

        Errors: ModelRefused where images meet in the network elsewhere than in BN.
        """
        while problem := self.problem(pair):
            if not self.followed:
                raise ModelRefused(
                    "The mini-batch does not fit in memory at once, and this network gives other statistics when its "
                    "images go through one by one: they meet elsewhere than in BN. Give more --memory or a smaller "
                    f"--batch ({problem})."
                )
            log.info("Followed along its tape: %s", problem)
            log.warning("This network's calls cannot be followed part by part; every layer costs a pass of its own.")
            self.followed = False

    def problem(self, pair: Tensor) -> str:  # 2 C H W
        """Why a draw of two images, one at a time, is not that of a plain pass; "" where it is."""
        (plain,) = record(self.network, [pair])
        trial = _InParts(self.network, 1, float("inf") if self.keep_bytes else 0, "fp32")
        trial.followed = self.followed
        try:
            return "" if _close(trial.draw(pair), plain) else "other statistics than a plain pass"
        except (Diverged, OtherShapes, RuntimeError, ValueError, TypeError, KeyError, SegmentError) as error:
            return f"{type(error).__name__}: {error}"


def _close(found: Statistics, plain: Statistics) -> bool:
    for name, (mean, var) in plain.items():
        scale = float(torch.cat([mean, var.sqrt()]).norm()) + 1e-6
        if float((found[name][0] - mean).norm()) > CLOSE * scale:
            return False
        if float((found[name][1] - var).norm()) > CLOSE * (float(var.norm()) + 1e-12 + 1e-3 * scale**2):
            return False
    return True


def record_in_parts(
    network: BatchNormNetwork, batches: Iterable[Tensor], *, at_once: int, keep_bytes: float = 0,
    whole_fits: bool = False, precision: Precision = "fp32",
) -> Iterator[Statistics]:  # fmt: skip
    """The draws that `record` gives, with at most `at_once` images of a mini-batch (M C H W) in the network at a time.

    at_once: a count from 1 up; a mini-batch that is not larger takes its one pass
    keep_bytes: of results between sweeps, on the network's device; 0: every sweep starts at the images
    whole_fits: a mini-batch could go through at once, and does where the network cannot be followed part by part
    Errors: as `record`; ModelRefused where the images of a mini-batch meet elsewhere than in BN.
    Error: under 1e-4 relative to a pass over all M images (rounding; law 2's allowance for the network).
    """
    if at_once < 1:
        raise WrongUse(f"at_once = {at_once}, but it is a count of images from 1 up.")
    parts: _InParts | None = None
    for batch in batches:
        if len(batch) <= at_once:
            yield from record(network, [batch], precision=precision)
            continue
        if parts is None:
            parts = _InParts(network, at_once, keep_bytes, precision)
            if not whole_fits:
                parts.check(batch[:2])
            elif problem := "it acts on values" if not parts.followed else parts.problem(batch[:2]):
                log.info("Mini-batches go through whole: %s", problem)
                parts.followed = False
        if whole_fits and not parts.followed:
            yield from record(network, [batch], precision=precision)
            continue
        try:
            draw = parts.draw(batch)
        except (Diverged, OtherShapes):
            log.warning("The network made other calls for this mini-batch than before; every layer costs a pass.")
            parts.followed = False
            draw = parts.draw(batch)
        yield draw
