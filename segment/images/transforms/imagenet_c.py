"""ImageNet-C's corruptions with its names and severities, as transforms of a pipeline.

Source: Hendrycks & Dietterich 2019, arXiv:1903.12261, by the package corrupt-tta (the extra `corruptions`). Those that
move pixels away from their labels (elastic_transform) are left out. Must not know what a corruption is compared with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import imported

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks a server for its latest version
import albumentations as A

IMAGENET_C = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "saturate",
)
TRANSFORM = "ImageNetC"
"""The name of a corruption as an entry of a pipeline, with the arguments `corruption` and `severity`."""

_GLOBAL_RANDOM = threading.Lock()


class ImageNetC(A.ImageOnlyTransform):  # type: ignore[misc]
    """One corruption at one severity, seeded by the pipeline that it stands in."""

    def __init__(self, corruption: str, severity: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.corruption, self.severity = corruption, severity

    def get_params(self) -> dict[str, Any]:
        return {"seed": self.py_random.getrandbits(32)}

    def apply(self, img: NDArray[np.uint8], seed: int, **params: Any) -> NDArray[np.uint8]:  # H W 3 -> H W 3
        if img.shape[2:] != (3,):
            raise ValueError(f"ImageNet-C's {self.corruption} is defined on RGB")
        module = imported("corrupt_tta.corruptions", extra="corruptions", what="ImageNet-C's corruptions")
        with _GLOBAL_RANDOM, _seeded(module, seed):
            made = getattr(module, self.corruption)(img, self.severity)
        return np.asarray(made).clip(0, 255).astype(np.uint8)  # cut to whole levels, as ImageNet-C does


@contextmanager
def _seeded(module: Any, seed: int) -> Iterator[None]:
    """The package draws from NumPy's global generator, and for impulse_noise from a fresh one: both seeded, for now."""
    state, noise = np.random.get_state(), module.random_noise  # noqa: NPY002 - restored below
    np.random.seed(seed)  # noqa: NPY002
    module.random_noise = partial(noise, rng=seed)
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
        module.random_noise = noise
