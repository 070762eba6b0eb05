"""Laws of palettes, heat maps and legends."""

from __future__ import annotations

import math
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
from golden_pictures import SIZES, Golden, Picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segment.axes import Head
from segment.errors import WrongUse
from segment.pictures.heatmaps import (
    ABSENT,
    PAPER,
    SCALES,
    Scale,
    beside,
    heatmap,
    legend,
    legend_beside,
    level_legend,
    ramp,
    scale_of,
    ticks,
)
from segment.pictures.palettes import DEUTAN, PROTAN, UNTRUSTED, VOID, WRONG, colour_mask, oklab, palette, seen_with


def lab(colours: Picture) -> NDArray[np.float32]:  # K 3 -> K 3, CIELAB
    return np.asarray(cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0], np.float32)


# palettes


def test_the_first_twenty_colours_are_far_apart_to_the_eye() -> None:
    places = lab(palette(20))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(20)
    assert apart.min() > 20  # CIELAB; about 2 is just seen side by side, matplotlib's tab20 keeps 16.6


@pytest.mark.parametrize("deficiency", [PROTAN, DEUTAN])
def test_the_first_eight_colours_are_far_apart_to_eyes_with_a_deficiency_too(deficiency: Any) -> None:
    colours = np.vstack([palette(8), [WRONG, UNTRUSTED]])
    places = seen_with(colours, deficiency)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(10, 1)]
    assert apart[np.triu_indices(10, 1)[1] < 8].min() > 0.076  # OKLab; what the palette of Okabe & Ito keeps
    normal = oklab(colours)
    assert np.linalg.norm(normal[:, None] - normal[None], axis=-1)[np.triu_indices(10, 1)].min() > 0.14


def test_colours_are_seen_as_published() -> None:
    """Grey stays grey to all eyes, and red and green of equal light are one colour without red cones."""
    greys = np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]])
    for deficiency in (PROTAN, DEUTAN):
        assert np.abs(seen_with(greys, deficiency) - oklab(greys)).max() < 1e-3


def test_two_hundred_and_fifty_six_colours_are_all_different_and_none_is_void() -> None:
    colours = {tuple(colour) for colour in palette(256).tolist()}
    assert len(colours) == 256
    assert VOID not in colours


@given(st.integers(1, 300))
@settings(deadline=None)
def test_a_class_keeps_its_colour_however_many_classes_there_are(classes: int) -> None:
    np.testing.assert_array_equal(palette(classes), palette(300)[:classes])


def test_oklab_gives_the_published_places_of_white_and_red() -> None:
    converted = oklab(np.array([[255, 255, 255], [255, 0, 0]]))
    assert np.abs(converted - [[1, 0, 0], [0.62796, 0.22486, 0.12585]]).max() < 1e-4


@pytest.mark.parametrize("given_colours", [[(1, 2, 3)], [(1, 2, 300), (0, 0, 0)], [(1, 2), (3, 4)]])
def test_a_palette_that_is_short_or_no_list_of_colours_is_refused(given_colours: list[Any]) -> None:
    with pytest.raises(WrongUse):
        palette(2, given_colours)


@given(arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(-3, 300)))
def test_each_pixel_of_a_mask_has_its_class_s_colour_or_void(labels: NDArray[np.int64]) -> None:
    colours = palette(7)
    expected = [[colours[label].tolist() if 0 <= label < 7 else list(VOID) for label in row] for row in labels]
    assert colour_mask(labels, colours).tolist() == expected


# heat maps


def test_the_heatmap_of_an_entropy_ramp_is_the_golden_one(golden: Golden) -> None:
    values = np.tile(np.linspace(0, math.log(4), 32), (32, 1))  # H W, nats
    golden.check(heatmap(values, high=math.log(4)), "entropy_ramp.png")


@given(arrays(np.float32, (3, 4), elements=st.floats(-1, 9, width=32)), st.integers(0, 11))
def test_a_colour_depends_on_the_value_alone(values: NDArray[np.float32], place: int) -> None:
    alone = heatmap(values.reshape(-1)[place].reshape(1, 1), high=2.0)
    np.testing.assert_array_equal(heatmap(values, high=2.0).reshape(-1, 3)[place], alone[0, 0])


def test_lightness_only_rises_and_close_to_evenly() -> None:
    lightness = lab(ramp())[:, 0]
    steps = np.diff(lightness)
    assert steps.min() > -0.05  # 8-bit colours round
    straight = np.linspace(lightness[0], lightness[-1], 256)
    assert np.abs(lightness - straight).max() < 0.08 * (lightness[-1] - lightness[0])


def test_the_colour_map_is_that_of_matplotlib() -> None:
    matplotlibs = np.asarray(matplotlib.colormaps["inferno"](np.arange(256)))[:, :3] * 255
    assert np.abs(matplotlibs - ramp()).max() <= 2.5


def test_values_beyond_the_scale_take_its_end_colours_and_none_is_grey() -> None:
    picture = heatmap(np.array([[-5.0, 0.0, 1.0, 7.0, np.inf, -np.inf, np.nan]]), high=1.0)[0]
    first, last = picture[1].tolist(), picture[2].tolist()
    assert picture.tolist() == [first, first, last, last, last, first, list(ABSENT)]
    assert np.abs(ramp().astype(int) - ABSENT).max(axis=1).min() > 4


