"""Images under methods to Estimates: prediction, mean probability and maps.

Each output is added to the moments and dropped, so memory does not grow with T. Several read-outs share the passes of
one method: a sweep over T costs one run at the largest T, and a temperature costs a softmax. Must not know a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from segment.axes import Head, Plane
from segment.errors import FastPathDiffers, WrongUse, count_of
from segment.estimation.estimate_display import EstimateDisplay
from segment.estimation.tiling.blending import BlendingError, Overlaps
from segment.estimation.view import PictureContext
from segment.methods.method import Method
from segment.networks.devices import synchronise
from segment.uncertainty.class_indices import mask_type
from segment.uncertainty.class_sums import class_sums
from segment.uncertainty.heads import probabilities, refuse_not_finite
from segment.uncertainty.measures import MEASURES, needed, prediction
from segment.uncertainty.moments import DrawMoments
from segment.uncertainty.scaling import Calibration, calibrated
from segment.uncertainty.stopping import StoppingRule

A = TypeVar("A")
"""The type of arrays: a tensor, or a plane (a NumPy array, or one in a file)."""
R = TypeVar("R")


@dataclass(frozen=True, repr=False, eq=False)
class Estimate(EstimateDisplay, Generic[A]):
    """The result of T draws for N images; measures are also attributes: `estimate.variance`.

    prediction: (N H W) class indices; multi-label: (N K H W) of 0 and 1
    mean: (N K H W) mean probability over draws, float32; None where it was not asked for; also called `probability`
    maps: measure -> (N H W); withheld: measure -> why it has no map; draws: T
    reached_error: the standard error that stopped the draws (`segment.uncertainty.stopping`), None where all were used
    class_sums: (N S 3 K) of the mean probability, as `class_sums` gives them; None where they were not asked for
    seconds: of its passes, moments and maps; shared passes count in full for each read-out
    blending: how far blended tiles are from exact ones
    view: its image, class names and colours, for pictures; None: pictures have numbered classes and no image
    For one image the axis N is absent everywhere.
    """

    prediction: A
    mean: A | None
    maps: Mapping[str, A]
    draws: int
    withheld: Mapping[str, str] = field(default_factory=dict)
    reached_error: float | None = None
    class_sums: Tensor | None = None
    seconds: float = 0.0
    blending: BlendingError | None = None
    view: PictureContext | None = field(default=None, repr=False, compare=False)

    @property
    def probability(self) -> A:
        if self.mean is None:
            raise AttributeError  # Python then calls `__getattr__`
        return self.mean

    def __getattr__(self, name: str) -> A:
        if name in self.__dataclass_fields__:  # of an estimate that copy or pickle has begun to make
            raise AttributeError(name)
        if not name.startswith("_") and name in self.maps:
            return self.maps[name]
        if name == "probability":
            raise AttributeError("The mean probability was not asked for.")
        why = self.withheld.get(name) if not name.startswith("_") else None
        raise AttributeError(
            why or f"An estimate has no {name!r}; it has prediction, probability, {', '.join(self.maps)}."
        )

    def each(self, change: Callable[[A], Any]) -> Estimate[Any]:
        """The estimate with a function applied to its prediction, probability and maps."""
        mean = None if self.mean is None else change(self.mean)
        maps = {name: change(values) for name, values in self.maps.items()}
        return replace(self, prediction=change(self.prediction), mean=mean, maps=maps)

    def image(self, index: int) -> Estimate[A]:
        """One of the N images; an estimate of one image, without the axis N, is its own. Errors: WrongUse beyond N."""
        if index not in range(-self.images, self.images):
            raise WrongUse(f"There is no image {index} in an estimate of {count_of(self.images, 'image')}.")
        if self.single:
            return self
        chosen = self.each(lambda values: values[index])  # type: ignore[index]
        chosen = chosen if self.class_sums is None else replace(chosen, class_sums=self.class_sums[index])
        return chosen if self.view is None else replace(chosen, view=self.view.image(index))

    def arrays(self, classes: int | None = None) -> Estimate[Plane]:
        """The estimate as NumPy arrays on the CPU; arrays in files stay there.

        classes: K, so that the prediction has the type of their mask, `mask_type`; None: int64
        """
        made = self.each(lambda values: values.cpu().numpy() if isinstance(values, Tensor) else values)
        if classes is not None and isinstance(made.prediction, np.ndarray):
            made = replace(made, prediction=made.prediction.astype(mask_type(classes)))
        return made


def stacked(single: Sequence[Estimate[Tensor]]) -> Estimate[Tensor]:
    """Estimates of one image each as an estimate of N images."""
    first = single[0]
    mean = None if first.mean is None else torch.stack([image.probability for image in single])
    maps = {name: torch.stack([image.maps[name] for image in single]) for name in first.maps}
    prediction = torch.stack([image.prediction for image in single])
    seconds = sum(image.seconds for image in single)
    return replace(first, prediction=prediction, mean=mean, maps=maps, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class ReadOut:
    """An estimate that is asked of a method's passes.

    method: read-outs of the same object share its passes
    draws: how many of the first are used, weights renormalised; None: all
    temperature: divides the logits, or a scaling of each
    measures: the maps; probability: whether the mean probability is part of the estimate
    sums: whether its sums over the pixels of each class are
    """

    method: Method
    measures: tuple[str, ...]
    draws: int | None = None
    temperature: Calibration = 1.0
    probability: bool = True
    sums: bool = False

    @property
    def passes(self) -> int:
        return self.draws or self.method.draws


class MomentsAtTemperature:
    """The moments of a method's probabilities at one temperature, and their seconds.

    p: the probabilities (N K H W) of the last pass; passes: how many were added; overlaps: of blended tiles
    """

    def __init__(self, head: Head, keep: Iterable[str], temperature: Calibration = 1.0) -> None:
        self.moments, self.temperature, self.seconds = DrawMoments(head, keep), temperature, 0.0
        self.p, self.passes = torch.empty(0), 0
        self.overlaps: Overlaps | None = None

    def add(self, logits: Tensor, weight: float, *, timed: bool) -> None:
        start = _now(logits) if timed else 0.0
        self.p = probabilities(calibrated(logits, self.temperature), self.moments.head)
        if self.overlaps is not None:
            self.p = self.overlaps.finished(self.p, self.passes)
        self.passes += 1
        self.moments.update(self.p, weight)
        self.seconds += _now(logits) - start if timed else 0.0


def moments_by_temperature(read_outs: Iterable[ReadOut], head: Head) -> list[MomentsAtTemperature]:
    """One for each temperature, with every moment that the measures need."""
    kept: dict[Calibration, frozenset[str]] = {}
    for read_out in read_outs:
        kept[read_out.temperature] = kept.get(read_out.temperature, frozenset()) | needed(read_out.measures)
    return [MomentsAtTemperature(head, keep, temperature) for temperature, keep in kept.items()]


def accumulate(method: Method, images: Tensor, sums: Sequence[MomentsAtTemperature]) -> Iterator[float]:
    """Add every pass over images (N C H W) to the sums, fewer perhaps from pass to pass; yields its weight. Lazy."""
    for weight, logits in method(images):
        for at_temperature in sums:
            at_temperature.add(logits, weight, timed=len(sums) > 1)
        yield weight


def moments_of(method: Method, images: Tensor, *, head: Head, keep: Iterable[str]) -> DrawMoments:
    """Every pass of a method over images (N C H W), as moments of its probabilities (N K H W), float32 or better.

    images: normalised, not padded. keep: what is summed beside p: those of `DrawMoments` that the measures need
    Errors: PredictionFailed where an output is not finite.
    """
    sums = MomentsAtTemperature(head, keep)
    for _ in accumulate(method, images, (sums,)):
        pass
    refuse_not_finite(sums.moments.mean)
    return sums.moments


def estimates(
    read_outs: Mapping[str, ReadOut],
    images: Tensor,
    head: Head,
    *,
    identity: str = "",
    stop: StoppingRule | None = None,
    overlaps: Callable[[int, Calibration], Overlaps] | None = None,
) -> dict[str, Estimate[Tensor]]:
    """Every read-out of images (N C H W, normalised, not padded), each method's passes made once.

    identity: the image's id, which seeds random passes; stop: ends the draws of the one method early
    overlaps: those of a method's id and a temperature, of a blended tile: only what no later tile overlaps is estimated
    Errors: PredictionFailed where an output is not finite; FastPathDiffers.
    """
    methods = {id(read_out.method): read_out.method for read_out in read_outs.values()}
    results: dict[str, Estimate[Tensor]] = {}
    for key, method in methods.items():
        of_method = {name: read_out for name, read_out in read_outs.items() if id(read_out.method) == key}
        sums = moments_by_temperature(of_method.values(), head)
        for each in sums:
            each.overlaps = None if overlaps is None else overlaps(key, each.temperature)
        results |= _estimates_of(method.of(identity), of_method, images, sums, stop)
    return {name: results[name] for name in read_outs}


def _estimates_of(
    method: Method,
    read_outs: Mapping[str, ReadOut],
    images: Tensor,
    sums: Sequence[MomentsAtTemperature],
    stop: StoppingRule | None,
) -> dict[str, Estimate[Tensor]]:
    by_temperature = {each.temperature: each for each in sums}
    last = max(read_out.passes for read_out in read_outs.values())
    results: dict[str, Estimate[Tensor]] = {}
    reading, begun = 0.0, time.perf_counter()
    adding = list(sums)
    for number, weight in enumerate(accumulate(method, images, adding), start=1):
        ended = (stop is not None and stop(sums[0].p, weight)) or number == last
        for name, read_out in read_outs.items():
            if name in results or not (ended or read_out.passes == number):
                continue
            own = by_temperature[read_out.temperature]
            start = _now(own.p)
            estimated = _estimate(own.moments, read_out, method, None if stop is None else stop.error)
            end = _now(estimated.prediction)
            others = sum(each.seconds for each in sums if each is not own)
            results[name] = replace(estimated, seconds=end - begun - others - reading)
            reading += end - start
        if ended:
            break
        unread = {read_out.temperature for name, read_out in read_outs.items() if name not in results}
        adding[:] = [each for each in adding if each.temperature in unread]
    return results


def _estimate(moments: DrawMoments, read_out: ReadOut, method: Method, error: float | None) -> Estimate[Tensor]:
    """The estimate from the moments, copied from them because more draws may follow."""
    refuse_not_finite(moments.mean)
    measures, withheld = list(read_out.measures), {}
    if "standard_error" in measures and not (method.random and moments.effective_draws > 1):
        why = "one draw has no spread" if moments.draws == 1 else method.note or "its draws are no random sample"
        withheld["standard_error"] = f"No Monte Carlo standard error: {why}."
        measures.remove("standard_error")
    # only rounding can give p above 1 or a map below 0
    maps = {name: MEASURES[name].of(moments).clamp(min=0) for name in measures}
    mean = moments.mean.clamp(0, 1) if read_out.probability else None
    predicted = prediction(moments.mean, moments.head)
    sums = class_sums(moments.mean, predicted, moments.head) if read_out.sums else None
    return Estimate(predicted, mean, maps, moments.draws, withheld, error, sums)


def estimate(
    method: Method,
    images: Tensor,
    *,
    head: Head,
    measures: Iterable[str] = tuple(MEASURES),
    temperature: Calibration = 1.0,
) -> Estimate[Tensor]:
    """Prediction, mean probability and the named maps of images (N C H W, normalised, not padded) under a method."""
    read_out = ReadOut(method=method, measures=tuple(measures), temperature=temperature)
    return from_the_first_draw((method,), lambda: estimates({"": read_out}, images, head)[""])


def from_the_first_draw(
    methods: Sequence[Method], work: Callable[[], R], differed: Callable[[FastPathDiffers], None] = lambda _: None
) -> R:
    """The result of `work`, started again where a fast path of the methods differs, which can happen once a pass."""
    for _ in range(sum(method.draws for method in methods)):
        try:
            return work()
        except FastPathDiffers as error:
            differed(error)
    return work()


def _now(tensor: Tensor) -> float:
    synchronise(tensor.device)
    return time.perf_counter()
