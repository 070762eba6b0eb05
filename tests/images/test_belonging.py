"""What belongs to an image file counts as its content: the files beside it, and the sources of a `.vrt`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from image_files import geotiff
from numpy.typing import NDArray
from PIL import Image
from plain import Toy, calibrated, random_bank, seeded

from segment.batch_norm.network import bn_network_of
from segment.draws.image_pool import ImagePool
from segment.files.banks.cache import pool_sha256
from segment.files.runs.manifest import read_entries
from segment.images.find import Source
from segment.images.formats import belonging
from segment.images.formats.belonging import files_of
from segment.images.formats.raster_windows import mask_of, window_of
from segment.images.read import read_source
from segment.images.specs import InputSpec
from segment.jobs.labelled.labels import contents_of
from segment.jobs.predict import predict
from segment.networks.load import Network, load_network

SIZE = (32, 40)
RNG = np.random.default_rng(0)
WORLD = "10\n0\n0\n-10\n500005\n5199995\n"


def vrt(path: Path, source: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{colour}</ColorInterp><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for band, colour in enumerate(("Red", "Green", "Blue"), 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="{SIZE[1]}" rasterYSize="{SIZE[0]}">{bands}</VRTDataset>')
    return path


def pixels() -> NDArray[np.uint8]:  # -> 3 H W
    return RNG.integers(1, 255, (3, *SIZE)).astype(np.uint8)


def mask_beside(path: Path) -> None:
    inside = np.full((1, *SIZE), 255, np.uint8)
    inside[:, :16] = 0
    geotiff(path.with_name(f"{path.name}.msk"), inside)
    with rasterio.open(path.with_name(f"{path.name}.msk"), "r+") as raster:
        raster.update_tags(INTERNAL_MASK_FLAGS_1=2)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(calibrated(seeded(Toy), SIZE))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A PNG with a world file, a GeoTIFF, a `.vrt` of another GeoTIFF, and a plain PNG."""
    top = tmp_path / "images"
    geotiff(top / "t.tif", pixels())
    for name in "pq":
        Image.fromarray(np.moveaxis(pixels(), 0, -1)).save(top / f"{name}.png")
    (top / "p.pgw").write_text(WORLD)
    geotiff(tmp_path / "tiles" / "u.tif", pixels())
    vrt(top / "v.vrt", "../tiles/u.tif")
    return top


def change(images: Path) -> None:
    (images / "p.pgw").write_text(WORLD.replace("10", "20"))
    mask_beside(images / "t.tif")
    geotiff(images.parent / "tiles" / "u.tif", pixels())


def test_what_belongs_to_a_file_lies_beside_it_or_is_a_source(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = images.parent / "tiles" / "u.tif"
    mask_beside(tile)
    vrt(images / "w.vrt", "v.vrt")
    inside = {path.resolve() for path in files_of(images / "w.vrt")}
    assert inside == {images / "v.vrt", tile, tile.with_name("u.tif.msk")}
    monkeypatch.setattr(belonging, "raster_files", None)  # GDAL is not asked
    assert files_of(images / "p.png") == (images / "p.pgw",)
    assert files_of(images / "q.png") == files_of(images / "t.tif") == ()
    mask_beside(images / "t.tif")
    assert files_of(images / "t.tif") == (images / "t.tif.msk",)


def test_a_raster_that_stays_open_is_opened_anew_where_its_files_have_changed(images: Path) -> None:
    spans = (0, SIZE[0]), (0, SIZE[1])
    for name, tile in (("v.vrt", images.parent / "tiles" / "u.tif"), ("t.tif", images / "t.tif")):
        for _ in range(2):
            bands = pixels()
            geotiff(tile, bands)
            np.testing.assert_array_equal(window_of(images / name, *spans), np.moveaxis(bands, 0, -1))
    assert mask_of(images / "t.tif", *spans).all()
    mask_beside(images / "t.tif")
    assert not mask_of(images / "t.tif", *spans)[:16].any()


def test_a_run_that_goes_on_makes_images_again_whose_files_beside_have_changed(
    network: Network, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bank = random_bank(bn_network_of(network))
    times: dict[str, list[int]] = {name: [] for name in "pqtv"}

    def run(*, resume: bool) -> dict[str, Any]:
        assert predict(network, images, bank, tmp_path / "run", resume=resume).failed == {}
        for name, made in times.items():
            made.append((tmp_path / "run" / name / "prediction.png").stat().st_mtime_ns)
        return {id: dict(line) for id, line in read_entries(tmp_path / "run" / "manifest.jsonl").items()}

    lines = run(resume=False)
    assert {name for name, line in lines.items() if "beside_sha256" in line} == {"p", "v"}
    run(resume=True)
    change(images)
    lines = run(resume=True)
    assert {name for name, made in times.items() if made[1] != made[0]} == set()
    assert {name for name, made in times.items() if made[2] != made[1]} == {"p", "t", "v"}
    assert lines["t"]["sha256"] == hashlib.sha256((images / "t.tif").read_bytes()).hexdigest()
    (tmp_path / "tiles" / "u.tif").rename(tmp_path / "away.tif")
    run(resume=True)
    assert times["v"][3] == times["v"][2]
    assert "u.tif cannot be read now: what was made of it before stays" in caplog.text


def test_a_bank_is_of_what_belongs_to_its_images_too(
    network: Network, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "cache"))
    alone, all_of_them = ([images / "q.png"], [images / name for name in ("p.png", "t.tif", "v.vrt")])
    before = [pool_sha256(ImagePool(network, some)) for some in (alone, all_of_them)]
    bytes_of_one = hashlib.sha256((images / "q.png").read_bytes()).hexdigest()
    assert before[0] == hashlib.sha256(bytes_of_one.encode()).hexdigest(), "as banks of before have it"
    change(images)
    after = [pool_sha256(ImagePool(network, some)) for some in (alone, all_of_them)]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_an_evaluation_goes_on_with_what_belongs_to_images_and_labels(images: Path) -> None:
    sources = [Source(name, images / file, label=images / "q.png") for name, file in (("q", "q.png"), ("v", "v.vrt"))]
    before = [contents_of(source) for source in sources]
    assert [len(sums) for sums in before] == [2, 3]
    change(images)
    after = [contents_of(source) for source in sources]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_pixels_of_a_vrt_are_those_of_its_source_now(images: Path) -> None:
    for _ in range(2):
        bands = pixels()
        geotiff(images.parent / "tiles" / "u.tif", bands)
        np.testing.assert_array_equal(
            read_source(Source("v", images / "v.vrt"), InputSpec()).pixels, np.moveaxis(bands, 0, -1)
        )
