"""Files decoded in a process of their own: the same pixels, and a decoder that dies is the failure of one image."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segment.errors import ImageUnreadable, MissingExtra
from segment.images import isolation, limits
from segment.images.find import Source, find_images
from segment.images.isolation import contained, isolated
from segment.images.limits import set_most_pixels
from segment.images.read import read_image, read_label, read_source, size_of
from segment.images.specs import InputSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@contained
def crash(path: Path) -> None:
    os.abort()


@contained
def hang(path: Path) -> None:
    time.sleep(60)


@contained
def slow(path: Path) -> str:
    time.sleep(3)
    return str(path)


@contained
def process(path: Path) -> int:
    return os.getpid()


@contained
def hungry(path: Path) -> int:
    return len(bytearray(2**30))


@contained
def unpackaged(path: Path) -> None:
    raise MissingExtra("Such files need a library.")


@contained
def warns(path: Path) -> None:
    logging.getLogger("segment.images").warning("%s has %d odd pixels.", path, 3)
    if path.suffix == ".bad":
        raise ImageUnreadable("It does not decode.")


class Evil:
    """Unpickled by a careless reader, this runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", "ran"],)


@contained
def evil(path: Path) -> Any:
    return Evil()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One image of each kind that Pillow, tifffile, NumPy and OpenCV decode, and what is none."""
    for name in ("a.png", "b.jpg", "c.tif", "d.gif", "e.webp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    np.save(tmp_path / "f.npy", np.stack([PIXELS, 255 - PIXELS]))
    np.savez(tmp_path / "g.npz", image=PIXELS)
    (tmp_path / "h.png").write_bytes(b"no image")
    return tmp_path


def everything(folder: Path) -> list[Any]:
    read: list[Any] = []
    for source in find_images(folder):
        read += [source.id, size_of(source)]
        try:
            read.append(read_source(source, InputSpec()).pixels.tolist())
        except ImageUnreadable as error:
            read.append(str(error))
    return read


def test_isolated_files_give_the_same_pixels_sizes_and_refusals(files: Path) -> None:
    here = everything(files)
    with isolated():
        there = everything(files)
        with pytest.raises(ImageUnreadable, match="is no label map"):
            read_label(files / "a.png")
    assert there == here
    assert len(here) == 3 * 9


@pytest.mark.parametrize("option", [None, 3000])
def test_decoders_allow_what_the_card_or_the_option_allows(
    option: int | None, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(limits, "_asked", None)  # and so set back
    Image.fromarray(PIXELS[..., 0]).save(files / "label.png")
    with isolated():
        with pytest.raises(ImageUnreadable, match="more than the 2000 pixels that are read by default"):
            read_label(files / "label.png")
        set_most_pixels(option)
        image = read_source(Source("a", files / "a.png"), InputSpec(max_pixels=None if option else 2400))
        assert image.pixels.shape == (40, 60, 3)
        np.testing.assert_array_equal(read_label(files / "label.png"), PIXELS[..., 0])
    with isolated():  # other decoders, which have read no image
        np.testing.assert_array_equal(read_label(files / "label.png"), PIXELS[..., 0])


def test_one_process_is_kept_from_file_to_file_and_ends_with_the_block() -> None:
    with isolated():
        numbers = {process(Path("a")) for _ in range(3)}
    assert len(numbers) == 1
    (number,) = numbers
    assert number != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert process(Path("a")) == os.getpid()


def test_threads_that_decode_at_once_have_a_process_each() -> None:
    numbers: list[int] = []
    barrier = threading.Barrier(2)

    def decode() -> None:
        barrier.wait()
        numbers.extend(process(Path("a")) for _ in range(20))

    with isolated():
        threads = [threading.Thread(target=decode) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(numbers) == 40
    assert len(set(numbers)) <= 2


def test_a_decoder_that_crashes_is_the_failure_of_its_file_and_is_replaced(files: Path) -> None:
    with isolated():
        before = process(Path("a"))
        with pytest.raises(ImageUnreadable, match=r"'photo\.png' ended its decoder \(SIGABRT\)") as refused:
            crash(Path("photo.png"))
        assert "Replace or remove it" in str(refused.value)
        assert process(Path("a")) != before
        np.testing.assert_array_equal(read_image(files / "a.png"), PIXELS)


def test_a_decoder_that_hangs_is_ended_after_its_time() -> None:
    with isolated(seconds=1):
        begun = time.monotonic()
        with pytest.raises(ImageUnreadable, match=r"'photo\.png' was not decoded within 1 seconds"):
            hang(Path("photo.png"))
        assert time.monotonic() - begun < 10


def test_a_file_that_took_too_long_is_refused_until_it_is_another_file(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.jp2", tmp_path / "good.jp2"
    bad.write_bytes(b"hangs")
    good.write_bytes(b"well")
    with isolated(seconds=8):
        with pytest.raises(ImageUnreadable, match="was not decoded within 8 seconds"):
            hang(bad)
        before = process(good)
        for _ in range(3):
            with pytest.raises(ImageUnreadable, match=r"bad.jp2' was not decoded within 8 seconds"):
                process(bad)
        bad.write_bytes(b"replaced")
        assert process(bad) == process(good) == before


def test_a_store_may_fail_for_a_while_where_a_raster_is_read_by_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolated(seconds=1):
        assert slow(Path("s3://bucket/large.tif")) == str(Path("s3://bucket/large.tif"))
        monkeypatch.setattr(isolation, "PATIENCE", 0.5)
        with pytest.raises(ImageUnreadable, match=r"was not decoded within 1\.5 seconds"):
            slow(Path("s3://bucket/large.tif"))


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on address space")
def test_a_decoder_may_take_so_much_memory(tmp_path: Path) -> None:
    with isolated(memory=2**30):
        before = process(Path("a"))
        with pytest.raises(ImageUnreadable, match=r"'photo\.png' needs more memory .* \(1024 MiB\)"):
            hungry(Path("photo.png"))
        assert process(Path("a")) == before, "a refusal, not a death"
        Image.new("RGB", (12_000, 12_000)).save(tmp_path / "bomb.png")
        assert (tmp_path / "bomb.png").stat().st_size < 2**20
        with pytest.raises(ImageUnreadable, match=r"bomb\.png"):
            read_image(tmp_path / "bomb.png")


def test_refusals_keep_their_class() -> None:
    with isolated(), pytest.raises(MissingExtra, match="need a library"):
        unpackaged(Path("photo.png"))


def test_what_is_warned_of_in_a_decoder_is_warned_of_here(caplog: pytest.LogCaptureFixture) -> None:
    with isolated():
        warns(Path("a.png"))
        with pytest.raises(ImageUnreadable, match="does not decode"):
            warns(Path("b.bad"))
        process(Path("c.png"))
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("segment.images", "WARNING", f"{name} has 3 odd pixels.") for name in ("a.png", "b.bad")
    ]


def test_an_answer_that_names_code_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with isolated(), pytest.raises(ImageUnreadable, match="answer what is no image"):
        evil(Path("photo.png"))
    for made in (Evil(), os.getcwd, isolation.isolate, ImageUnreadable("x")):
        with pytest.raises(pickle.UnpicklingError):
            isolation._Answer(__import__("io").BytesIO(pickle.dumps(made))).load()
    assert not (tmp_path / "ran").exists()


def test_a_decoder_that_is_killed_from_outside_is_the_failure_of_the_file_it_decodes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5000, 6000, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=1)
    with isolated():
        number = process(Path("a"))
        timer = threading.Timer(0.15, os.kill, (number, signal.SIGKILL))
        timer.start()
        with pytest.raises(ImageUnreadable, match=r"large\.png' ended its decoder \(SIGKILL\)"):
            read_image(tmp_path / "large.png")
        np.testing.assert_array_equal(read_image(tmp_path / "large.png"), noise)
