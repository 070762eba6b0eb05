"""A sample or a batch of what a caller holds → its image, and its label map.

Must not know where the sample comes from, nor what an image becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from segment.errors import WrongUse

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "input", "inputs", "x")
LABEL_KEYS = ("label", "labels", "mask", "masks", "target", "segmentation", "y")
"""Keys of a sample's image, and of its label map, where a sample is a dictionary."""


def image_of(sample: Any, *, collated: bool = False) -> Any:
    """The image of a sample: itself, the first of a tuple, or a dictionary's `image`. Errors: WrongUse.

    A normalised tensor comes before the path or the picture that it was made from, in a tuple and in a dictionary.
    collated: of an array of floats C H W the tensor that a DataLoader makes of it; others are pixels, H W C
    """
    image = _as_given(sample)
    if collated and isinstance(image, np.ndarray) and _is_normalised(image) and image.shape[0] < image.shape[-1]:
        return torch.as_tensor(image)
    return image


def _as_given(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        held = [sample[key] for key in IMAGE_KEYS if key in sample]
        if not held:
            raise WrongUse(
                f"A sample is a dictionary without an image: it has {', '.join(map(repr, sample))}. Known keys: "
                f"{', '.join(IMAGE_KEYS)}."
            )
        return next(filter(_is_normalised, held), held[0])
    if isinstance(sample, tuple | list) and sample:
        return _as_given(without_source(sample)[0])
    return sample


def label_of(sample: Any) -> Any:
    """The label map of a sample: the second of a tuple, or a dictionary's `label`. Errors: WrongUse."""
    if isinstance(sample, Mapping):
        key = next((key for key in LABEL_KEYS if key in sample), None)
        if key is not None:
            return sample[key]
        raise WrongUse(
            f"A sample has no label map: it has {', '.join(map(repr, sample))}. Known keys: {', '.join(LABEL_KEYS)}."
        )
    if isinstance(sample, tuple | list) and len(sample) > 1:
        return without_source(sample)[1]
    raise WrongUse("A sample has no label map: give (image, label), or a dictionary with `image` and `label`.")


def without_source(item: Any) -> Any:
    """A sample or a batch, without the paths or pictures that stand before the tensors made from them.

    Errors: WrongUse for a path and one tensor, which may be the image or its label map.
    """
    if not isinstance(item, tuple | list) or len(item) < 2:
        return item
    first, second = (part[0] if isinstance(part, tuple | list) and part else part for part in item[:2])
    if not isinstance(first, str | Path | Image) or not _is_normalised(second):
        return item
    if len(item) == 2:
        if isinstance(first, Image):
            return item
        raise WrongUse(
            f"A sample is the path {str(first)!r} and a tensor of floats, which may be the image or its label map. "
            "Give (path, image, label), (image, label) or a dictionary."
        )
    third = item[2][0] if isinstance(item[2], tuple | list) and item[2] else item[2]
    labelled = isinstance(third, Image) or getattr(third, "ndim", 0) >= 2  # else the tensor beside a picture is labels
    return item[1:] if labelled or not isinstance(first, Image) else item


def _is_normalised(value: Any) -> bool:
    """Whether it may be images that went through a preprocessing: floats, C H W or N C H W."""
    if not isinstance(value, Tensor | np.ndarray) or value.ndim not in (3, 4):
        return False
    return value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"
