"""Which images the network has seen: the same image of the same bytes, not another page of its file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain import Toy, calibrated, seeded

from segment.errors import WrongUse
from segment.files.banks.cache import MARK
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source
from segment.jobs.labelled.leakage import refuse_seen, seen_before, shared, training_images
from segment.networks.load import load_network


def pages(path: Path, *numbers: int, axis: int = 2) -> list[Source]:
    return [Source(f"{path.stem}/{number:04d}", path, part=number, axis=axis) for number in numbers]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "stack.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8))
    return path


def test_other_pages_of_a_file_are_other_images(stack: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.npy"
    copy.write_bytes(stack.read_bytes())
    assert shared(pages(stack, 3, 4, 5), pages(stack, 0, 1, 2)) == []
    assert shared(pages(copy, 1, 2, 3), pages(stack, 0, 1, 2)) == ["copy/0001", "copy/0002"]
    assert shared(pages(copy, 1, axis=0), pages(stack, 0, 1, 2)) == [], "a slice along another axis"
    assert shared([Source("gone", tmp_path / "gone")], [Source("gone too", tmp_path / "gone")]) == []


def test_a_bank_s_mark_of_a_file_with_several_images_is_a_warning_and_no_refusal(
    stack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single = tmp_path / "single.npy"
    np.save(single, np.zeros((8, 8, 3), np.uint8))
    network = load_network(calibrated(seeded(Toy), (8, 8)))
    marks = {sha256_of(path)[:MARK] for path in (stack, single)}
    validation = pages(stack, 4, 5)
    assert training_images(network, [*validation, Source("single", single)], marks) == (
        ["single"],
        ["stack/0004", "stack/0005"],
    )
    with caplog.at_level(logging.WARNING):
        refuse_seen(network, validation, marks, "a temperature")
    assert "2 of 2 validation images are of a file that holds images a bank was recorded of (stack/0004" in caplog.text
    (line,) = seen_before(network, validation, [], marks)
    assert line.startswith("2 of 2 test images are of a file that holds images a bank was recorded of (stack/0004")
    (line,) = seen_before(network, validation, [], marks, validation)
    assert line.startswith("2 of 2 test images are training images"), "which are known"
    with pytest.raises(WrongUse, match=r"1 of 3 validation images are training images \(single\)"):
        refuse_seen(network, [*validation, Source("single", single)], marks, "a temperature")
    (tmp_path / "train.csv").write_text("image,id\nstack.npy,stack/0004\n")
    named = replace(network, card=replace(network.card, images=str(tmp_path / "train.csv")))
    with pytest.raises(WrongUse, match=r"1 of 2 validation images are training images \(stack/0004\)"):
        refuse_seen(named, validation, (), "a temperature")
