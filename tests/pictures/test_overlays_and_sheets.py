"""Laws of overlays and contact sheets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from golden_pictures import SIZES, Golden, Picture, blocks, street
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.pictures.heatmaps import PAPER, SCALES, heatmap, scale_of
from segment.pictures.lettering import shortened, width_of
from segment.pictures.overlays import (
    GREY_LOW,
    HIDDEN,
    LINE_WHITE,
    OPACITY,
    PALE,
    class_overlay_rows,
    errors_overlay,
    uncertainty_overlay,
)
from segment.pictures.palettes import WRONG, palette
from segment.pictures.sheets import MARGIN, SheetRow, contact_sheet
from segment.pictures.thumbnails import HEIGHT, WIDEST, thumbnail
from segment.regions.components import regions_of
from segment.report.html.page import ASSETS

# overlays

PLAIN = 4
"""K of the test palettes."""


def classes_over(image: Picture, labels: NDArray[Any], bare: tuple[int, ...] = ()) -> Picture:
    rows = slice(0, len(image))
    return class_overlay_rows(image, regions_of(labels), rows, palette=palette(PLAIN), classes=PLAIN, bare=bare)


def lab(colour: Sequence[int] | NDArray[Any]) -> NDArray[np.float32]:
    pixel = np.array(colour, np.float32).reshape(1, 1, 3) / 255
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0], np.float32)


def test_the_overlay_of_four_classes_is_the_golden_one(golden: Golden) -> None:
    golden.check(classes_over(street(), blocks()), "overlay.png")


def test_the_overlay_of_an_uncertain_corner_is_the_golden_one(golden: Golden) -> None:
    uncertainty = np.linspace(0, 1, 32)[:, None] * np.linspace(0, 1, 32)[None]
    golden.check(uncertainty_overlay(street(), uncertainty, high=1.0), "overlay_uncertainty.png")


def test_both_sides_of_a_border_have_a_line_of_their_class_and_no_line_is_drawn_elsewhere() -> None:
    image, labels = np.full((32, 32, 3), 90, np.uint8), blocks()
    picture = classes_over(image, labels)
    for row, column in [(5, 15), (5, 16), (15, 5), (16, 25)]:
        colour = palette(PLAIN)[labels[row, column]].astype(float)
        paler = colour + LINE_WHITE * (255 - colour)
        np.testing.assert_allclose(picture[row, column], paler, atol=1)
    for rows in (slice(15), slice(17, 32)):
        for columns in (slice(15), slice(17, 32)):
            assert len(np.unique(picture[rows, columns].reshape(-1, 3), axis=0)) == 1


def test_a_region_below_a_ten_thousandth_of_the_image_has_no_line_around_it() -> None:
    image, labels = np.full((128, 128, 3), 90, np.uint8), np.zeros((128, 128), np.uint8)
    labels[40, 40], labels[80, 80:82] = 1, 1  # 1 and 2 pixels; 1.6 are a ten-thousandth
    picture = classes_over(image, labels)
    plain = picture[0, 0].tolist()
    assert picture[40, 39].tolist() == picture[39, 40].tolist() == plain
    assert picture[40, 40].tolist() != plain, "its class is shown all the same"
    assert picture[80, 79].tolist() != plain
    assert picture[80, 80].tolist() != picture[40, 40].tolist(), "a line is opaque"


def test_a_pixel_of_no_class_shows_the_image() -> None:
    image, labels = street(), np.full((32, 32), PLAIN)  # K: no label is claimed
    shown = classes_over(image, labels).astype(int)
    assert np.abs(np.argsort(shown[:, :, 0], axis=0) - np.argsort(image[:, :, 0], axis=0)).max() <= 1
    np.testing.assert_array_equal(classes_over(image, np.full((32, 32), -1)), classes_over(image, labels))


def test_a_bare_class_shows_the_image_and_the_others_keep_their_lines() -> None:
    image, labels = street(), blocks()
    bare = classes_over(image, labels, bare=(0,))
    np.testing.assert_array_equal(bare[labels == 0], classes_over(image, np.full_like(labels, PLAIN))[labels == 0])
    np.testing.assert_array_equal(bare[labels != 0], classes_over(image, labels)[labels != 0])


def test_six_tenths_of_a_nat_are_seen_on_dark_asphalt_and_on_a_bright_sky() -> None:
    for grey in (45, 60, 128, 235):
        image = np.full((1, 3, 3), grey, np.uint8)
        values = np.array([[0.0, 0.6, 1.2]])
        none, some, more = uncertainty_overlay(image, values, high=math.log(11))[0]
        assert np.linalg.norm(lab(some) - lab(none)) > 20, "about 2 is just seen side by side"
        assert np.linalg.norm(lab(more) - lab(some)) > 20


def test_where_nothing_is_uncertain_the_overlay_is_grey_and_keeps_the_image_s_order_of_brightness() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    shown = uncertainty_overlay(image, np.zeros((1, 256)), high=1.0)[0].astype(int)
    assert (np.ptp(shown, axis=1) == 0).all()
    assert (np.diff(shown[:, 0]) >= 0).all()


def test_the_colours_of_the_overlay_are_those_of_the_heat_map() -> None:
    image, values = np.full((1, 64, 3), 120, np.uint8), np.linspace(0.3, 1, 64)[None]
    shown, heat = uncertainty_overlay(image, values, high=1.0), heatmap(values, high=1.0)
    grey = uncertainty_overlay(image, np.zeros_like(values), high=1.0)
    np.testing.assert_allclose(shown, heat * OPACITY + grey * (1 - OPACITY), atol=1)


def test_uncertainty_that_is_nan_is_hidden_and_more_than_the_scale_has_its_last_colour() -> None:
    image = street()
    absent = uncertainty_overlay(image, np.full((32, 32), np.nan), high=1.0)
    assert (absent == HIDDEN).all()
    assert min(HIDDEN) < GREY_LOW - 30, "no grey of the image"
    last, beyond = (uncertainty_overlay(image, np.full((32, 32), x), high=1.0) for x in (1.0, 9.0))
    np.testing.assert_array_equal(last, beyond)


def test_a_tall_picture_is_the_same_as_its_parts() -> None:
    image = street(700, 8)
    uncertainty = np.random.default_rng(0).random((700, 8))
    whole = uncertainty_overlay(image, uncertainty, high=1.0)
    parts = [uncertainty_overlay(image[r], uncertainty[r], high=1.0) for r in (slice(300), slice(300, None))]
    np.testing.assert_array_equal(whole, np.vstack(parts))
    np.testing.assert_array_equal(heatmap(uncertainty, high=1)[300:], heatmap(uncertainty[300:], high=1))


@pytest.mark.parametrize("size", SIZES)
def test_an_overlay_has_the_image_s_size_and_leaves_its_inputs_alone(size: tuple[int, int]) -> None:
    image, labels, uncertainty = street(*size), blocks(*size), np.full(size, 0.5, np.float32)
    before = image.copy(), labels.copy(), uncertainty.copy()
    assert classes_over(image, labels).shape == image.shape
    assert uncertainty_overlay(image, uncertainty, high=1.0).shape == image.shape
    for array, kept in zip((image, labels, uncertainty), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_an_overlay_of_arrays_of_different_sizes_is_refused() -> None:
    with pytest.raises(WrongUse, match="one size"):
        uncertainty_overlay(street(), np.zeros((31, 32)), high=1.0)
    with pytest.raises(WrongUse, match="one size"):
        classes_over(street(), blocks(31, 32))


def test_wrong_pixels_have_the_colour_of_the_html_report_and_right_ones_are_grey() -> None:
    wrong, unknown = np.eye(32), np.zeros((32, 32))
    unknown[:, 0] = 1 - wrong[:, 0]
    shown = errors_overlay(street(), wrong, unknown, no_class=(10, 20, 30))
    assert (shown[wrong == 1] == WRONG).all()
    assert {tuple(colour) for colour in shown[unknown == 1].tolist()} == {(10, 20, 30), (4, 8, 12)}, "striped"
    right = shown[(wrong == 0) & (unknown == 0)].astype(int)
    assert (np.ptp(right, axis=1) == 0).all()
    assert (right >= 255 * PALE - 1).all(), "pale, so that the wrong ones are seen"
    script = (ASSETS / "layers.js").read_text(encoding="utf-8")
    assert f"const WRONG = {list(WRONG)};" in script


# sheets


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_a_thumbnail_fits_and_keeps_the_picture_s_shape(rows: int, columns: int) -> None:
    small = thumbnail(np.zeros((rows, columns, 3), np.uint8))
    tall, wide = small.shape[:2]
    assert tall <= HEIGHT
    assert wide <= WIDEST
    assert tall > HEIGHT // 2 or wide > WIDEST // 2  # as large as fits
    if min(tall, wide) > 4:
        assert abs(tall * columns - wide * rows) <= max(rows, columns)  # within a pixel


def test_a_sheet_shows_every_thumbnail_unchanged_and_in_reading_order() -> None:
    generator = np.random.default_rng(0)
    rows = [
        SheetRow(
            name=f"scene/{i}",
            note="mean entropy 0.1",
            pictures={"image": generator.integers(0, 255, (60, 80, 3), np.uint8)},
        )
        for i in range(5)
    ]
    scales = [scale_of("variance", 3)]
    sheet = contact_sheet(rows, title="Five", classes={"road": (1, 2, 3), "sky": (4, 5, 6)}, scales=scales)
    places = [_where(sheet, row.pictures["image"]) for row in rows]
    assert places == sorted(places)
    assert len({left for _, left in places}) == 2
    assert (sheet == (1, 2, 3)).all(axis=-1).any()  # the key
    assert (sheet == (4, 5, 6)).all(axis=-1).any()


def _where(sheet: Picture, picture: Picture) -> tuple[int, int]:
    rows, columns = picture.shape[:2]
    for y, x in np.argwhere((sheet == picture[0, 0]).all(axis=-1)):
        if np.array_equal(sheet[y : y + rows, x : x + columns], picture):
            return int(y), int(x)
    pytest.fail("a thumbnail is missing or altered")


def test_the_pictures_of_a_single_image_stand_in_lines_under_their_titles() -> None:
    generator = np.random.default_rng(0)
    pictures = {f"column {k}": generator.integers(0, 255, (360, 480, 3), np.uint8) for k in range(7)}
    sheet = contact_sheet([SheetRow(name="eye", pictures=pictures)], title="One")
    places = [_where(sheet, picture) for picture in pictures.values()]
    assert places == sorted(places)
    assert [sum(top == line for top, _ in places) for line in sorted({top for top, _ in places})] == [4, 3]


def test_a_sheet_takes_the_oddest_shapes_and_the_longest_names() -> None:
    names = {f"a class with quite a long name, number {i}": colour for i, colour in enumerate(palette(60).tolist())}
    pictures = [thumbnail(np.zeros((*size, 3), np.uint8)) for size in [*SIZES, (20, 20000), (20000, 20)]]
    rows = [SheetRow(name="folder/" * 40, pictures={"image": picture}, note="n" * 400) for picture in pictures]
    scales = [scale_of(name, 2) for name in SCALES]
    sheet = contact_sheet(rows, title="title " * 50, subtitle="words " * 80, classes=names, scales=scales)
    assert (sheet[:, :20] == PAPER).all()  # nothing runs into the margins
    assert (sheet[:, -20:] == PAPER).all()


def test_no_heading_of_a_sheet_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, int, int]] = []

    def noted(picture: Picture, text: str, x: int, y: int, *, size: int, weight: int = 400, colour: Any = None) -> None:
        written.append((text, x, width_of(text, size, weight), picture.shape[1]))

    monkeypatch.setattr("segment.pictures.sheets.write", noted)
    narrow = np.zeros((120, 20, 3), np.uint8)
    columns = ("image", "ground truth", "prediction", "std of the predicted class", "mutual information", "overlay")
    title = "smp:Unet?encoder=tu-tf_efficientnet_lite0&classes=11&decoder_channels=(192,96,48,32,16)&head=softmax" * 2
    rows = [
        SheetRow(name=f"{part} {i}", pictures=dict.fromkeys(columns, narrow), section=part)
        for part in ("Most uncertain", "Least uncertain")
        for i in range(2)
    ]
    contact_sheet(rows, title=title, subtitle="A choice, no random sample, " * 12)
    texts = [text for text, *_ in written]
    assert texts.count("std of the predicted class") == 2, "over each section"
    assert {"Most uncertain", "Least uncertain", *columns} <= set(texts)
    assert not any("…" in text for text in texts)
    assert title in "".join(texts)
    for text, x, wide, sheet in written:
        assert x + wide <= sheet - MARGIN + 1, f"{text!r} is cut"
    heads = [(x, wide) for text, x, wide, _ in written if text in columns][: len(columns)]
    assert all(x + wide < after for (x, wide), (after, _) in itertools.pairwise(heads))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 300), st.integers(1, 300)), elements=st.floats(0, 1, width=32)),
    st.integers(2**4, 2**20),
)
@settings(max_examples=30)
def test_a_thumbnail_keeps_the_mean_however_few_rows_are_read_at_a_time(
    values: NDArray[np.float32], pixels: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segment.pictures.thumbnails.PIXELS", pixels)
        small = thumbnail(values)
    assert small.mean() == pytest.approx(values.mean(), abs=0.1)
    assert values.min() - 1e-5 <= small.min() <= small.max() <= values.max() + 1e-5


def test_a_sheet_without_rows_or_with_unlike_rows_is_refused() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    unlike = [SheetRow(name="a", pictures={"image": picture}), SheetRow(name="b", pictures={"overlay": picture})]
    for rows in ([], unlike, [SheetRow(name="a", pictures={})]):
        with pytest.raises(WrongUse):
            contact_sheet(rows, title="")


@given(st.text(min_size=1, max_size=40), st.integers(40, 200))
@settings(deadline=None, max_examples=50)
def test_shortened_text_fits_and_text_that_fits_is_not_shortened(text: str, width: int) -> None:
    shown = shortened(text, 13, width)
    assert width_of(shown, 13) <= width
    assert shown == text or width_of(text, 13) > width
