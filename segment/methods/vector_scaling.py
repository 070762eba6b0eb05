"""A factor and an offset for each channel of a method's logits, fitted on validation images.

Vector scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2). For several draws it changes each draw's logits, and
the NLL is that of the mean probability. Must not know a file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse
from segment.methods.temperature import NOT_ADDED, sampling_step, sampling_window
from segment.scores.functional.calibration import SMALLEST
from segment.uncertainty.heads import of_truth, probabilities, refuse_unusable
from segment.uncertainty.scaling import Calibration, VectorScaling

VALUES = 6_000_000
"""Logits that are kept of all images together, 24 MB: the pixels of an image are chosen so that they suffice."""
LEAST_IMAGES = 10
"""A channel whose class is labelled in fewer images shares the temperature and has no offset."""
LARGE = 1e6
"""In place of an infinite logit: far beyond any other, so that its probability stays 0 or 1."""
PENALTY = 1e-3
"""Weight, nats, of the squared deviations from one temperature: channels with much data hardly notice it."""


class VectorScalingFit:
    """Logits of some pixels of every image, and the scaling with the smallest penalised NLL over them.

    images: about how many will be added; head: what the logits mean; values: logits that are kept of all of them
    """

    def __init__(self, head: Head, images: int, *, values: int = VALUES) -> None:
        self.head, self.images, self.values = head, max(images, 1), values
        self._logits: list[Tensor] = []  # T C n each
        self._truth: list[Tensor] = []  # n; multi-label C n
        self._counted: list[Tensor] = []
        self._weights: NDArray[np.float64] = np.ones(1)
        self._labelled: NDArray[np.int64] | None = None

    def begin(self, label: NDArray[np.int64], known: NDArray[np.bool_]) -> bool:  # H W; multi-label C H W
        """Prepare for one image's passes; False where it has no known pixel."""
        self._image = label, known
        self._passes: list[tuple[float, Tensor]] = []
        return bool(known.any())

    def add(self, weight: float, logits: Tensor, draws: int) -> None:  # 1 C H W
        """One pass of that image. Errors: PredictionFailed where probabilities that are used are not finite.

        Other infinite logits become +-LARGE: the gradient of a factor would be 0 times infinity.
        """
        height, width = logits.shape[-2:]
        pixels = max(1, self.values // (self.images * draws * logits.shape[1]))
        step = sampling_step(height, width, pixels) if height > 1 else max(1, width // pixels)
        self._window = sampling_window(height, width, step)
        sampled = logits[0][self._window].float().cpu()
        refuse_unusable(sampled[None], self.head)
        self._passes.append((weight, torch.nan_to_num(sampled, posinf=LARGE, neginf=-LARGE)))

    def end(self) -> None:
        """Keep the pixels of that image."""
        label, known = self._image
        seen = known[self._window]
        truth = np.where(seen, label[self._window], 0)
        logits = torch.stack([logits for _, logits in self._passes]).flatten(2)
        self._weights = np.array([weight for weight, _ in self._passes])
        channels = logits.shape[1]
        if self._labelled is None:
            self._labelled = np.zeros(channels, dtype=np.int64)
        if self.head == "multilabel":
            truth, seen = truth.reshape(channels, -1), seen.reshape(channels, -1)
            self._labelled += np.array([len(np.unique(t[s])) == 2 for t, s in zip(truth, seen, strict=True)])
            self._logits.append(logits)
        else:
            truth, seen = truth.ravel(), seen.ravel()
            present = np.unique(truth[seen])
            self._labelled += np.isin(np.arange(channels), present) if self.head == "softmax" else len(present) == 2
            self._logits.append(logits[..., torch.from_numpy(seen)])
            truth, seen = truth[seen], seen[seen]
        self._truth.append(torch.from_numpy(truth.copy()))
        self._counted.append(torch.from_numpy(seen.copy()))

    @property
    def free(self) -> NDArray[np.bool_]:
        """The channels that have enough labelled images for a factor and an offset of their own."""
        return np.zeros(0, dtype=np.bool_) if self._labelled is None else self._labelled >= LEAST_IMAGES

    def best(self) -> Calibration:
        """The scaling; a plain temperature where no channel has enough labelled images.

        Errors: WrongUse where no image was added.
        """
        if not any(bool(counted.any()) for counted in self._counted):
            raise WrongUse(NOT_ADDED)
        logits = torch.cat(self._logits, dim=-1)
        truth, counted = torch.cat(self._truth, dim=-1), torch.cat(self._counted, dim=-1)
        weights = torch.from_numpy(self._weights / self._weights.sum()).float()
        free = torch.from_numpy(self.free).double()
        channels = logits.shape[1]

        def parts(x: Tensor) -> tuple[Tensor, Tensor]:  # 1 + 2 C -> C, C
            deviation, offset = x[1 : 1 + channels] * free, x[1 + channels :] * free
            return (x[0] + deviation).exp(), offset

        def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
            factors, offsets = parts(x)
            p = probabilities(logits * factors.float()[:, None] + offsets.float()[:, None], self.head)  # T K n
            mean = torch.einsum("t,t...->...", weights, of_truth(p, truth, self.head))
            nll = -mean.clamp(min=SMALLEST).log()[counted].mean(dtype=torch.float64)
            total = nll + PENALTY * x[1:].square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            assert x.grad is not None
            return float(total.detach()), x.grad.numpy()

        found = minimize(loss, np.zeros(1 + 2 * channels), jac=True, method="L-BFGS-B", options={"maxiter": 60})
        factors, offsets = parts(torch.from_numpy(found.x))
        if not self.free.any():
            return float(1 / factors[0])
        return VectorScaling(tuple(factors.tolist()), tuple(offsets.tolist()))


class PrefixScalings:
    """A vector scaling for each of several numbers of first passes, from one run of the largest.

    head, images: as of `VectorScalingFit`; prefixes: numbers of passes, from 1 up
    """

    def __init__(self, head: Head, images: int, prefixes: Sequence[int]) -> None:
        self.head = head
        self.fits = {draws: VectorScalingFit(head, images) for draws in prefixes}

    def begin(self, label: NDArray[np.int64], known: NDArray[np.bool_]) -> bool:  # H W; multi-label C H W
        """Prepare for one image's passes; False where it has no known pixel."""
        self._passes = 0
        return all(fit.begin(label, known) for fit in self.fits.values())

    def add(self, weight: float, logits: Tensor, draws: int) -> None:  # 1 C H W
        """One pass of that image. draws: how many there are; each scaling has the pixels of a run of its own."""
        self._passes += 1
        for prefix, fit in self.fits.items():
            if self._passes <= prefix:
                fit.add(weight, logits, prefix)

    def end(self) -> None:
        """Keep the pixels of that image."""
        for fit in self.fits.values():
            fit.end()

    def best(self, draws: int | None = None) -> Calibration:
        """The scaling of the first `draws` passes, one of the prefixes; None: of the most."""
        return self.fits[max(self.fits) if draws is None else draws].best()
