"""Pixels of labelled images under the passes of a method: what a choice between settings is made from.

Must not know how the passes were made, nor a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Head
from segment.methods.method import Method
from segment.methods.temperature import sampling_step, sampling_window
from segment.methods.vector_scaling import VectorScalingFit
from segment.scores.functional import calibration as reliability
from segment.scores.functional import confusion
from segment.scores.functional.binning import BINS, Floats, bin_of
from segment.scores.functional.rejection import ause
from segment.uncertainty.heads import of_truth, probabilities, refuse_not_finite, refuse_unusable
from segment.uncertainty.scaling import Calibration, calibrated

GRID = 2.0 ** (np.arange(-12, 17) / 8)
"""Temperatures .35 to 4, eight an octave: the NLL between two of them differs by 1e-4 nats from that at the best."""
PIXELS = 2000
"""Pixels of an image, on a regular grid: neighbouring pixels say the same."""
SCALING_VALUES = 1_500_000
"""Logits that a vector scaling is fitted on, of all images together."""


@dataclass(frozen=True)
class ImageSample:
    """One image: mean NLL by prefix of the draws and temperature, and the logits where they were kept.

    nll: prefixes by temperatures, nats; pixels: how many count. logits: T C n; truth, known: n, multi-label C n
    weights: of the draws, T
    """

    nll: Floats
    pixels: int
    logits: Tensor | None
    truth: Tensor
    known: Tensor
    weights: tuple[float, ...] = ()

    def first(self, draws: int) -> tuple[Tensor, Tensor]:  # T C n, T
        """The logits of the first draws, and their weights, of sum 1."""
        assert self.logits is not None, "what a setting gives is made of logits that were kept"
        weights = torch.tensor(self.weights[:draws])
        return self.logits[:draws], weights / weights.sum()


@dataclass
class MethodSamples:
    """The images of one method.

    prefixes: numbers of draws, each a run of its own; failed: id -> why its passes give no sample
    """

    head: Head
    prefixes: tuple[int, ...]
    images: dict[str, ImageSample] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        identity: str,
        method: Method,
        image: Tensor,
        label: NDArray[np.int64],
        known: NDArray[np.bool_],
        *,
        keep: bool,
    ) -> bool:
        """One image's passes, up to the largest prefix; an image without a known pixel on the grid is no sample.

        Args:
            identity: Its id, which seeds random passes.
            method: Whose passes are made; those after the largest prefix are not.
            image: 1 C H W, normalised, not padded.
            label: H W class indices; multi-label K H W of 0 and 1.
            known: Which of them count.
            keep: Whether the logits are kept, for vector scaling and the scores of the table.

        Returns:
            Whether it is a sample.

        Raises:
            PredictionFailed: An output is not finite, or not at some temperature; the image is not added.

        """
        height, width = label.shape[-2:]
        window = sampling_window(height, width, sampling_step(height, width, PIXELS))
        truth = torch.from_numpy(np.where(known, label, 0)[window].copy()).flatten(-2)
        counted = torch.from_numpy(known[window].copy()).flatten(-2)
        if not bool(counted.any()):
            return False
        kept: list[Tensor] = []
        weights: list[float] = []
        sums = torch.zeros((len(GRID), *truth.shape))
        nll = np.zeros((len(self.prefixes), len(GRID)))
        total = 0.0
        for number, (weight, output) in enumerate(method.of(identity)(image), start=1):
            refuse_unusable(output, self.head)
            logits = output[window].float().cpu().flatten(-2)  # 1 C n
            kept += [logits[0]] if keep else []
            weights.append(weight)
            total += weight
            for at, temperature in enumerate(GRID):
                p = probabilities(logits / float(temperature), self.head)
                sums[at] += weight * of_truth(p, truth, self.head)[0]
            refuse_not_finite(sums)
            if number in self.prefixes:
                losses = -(sums / total).clamp(min=reliability.SMALLEST).log()
                nll[self.prefixes.index(number)] = losses[:, counted].double().mean(dim=-1).numpy()
            if number == max(self.prefixes):
                break
        stacked = torch.stack(kept) if kept else None
        self.images[identity] = ImageSample(nll, int(counted.sum()), stacked, truth, counted, tuple(weights))
        return True


def in_common(arms: Mapping[str, MethodSamples]) -> dict[str, MethodSamples]:
    """The samples of arms on the images that all of them have, so that their losses compare.

    Args:
        arms: Name to samples. One with fewer than half of the images of another is no candidate, and is left out:
            it would take the images of all others away.

    Returns:
        Name to samples of the same images, in the order given.

    """
    most = max((len(samples.images) for samples in arms.values()), default=0)
    able = {name: samples for name, samples in arms.items() if 2 * len(samples.images) >= most > 0}
    return {
        name: replace(
            samples,
            images={
                id: sample
                for id, sample in samples.images.items()
                if all(id in other.images for other in able.values())
            },
        )
        for name, samples in able.items()
    }


def fitted_temperature(samples: MethodSamples, prefix: int, ids: Iterable[str]) -> int:
    """The index in GRID of the temperature with the smallest NLL over the pixels of some images."""
    at = samples.prefixes.index(prefix)
    total = sum((samples.images[name].nll[at] * samples.images[name].pixels for name in ids), np.zeros(len(GRID)))
    return int(np.argmin(total))


def fitted_scaling(samples: MethodSamples, prefix: int, ids: Sequence[str]) -> Calibration:
    """The vector scaling of some images' pixels; a temperature where their labels do not allow more."""
    fit = VectorScalingFit(samples.head, len(ids), values=SCALING_VALUES)
    for name in ids:
        sample = samples.images[name]
        truth, known = (values.numpy()[..., None, :] for values in (sample.truth, sample.known))
        if fit.begin(truth, known):
            for logits, weight in zip(*sample.first(prefix), strict=True):
                fit.add(float(weight), logits[None, :, None, :], prefix)
            fit.end()
    return fit.best()


