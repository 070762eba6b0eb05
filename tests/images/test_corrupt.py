"""Corruptions are of 8-bit pictures, and say so of other images."""

from __future__ import annotations

import numpy as np
import pytest

from segment.errors import WrongUse
from segment.images.transforms.corrupt import corrupted

BANDS = np.random.default_rng(0).integers(0, 256, (32, 40, 4)).astype(np.uint8)


@pytest.mark.parametrize("name", ["noise", "blur", "jpeg", "fog"])
@pytest.mark.parametrize(("low", "high"), [(-1000, 200), (0, 255.5)])
def test_values_in_other_units_are_refused_with_their_range(name: str, low: float, high: float) -> None:
    image = np.linspace(low, high, 32 * 40 * 3, dtype=np.float32).reshape(32, 40, 3)
    with pytest.raises(WrongUse, match=rf"'ct/0003' .* by {name}: .* 8-bit pixels, and these are {low} to {high}\. "):
        corrupted(name, 1)(image, "ct/0003")


def test_every_band_is_corrupted_by_those_that_know_bands() -> None:
    for name in ("noise", "blur", "jpeg"):
        worse = corrupted(name, 3)(BANDS, "a")
        assert worse.shape == BANDS.shape
        assert worse.dtype == np.uint8
        assert (worse != BANDS).any(axis=(0, 1)).all()


def test_imagenet_cs_corruptions_are_of_rgb() -> None:
    with pytest.raises(WrongUse, match=r"'a' cannot be corrupted by fog: .*32 x 40 x 4 .*is defined on RGB"):
        corrupted("fog", 1)(BANDS, "a")
