"""One temperature for a method's logits, fitted on validation images (Guo et al. 2017, arXiv:1706.04599).

For several draws it divides each draw's logits, and the NLL is that of the mean probability. Must not know a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse
from segment.methods.method import Method
from segment.scores.functional.calibration import SMALLEST
from segment.uncertainty.heads import of_truth, probabilities, refuse_not_finite, refuse_unusable
from segment.uncertainty.scaling import Calibration

GRID = 2.0 ** (np.arange(-8, 13) / 4)  # 1/4 to 8, four an octave
ENDS = float(GRID[0]), float(GRID[-1])
"""A temperature that is one of these was not found: the NLL falls still where the grid ends."""
PIXELS = 20_000
"""The most pixels of an image that are used, on a regular grid: enough to fit one number."""


def sampling_step(height: int, width: int, pixels: int) -> int:
    """The step over rows and columns, from 1 up, at which an image has about that many sampled pixels.

    >>> sampling_step(100, 200, 200), sampling_step(3, 3, 200)
    (10, 1)
    """
    return max(1, round((height * width / pixels) ** 0.5))


def sampling_window(height: int, width: int, step: int) -> tuple[Any, slice, slice]:
    """Each step-th row and column from the middle of the first step, or of a side that is shorter than it."""
    rows, columns = (slice(min(step, side) // 2, None, step) for side in (height, width))
    return ..., rows, columns


class Fit(Protocol):
    """What learns a calibration from the passes of labelled images: `begin`, `add` for each pass, `end`.

    head: what the logits mean
    begin: prepares for an image, and gives whether any pixel that is used has a known label
    add: takes a pass of it. Errors: PredictionFailed where its numbers are not finite; nothing of the image counts yet
    end: counts the image; best: what was learnt. Errors: WrongUse before any image
    """

    @property
    def head(self) -> Head: ...
    def begin(self, label: NDArray[np.int64], known: NDArray[np.bool_]) -> bool: ...
    def add(self, weight: float, logits: Tensor, draws: int) -> None: ...
    def end(self) -> None: ...
    def best(self) -> Calibration: ...


NOT_ADDED = "Nothing was fitted: no image with a known label was added."


def update(
    fits: Sequence[tuple[Method, Sequence[Fit]]], images: Tensor, label: NDArray[np.int64], known: NDArray[np.bool_]
) -> bool:
    """Add one image to all fits or, where it cannot be used by one of them, to none.

    Args:
        fits: Methods, each with the fits of its passes, which are made once.
        images: 1 C H W, normalised, not padded.
        label: H W class indices; multi-label K H W of 0 and 1.
        known: Which of them count, of the same shape.

    Returns:
        Whether it was added; not so where a fit uses none of its known pixels.

    Raises:
        PredictionFailed: An output is not finite, anywhere in the image: scores leave it out as well.

    """
    if not all(fit.begin(label, known) for _, of_method in fits for fit in of_method):
        return False
    for method, of_method in fits:
        for weight, logits in method(images):
            refuse_unusable(logits, of_method[0].head)
            for fit in of_method:
                fit.add(weight, logits, method.draws)
    for _, of_method in fits:
        for fit in of_method:
            fit.end()
    return True


class TemperatureFit:
    """The NLL at every temperature of a grid, streamed over images; the best lies between its points.

    head: what the logits mean
    prefixes: numbers of passes, from 1 up; the first passes of each image, that many, have a temperature of their own
    nll: nats summed over pixels, a row for each prefix and a last one for all passes, by the temperatures of the grid
    """

    def __init__(self, head: Head, prefixes: Sequence[int] = ()) -> None:
        self.head, self.prefixes = head, tuple(prefixes)
        self.nll = np.zeros((len(self.prefixes) + 1, len(GRID)))
        self.pixels = 0

    def begin(self, label: NDArray[np.int64], known: NDArray[np.bool_]) -> bool:  # H W; multi-label K H W
        """Prepare for one image's passes; False where none of its pixels counts."""
        self._step = step = sampling_step(label.shape[-2], label.shape[-1], PIXELS)
        self._truth = torch.from_numpy(np.where(known, label, 0)[..., ::step, ::step].copy())
        self._counted = torch.from_numpy(known[..., ::step, ::step].copy())
        self._sums = torch.zeros((len(GRID), *self._truth.shape), dtype=torch.float64)
        self._passes, self._weight = 0, 0.0
        self._own = np.zeros_like(self.nll)  # of this image, which counts at its end or not at all
        return bool(self._counted.any())

    def add(self, weight: float, logits: Tensor, draws: int) -> None:  # 1 K H W
        """One pass of that image. Errors: PredictionFailed where it is not finite at some temperature."""
        sampled = logits[..., :: self._step, :: self._step].float().cpu()
        for at, temperature in enumerate(GRID):
            p = probabilities(sampled / float(temperature), self.head)
            self._sums[at] += weight * of_truth(p, self._truth, self.head)[0]
        refuse_not_finite(self._sums)
        self._passes, self._weight = self._passes + 1, self._weight + weight
        if self._passes in self.prefixes:
            self._own[self.prefixes.index(self._passes)] = self._losses()

    def end(self) -> None:
        """Count that image."""
        assert self._passes >= max(self.prefixes, default=0), "a prefix is not longer than the run"
        self._own[-1] = self._losses()
        self.nll += self._own
        self.pixels += int(self._counted.sum())

    def _losses(self) -> NDArray[np.float64]:
        """The NLL of that image under its passes so far, weights renormalised, by the temperatures of the grid."""
        losses = -(self._sums / self._weight).clamp(min=SMALLEST).log()
        summed: NDArray[np.float64] = losses[:, self._counted].sum(dim=-1).numpy()
        return summed

    def best(self, draws: int | None = None) -> float:
        """The temperature of the smallest NLL: the vertex of the parabola in log T through the three lowest points.

        draws: of the first `draws` passes, one of the prefixes; None: of all
        An end of the grid where the NLL still falls there. Errors: WrongUse where no image was added.
        """
        if self.pixels == 0:
            raise WrongUse(NOT_ADDED)
        nll = self.nll[-1 if draws is None else self.prefixes.index(draws)]
        at = int(nll.argmin())
        if at in (0, len(GRID) - 1):
            return float(GRID[at])
        low, middle, high = nll[at - 1 : at + 2]
        bend = low - 2 * middle + high
        shift = 0.5 * (low - high) / bend if bend > 0 else 0.0
        return float(GRID[at] * (GRID[1] / GRID[0]) ** shift)
