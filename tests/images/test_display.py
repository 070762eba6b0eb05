"""Bands are shown by one stretch for a run, whatever image it is."""

from __future__ import annotations

import numpy as np

from segment.images.display import Display, display_of, picture_of
from segment.images.specs import InputSpec

RNG = np.random.default_rng(0)


def test_the_stretch_is_the_median_of_the_images_percentiles() -> None:
    images = [RNG.uniform(0, top, (50, 60, 4)).astype(np.float32) for top in (100, 200, 5000)]
    display = display_of([(image, None) for image in images], InputSpec(channels=4, display=(4, 2, 1)))
    assert display is not None
    assert display.bands == (3, 1, 0)
    expected = np.percentile(images[1][..., [3, 1, 0]].reshape(-1, 3), (2, 98), axis=0)
    np.testing.assert_allclose((display.low, display.high), expected, rtol=1e-3)


def test_pixels_without_data_do_not_stretch_the_picture() -> None:
    image = RNG.uniform(100, 200, (50, 60, 3)).astype(np.float32)
    valid = np.ones((50, 60), bool)
    image[:25], valid[:25] = 0, False
    display = display_of([(image, valid)], InputSpec(channels=3))
    assert display is not None
    assert min(display.low) > 100


def test_a_value_has_one_colour_in_every_image_and_after_the_record() -> None:
    display = Display((2, 1, 0), (0.0, 10.0, 20.0), (100.0, 110.0, 120.0))
    image = RNG.uniform(-10, 150, (8, 9, 3)).astype(np.float32)
    expected = np.clip((image[..., ::-1] - [0, 10, 20]) / 100 * 255, 0, 255)
    assert np.abs(display.picture(image).astype(float) - expected).max() <= 0.5001
    assert Display.of(display.as_dict()) == display
    np.testing.assert_array_equal(display.picture(image)[:4], display.picture(image[:4]))


def test_colours_are_shown_as_they_are() -> None:
    assert display_of([], InputSpec()) is None
    image = RNG.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    assert picture_of(image) is image
    assert picture_of(np.full((1, 1, 3), 300, np.float32)).max() == 255