@pytest.mark.parametrize("high", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_does_not_rise_is_refused(high: float) -> None:
    with pytest.raises(WrongUse):
        heatmap(np.zeros((1, 1)), high=high)


def test_misspelt_names_are_refused_with_the_near_one() -> None:
    with pytest.raises(WrongUse, match="Near: 'predictive_entropy'"):
        scale_of("predictive_entropi", 3)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 6),
    st.integers(2, 6),
    st.floats(0.02, 3),
    st.sampled_from(["softmax", "sigmoid"]),
)
@settings(deadline=None)
def test_no_measure_exceeds_the_bound_of_its_scale(
    seed: int, draws: int, classes: int, sharpness: float, head: Head
) -> None:
    classes = 2 if head == "sigmoid" else classes
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(classes, sharpness), draws).clip(1e-12)  # T K
    w = generator.dirichlet(np.full(draws, sharpness)).clip(1e-3)
    w /= w.sum()
    mean = w @ p
    spread = w @ (p - mean) ** 2
    top = int(mean.argmax())
    second = float(np.sort(mean)[-2])
    votes = np.bincount(p.argmax(axis=1), weights=w)
    entropy = -(mean * np.log(mean)).sum()
    within = -(w @ (p * np.log(p))).sum()
    largest = {
        "predictive_entropy": entropy,
        "expected_entropy": within,
        "mutual_information": entropy - within,
        "variance": spread.mean(),
        "predicted_std": math.sqrt(spread[top]),
        "one_minus_max": 1 - mean[top],
        "margin": 1 - (mean[top] - second),
        "variation_ratio": 1 - votes.max(),
        "standard_error": math.sqrt(spread[top] / (1 / (w**2).sum() - 1)),
    }
    assert set(largest) == set(SCALES)
    for measure, value in largest.items():
        assert value <= scale_of(measure, classes, head).bound + 1e-9, measure


def test_the_scale_of_two_class_heads_does_not_grow_with_the_labels() -> None:
    assert scale_of("predictive_entropy", 5, "multilabel").high == pytest.approx(math.log(2))
    assert scale_of("variance", 1, "sigmoid").bound == pytest.approx(0.25)
    assert scale_of("variance", 1000).high == pytest.approx(0.999e-3)  # .02 could never be reached


@given(st.floats(1e-6, 1e4))
def test_ticks_rise_from_the_foot_and_keep_clear_of_the_top(high: float) -> None:
    marks = [mark for mark, _ in ticks(high)]
    assert 2 <= len(marks) <= 7
    assert marks == sorted(set(marks))
    assert marks[0] == 0
    assert marks[-1] < high
    for mark, text in ticks(high):
        assert float(text) == pytest.approx(mark, rel=1e-3, abs=1e-12)


def test_a_legend_says_so_where_values_may_lie_above_its_top() -> None:
    clipped, whole = scale_of("variance", 11), scale_of("variance", 11, high=scale_of("variance", 11).bound)
    assert clipped.bound > clipped.high
    assert whole.bound == whole.high
    same_numbers = scale_of("margin", 2, high=0.5), scale_of("predicted_std", 2, high=0.5)
    tops = [level_legend(300, scale)[-20:, -60:] for scale in same_numbers]  # "≥ 0.5" and "0.5"
    assert (tops[0] < 128).sum() > (tops[1] < 128).sum()


@pytest.mark.parametrize("size", SIZES)
def test_a_heat_map_with_its_legend_holds_the_heat_map_pixel_for_pixel(size: tuple[int, int]) -> None:
    scale = scale_of("predictive_entropy", 4)
    heat = heatmap(np.random.default_rng(0).random(size), high=scale.high)
    rows, columns = size
    strip = legend_beside(rows, columns, scale)
    picture = beside(heat, strip, slice(0, max(rows, strip.shape[0])))
    np.testing.assert_array_equal(picture[:rows, :columns], heat)
    assert (picture[rows:, :columns] == PAPER).all()
    strip = picture[:, columns:]
    assert picture.shape[0] >= max(rows, 130)
    assert (strip.min(axis=(1, 2)) < 128).sum() > 100  # bar, numbers and name are there
    assert (strip[[0, -1]] == PAPER).all()  # and nothing of them is cut off
    assert (strip[:, -1] == PAPER).all()


def test_the_bar_of_a_legend_runs_from_the_last_colour_down_to_the_first() -> None:
    strip = legend(400, scale_of("margin", 3))
    bar = strip[14:386, 12].astype(int)
    np.testing.assert_allclose(bar[[0, -1]], ramp()[[-1, 0]], atol=3)
    assert np.abs(np.diff(bar, axis=0)).max() < 12


@given(width=st.integers(100, 320), high=st.floats(1e-6, 10), top=st.floats(1, 100))
def test_the_numbers_of_a_legend_keep_apart(width: int, high: float, top: float) -> None:
    size = 13
    strip = level_legend(width, Scale(title="Variance", unit="", high=high, bound=high * top), size=size)
    foot = round(2.4 * size)
    marks = int((strip[foot] < 128).all(axis=1).sum())
    inked = np.flatnonzero((strip[foot + size // 4 :] < 160).all(axis=2).any(axis=0))
    assert 1 + int((np.diff(inked) > size // 2 - 1).sum()) == marks + 1
