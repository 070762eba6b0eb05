"""An augmented image depends on image and seed alone, and its distribution is the one the card describes."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from segment.errors import WrongUse
from segment.images.transforms.augment import Pipeline, _seeded, _transforms, _warn_of_rounding, pipeline

CAMVID_UNET: tuple[dict[str, Any], ...] = (
    {"name": "RandomScale", "scale_limit": [-0.1, 0.4], "p": 1},
    {"name": "RandomCrop", "height": 320, "width": 320},
    {"name": "HorizontalFlip", "p": 0.5},
    {
        "name": "RandomBrightnessContrast",
        "contrast_limit": 0.25,
        "brightness_limit": [-0.0764706, 0.0803922],
        "p": 1,
    },
)
MOVES: dict[str, dict[str, Any]] = {  # with the arguments that they need, and without what they fill in
    "CenterCrop": {"height": 20, "width": 24},
    "Crop": {"x_max": 30, "y_max": 30},
    "CropAndPad": {"px": [-3, 5]},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 5},
    "LongestMaxSize": {"max_size": 60},
    "PadIfNeeded": {"min_height": 60, "min_width": 60},
    "Pad": {"padding": 5},
    "RandomCrop": {"height": 20, "width": 24},
    "RandomResizedCrop": {"size": [24, 24]},
    "RandomSizedCrop": {"min_max_height": [20, 30], "size": [24, 24]},
    "Resize": {"height": 50, "width": 40},
    "SmallestMaxSize": {"max_size": 60},
}
HOUNSFIELD = np.random.default_rng(1).permutation(np.linspace(-1000, 2000, 40 * 48 * 5, dtype=np.float32))
HOUNSFIELD = HOUNSFIELD.reshape(40, 48, 5)
FRAME = np.random.default_rng(0).integers(0, 256, (360, 480, 3)).astype(np.uint8)


def refusal(*transforms: Any) -> str:
    with pytest.raises(WrongUse) as refused:
        pipeline(transforms)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_one_seed_gives_one_view_in_any_order_and_whatever_the_global_generators_hold() -> None:
    views = pipeline(CAMVID_UNET)
    first = {seed: views(FRAME, seed) for seed in range(6)}
    np.random.seed(3)  # noqa: NPY002 (the generator that must not matter)
    random.seed(3)
    for seed in (5, 0, 3, 0):
        np.testing.assert_array_equal(views(FRAME, seed), first[seed])
        np.testing.assert_array_equal(pipeline(CAMVID_UNET)(FRAME, seed), first[seed])
    assert any((first[0] != first[seed]).any() for seed in range(1, 6))


def test_no_global_generator_is_moved() -> None:
    views = pipeline(CAMVID_UNET)
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.random.get_rng_state()  # noqa: NPY002
    views(FRAME, 1)
    assert random.getstate() == before[0]
    assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_threads_and_other_processes_see_the_same_views() -> None:
    views = pipeline(CAMVID_UNET)
    alone = [views(FRAME, seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: views(FRAME, seed), range(24)))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(views))(FRAME, 7), alone[7])


@pytest.mark.filterwarnings("ignore::UserWarning:albumentations")  # it advises other transforms than these
def test_every_transforms_transform_is_a_function_of_image_and_seed() -> None:
    image, tried = np.ascontiguousarray(FRAME[:96, :128]), 0
    for name in sorted(set(_transforms()) - {"PiecewiseAffine"}):  # slow, says albumentations itself
        try:
            views = pipeline(({"name": name, "p": 1},))
            first = views(image, 11)
        except WrongUse:
            continue  # needs arguments, or more than an image
        random.seed(tried)
        np.random.seed(tried)  # noqa: NPY002
        np.testing.assert_array_equal(views(image, 11), first, err_msg=name)
        tried += 1
    assert tried > 75


def gain_and_offset(view: NDArray[np.uint8], grey: NDArray[np.uint8]) -> tuple[float, float]:
    inside = (view > 0) & (view < 255)
    offset, gain = np.polynomial.Polynomial.fit(grey[inside], view[inside], 1).convert().coef
    return float(gain), float(offset)


def test_the_camvid_unets_pipeline_has_the_gain_and_offset_of_its_training() -> None:
    """An augmented image is x * U(.75, 1.25) + U(-20, 20); both uniform, each on its own."""
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    views = pipeline(CAMVID_UNET[3:])
    measured = np.array([gain_and_offset(views(ramp, seed), ramp) for seed in range(1500)])
    assert stats.kstest(measured[:, 0], stats.uniform(0.75, 0.5).cdf).pvalue > 0.01
    assert stats.kstest(measured[:, 1], stats.uniform(-20, 40).cdf).pvalue > 0.01
    assert stats.spearmanr(measured[:, 0], measured[:, 1]).pvalue > 0.01
    for seed in range(20):
        gain, offset = measured[seed]
        expected = np.clip(ramp.astype(float) * gain + offset, 0, 255)
        assert np.abs(views(ramp, seed) - expected).max() <= 0.6  # affine, clipped


def test_the_camvid_unets_brightness_is_rounded_not_cut() -> None:
    """Albumentations cuts to uint8: limits half a level higher make U(-20, 20) round, to -20 and to 20 as well."""
    grey = np.full((1, 1, 3), 128, np.uint8)
    views = pipeline((CAMVID_UNET[3] | {"contrast_limit": 0},))
    assert {int(views(grey, seed)[0, 0, 0]) - 128 for seed in range(1500)} == set(range(-20, 21))


def test_the_camvid_unets_pipeline_scales_crops_and_flips_as_its_training_did() -> None:
    """The image's coordinates as colours: a view's slope is the scale, its sign the flip, its start the crop."""
    rows, columns = np.mgrid[0:360, 0:480]
    image = np.dstack([rows / 360 * 250, columns / 480 * 250, np.zeros((360, 480))]).astype(np.float32)
    views = pipeline(CAMVID_UNET[:3])
    scales, flips, starts = [], [], []
    for seed in range(600):
        view = views(image, seed).astype(float)
        assert view.shape == (320, 320, 3)
        scale = 319 / ((view[-1, :, 0] - view[0, :, 0]).mean() / 250 * 360)
        across = 319 / ((view[:, -1, 1] - view[:, 0, 1]).mean() / 250 * 480)
        assert abs(abs(across) / scale - 1) < 0.02  # one factor for both directions
        scales.append(scale)
        flips.append(across < 0)
        starts.append(view[0, :, 0].mean() / 250 * 360 * scale / (360 * scale - 320 + 1e-9))
    assert stats.kstest(scales, stats.uniform(0.9, 0.5).cdf).pvalue > 0.01
    assert stats.binomtest(sum(flips), 600).pvalue > 0.01
    roomy = [start for start, scale in zip(starts, scales, strict=True) if scale > 1.1]
    assert stats.kstest(np.clip(roomy, 0, 1), stats.uniform(0, 1).cdf).pvalue > 0.01
    assert stats.spearmanr(scales, flips).pvalue > 0.01


def test_the_draws_of_one_seed_are_independent_between_transforms() -> None:
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    twice = pipeline(({"name": "RandomBrightnessContrast", "brightness_limit": 0, "contrast_limit": 0.2, "p": 1},) * 2)
    once = pipeline(({"name": "RandomBrightnessContrast", "brightness_limit": 0, "contrast_limit": 0.2, "p": 1},))
    first = np.array([gain_and_offset(once(ramp, seed), ramp)[0] for seed in range(300)])
    both = np.array([gain_and_offset(twice(ramp, seed), ramp)[0] for seed in range(300)])
    assert stats.spearmanr(first, both / first).pvalue > 0.01


def test_groups_hold_transforms_of_their_own() -> None:
    flips = ({"name": "OneOf", "p": 1, "transforms": [{"name": "HorizontalFlip"}, {"name": "VerticalFlip"}]},)
    views = pipeline(flips)
    image = np.ascontiguousarray(FRAME[:8, :8])
    expected = {image[:, ::-1].tobytes(), image[::-1].tobytes()}
    assert {views(image, seed).tobytes() for seed in range(30)} == expected


def test_no_transforms_leave_the_image_as_it_is() -> None:
    np.testing.assert_array_equal(pipeline(())(FRAME, 0), FRAME)


@pytest.mark.parametrize("transforms", [CAMVID_UNET, CAMVID_UNET[:3]], ids=["with brightness", "geometric"])
def test_eight_bit_pixels_go_through_albumentations_as_they_are_in_any_type(
    transforms: tuple[dict[str, Any], ...],
) -> None:
    views = pipeline(transforms)
    for seed in range(4):
        expected = _seeded(views._compose, seed)(image=FRAME)["image"]
        for given in (FRAME, FRAME.astype(np.float32)):  # as in a file of 16 bits, whose white is 65535
            view = views(given, seed)
            assert view.dtype == np.uint8
            np.testing.assert_array_equal(view, expected)


def test_values_in_a_files_units_are_flipped_and_cropped_as_they_are() -> None:
    views = pipeline(({"name": "RandomCrop", "height": 20, "width": 24}, {"name": "HorizontalFlip", "p": 1}))
    image = HOUNSFIELD[..., :1].copy()
    view = views(image, 3)
    (row, column), *others = np.argwhere(image[:, :, 0] == view[0, -1, 0])
    assert not others  # values are all different: the view is a window of the image
    np.testing.assert_array_equal(view, image[row : row + 20, column : column + 24][:, ::-1])
    np.testing.assert_array_equal(image, HOUNSFIELD[..., :1])


@pytest.mark.filterwarnings("ignore::UserWarning:albumentations")  # it advises other transforms than these
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_transforms_that_move_pixels_do_so_in_any_unit_and_in_every_channel(channels: int) -> None:
    """Of a linear function of an image they give that function of the view, but for what they fill in."""
    image, tried = np.ascontiguousarray(HOUNSFIELD[..., :channels]), 0
    for name in sorted(set(_transforms()) - {"PiecewiseAffine"}):  # slow, says albumentations itself
        try:
            views = pipeline((MOVES.get(name, {}) | {"name": name, "p": 1},))
        except WrongUse:
            continue
        if not views.values_of_8_bits:
            try:
                view, half = views(image, 11), views(image / 2, 11)
            except WrongUse as refused:
                assert f"{name}: " in str(refused)  # noqa: PT017 (a transform that takes RGB and grey only)
                continue
            assert view.dtype == np.float32
            assert view.shape[2] == channels
            assert view.min() < -500
            assert view.max() > 1000
            np.testing.assert_allclose(view / 2, half, atol=0.1, err_msg=name)
            tried += 1
    assert tried > 30


def test_interpolated_values_of_more_than_8_bits_are_not_rounded() -> None:
    image = (HOUNSFIELD - HOUNSFIELD.min()) / np.ptp(HOUNSFIELD) * np.float32(255)
    view = pipeline(CAMVID_UNET[:1])(image, 0)
    assert view.dtype == np.float32
    assert np.abs(view - np.rint(view)).mean() > 0.2


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "RandomBrightnessContrast"},
        {"name": "GaussianBlur"},
        {"name": "OneOf", "transforms": [{"name": "HorizontalFlip"}, {"name": "RandomBrightnessContrast"}]},
        {"name": "CoarseDropout", "fill": "random"},
        {"name": "PixelDropout", "drop_value": None},
    ],
    ids=str,
)
def test_a_transform_that_computes_with_8_bits_refuses_other_units_and_warns_of_rounding(
    transform: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = transform["transforms"][1]["name"] if "transforms" in transform else transform["name"]
    views = pipeline(({"name": "HorizontalFlip"}, transform))
    with pytest.raises(WrongUse, match=rf"'{name}' is defined on 8-bit pixels, and these are -1000 to 2000\. "):
        views(HOUNSFIELD, 0)
    _warn_of_rounding.cache_clear()
    image = FRAME[:40, :48] * np.float32(0.997)
    for _ in range(2):
        np.testing.assert_array_equal(views(image, 0), views(np.rint(image).astype(np.uint8), 0))
    assert [record.getMessage().endswith(f": {name}.") for record in caplog.records] == [True]


def test_what_is_filled_in_is_in_the_units_of_the_images_also_where_an_image_holds_8_bits_only() -> None:
    pad = {"name": "PadIfNeeded", "min_height": 3, "min_width": 3, "border_mode": 0, "fill": -1000}
    view = pipeline((pad,))(np.zeros((1, 1, 1), np.float32), 0)
    np.testing.assert_array_equal(np.unique(view), [-1000, 0])


def test_a_pipeline_is_refused_when_it_is_made_not_when_it_runs() -> None:
    assert "Near: 'HorizontalFlip'" in refusal({"name": "HorizontalFlp"})
    message = refusal({"name": "RandomCrop", "heigth": 3, "width": 3})
    assert "'heigth'" in message
    assert "Near: 'height'" in message
    assert "pad_if_needed" in message
    assert "width: Field required" in refusal({"name": "RandomCrop", "height": 3})
    assert "valid integer" in refusal({"name": "RandomCrop", "height": "tall", "width": 3})
    assert "[0, 1]" in refusal({"name": "RandomRotate90", "p": 2})
    assert "`input:` normalises" in refusal({"name": "Normalize"})
    assert "boxes" in refusal({"name": "BBoxSafeRandomCrop"})
    assert "hm_metadata" in refusal({"name": "HistogramMatching"})
    assert "Near: 'Blur'" in refusal({"name": "OneOf", "transforms": [{"name": "Blurr"}]})
    assert "at least one" in refusal({"name": "OneOf"})
    assert "mapping with a name" in refusal("HorizontalFlip")
    assert "mapping with a name" in refusal({"p": 1})


def test_a_crop_larger_than_the_image_says_what_to_do() -> None:
    crop = {"name": "RandomCrop", "height": 320, "width": 320}
    small = np.ascontiguousarray(FRAME[:200, :400])
    with pytest.raises(WrongUse, match=r"200 x 400.*\(320, 320\).*larger images.*pad_if_needed"):
        pipeline((crop,))(small, 0)
    assert pipeline((crop | {"pad_if_needed": True},))(small, 0).shape == (320, 320, 3)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_every_channel_is_cropped_and_flipped_alike(channels: int) -> None:
    views = pipeline(({"name": "RandomCrop", "height": 20, "width": 24}, {"name": "HorizontalFlip", "p": 0.5}))
    image = np.random.default_rng(1).integers(0, 256, (40, 48, channels)).astype(np.uint8)
    for seed in range(4):
        view = views(image, seed)
        assert view.shape == (20, 24, channels)
        for channel in range(channels):
            alone = image[..., [channel] * 3]
            np.testing.assert_array_equal(view[..., channel], views(alone, seed)[..., 0])


def test_a_channel_whose_axis_a_transform_drops_gets_it_again() -> None:
    def without_axis(image: NDArray[Any], **_: Any) -> NDArray[Any]:
        return image[..., 0]

    compose = pipeline(())._compose
    compose.transforms = [A.Lambda(image=without_axis, p=1)]
    assert Pipeline((), compose)(FRAME[..., :1], 0).shape == (360, 480, 1)


def test_a_transform_that_refuses_or_changes_the_channels_is_named() -> None:
    flip = {"name": "HorizontalFlip"}
    with pytest.raises(WrongUse, match=r"360 x 480 x 1 .*: ToGray changes its channels"):
        pipeline((flip, {"name": "ToGray", "num_output_channels": 1, "p": 1}, flip))(FRAME, 0)
    bands = FRAME[..., [0, 1, 2, 0]]
    with pytest.raises(WrongUse, match=r"360 x 480 x 4 .*: HueSaturationValue: .*Leave out"):
        pipeline((flip, {"name": "HueSaturationValue", "p": 1}, flip))(bands, 0)
