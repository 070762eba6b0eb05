"""Where an image lies, by a file beside it or by ground control points, comes to the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from segment.errors import ImageUnreadable
from segment.images.find import Source
from segment.images.formats import georeference
from segment.images.placing.geometry import Geometry, upright_geometry
from segment.images.placing.of_source import geometry_of
from segment.images.read import read_source
from segment.images.specs import InputSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
WORLD = "10\n1\n2\n-10\n500005\n3999995\n"  # of the centre of the first pixel
POINTS = [
    GroundControlPoint(row, column, 10 + column / 300, 50 - row / 200, 7, id="p")
    for row, column in ((0, 0), (0, 30), (20, 0), (20, 30))
]


def by_rasterio(path: Path) -> tuple[float, ...]:
    with rasterio.open(path) as file:
        return tuple(file.transform)[:6]


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("a.tif", "a.tfw"),
        ("a.tiff", "a.tiffw"),
        ("a.jpg", "a.jgw"),
        ("a.jpeg", "a.wld"),
        ("a.png", "a.pgw"),
        ("a.png", "a.PGW"),
    ],
)
def test_a_world_file_says_where_a_picture_lies(name: str, world: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(COLOURS).save(path)
    assert geometry_of(Source("a", path)) == Geometry()
    before = read_source(Source("a", path), InputSpec())
    (tmp_path / world).write_text(WORLD)
    geometry = geometry_of(Source("a", path))
    assert geometry.transform == by_rasterio(path) == (10, 2, 499999, 1, -10, 3999999.5)
    image = read_source(Source("a", path), InputSpec())
    np.testing.assert_array_equal(image.pixels, before.pixels)
    assert image.valid is None


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_what_gdal_writes_beside_a_picture_says_where_it_lies(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(COLOURS).save(path)
    beside = (
        f"<PAMDataset><SRS>{CRS.from_epsg(32633).to_wkt()}</SRS><GeoTransform>5e5, 10, 0, 4e6, 0, -10</GeoTransform>"
        "</PAMDataset>"
    )
    (tmp_path / f"{name}.aux.xml").write_text(beside)
    geometry = geometry_of(Source("a", path))
    assert geometry.transform == by_rasterio(path) == (10, 0, 5e5, 0, -10, 4e6)
    assert CRS.from_wkt(geometry.crs) == CRS.from_epsg(32633)
    (tmp_path / f"{name}.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert geometry_of(Source("a", path)) == Geometry()


def test_nodata_beside_a_tiff_holds_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey = COLOURS[..., 0] % 4
    tifffile.imwrite(path, grey)
    band = '<PAMRasterBand band="1"><NoDataValue>2</NoDataValue></PAMRasterBand>'
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    image = read_source(Source("a", path), InputSpec())
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read_masks(1) > 0, grey != 2)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid[:], grey != 2)


def test_transparent_pixels_of_a_picture_with_a_place_hold_no_data(tmp_path: Path) -> None:
    alpha = np.where(COLOURS[..., 0] > 99, 255, 0).astype(np.uint8)
    for name, world in (("a.png", "a.pgw"), ("b.tif", "b.tfw")):
        path = tmp_path / name
        Image.fromarray(np.dstack([COLOURS, alpha])).save(path)
        assert read_source(Source("a", path), InputSpec()).valid is None
        (tmp_path / world).write_text(WORLD)
        valid = read_source(Source("a", path), InputSpec()).valid
        assert valid is not None
        np.testing.assert_array_equal(valid[:], alpha > 0)


def turned(path: Path, orientation: int, pixels: NDArray[Any]) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack", extratags=[(274, "H", 1, orientation, True)])
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_lies_where_its_stored_pixels_do(name: str, orientation: int, tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    path = tmp_path / name
    turned(path, orientation, stored)
    path.with_suffix(f".{path.suffix[1]}{path.suffix[3]}w").write_text(WORLD)
    upright = read_source(Source("a", path), InputSpec()).pixels[..., 0]
    transform = geometry_of(Source("a", path)).transform
    assert transform is not None
    place, of_stored = rasterio.Affine(*transform), rasterio.Affine(*by_rasterio(path))
    for row, column in np.ndindex(*upright.shape):
        (at,) = np.argwhere(stored == upright[row, column])
        assert place @ (column + 0.5, row + 0.5) == pytest.approx(of_stored @ (at[1] + 0.5, at[0] + 0.5))


def test_ground_control_points_are_read_and_turn_with_their_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=20, width=30, count=3, dtype="uint8") as file:
        file.write(np.moveaxis(COLOURS, -1, 0))
        file.gcps = POINTS, CRS.from_epsg(4326)
    geometry = geometry_of(Source("a", path))
    assert geometry.transform is None
    assert geometry.gcps == tuple((point.row, point.col, point.x, point.y, point.z) for point in POINTS)
    assert CRS.from_wkt(geometry.crs) == CRS.from_epsg(4326)
    moved = upright_geometry(geometry, 6, height=30, width=20)
    assert [point[:2] for point in moved.gcps] == [(0, 20), (30, 20), (0, 0), (30, 0)]


def test_without_rasterio_a_world_file_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(georeference, "find_spec", lambda name: None)
    georeference._warn_of_lost_georeference.cache_clear()
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text(WORLD)
    assert geometry_of(Source("a", tmp_path / "a.png")) == Geometry()
    assert "not read without rasterio" in caplog.text


def test_a_picture_that_gdal_does_not_open_has_its_pixels_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path) -> Geometry:
        raise ImageUnreadable(f"{path} does not open as a raster")

    path = tmp_path / "a.webp"
    pixels = np.dstack([COLOURS, np.full((20, 30), 255, np.uint8)])
    Image.fromarray(pixels).save(path, lossless=True)
    (tmp_path / "a.wld").write_text(WORLD)
    monkeypatch.setattr(georeference, "raster_geometry", refuses)
    np.testing.assert_array_equal(read_source(Source("a", path), InputSpec()).pixels, COLOURS)
