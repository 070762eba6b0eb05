"""Laws of overlays and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from golden_pictures import SIZES, Golden, Picture, blocks, street
from hypothesis import given, settings
from hypothesis import strategies as st

from segment.errors import WrongUse
from segment.pictures.heatmaps import (
    PAPER,
    heatmap,
    scale_of,
)
from segment.pictures.lettering import shortened, width_of
from segment.pictures.overlays import overlay
from segment.pictures.palettes import palette
from segment.pictures.sheets import HEIGHT, WIDEST, SheetRow, contact_sheet, thumbnail

# overlays


def test_an_overlay_of_an_uncertain_corner_is_the_golden_one(golden: Golden) -> None:
    uncertainty = np.linspace(0, 1, 32)[:, None] * np.linspace(0, 1, 32)[None]
    golden.check(overlay(street(), blocks(), uncertainty, high=1.0, palette=palette(4)), "overlay.png")


def test_both_sides_of_a_border_show_their_class_s_colour_and_no_line_is_drawn_elsewhere() -> None:
    colours, labels = palette(4), blocks()
    picture = overlay(street(), labels, np.zeros((32, 32)), high=1.0, palette=colours)
    plain = overlay(street(), np.zeros_like(labels), np.zeros((32, 32)), high=1.0, palette=colours)
    for row, column in [(5, 15), (5, 16), (15, 5), (16, 25)]:
        assert picture[row, column].tolist() == colours[labels[row, column]].tolist()
    far = np.ones((32, 32), bool)
    far[13:19] = far[:, 13:19] = False
    np.testing.assert_array_equal(picture[far], plain[far])


def test_more_uncertainty_is_more_red_and_the_same_uncertainty_the_same_colour_everywhere() -> None:
    image, labels = np.full((1, 64, 3), 90, np.uint8), np.zeros((1, 64), np.uint8)
    colours = palette(1)
    rising = overlay(image, labels, np.linspace(0, 1, 64)[None], high=1.0, palette=colours)[0].astype(int)
    warmth = rising[:, 0] - rising[:, 2]
    assert (np.diff(warmth) >= -1).all()
    assert warmth[-1] > 150 > 5 > warmth[0]
    painted = overlay(image, labels, np.full((1, 64), 0.5), high=1.0, palette=colours)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 1


def test_uncertainty_that_is_nan_is_shown_as_the_greatest() -> None:
    image, labels = street(), np.zeros((32, 32), np.uint8)
    pictures = [overlay(image, labels, np.full((32, 32), x), high=1.0, palette=palette(1)) for x in (np.nan, 1.0, 9.0)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[2], pictures[1])


def test_a_tall_picture_is_the_same_as_its_parts() -> None:
    image, labels = street(700, 8), np.zeros((700, 8), np.uint8)
    uncertainty = np.random.default_rng(0).random((700, 8))
    whole = overlay(image, labels, uncertainty, high=1.0, palette=palette(1))
    parts = [
        overlay(image[r], labels[r], uncertainty[r], high=1.0, palette=palette(1))
        for r in (slice(300), slice(300, None))
    ]
    np.testing.assert_array_equal(whole, np.vstack(parts))
    np.testing.assert_array_equal(heatmap(uncertainty, high=1)[300:], heatmap(uncertainty[300:], high=1))


@pytest.mark.parametrize("size", SIZES)
def test_an_overlay_has_the_image_s_size_and_leaves_its_inputs_alone(size: tuple[int, int]) -> None:
    image, labels, uncertainty = street(*size), blocks(*size), np.full(size, 0.5, np.float32)
    before = image.copy(), labels.copy(), uncertainty.copy()
    assert overlay(image, labels, uncertainty, high=1.0, palette=palette(4)).shape == image.shape
    for array, kept in zip((image, labels, uncertainty), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_an_overlay_of_arrays_of_different_sizes_is_refused() -> None:
    with pytest.raises(WrongUse, match="one size"):
        overlay(street(), blocks(), np.zeros((31, 32)), high=1.0, palette=palette(4))


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
    scale = scale_of("variance", 3)
    sheet = contact_sheet(rows, title="Five", classes={"road": (1, 2, 3), "sky": (4, 5, 6)}, scale=scale)
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


def test_a_sheet_takes_the_oddest_shapes_and_the_longest_names() -> None:
    names = {f"a class with quite a long name, number {i}": colour for i, colour in enumerate(palette(60).tolist())}
    pictures = [thumbnail(np.zeros((*size, 3), np.uint8)) for size in [*SIZES, (20, 20000), (20000, 20)]]
    rows = [SheetRow(name="folder/" * 40, pictures={"image": picture}, note="n" * 400) for picture in pictures]
    sheet = contact_sheet(rows, title="title " * 50, subtitle="words " * 80, classes=names, scale=scale_of("margin", 2))
    assert (sheet[:, :20] == PAPER).all()  # nothing runs into the margins
    assert (sheet[:, -20:] == PAPER).all()


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
