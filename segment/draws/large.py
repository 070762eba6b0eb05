"""The draw of one large mini-batch, with a few of its images in the network at a time: Teye et al. 2018, Algorithm 1.

Batch statistics are merged exactly, one level of BN layers after the other: the images go through part by part, the
layers before the level normalised by the statistics of the whole mini-batch, and the level's count, mean and squared
deviations are merged. BN layers that do not feed each other are of one level (a shortcut's and its block's first, the
branches of a pyramid); layers in a row are not, so a network whose longest row has L of them takes L sweeps.

The price in time: a sweep stops at its level, so L sweeps are about L/2 passes over the mini-batch where nothing is
kept between them. With `keep_bytes` each part goes on from where it stood, from the results that are still to be read,
and about one pass remains where those of all parts fit; parts whose results do not fit start from further back.

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
from segment.networks.batchnorm import BatchNormNetwork, Layer
from segment.networks.tracing import Loan, hollow, shared_results, tensors_in

log = logging.getLogger(__name__)

CLOSE = 0.02
"""Largest relative difference to a plain pass over two images, above which a network is not followed."""


class _Reached(BaseException):
    """All that this sweep settles has been met; no Exception, for a network may catch those."""


class _Lost(Exception):
    """The network made other calls than on its tape, or one that needs values where only a shape is known."""


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


@dataclass(frozen=True)
class _Standing:
    """Where a part stands between sweeps.

    again[i]: call i is still to be made, or to be made again
    results: of all other calls; those that no call to be made will read are hollow
    """

    again: tuple[bool, ...]
    results: Mapping[int, Any]

    @property
    def nbytes(self) -> int:
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_in(self.results)}
        return sum(storages.values())


class _Level:
    """The next layers to settle, on the tape.

    waits[i]: the result of call i needs statistics that are not known yet, those of the level among them
    last: the call at which every layer of the level has been met
    """

    def __init__(self, network: BatchNormNetwork, known: Mapping[str, Any], layer_of: Mapping[int, Layer]) -> None:
        waits: list[bool] = []
        layers = set()
        for index, call in enumerate(network.calls):
            waiting = any(parent >= 0 and waits[parent] for parent in call.parents)
            layer = layer_of.get(index)
            if layer is not None and layer.name not in known:
                if not waiting:
                    layers.add(layer.name)
                    self.last = index
                waiting = True
            waits.append(waiting)
        self.calls = network.calls
        self.layers = frozenset(layers)
        self.waits = tuple(waits)
        self._after: dict[tuple[bool, ...] | None, tuple[tuple[bool, ...], tuple[bool, ...], bool]] = {}

    def after(self, before: _Standing | None) -> tuple[tuple[bool, ...], tuple[bool, ...], bool]:
        """What is to be made again once this level is settled, which results that needs, and whether they may be kept.

        What lies behind `last` was not met in this sweep: it is there only if an earlier sweep has left it.
        """
        was = None if before is None else before.again
        if was not in self._after:
            again = tuple(
                waiting or (index > self.last and (was is None or was[index]))
                for index, waiting in enumerate(self.waits)
            )
            self._after[was] = (again, *shared_results(self.calls, again))
        return self._after[was]


class _Sweep(TorchFunctionMode):
    """One part of the images on its way to the layers of a level; what waits for them is followed by shape alone."""

    def __init__(
        self, parts: _InParts, level: _Level, known: Mapping[str, tuple[Tensor, Tensor]],
        sums: Mapping[str, MergedStatistics], standing: _Standing | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.calls = parts.network.calls
        self.layer_of = parts.layer_of
        self.level, self.known, self.sums, self.standing = level, known, sums, standing
        self.again, self.kept, self.safe = level.after(standing)
        self.results: dict[int, Any] = {}
        self.at = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        index = self.at
        self.at += 1
        if index >= len(self.calls) or self.calls[index].function != func:
            raise _Lost
        layer = self.layer_of.get(index)
        if self.level.waits[index]:
            return self._waiting(index, layer, func, args, kwargs)
        if self.standing is not None and not self.standing.again[index]:
            result = self.standing.results[index]
        elif layer is not None:
            met(layer, *args, **kwargs)
            result = _normalised(self.known[layer.name], *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        self._leave(index, result)
        return result

    def _leave(self, index: int, result: Any) -> None:
        if self.safe:
            self.results[index] = result if self.kept[index] else hollow(result)

    def left_behind(self) -> _Standing | None:
        """Where the part stands now; None where its results cannot be used again."""
        if not self.safe:
            return None
        if self.standing is not None:
            for index in range(self.at, len(self.calls)):
                if not self.again[index]:
                    self._leave(index, self.standing.results[index])
        return _Standing(self.again, self.results)

    def _waiting(self, index: int, layer: Layer | None, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if layer is not None:
            x: Tensor = args[0]
            met(layer, *_as_shapes(args[:1]), *args[1:], **kwargs)
            if layer.name in self.level.layers:
                self.sums[layer.name].add(x)
                if index == self.level.last:
                    raise _Reached
            return torch.empty_like(x, device="meta")
        try:
            return func(*_as_shapes(args), **_as_shapes(kwargs))
        except Exception as problem:
            raise _Lost from problem


class _PlainSweep(ByLayer):
    """One part on its way to one layer, for networks whose tape does not hold: BN layers are counted, nothing else."""

    def __init__(
        self, layers: Sequence[Layer], known: Mapping[str, tuple[Tensor, Tensor]], sums: Mapping[str, MergedStatistics]
    ) -> None:
        super().__init__(layers)
        self.known, self.sums = known, sums

    def normalise(self, layer: Layer, *args: Any, **kwargs: Any) -> Tensor:
        if layer.name in self.known:
            return _normalised(self.known[layer.name], *args, **kwargs)
        self.sums[layer.name].add(args[0])
        raise _Reached


def _as_shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    if type(value) in (list, tuple):
        return type(value)(_as_shapes(item) for item in value)
    return {key: _as_shapes(item) for key, item in value.items()} if isinstance(value, dict) else value


def load_shapes() -> None:
    """Let torch load what it follows shapes with, so that it is counted before a plan is made (some 150 MiB)."""
    functional.interpolate(torch.empty(1, 1, 1, 1, device="meta"), scale_factor=2, mode="bilinear")


def _normalised(
    statistics: tuple[Tensor, Tensor], x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,  # noqa: FBT001, FBT002 - torch's own signature
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    return functional.batch_norm(x, *statistics, weight, bias, training=False, momentum=0.0, eps=eps)


class _InParts:
    """Draws of large mini-batches of one network, `at_once` images in it at a time."""

    def __init__(self, network: BatchNormNetwork, at_once: int, keep_bytes: float, precision: Precision) -> None:
        self.network = network
        self.at_once = at_once
        self.keep_bytes = keep_bytes
        self.precision = precision
        self.listed = sorted((la for la in network.layers if la.call is not None), key=lambda layer: layer.call or 0)
        self.layer_of = {layer.call: layer for layer in self.listed if layer.call is not None and not layer.of_weights}
        self.followed = not any(call.leaves and call.reads_image for call in network.calls)
        self._lent = Loan(network.module)

    def draw(self, batch: Tensor) -> Statistics:  # M C H W
        known: dict[str, tuple[Tensor, Tensor]] = {}
        parts = torch.split(batch, self.at_once)
        standing: list[_Standing | None] = [None] * len(parts)
        while len(known) < len(self.layer_of):
            self._sweep(parts, known, standing)
        kept = [layer.name for layer in self.network.stochastic]
        return {name: (known[name][0].float().cpu(), known[name][1].float().cpu()) for name in kept}

    def _sweep(
        self, parts: Sequence[Tensor], known: dict[str, tuple[Tensor, Tensor]], standing: list[_Standing | None]
    ) -> None:
        """Settle the next level: its statistics are added to `known`."""
        level = _Level(self.network, known, self.layer_of)
        names = level.layers
        if not self.followed:
            names = frozenset([next(layer.name for layer in self.layer_of.values() if layer.name not in known)])
        sums = {name: MergedStatistics() for name in names}
        held = sum(each.nbytes for each in standing if each is not None)
        for number, part in enumerate(parts):
            before = standing[number]
            mode = _Sweep(self, level, known, sums, before) if self.followed else _PlainSweep(self.listed, known, sums)
            self._pass(part, mode)
            after = mode.left_behind() if isinstance(mode, _Sweep) and self.keep_bytes else None
            if after is None:
                continue
            more = after.nbytes - (0 if before is None else before.nbytes)
            if held + more <= self.keep_bytes:
                standing[number] = after
                held += more
        for name, merged in sums.items():
            mean, var = merged.compute(torch.float64 if parts[0].dtype is torch.float64 else torch.float32)
            if not torch.isfinite(mean).all() or not torch.isfinite(var).all():
                raise PredictionFailed(
                    f"The statistics of BN layer {name!r} are not finite: look at the network's weights and at the "
                    "statistics images, or record with --precision fp32."
                )
            known[name] = (mean, var)

    def _pass(self, part: Tensor, mode: TorchFunctionMode) -> None:
        images = part.to(self.network.device)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        if images.data_ptr() == part.data_ptr():
            images = images.clone()  # a network may write into its image
        try:
            with torch.no_grad(), self._lent(), half(self.precision, self.network.device), mode:
                self.network.forward(images)
        except _Reached:
            return
        if isinstance(mode, _Sweep):
            raise _Lost
        raise ModelRefused(
            f"The mini-batch ({'x'.join(map(str, part.shape))}) did not reach every BN layer: the network takes "
            "another way at this size than at the one where its layers were listed."
        )

    def check(self, pair: Tensor) -> None:  # 2 C H W
        """Hold a draw of two images, one at a time, against a plain one; follow the network less closely if it fails.

        Errors: ModelRefused where images meet in the network elsewhere than in BN.
        """
        (plain,) = record(self.network, [pair])
        trial = _InParts(self.network, 1, float("inf") if self.keep_bytes else 0, "fp32")
        while True:
            trial.followed = self.followed
            try:
                if _close(trial.draw(pair), plain):
                    return
                problem: Exception | str = "other statistics than a plain pass"
            except (_Lost, RuntimeError, ValueError, TypeError, KeyError, SegmentError) as error:
                problem = error
            if not self.followed:
                raise ModelRefused(
                    "The mini-batch does not fit in memory at once, and this network gives other statistics when its "
                    "images go through one by one: they meet elsewhere than in BN. Give more --memory or a smaller "
                    f"--batch ({problem})."
                )
            log.info("Followed along its tape: %s", problem)
            log.warning("This network's calls cannot be followed part by part; every layer costs a pass of its own.")
            self.followed = False


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
    precision: Precision = "fp32",
) -> Iterator[Statistics]:  # fmt: skip
    """The draws that `record` gives, with at most `at_once` images of a mini-batch (M C H W) in the network at a time.

    at_once: a count from 1 up; a mini-batch that is not larger takes its one pass
    keep_bytes: of results between sweeps, on the network's device; 0: every sweep starts at the images
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
            parts.check(batch[:2])
        try:
            draw = parts.draw(batch)
        except _Lost:
            log.warning("The network made other calls for this mini-batch than before; every layer costs a pass.")
            parts.followed = False
            draw = parts.draw(batch)
        yield draw