def mean_probability(sample: ImageSample, head: Head, prefix: int, calibration: Calibration) -> Tensor:  # -> K n
    """The weighted mean over the first draws of the calibrated probabilities."""
    logits, weights = sample.first(prefix)
    return torch.einsum("t,t...->...", weights, probabilities(calibrated(logits, calibration), head))


@dataclass
class Pooled:
    """NLL and mask counts (3 K, as `class_counts`) of each image, and those behind AUSE (by 1 - max p) and ECE."""

    nll: dict[str, float] = field(default_factory=dict)
    masks: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    ranking: NDArray[np.int64] = field(default_factory=lambda: np.zeros((BINS, 2), dtype=np.int64))
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros((reliability.RELIABILITY_BINS, 3), dtype=np.int64))

    def add(self, identity: str, p: Tensor, sample: ImageSample, head: Head) -> None:  # K n
        """One image's probabilities."""
        own = of_truth(p[None], sample.truth, head)[0][sample.known]
        self.nll[identity] = float(-own.clamp(min=reliability.SMALLEST).log().double().mean())
        if head == "multilabel":
            confidence, mask = torch.maximum(p, 1 - p)[sample.known], (p >= 0.5).long()[sample.known]
        else:
            confidence, mask = (values[sample.known] for values in p.max(dim=0))
        truth = sample.truth[sample.known]
        right = (mask == truth).numpy()
        sure = confidence.numpy().astype(np.float32)
        np.add.at(self.ranking, (bin_of((1 - sure).clip(min=0)), (~right).astype(np.int64)), 1)
        self.bins += reliability.reliability_counts(sure, right)
        if head == "multilabel":
            both = [((a == 1) & k, (b >= 0.5) & k) for a, b, k in zip(sample.truth, p, sample.known, strict=True)]
            counts = [[int((a & b).sum()), int(a.sum()), int(b.sum())] for a, b in both]
            self.masks[identity] = np.array(counts, dtype=np.int64).T
        else:
            table = confusion.confusion_matrix(truth.numpy(), mask.numpy(), len(p))
            self.masks[identity] = confusion.class_counts(table)

    @property
    def ause(self) -> float | None:
        value = float(ause(self.ranking[None])[0])
        return None if np.isnan(value) else value

    @property
    def ece(self) -> float | None:
        value = float(reliability.calibration_error(self.bins[None])[0])
        return None if np.isnan(value) else value
