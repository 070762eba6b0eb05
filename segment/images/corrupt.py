"""Corruptions at five severities, for scores under distribution shift: noise, blur, fog, brightness, JPEG.

Source: the families of Hendrycks & Dietterich 2019, arXiv:1903.12261; the transforms are albumentations', the strengths
our own.
Must not know what a corruption is compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse, near
from segment.images.augment import pipeline

SEVERITIES = (1, 2, 3, 4, 5)
_STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),  # standard deviation, of 0..1
    "blur": (1.0, 1.5, 2.0, 3.0, 4.0),  # Gaussian, pixels
    "fog": (0.15, 0.3, 0.45, 0.6, 0.75),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, of 0..1
    "jpeg": (40, 25, 15, 10, 6),  # quality
}
CORRUPTIONS = tuple(_STRENGTHS)


def corruption(name: str, severity: int) -> dict[str, Any]:
    """One corruption as an entry of a card's `training: {transforms: [...]}`, applied to every image.

    >>> corruption("jpeg", 5)
    {'name': 'ImageCompression', 'quality_range': [6, 6], 'p': 1.0}
    """
    if name not in _STRENGTHS:
        raise WrongUse(f"No corruption is called {name!r}.{near(name, CORRUPTIONS)} Known: {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise WrongUse(f"Severity {severity} of {name}: an integer from 1 to {len(SEVERITIES)}.")
    s = _STRENGTHS[name][severity - 1]
    transforms: dict[str, dict[str, Any]] = {
        "noise": {"name": "GaussNoise", "std_range": [s, s]},
        "blur": {"name": "GaussianBlur", "sigma_limit": [s, s], "blur_limit": 0},
        "fog": {"name": "RandomFog", "fog_coef_range": [s, s], "alpha_coef": 0.1},
        "brightness": {
            "name": "RandomBrightnessContrast",
            "brightness_limit": [s, s],
            "contrast_limit": [0.0, 0.0],
            "ensure_safe_range": False,
        },
        "jpeg": {"name": "ImageCompression", "quality_range": [int(s), int(s)]},
    }
    return transforms[name] | {"p": 1.0}


def corrupted(name: str, severity: int) -> Callable[[NDArray[Any], str], NDArray[np.uint8]]:
    """A function of an image (H W 3) and its id; the id is the seed, so that any order gives the same pixels."""
    transform = pipeline((corruption(name, severity),))

    def corrupt(image: NDArray[Any], identity: str) -> NDArray[np.uint8]:
        digest = hashlib.sha256(f"{name} {severity} {identity}".encode()).digest()
        return transform(image, int.from_bytes(digest[:4], "big") >> 1)

    return corrupt
