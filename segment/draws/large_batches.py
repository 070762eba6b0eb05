"""The draw of a mini-batch with a few of its images in the network at a time: Teye et al. 2018, Algorithm 1.

The images go through part by part, each part from one BN layer to the next, by the calls that a first pass recorded. At
each layer the parts' counts, means and squared deviations are merged in float64, and only then do the parts go on. The
results of one image fit into a processor's caches where those of a whole mini-batch do not, so on a CPU this takes less
time than one pass over all images, and it needs no more memory.

Where the waiting results do not fit into `keep_bytes`, their parts start at the images again at every layer: a network
of L layers takes up to L sweeps, about L/2 passes over the mini-batch.

Only a network in which BN alone is known to mix the images of a batch goes part by part; others go through whole.
Must not know what an image file is, nor how draws are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Statistics
from segment.draws.recording import (
    Precision,
    biased_statistics,
    check_finite,
    expected_layer,
    in_precision,
    layers_in_order,
    record,
)
from segment.errors import ModelRefused, WrongUse
from segment.tracing.batch_independence import mixing_call
from segment.tracing.replay import NotReplayable, OtherShapes, Recording, reads_metadata
from segment.tracing.sources import CONSTANT, constants_of
from segment.tracing.trace import state_keeper
from segment.tracing.trace_cursor import Diverged, TraceCursor, refuse_scripted_values

log = logging.getLogger(__name__)


class _LastLayer(BaseException):
    """The last BN layer has been recorded; no Exception, for a network may catch those."""


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


class _RecordedPart(TorchFunctionMode):
    """Records the calls of a pass over one part, up to its last BN layer; its results are not used."""

    def __init__(self, network: BatchNormNetwork, layer_calls: frozenset[int], images: Tensor) -> None:
        super().__init__()
        self.recording = Recording(images)
        self._layer_calls = layer_calls
        self._cursor = TraceCursor(network.calls, images, constants_of(network.module))

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        index = self._cursor.next(func, args, kwargs)
        if index in self._layer_calls:
            call = BatchNormCall(*args, **kwargs)
            x = call.input
            dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
            neutral = x.new_zeros(x.shape[1], dtype=dtype), x.new_ones(x.shape[1], dtype=dtype)
            result = call.under(*neutral)
        else:
            result = func(*args, **kwargs)
        if not reads_metadata(func, result):
            self.recording.add(index, func, args, kwargs, result)
        self._cursor.record(index, result)
        if index == max(self._layer_calls):
            raise _LastLayer
        return result


@dataclass(frozen=True)
class _Progress:
    """The state of a part: recorded calls that it has made, and those of their results that later calls read."""

    step: int
    results: Mapping[int, Tensor]
    nbytes: int

    @staticmethod
    def at(step: int, results: Mapping[int, Tensor]) -> _Progress:
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in results.values()}
        return _Progress(step, results, sum(storages.values()))


class _InParts:
    """The draws of mini-batches, with `at_once` images in the network at a time."""

    def __init__(self, network: BatchNormNetwork, at_once: int, keep_bytes: float, precision: Precision) -> None:
        self.network = network
        self.at_once = at_once
        self.keep_bytes = keep_bytes
        self.precision = precision
        layers = layers_in_order(network)
        self.layer_of = {
            layer.call: layer for layer in layers if layer.call is not None and not layer.constant_in_training
        }
        self._recordings: dict[torch.Size, Recording] = {}
        self._state = state_keeper(network.module, network.trace)

    def draw(self, batch: Tensor) -> Statistics:  # M C H W
        """Errors: Diverged, OtherShapes, NotReplayable where the parts make other calls than the trace."""
        known: dict[str, tuple[Tensor, Tensor]] = {}
        parts = torch.split(batch, self.at_once)
        progress: list[_Progress | None] = [None] * len(parts)
        for call, layer in self.layer_of.items():
            sums = MergedStatistics()
            self._sweep(call, parts, progress, known, sums)
            mean, var = sums.compute(torch.float64 if batch.dtype is torch.float64 else torch.float32)
            check_finite(layer, mean, var)
            known[layer.name] = (mean, var)
        stochastic = [layer.name for layer in self.network.stochastic]
        return {name: (known[name][0].float().cpu(), known[name][1].float().cpu()) for name in stochastic}

    def _sweep(
        self,
        call: int,
        parts: Sequence[Tensor],
        progress: list[_Progress | None],
        known: Mapping[str, tuple[Tensor, Tensor]],
        sums: MergedStatistics,
    ) -> None:
        """Advance every part to the BN layer of call number `call`, whose input is added to `sums`."""
        held = sum(state.nbytes for state in progress if state is not None)

        def make(index: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            layer = self.layer_of.get(index)
            if layer is None:
                return func(*args, **kwargs)
            return BatchNormCall(*args, **kwargs).under(*known[layer.name])

        for number, part in enumerate(parts):
            recording = self._recording(part)
            before = progress[number]
            results = {0: self.network.writable(part)} if before is None else dict(before.results)
            step = recording.calls.index(call)
            random, precision = self._state.random_state(), in_precision(self.precision, self.network.device)
            with torch.inference_mode(mode=False), torch.no_grad(), random, precision:
                recording.advance(make, results, 0 if before is None else before.step, step)
            args, kwargs = recording.arguments_of(step, results)
            batch_norm = BatchNormCall(*args, **kwargs)
            expected_layer(self.layer_of[call], batch_norm)
            sums.add(batch_norm.input)
            held -= 0 if before is None else before.nbytes
            kept, after = before, _Progress.at(step, results)
            if held + after.nbytes <= self.keep_bytes:
                kept = after
            elif before is not None and self._overwritten_from(recording.calls[before.step]):
                kept = None
            held += 0 if kept is None else kept.nbytes
            progress[number] = kept

    def _overwritten_from(self, call: int) -> bool:
        """Whether that call or a later one writes into the result of an earlier one: it can be made only once."""
        return any(target < call for later in self.network.calls[call:] for target in later.writes)

    def _recording(self, part: Tensor) -> Recording:
        """The calls of a pass over a part of this shape, up to its last BN layer."""
        recording = self._recordings.get(part.shape)
        if recording is None:
            images = self.network.writable(part)
            mode = _RecordedPart(self.network, frozenset(self.layer_of), images)
            try:
                precision, watched = in_precision(self.precision, self.network.device), refuse_scripted_values()
                with torch.inference_mode(mode=False), torch.no_grad(), self._state(), precision, watched, mode:
                    self.network.forward(images)
            except _LastLayer:
                recording = self._recordings[part.shape] = mode.recording
                recording.finish(None)
                return recording
            raise Diverged("a BN layer was not reached")
        return recording


def why_whole(network: BatchNormNetwork, batch: Tensor) -> str:  # M C H W
    """Why the images of a mini-batch must go through the network together, "" where each may go alone."""
    pair = batch[:2]
    for call in network.calls:
        if call.gives_values and call.origin != "constant":
            return f"{call.name} gives values of the images to Python"
        if call.random:
            return f"{call.name} is random"
        if CONSTANT in call.writes:
            return f"{call.name} writes into a parameter or buffer"
        if call.autocast:
            return f"{call.name} runs under autocast"
        if call.inference:
            return f"{call.name} runs in the network's own inference mode, which hides what it writes into"
    parts = _parts_of(batch)
    takes_parts = not mixing_call(network.module, network.forward, network.placed(parts[:2]))
    for images in (pair, parts) if takes_parts else (pair,):
        if mixing := mixing_call(network.module, network.forward, network.placed(images)):
            return f"{mixing} may mix the images of a mini-batch"
    (whole,) = record(network, [pair])
    try:
        alone = _InParts(network, 1, float("inf"), "fp32").draw(pair)
    except (Diverged, OtherShapes, NotReplayable) as difference:
        return f"at this size it makes other calls than when its layers were listed ({difference})"
    return "" if _close(alone, whole) else "two images give other statistics one by one than together"


def _parts_of(batch: Tensor) -> Tensor:  # M C H W -> M C h w
    """Of all images a part, about as many pixels as two of them, or 128 a side: less is refused by many networks.

    All of them, for a network may do something else with more images.
    """
    share = (2 / len(batch)) ** 0.5
    sides = (max(128, 32 * round(side * share / 32)) for side in batch.shape[2:])
    return batch[(slice(None), slice(None), *map(slice, sides))]


CLOSE = 1e-3
"""Largest difference of statistics, relative to the scale of their layer, that counts as rounding."""


def _close(draw: Statistics, whole: Statistics) -> bool:
    for name, (mean, var) in whole.items():
        scale = float(mean.abs().max() + var.max().sqrt()) + 1e-6
        if float((draw[name][0] - mean).abs().max()) > CLOSE * scale:
            return False
        if float((draw[name][1] - var).abs().max()) > CLOSE * scale**2:
            return False
    return True


def record_in_parts(
    network: BatchNormNetwork,
    batches: Iterable[Tensor],
    *,
    at_once: int,
    keep_bytes: float = 0,
    whole_fits: bool = False,
    precision: Precision = "fp32",
    numbers: Iterable[int] | None = None,
    whole: str | None = None,
) -> Iterator[Statistics]:
    """The draws that `record` gives, with at most `at_once` images of a mini-batch (M C H W) in the network at a time.

    at_once: a count from 1 up; a mini-batch that is not larger takes its one pass
    keep_bytes: of results between sweeps, on the network's device; 0: every sweep starts at the images
    whole_fits: a mini-batch could go through at once, and does where its images must stay together
    numbers: of the draws; None: from 0 on. whole: what `why_whole` says of these images; None: it is asked
    Errors: as `record`; ModelRefused where the images must stay together and do not fit.
    Error: under 1e-4 relative to a pass over all M images (rounding; law 2's allowance for the network).
    """
    if at_once < 1:
        raise WrongUse(f"at_once = {at_once}, but it is a count of images from 1 up.")
    parts = _InParts(network, at_once, keep_bytes, precision)
    for number, batch in zip(count() if numbers is None else numbers, batches, strict=False):
        if whole is None:
            whole = why_whole(network, batch) if len(batch) > at_once else ""
            if whole:
                log.info("Mini-batches go through whole: %s.", whole)
        if len(batch) > at_once and not whole:
            try:
                yield parts.draw(batch)
                continue
            except (Diverged, OtherShapes, NotReplayable) as difference:
                whole = f"at this size it makes other calls than when its layers were listed ({difference})"
                log.info("Mini-batches go through whole: %s.", whole)
        if len(batch) > at_once and not whole_fits:
            raise ModelRefused(
                f"The mini-batch does not fit in memory at once, and its images cannot go through one by one: {whole}. "
                "Give more --memory, smaller images or a smaller --batch."
            )
        yield from record(network, [batch], precision=precision, first=number)
