"""Corruptions at five severities, for scores under distribution shift: ImageNet-C's, and three of our own.

ImageNet-C's (`imagenet_c` beside this module) have its names and severities, so that numbers compare with published
ones.
`noise`, `blur` and `jpeg` need no further package: the transforms are albumentations', the strengths our own.
Must not know what a corruption is compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse, near
from segment.images.transforms.augment import pipeline
from segment.images.transforms.imagenet_c import IMAGENET_C, TRANSFORM

SEVERITIES = (1, 2, 3, 4, 5)
_STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),  # standard deviation, of 0..1
    "blur": (1.0, 1.5, 2.0, 3.0, 4.0),  # Gaussian, pixels
    "jpeg": (40, 25, 15, 10, 6),  # quality
}
CORRUPTIONS = (*_STRENGTHS, *IMAGENET_C)


def corruption(name: str, severity: int) -> dict[str, Any]:
    """One corruption as an entry of a card's `training: {transforms: [...]}`, applied to every image.

    >>> corruption("jpeg", 5)
    {'name': 'ImageCompression', 'quality_range': [6, 6], 'p': 1.0}
    """
    if name == "elastic_transform":
        raise WrongUse("elastic_transform moves pixels away from their labels, so that no score would be right.")
    if name not in CORRUPTIONS:
        raise WrongUse(f"No corruption is called {name!r}.{near(name, CORRUPTIONS)} Known: {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise WrongUse(f"Severity {severity} of {name}: an integer from 1 to {len(SEVERITIES)}.")
    if name in IMAGENET_C:
        return {"name": TRANSFORM, "corruption": name, "severity": severity, "p": 1.0}
    s = _STRENGTHS[name][severity - 1]
    transforms: dict[str, dict[str, Any]] = {
        "noise": {"name": "GaussNoise", "std_range": [s, s]},
        "blur": {"name": "GaussianBlur", "sigma_limit": [s, s], "blur_limit": 0},
        "jpeg": {"name": "ImageCompression", "quality_range": [int(s), int(s)]},
    }
    return transforms[name] | {"p": 1.0}


def corrupted(name: str, severity: int) -> Callable[[NDArray[Any], str], NDArray[np.uint8]]:
    """A function of an image (H W C) and its id; the id is the seed, so that any order gives the same pixels.

    It raises WrongUse for values outside 0..255: these would be cut off, and the scores would be those of the cut.
    """
    transform = pipeline((corruption(name, severity),))

    def corrupt(image: NDArray[Any], identity: str) -> NDArray[np.uint8]:
        low, high = image.min(), image.max()
        if not (low >= 0 and high <= 255):
            raise WrongUse(
                f"Image {identity!r} cannot be corrupted by {name}: corruptions are defined on 8-bit pixels, and these "
                f"are {low:g} to {high:g}. Leave the corruption out, or give values in 0..255: by the card's `white`, "
                "or a window of the units."
            )
        digest = hashlib.sha256(f"{name} {severity} {identity}".encode()).digest()
        try:
            return transform(image, int.from_bytes(digest[:4], "big") >> 1)
        except WrongUse as error:
            raise WrongUse(f"Image {identity!r} cannot be corrupted by {name}: {error}") from None

    return corrupt
