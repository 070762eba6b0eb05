"""Corruptions take the channels that they are defined for, and say so of others."""

from __future__ import annotations

import numpy as np
import pytest

from segment.errors import WrongUse
from segment.images.transforms.corrupt import corrupted

BANDS = np.random.default_rng(0).integers(0, 256, (32, 40, 4)).astype(np.uint8)


def test_every_band_is_corrupted_by_those_that_know_bands() -> None:
    for name in ("noise", "blur", "jpeg"):
        worse = corrupted(name, 3)(BANDS, "a")
        assert worse.shape == BANDS.shape
        assert worse.dtype == np.uint8
        assert (worse != BANDS).any(axis=(0, 1)).all()


def test_imagenet_cs_corruptions_are_of_rgb() -> None:
    with pytest.raises(WrongUse, match=r"'a' cannot be corrupted by fog: .*32 x 40 x 4 .*is defined on RGB"):
        corrupted("fog", 1)(BANDS, "a")
