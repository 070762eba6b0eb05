"""A budget of memory holds: sizes in words, what is free, plans that fit it, and the peak of a real process."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import noise
from processes import peak_of, photographs

from segment.draws.bank import Statistics
from segment.draws.large_batches import record_in_parts
from segment.errors import OutOfMemory, WrongUse
from segment.estimation import memory_budget as memory
from segment.estimation.memory_budget import (
    FIRST_PASS_BYTES,
    KERNEL_FACTOR,
    MemoryBudget,
    bytes_of,
    bytes_text,
    free_bytes,
    memory_budget,
    parts_of,
    resident,
)
from segment.files.banks.bank_file import load_bank
from segment.jobs.fit import fit_bank
from segment.networks.load import load_network

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("512MiB", 512 * MIB),
        ("2GB", 2 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("900 kB", 900_000),
        ("7B", 7),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "GiB", "4GiBs", "-4GiB", "4 G iB", "0GiB", "0.1B", "nan GiB", "1e3MiB", "4,5GiB"]
)
def test_what_is_no_size_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(WrongUse, match="as 4GiB"):
        bytes_of(text)


def test_a_misspelt_unit_is_refused_with_the_near_one() -> None:
    with pytest.raises(WrongUse, match="Near: 'GiB'"):
        bytes_of("4GiBs")


@given(st.integers(1, 2**45))
def test_a_size_in_words_comes_back_within_its_last_digit(size: int) -> None:
    assert bytes_of(bytes_text(size)) == pytest.approx(size, rel=0.051, abs=MIB)


def test_the_free_memory_is_no_more_than_the_machine_has() -> None:
    total = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    assert 0 < free_bytes(torch.device("cpu")) <= total * 1024
    assert 50 * MIB < resident() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MIB


def test_a_budget_below_what_the_process_holds_is_refused_with_that_number() -> None:
    with pytest.raises(OutOfMemory, match=r"10 MiB .* alone take"):
        memory_budget("10MiB", torch.device("cpu"))
    with pytest.raises(WrongUse, match="from 1 up"):
        memory_budget(0, torch.device("cpu"))


@given(
    batch=st.integers(2, 256),
    image=st.integers(1, 2**24),
    pass_bytes=st.integers(1, 2**28),
    free=st.integers(0, 2**36),
    one_by_one=st.booleans(),
)
def test_parts_fit_the_budget_or_are_refused_with_the_number_needed(
    batch: int, image: int, pass_bytes: int, free: int, *, one_by_one: bool
) -> None:
    if 3 * batch * image + min(2, batch) * KERNEL_FACTOR * pass_bytes + FIRST_PASS_BYTES > free:
        with pytest.raises(OutOfMemory, match="Even the smallest plan needs"):
            parts_of(batch, image, pass_bytes, MemoryBudget(free, held=MIB), one_by_one=one_by_one)
        return
    parts = parts_of(batch, image, pass_bytes, MemoryBudget(free, held=MIB), one_by_one=one_by_one)
    assert 1 <= parts.at_once <= (1 if one_by_one else batch)
    assert 3 * batch * image + parts.at_once * KERNEL_FACTOR * pass_bytes + parts.keep_bytes + FIRST_PASS_BYTES <= free
    assert parts.whole_fits == (3 * batch * image + batch * KERNEL_FACTOR * pass_bytes + FIRST_PASS_BYTES <= free)
    if parts.at_once < batch and not one_by_one:  # only where it must
        assert 3 * batch * image + batch * KERNEL_FACTOR * pass_bytes + FIRST_PASS_BYTES > free


def test_one_image_alone_needs_enough_for_one() -> None:
    enough_for_one = MemoryBudget(3 * MIB + math.ceil(KERNEL_FACTOR * MIB) + FIRST_PASS_BYTES)
    assert parts_of(1, MIB, MIB, enough_for_one, one_by_one=True).at_once == 1


def test_a_bank_fitted_in_little_memory_is_the_bank_fitted_in_much(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network("segment:tiny?classes=4")
    images = noise(8, 3, 64, 64, seed=1)
    kept: list[float] = []

    def seen(*given: Any, keep_bytes: float, **named: Any) -> Iterator[Statistics]:
        kept.append(keep_bytes)
        return record_in_parts(*given, keep_bytes=keep_bytes, **named)

    monkeypatch.setattr("segment.jobs.recording.worker.record_in_parts", seen)
    much = fit_bank(network, images, batch=6, draws=2)

    def little(memory: int | str | None, device: torch.device) -> MemoryBudget:
        return MemoryBudget(FIRST_PASS_BYTES + 3 * 6 * images[0].nbytes + 3 * MIB)

    monkeypatch.setattr("segment.jobs.recording.bank.memory_budget", little)
    little_kept = fit_bank(network, images, batch=6, draws=2)
    assert kept[1] < 3 * MIB < kept[0]
    assert little_kept.layers == much.layers
    for name in much.layers:
        assert torch.equal(little_kept.mean[name], much.mean[name])
        assert torch.equal(little_kept.var[name], much.var[name])


def test_images_too_large_for_the_budget_are_refused_before_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network("segment:tiny?classes=4")
    monkeypatch.setattr(
        "segment.jobs.recording.bank.memory_budget", lambda memory, device: MemoryBudget(FIRST_PASS_BYTES)
    )
    with pytest.raises(OutOfMemory, match=r"needs \d+ MiB of memory; 96 MiB may be taken. Give more --memory"):
        fit_bank(network, noise(4, 3, 64, 64), batch=4, draws=2)


@pytest.mark.slow
def test_the_peak_of_fit_stays_under_its_budget(tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 32, 256, 320)
    path = tmp_path / "bank.safetensors"
    command = (
        "fit",
        "segment:tiny?classes=6",
        "--images",
        str(images),
        "-o",
        str(path),
        "--batch",
        "32",
        "--draws",
        "2",
    )
    code, peak, output = peak_of(*command, "--memory", "900MiB")
    assert code == 0, output
    assert peak <= 900 * MIB
    assert len(load_bank(path)) == 2
    code, peak, output = peak_of(*command, "--memory", "800MiB", "--no-cache")
    assert code == 4
    assert "Even the smallest plan needs" in output
    assert peak <= 800 * MIB


def test_kept_pages_are_released_once_a_quarter_more_is_held_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([1000, 1200, 1240, 1260, 1100, 1370, 1380, 900])
    seen: list[int] = []

    def resident() -> int:
        seen.append(next(held))
        return seen[-1]

    monkeypatch.setattr(memory, "resident", resident)
    given_back: list[int] = []
    monkeypatch.setattr(memory, "release_freed_pages", lambda: given_back.append(seen[-1]))
    pages = memory.KeptPages()
    for _ in range(8):
        pages.settle()
    assert given_back == [1260, 1380], "1260 > 1.25 * 1000; then 1100 is what is needed, and 1380 > 1.25 * 1100"
