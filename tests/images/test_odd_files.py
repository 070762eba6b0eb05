"""Files as nobody expects them: a clear refusal of that image, or its right pixels; no wait, no memory taken."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segment.errors import ImageUnreadable, WrongUse
from segment.images import limits
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source, find_images
from segment.images.labels.annotations import annotations_in
from segment.images.limits import set_most_pixels
from segment.images.listing.ids import safe, unique
from segment.images.read import read_image, read_label, read_source, size_of
from segment.images.specs import InputSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
POSIX = pytest.mark.skipif(os.name != "posix", reason="no such files there")


def refusal(path: Path, spec: InputSpec | None = None) -> str:
    with pytest.raises(ImageUnreadable) as refused:
        read_source(Source("a", path), spec or InputSpec())
    message = str(refused.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.fixture(autouse=True)
def _pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    yield
    set_most_pixels(None)


# how many pixels


def an_image(path: Path) -> None:
    if path.suffix == ".npy":
        np.save(path, PIXELS)
    elif path.suffix == ".npz":
        np.savez(path, image=PIXELS)
    else:
        Image.fromarray(PIXELS).save(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.npy", "a.npz"])
def test_the_card_or_the_option_says_how_many_pixels_an_image_may_have_and_the_message_says_which(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    an_image(path)
    assert "20x30 pixels, more than the 599 pixels that the card's `input: {max_pixels}` allows" in refusal(
        path, InputSpec(max_pixels=599)
    )
    assert read_source(Source("a", path), InputSpec(max_pixels=600)).pixels.shape == (20, 30, 3)
    set_most_pixels(500)
    assert "more than the 500 pixels that --max-pixels allows" in refusal(path, InputSpec(max_pixels=10**6))
    with pytest.raises(ImageUnreadable, match="--max-pixels"):
        read_label(path)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_each_page_of_a_tiff_has_so_many_pixels(kind: type[np.generic], tmp_path: Path) -> None:
    sizes = ((20, 30), (60, 70), (10, 10))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for size in sizes:
            writer.write(np.zeros(size, kind), photometric="minisblack")
    small, large, last = find_images(tmp_path / "a.tif")
    assert tuple(map(size_of, (small, large, last))) == sizes
    spec = InputSpec(max_pixels=600, white=255)
    assert [read_source(source, spec).pixels.shape[:2] for source in (small, last)] == [sizes[0], sizes[2]]
    with pytest.raises(ImageUnreadable, match="60x70 pixels, more than the 600 pixels"):
        read_source(large, spec)
    with pytest.raises(ImageUnreadable, match="20x30 pixels, more than the 599 pixels"):
        read_source(small, InputSpec(max_pixels=599, white=255))
    read_source(last, InputSpec(max_pixels=100, white=255))


def test_pillows_limit_is_the_usual_one_and_may_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    an_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert "more than the 400 pixels that are read by default" in refusal(path)
    assert "--max-pixels N" in refusal(path)
    set_most_pixels(600)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    set_most_pixels(None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    set_most_pixels(599)  # more than the 400 that Pillow opens
    with (
        warnings.catch_warnings(action="ignore"),  # of Pillow, which raises at twice as many
        pytest.raises(ImageUnreadable, match="20x30 pixels, more than the 599 pixels that --max-pixels allows"),
    ):
        read_label(path)
    with pytest.raises(WrongUse, match="--max-pixels 0"):
        set_most_pixels(0)


def bomb_npz(path: Path) -> None:
    """An array of 8 TB by its header, of a few bytes in the file."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header.getvalue() + bytes(10**6))


def bomb_npy(path: Path) -> None:
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**9)})


def bomb_tiff(path: Path, size: int = 2**31) -> None:
    """A TIFF whose header claims so many rows and columns of one strip."""
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16))
    data = bytearray(path.read_bytes())
    for tag in (256, 257):  # width, height
        place = data.index(tag.to_bytes(2, "little"), 8)
        data[place + 2 : place + 12] = b"\4\0\1\0\0\0" + size.to_bytes(4, "little")  # a LONG
    path.write_bytes(data)


def bomb_gif(path: Path) -> None:
    Image.fromarray(PIXELS).save(path)
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


def bomb_bmp(path: Path) -> None:
    Image.fromarray(PIXELS).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(data)


BOMBS: dict[str, Callable[[Path], None]] = {
    "a.npz": bomb_npz,
    "a.npy": bomb_npy,
    "a.tif": bomb_tiff,
    "a.gif": bomb_gif,
    "a.bmp": bomb_bmp,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_more_than_the_memory_is_refused_before_anything_is_allocated(
    name: str, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    BOMBS[name](tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB


def test_an_image_that_pillow_warns_of_is_refused_alone_where_warnings_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large, small = find_images(tmp_path)
    assert "more than the 200 pixels" in refusal(large.path)
    assert size_of(small) == (8, 8)


def test_tiff_pages_that_lead_back_to_one_another_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 8), np.uint16), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        places = [page.offset for page in file.pages]
    data = (tmp_path / "a.tif").read_bytes()
    for back in places:
        last = data.index(bytes(4), places[-1] + 2 + 12 * data[places[-1]])
        (tmp_path / "a.tif").write_bytes(data[:last] + back.to_bytes(4, "little") + data[last + 4 :])
        assert "lead back to one another" in refusal(tmp_path / "a.tif")
        assert len(find_images(tmp_path / "a.tif")) == 1


# what is no file


@POSIX
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz", "a.nii.gz", "a.dcm", "a.mp4", "a.jp2", "a"])
def test_a_pipe_or_a_device_is_refused_and_never_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / f"zero{name[1:]}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / "zero" / f"zero{name[1:]}"):
        assert "is a pipe or a device" in refusal(path)
        with pytest.raises(ImageUnreadable, match="is a pipe or a device"):
            read_label(path)
        assert sha256_of(path) == ""
        assert size_of(Source("a", path)) is None
    an_image(tmp_path / "whole.png")
    found = {source.path.name for source in find_images(tmp_path)}
    assert found == {"whole.png"} | ({name, f"zero{name[1:]}"} if "." in name else set())


@POSIX
def test_a_link_to_itself_or_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    assert len(find_images(tmp_path)) == 2
    assert "symbolic links" in refusal(tmp_path / "self.png")
    assert "No such file" in refusal(tmp_path / "gone.png")


@POSIX
def test_folders_that_link_in_a_circle_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    an_image(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    assert [source.id for source in find_images(tmp_path)] == ["a/b/x"]


def test_a_folder_that_may_not_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "closed").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "closed" / "b.png"):
        an_image(path)
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    with monkeypatch.context() as closed:  # the folder is removed after the test
        closed.setattr(os, "scandir", scandir)
        assert [source.id for source in find_images(tmp_path)] == ["a"]
    assert "closed" in caplog.text
    assert "Permission denied" in caplog.text


