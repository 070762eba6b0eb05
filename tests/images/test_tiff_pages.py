"""The images of TIFFs of several pages: their order, their pixels, their places."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import Affine
from rasterio.windows import Window

from segment.images.find import find_images
from segment.images.formats.georeference import quiet_gdal
from segment.images.placing.of_source import geometry_of
from segment.images.read import read_source, size_of
from segment.images.specs import InputSpec

RNG = np.random.default_rng(5)


def noise(*shape: int, kind: type[np.unsignedinteger] = np.uint8) -> NDArray[Any]:
    return RNG.integers(0, np.iinfo(kind).max + 1, shape).astype(kind)


def written(path: Path, *pages: tuple[NDArray[Any], dict[str, Any]]) -> list[NDArray[Any]]:
    """A file of these pages; their pixels as Pillow and tifffile give them page by page."""
    with tifffile.TiffWriter(path) as file:
        for pixels, options in pages:
            file.write(pixels, metadata=None, contiguous=False, **options)
    with tifffile.TiffFile(path) as file:
        stored = [page.asarray() for page in file.pages]
    with Image.open(path) as image:
        for number, pixels in enumerate(stored):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image), pixels)
    return stored


def read(path: Path, **spec: Any) -> list[NDArray[Any]]:
    """The images of a file; each has the size that its header says."""
    images = []
    for source in find_images(path):
        pixels = read_source(source, InputSpec(**spec)).pixels
        assert size_of(source) == pixels.shape[:2]
        images.append(pixels)
    return images


def ome_set(folder: Path, pages: int, kind: type[np.unsignedinteger]) -> dict[str, NDArray[Any]]:
    """Two OME-TIFFs of a page for each of some slices: one a point of time, each naming both files."""
    uuids = {name: f"urn:uuid:{uuid4()}" for name in ("a", "b")}
    parts = "".join(
        f'<TiffData IFD="{page}" FirstT="{time}" FirstZ="{page}" FirstC="0" PlaneCount="1">'
        f'<UUID FileName="{name}.tif">{uuid}</UUID></TiffData>'
        for time, (name, uuid) in enumerate(uuids.items())
        for page in range(pages)
    )
    images = {name: noise(pages, 20, 30, kind=kind) for name in uuids}
    for name, uuid in uuids.items():
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{np.dtype(kind).name}" SizeX="30" SizeY="20" '
            f'SizeZ="{pages}" SizeC="1" SizeT="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels>'
            "</Image></OME>"
        )
        tifffile.imwrite(folder / f"{name}.tif", images[name], description=xml, metadata=None, photometric="minisblack")
    return images


GREY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}
MIXED: dict[str, list[tuple[NDArray[Any], dict[str, Any]]]] = {
    "compression": [(noise(32, 40), GREY | {"compression": name}) for name in ("zlib", None, "zlib")],
    "layout": [(noise(32, 40), GREY | options) for options in ({}, {"tile": (16, 16)}, {})],
    "colours": [(noise(32, 40), GREY), (noise(32, 40, 3), RGB), (noise(32, 40), GREY), (noise(32, 40, 3), RGB)],
    "size": [(noise(*size), GREY) for size in ((32, 40), (20, 30), (32, 40))],
    "half the size": [(noise(*size), GREY) for size in ((32, 40), (16, 20), (8, 10))],
    "type": [(noise(32, 40, kind=kind), GREY) for kind in (np.uint16, np.uint8, np.uint16)],
}


@pytest.mark.parametrize("differ", MIXED)
def test_pages_are_numbered_as_they_lie_in_the_file_whatever_they_differ_in(differ: str, tmp_path: Path) -> None:
    pages = written(tmp_path / "s.tif", *MIXED[differ])
    for pixels, page in zip(read(tmp_path / "s.tif", white=255 if differ == "type" else None), pages, strict=True):
        colours = page if page.ndim == 3 else np.repeat(page[..., None], 3, axis=2)
        np.testing.assert_array_equal(pixels, colours)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("pages", [1, 2])
def test_each_file_of_an_ome_set_has_its_own_pages(pages: int, kind: type[np.unsignedinteger], tmp_path: Path) -> None:
    for name, stack in ome_set(tmp_path, pages, kind).items():
        images = read(tmp_path / f"{name}.tif", channels=1, white=255)
        np.testing.assert_array_equal(np.stack(images)[..., 0], stack)


def micro_manager_file(path: Path, time: int, pixels: NDArray[Any]) -> None:
    """One of the two files of a Micro-Manager stack, whose summary and index lie beside what a TIFF has."""
    summary = json.dumps({"MicroManagerVersion": "1.4", "Frames": 2, "Prefix": "p"}).encode()
    ifd = 40 + len(summary) + len(summary) % 2
    data = ifd + 162
    index = data + pixels.nbytes
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 16, 259: 1, 262: 1, 273: data, 277: 1}
    tags |= {278: pixels.shape[0], 279: pixels.nbytes, 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    entries += struct.pack("<HHII", 51123, 2, 8, ifd + 140) + bytes(4)
    head = struct.pack("<2sH9I", b"II", 42, ifd, 54773648, index, 483765892, 0, 99384722, 0, 2355492, len(summary))
    pages = (head + summary).ljust(ifd, b"\0") + struct.pack("<H", len(tags) + 1) + entries
    frames = struct.pack("<2I5I", 3453623, 1, 0, 0, time, 0, ifd)
    path.write_bytes(pages.ljust(ifd + 140) + b"{}     \0".ljust(22) + pixels.tobytes() + frames + bytes(200))


def test_each_file_of_a_micro_manager_stack_has_its_own_pages(tmp_path: Path) -> None:
    stack = noise(2, 20, 30, kind=np.uint16)
    for time, pixels in enumerate(stack):
        micro_manager_file(tmp_path / f"p_MMStack_{time}.tif", time, pixels)
    for time, pixels in enumerate(stack):
        with tifffile.TiffFile(tmp_path / f"p_MMStack_{time}.tif") as file:
            assert file.series[0].shape == stack.shape
        (image,) = read(tmp_path / f"p_MMStack_{time}.tif", channels=1, white=255)
        np.testing.assert_array_equal(image[..., 0], pixels)


def placed_pages(path: Path) -> list[Any]:
    """A GeoTIFF of three pages, each with a place and a nodata value of its own; what rasterio says of them."""
    for number in range(3):
        profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 32, "width": 40, "dtype": "uint16"}
        profile |= {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5 + 1000 * number, 0, -10, 4e6)}
        profile |= {"nodata": number, "APPEND_SUBDATASET": "YES" if number else "NO"}
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(np.full((1, 32, 40), number, np.uint16), window=Window(0, 0, 40, number + 1))
            raster.write(np.full((1, 31 - number, 40), 9, np.uint16), window=Window(0, number + 1, 40, 31 - number))
    said = []
    for number in range(3):
        with rasterio.open(f"GTIFF_DIR:{number + 1}:{path}") as raster:
            said.append((tuple(raster.transform)[:6], raster.nodata, raster.read_masks(1) > 0))
    return said


def test_each_page_of_a_geotiff_has_its_own_place_and_nodata(tmp_path: Path) -> None:
    said = placed_pages(tmp_path / "s.tif")
    for source, (transform, nodata, inside) in zip(find_images(tmp_path / "s.tif"), said, strict=True):
        geometry = geometry_of(source)
        assert (geometry.transform, geometry.nodata) == (transform, nodata)
        assert geometry.crs is not None
        valid = read_source(source, InputSpec(channels=1, white=255)).valid
        np.testing.assert_array_equal(valid, inside)


def test_a_page_without_a_place_has_not_that_of_the_first_which_a_warning_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True)]
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(noise(32, 40), extratags=place, photometric="minisblack", metadata=None)
        file.write(noise(32, 40), photometric="minisblack", metadata=None, contiguous=False)
    first, second = (geometry_of(source) for source in find_images(tmp_path / "s.tif"))
    assert first.transform == (10, 0, 5e5, 0, -10, 4e6)
    assert not second.placed
    assert "A later one has none" in caplog.text
    (tmp_path / "s.tfw").write_text("20\n0\n0\n-20\n10\n-10\n")
    assert geometry_of(find_images(tmp_path / "s.tif")[1]).transform == (20, 0, 0, 0, -20, 0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("writer", ["imagej", "tifffile"])
def test_a_stack_with_the_tags_of_its_first_page_only_has_all_its_pages(
    writer: str, kind: type[np.unsignedinteger], tmp_path: Path
) -> None:
    stack, path = noise(4, 20, 30, kind=kind), tmp_path / "s.tif"
    if writer == "tifffile":
        tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYX"}, truncate=True)
    else:  # as ImageJ writes above 4 GB
        said = "ImageJ=1.53t\nimages=4\nslices=4\nloop=false\n"
        with tifffile.TiffWriter(path, byteorder=">") as file:
            file.write(stack[0], photometric="minisblack", description=said, metadata=None, software="")
        path.write_bytes(path.read_bytes() + stack[1:].astype(stack.dtype.newbyteorder(">")).tobytes())
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        np.testing.assert_array_equal(file.asarray(), stack)
    np.testing.assert_array_equal(np.stack(read(path, channels=1, white=255))[..., 0], stack)


def test_a_page_that_kept_the_description_of_a_stack_is_one_image(tmp_path: Path) -> None:
    page = noise(20, 30, kind=np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", page, description='{"shape": [4, 20, 30]}', metadata=None)
    (image,) = read(tmp_path / "p.tif", channels=1, white=255)
    np.testing.assert_array_equal(image[..., 0], page)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_map_of_8_bits_in_the_place_of_16_is_not_black(bits: int, tmp_path: Path) -> None:
    colours = noise(3, 2**bits)
    index = noise(20, 30, kind=np.uint8 if bits == 8 else np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", index, photometric="palette", colormap=colours.astype(np.uint16))
    with quiet_gdal(), rasterio.open(tmp_path / "p.tif") as raster:
        assert raster.colormap(1)[5][:3] == tuple(colours[:, 5])
    (image,) = read(tmp_path / "p.tif")
    np.testing.assert_array_equal(image, colours.T[index])
