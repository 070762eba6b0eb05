"""A palette picture's indices are its classes; a palette that contradicts them is warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segment.errors import WrongUse
from segment.images.labels import read
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
SCHEME = LabelScheme(classes=("background", "road", "car"), palette=COLOURS, void=255)
INDEX = np.random.default_rng(0).integers(0, 3, (8, 10)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _nothing_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_warned", set())


def label(path: Path, colours: Sequence[tuple[int, int, int]], index: NDArray[np.uint8] = INDEX) -> Path:
    image = Image.fromarray(index, "P")
    image.putpalette(np.ravel(colours).tolist())
    image.save(path)
    return path


def ids_of(path: Path, scheme: LabelScheme = SCHEME) -> NDArray[np.int64]:
    return read_label_ids(path, None, 2, INDEX.shape, scheme)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_the_cards_colours_at_other_indices_are_warned_of_once_a_folder_and_the_indices_taken(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned = [COLOURS[id] for id in (2, 0, 1)]
    for name in "ab":
        label(tmp_path / f"{name}{suffix}", turned)
    np.testing.assert_array_equal(ids_of(tmp_path / f"a{suffix}"), INDEX)
    np.testing.assert_array_equal(ids_of(tmp_path / f"b{suffix}"), INDEX)
    (warning,) = caplog.messages
    assert f"a{suffix} has the card's colours at other indices: its index 0 is class 0" in warning
    assert "has the colour of class 2" in warning


def test_a_palette_that_says_the_same_or_nothing_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids_of(label(tmp_path / "same.png", COLOURS))
    ids_of(label(tmp_path / "unused.png", (*COLOURS, COLOURS[0])))
    ids_of(label(tmp_path / "other.png", ((1, 2, 3), COLOURS[0], COLOURS[1])))
    void = np.where(INDEX == 2, 255, INDEX).astype(np.uint8)
    ids_of(label(tmp_path / "void.png", (*COLOURS[:2], *[(9, 9, 9)] * 254), void))
    ids_of(label(tmp_path / "grey.gif", [(value, value, value) for value in (2, 0, 1)]))
    mapped = replace(SCHEME, labels={0: 2, 1: 0, 2: 1})
    ids = ids_of(label(tmp_path / "mapped.png", [COLOURS[id] for id in (2, 0, 1)]), mapped)
    np.testing.assert_array_equal(ids, np.array([2, 0, 1])[INDEX])
    ids_of(label(tmp_path / "no palette.png", COLOURS[::-1]), replace(SCHEME, palette=()))
    assert not caplog.messages
    ids_of(label(tmp_path / "turned.png", COLOURS[::-1]))
    assert len(caplog.messages) == 1


def test_a_colour_of_two_classes_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array(COLOURS, np.uint8)[INDEX]).save(tmp_path / "a.png")
    with pytest.raises(WrongUse, match="Two classes have the same colour"):
        ids_of(tmp_path / "a.png", replace(SCHEME, palette=(*COLOURS[:2], COLOURS[0])))
