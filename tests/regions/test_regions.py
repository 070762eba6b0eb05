"""Regions are scipy's, class by class; what a map holds in each is NumPy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from segment import axes
from segment.files.lazy_arrays import FileArray
from segment.regions import statistics
from segment.regions.components import NONE, Regions, regions_of
from segment.regions.ranks import quantile
from segment.regions.statistics import statistics_of

masks = arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 2))


def by_scipy(labels: NDArray[Any]) -> list[NDArray[np.bool_]]:
    """The masks of all regions, in the order of their first pixels."""
    found = []
    for kind in np.unique(labels[labels >= 0]):
        numbers, count = ndimage.label(labels == kind)  # by the four neighbours, its default
        found += [numbers == number for number in range(1, count + 1)]
    return sorted(found, key=lambda mask: int(mask.reshape(-1).argmax()))


@given(masks, st.integers(1, 4))
def test_regions_are_those_that_scipy_finds_class_by_class(labels: NDArray[np.int8], rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes, "ROWS", rows)  # joined across strips
        regions = regions_of(labels)
    expected = by_scipy(labels)
    assert len(regions) == len(expected)
    for number, mask in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(regions.numbers[:]) == number, mask)
        down, across = np.nonzero(mask)
        assert regions.areas[number] == mask.sum()
        assert regions.classes[number] == labels[down[0], across[0]]
        left, top, width, height = regions.boxes[number].tolist()
        assert (left, top) == (across.min(), down.min())
        assert (left + width - 1, top + height - 1) == (across.max(), down.max())
    np.testing.assert_array_equal(np.asarray(regions.numbers[:]) == NONE, labels < 0)


@given(masks, st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 30))
def test_the_numbers_of_a_region_are_numpys_over_its_pixels(
    labels: NDArray[np.int8], random: Any, rows: int, at_once: int
) -> None:
    generator = np.random.default_rng(random.randrange(2**32))
    values = generator.normal(size=labels.shape).astype(np.float32)
    values[generator.random(labels.shape) < 0.2] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes, "ROWS", rows)
        patch.setattr(statistics, "AT_ONCE", at_once)  # regions of more pixels are ranked without sorting
        regions = regions_of(labels)
        found = statistics_of(regions, values)
    numbers = np.asarray(regions.numbers[:])
    for region in range(len(regions)):
        inside = values[numbers == region].astype(np.float64)
        inside = inside[~np.isnan(inside)]
        expected = (inside.mean(), inside.max(), np.percentile(inside, 95)) if len(inside) else (np.nan,) * 3
        actual = found.mean[region], found.max[region], found.p95[region]
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_regions_of_a_mask_in_a_file_are_those_of_one_in_memory(tmp_path: Path) -> None:
    labels = np.kron(np.random.default_rng(0).integers(0, 4, (60, 5)), np.ones((10, 8), int)).astype(np.uint8)
    kept = FileArray(tmp_path, labels.shape, np.uint8)
    kept[..., slice(0, 600), slice(0, 40)] = labels
    windowed = regions_of(kept, lambda shape, kind: FileArray(tmp_path, shape, kind))
    plain = regions_of(labels)
    np.testing.assert_array_equal(np.asarray(windowed.numbers[0:600]), np.asarray(plain.numbers[:]))
    for name in ("classes", "areas", "boxes"):
        np.testing.assert_array_equal(getattr(windowed, name), getattr(plain, name))


def test_a_region_of_a_ten_thousandth_of_the_image_is_large_and_a_smaller_one_is_not() -> None:
    labels = np.zeros((200, 100), np.uint8)
    labels[3, 3:5], labels[9, 9] = 1, 2  # 2 and 1 of 20000 pixels
    regions: Regions = regions_of(labels)
    assert dict(zip(regions.classes.tolist(), regions.large.tolist(), strict=True)) == {0: True, 1: True, 2: False}


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_numpys(values: list[float], share: float) -> None:
    array = np.array(values, np.float32)
    blocks = [array[:3], np.array([np.nan], np.float32), array[3:]]
    expected = np.quantile(array.astype(np.float64), share)
    assert quantile(lambda: blocks, len(array), share) == pytest.approx(
        expected, rel=1e-9, abs=1e-9 * float(np.abs(array).max())
    )
