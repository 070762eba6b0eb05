"""Preparing equals plain NumPy and albumentations to float32 rounding, never resizes, and is cropped back."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.images.prepare import crop, padding, prepare
from segment.images.specs import InputSpec

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
import cv2

IMAGENET = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), stride=32)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def reference(image: NDArray[Any], spec: InputSpec) -> NDArray[np.float64]:  # C H W, without padding
    planes = image.astype(np.float64)
    if spec.channels == "BGR":
        planes = planes[..., ::-1]
    if spec.channels == "grey":
        planes = planes @ np.array([[0.299], [0.587], [0.114]])
    normalised = (planes / spec.scale - np.array(spec.mean or (0.0,))) / np.array(spec.std or (1.0,))
    return normalised.transpose(2, 0, 1)


SPECS = [
    InputSpec(),
    InputSpec(scale=1.0),
    IMAGENET,
    InputSpec(scale=1.0, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), channels="BGR"),
    InputSpec(channels="grey", mean=(0.4,), std=(0.2,)),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_normalising_equals_float64_to_rounding(spec: InputSpec, kind: type[np.generic]) -> None:
    image = picture(33, 47)
    image = image if kind is np.uint8 else (image + np.random.default_rng(1).random(image.shape)).astype(np.float32)
    prepared = prepare(image, spec)
    expected = reference(image, spec)
    assert prepared.dtype == torch.float32
    assert prepared.is_contiguous()
    np.testing.assert_allclose(
        prepared[:, :33, :47].numpy(), expected, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(expected).max()
    )


def test_without_mean_and_std_a_pixel_is_divided_exactly() -> None:
    image = picture(16, 16)
    np.testing.assert_array_equal(prepare(image, InputSpec()).numpy(), (image / np.float32(255)).transpose(2, 0, 1))


def test_normalising_and_padding_equal_albumentations() -> None:
    image = picture(90, 100)
    compose = A.Compose(
        [
            A.Normalize(mean=IMAGENET.mean, std=IMAGENET.std, max_pixel_value=255.0),
            A.PadIfNeeded(None, None, 32, 32, position="top_left", border_mode=cv2.BORDER_REFLECT_101),
        ]
    )
    expected = compose(image=image)["image"].transpose(2, 0, 1)
    prepared = prepare(image, IMAGENET).numpy()
    assert prepared.shape == expected.shape == (3, 96, 128)
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=2e-6)


def test_a_grey_pixel_keeps_its_value_as_luma() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(prepare(grey, InputSpec(scale=1.0, channels="grey"))[0].numpy(), grey[..., 0])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.sampled_from(["reflect", "edge", "zero"]))
def test_padding_is_numpys_in_each_direction_and_cropping_undoes_it(
    height: int, width: int, stride: int, pad: Literal["reflect", "edge", "zero"]
) -> None:
    image = picture(height, width, seed=height * 41 + width)
    plain = prepare(image, InputSpec()).numpy()
    padded = prepare(image, InputSpec(stride=stride, pad=pad))
    bottom, right = padding(height, width, stride)
    assert 0 <= bottom < stride
    assert 0 <= right < stride
    assert padded.shape == (3, height + bottom, width + right)
    assert padded.shape[1] % stride == padded.shape[2] % stride == 0

    def mode(length: int, more: int) -> Any:
        return "constant" if pad == "zero" else "reflect" if pad == "reflect" and more < length else "edge"

    expected = np.pad(plain, ((0, 0), (0, bottom), (0, 0)), mode=mode(height, bottom))
    expected = np.pad(expected, ((0, 0), (0, 0), (0, right)), mode=mode(width, right))
    np.testing.assert_array_equal(padded.numpy(), expected)
    np.testing.assert_array_equal(crop(padded, height, width).numpy(), plain)


def test_an_image_too_small_in_one_direction_is_edged_in_that_one_only() -> None:
    prepared = prepare(picture(3, 20), InputSpec(stride=32))
    torch.testing.assert_close(prepared[:, 3:, :20], prepared[:, 2:3, :20].expand(3, 29, 20), rtol=0, atol=0)
    torch.testing.assert_close(prepared[:, :3, 20:], prepared[:, :3, 7:19].flip(2), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (2000, 20)])
def test_the_smallest_and_the_longest_image_are_prepared(size: tuple[int, int]) -> None:
    prepared = prepare(picture(*size), IMAGENET)
    assert crop(prepared, *size).shape == (3, *size)
    assert torch.isfinite(prepared).all()


def test_the_image_is_left_as_it_was() -> None:
    image = picture(10, 10)
    before = image.copy()
    prepare(image, IMAGENET)
    np.testing.assert_array_equal(image, before)


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(WrongUse, match="H W 3"):
        prepare(np.zeros((4, 4), np.uint8), InputSpec())
    with pytest.raises(WrongUse, match="H W 3"):
        prepare(np.zeros((0, 4, 3), np.uint8), InputSpec())
    with pytest.raises(WrongUse, match=r"`input: \{mean\}` has 3 numbers for 1 channels"):
        prepare(picture(4, 4), InputSpec(channels="grey", mean=(0.1, 0.2, 0.3)))
    with pytest.raises(WrongUse, match="cannot be cropped"):
        crop(torch.zeros(2, 3, 3), 4, 3)