# pixels of every kind


def test_values_that_are_not_finite_hold_no_data(tmp_path: Path) -> None:
    pixels = np.full((8, 9, 3), 0.5, np.float32)
    pixels[0, 0], pixels[1, 1, 0], pixels[2, 2] = np.nan, np.inf, -np.inf
    for path in (tmp_path / "a.npy", tmp_path / "a.tif"):
        np.save(path, pixels) if path.suffix == ".npy" else tifffile.imwrite(path, pixels, photometric="rgb")
        image = read_source(Source("a", path), InputSpec(white=1))
        assert image.valid is not None
        assert {tuple(place) for place in np.argwhere(~image.valid[:])} == {(0, 0), (1, 1), (2, 2)}
        assert np.isfinite(image.pixels).all()
        assert image.pixels[0, 0].tolist() == [0, 0, 0]
        with pytest.raises(ImageUnreadable, match="no label map"):
            read_label(path)


@pytest.mark.parametrize("shape", [(0, 7, 3), (7, 0, 3), (0, 0), (7, 5, 0)])
def test_an_image_without_pixels_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros(shape, np.uint8))
    assert "shape" in refusal(tmp_path / "a.npz")
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    data = bytearray((tmp_path / "a.bmp").read_bytes())
    data[18:22] = bytes(4)
    (tmp_path / "a.bmp").write_bytes(data)
    refusal(tmp_path / "a.bmp")


def test_one_bit_cmyk_and_animated_pictures_are_read_or_refused_by_name(tmp_path: Path) -> None:
    black = Image.fromarray(PIXELS[..., 0] > 127)
    for name in ("a.png", "a.tif", "a.bmp"):
        black.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat(np.asarray(black)[..., None] * 255, 3, 2))
    inks = Image.fromarray(PIXELS).convert("CMYK")
    for name in ("b.tif", "b.jpg"):
        inks.save(tmp_path / name, quality=95)
        difference = np.abs(read_image(tmp_path / name).astype(int) - PIXELS)
        assert difference.mean() < 40
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    for name in ("c.gif", "c.webp", "c.png", "c.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert "2 pages or frames" in refusal(tmp_path / name)
        sources = find_images(tmp_path / name)
        assert [source.part for source in sources] == [0, 1]
        assert all(read_source(source, InputSpec()).pixels.shape == (20, 30, 3) for source in sources)


# names


@POSIX
@pytest.mark.skipif(sys.platform == "darwin", reason="file names there are Unicode")
def test_any_name_that_a_file_may_have_becomes_a_safe_id_of_its_own(tmp_path: Path) -> None:
    names = [
        b"line\nbreak.png",
        b"tab\t.png",
        b"escape\x1b[31m.png",
        "right\u202eto\u2066left.png".encode(),
        b"A.png",
        b"a.png",
        b"-rf.png",
        b" .png",
        b"x" * 251 + b".png",
        "é".encode() * 125 + b".png",
        b"\xff" * 251 + b".png",
        b"con.png",
    ]
    for name in names:
        an_image(tmp_path / "whole.png")
        shutil.move(tmp_path / "whole.png", os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    sources = find_images(tmp_path)
    assert len(sources) == len(names)
    assert len({source.id.casefold() for source in sources}) == len(names)
    for source in sources:
        assert source.id.isprintable()
        assert len(source.id.encode()) <= 210
        (tmp_path / "run" / source.id).mkdir(parents=True)
        np.testing.assert_array_equal(read_source(source, InputSpec()).pixels, PIXELS)


def test_long_names_that_begin_alike_stay_apart() -> None:
    ids = unique([safe("x" * 300 + str(number) + ".png") for number in range(3)])
    assert len(set(ids)) == 3
    assert all(len(id) <= 210 for id in ids)


# annotations


BAD_ANNOTATIONS = {
    "deep.json": "[" * 100_000,
    "laughs.xml": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><annotations><image name='&j;'/></annotations>",
    "rle.json": json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}
            ],
        }
    ),
}


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_hostile_annotations_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(BAD_ANNOTATIONS[name])

    def masks() -> list[Any]:
        return [shape.mask((20, 30)) for annotation in annotations_in(path).values() for shape in annotation.shapes]

    with pytest.raises(ImageUnreadable) as refused:
        masks()
    assert "\n" not in str(refused.value)


def test_limits_are_checked_where_a_name_holds_a_null_byte() -> None:
    with pytest.raises(ImageUnreadable, match="null byte"):
        limits.check_is_file(Path("a\0b.png"))
