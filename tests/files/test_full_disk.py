"""What the disk has no place for is refused in one line, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from test_exports import PLACED, exported, into

from segment.errors import WrongUse
from segment.files.exports.geotiff import write_tifs
from segment.files.exports.videos import write_videos
from segment.files.exports.volumes import PlacedImage
from segment.files.runs.manifest import Entry, Lines, read_manifest
from segment.files.writing import fresh_folder, fresh_path, write_png
from segment.images.placing.geometry import Geometry

resource = pytest.importorskip("resource", reason="no limits of files there")


def test_a_geotiff_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    image = exported(PLACED, side=1024)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kinds = set()
    for number, limit in enumerate((2**12, 2**17, 2**20 + 2**17, 2**22, 2**22 + 2**15, 2**30)):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused = ""
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            write_tifs(into(folder), image)
        except WrongUse as error:
            refused = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        kinds.add(bool(refused))
        assert not list(folder.glob(".*"))
        assert "\n" not in refused
        assert not refused or (refused.startswith("Cannot write") and "on a disk with free space" in refused)
        assert "previous exception" not in refused
        for name, values in image.maps.items():
            if (path := folder / f"{name}.tif").exists():
                with rasterio.open(path) as file:
                    np.testing.assert_array_equal(file.read(1), values)
    assert kinds == {True, False}


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file grows beyond that many bytes within the block, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_line_of_a_manifest_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    lines = Lines(manifest)
    lines.add(Entry(id="first", source="first", status="failed", error="none"))
    whole = manifest.read_bytes()
    with files_up_to(len(whole) + 5), pytest.raises(WrongUse, match="on a disk with free space"):
        lines.add(Entry(id="second", source="second", status="failed", error="none"))
    assert manifest.read_bytes() == whole
    lines.add(Entry(id="third", source="third", status="failed", error="none"))
    assert [*read_manifest(manifest)] == [*lines] == ["first", "third"]


def film(folder: Path, frames: int) -> list[PlacedImage]:
    """Frames of noise, which no codec makes small."""
    parts, rng = [], np.random.default_rng(0)
    for index in range(frames):
        part = folder / "film" / f"{index:06}"
        write_png(part / "overlay.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
        geometry = Geometry(video="film.mp4", frame_rate=24.0, index=index, count=frames)
        parts.append(PlacedImage(f"film/{index}", part, geometry))
    return parts


def test_a_video_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    parts = film(tmp_path, frames=20)
    with files_up_to(2**12), pytest.raises(WrongUse, match="on a disk with free space"):
        write_videos(tmp_path / "film", parts, ["overlay"])
    assert not list((tmp_path / "film").glob("*.mp4")) + list((tmp_path / "film").glob(".*"))
    (path,) = write_videos(tmp_path / "film", parts, ["overlay"])
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 20


def test_a_file_that_somebody_takes_away_while_it_is_written_is_an_error(tmp_path: Path) -> None:
    def written_and_taken_away() -> None:
        with fresh_path(tmp_path / "a.csv") as place:
            place.write_text("a")
            place.unlink()

    with pytest.raises(WrongUse, match="took the file away while it was written"):
        written_and_taken_away()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "maps", Path.replace
    for text in ("old", "new"):
        with fresh_folder(folder) as place:
            (place / "file").write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    assert (folder / "file").read_text() == "new"

    def interrupted(self: Path, target: Path) -> Path:
        if target == folder and ".old." not in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), fresh_folder(folder) as place:
        (place / "file").write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    assert (folder / "file").read_text() == "new"


def test_a_name_of_many_bytes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u6d77" * 80 + ".csv")
    with fresh_path(path) as place:
        place.write_text("a")
    assert path.read_text() == "a"


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_folder_is_not_written_over_a_file_or_a_link(tmp_path: Path, what: str) -> None:
    place = tmp_path / "maps"
    if what == "file":
        place.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WrongUse, match="a file or a link is there"), fresh_folder(place):
        pass
    assert sorted(tmp_path.iterdir()) == before
