"""The same pixels in any container give the bits of the array; what a file holds beside them is kept or refused."""

from __future__ import annotations

import gzip
import math
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
import tifffile
import torch
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray
from PIL import Image
from plain import calibrated, seeded
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from test_accept import Channels

import segment
from segment.errors import ImageUnreadable, MissingExtra
from segment.images.find import Source, find_images
from segment.images.formats import volumes
from segment.images.formats.raster import Raster
from segment.images.formats.tiff import read_tiff
from segment.images.labels.annotations import annotations_in
from segment.images.labels.pairs import with_masks
from segment.images.listing.parts import Listing
from segment.images.placing.of_source import geometry_of
from segment.images.read import read_label, read_source, size_of
from segment.images.specs import Channels as CardChannels
from segment.images.specs import InputSpec
from segment.networks.load import Network, load_network

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 10000, (32, 40, 4)).astype(np.uint16)
COLOURS = RNG.integers(0, 256, (32, 40, 3)).astype(np.uint8)
GREY = RNG.integers(0, 65536, (32, 40)).astype(np.uint16)
HOUNSFIELD = RNG.integers(-1000, 2000, (6, 32, 40)).astype(np.int16)  # slices, rows, columns


def read(path: Path, channels: CardChannels = 4, white: float | None = 10000, **part: Any) -> NDArray[Any]:
    return read_source(Source("a", path, **part), InputSpec(channels=channels, white=white)).pixels


def geotiff(path: Path, pixels: NDArray[Any] = BANDS, **profile: Any) -> Path:
    height, width, count = pixels.shape
    shape = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with rasterio.open(
        path, "w", crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **shape | profile
    ) as file:
        file.write(np.moveaxis(pixels, -1, 0))
        if "nodata" not in profile and count == 4:
            file.descriptions = ("blue", "green", "red", "nir")
    return path


def network_of(planes: int, **spec: Any) -> Network:
    network = load_network(calibrated(seeded(lambda: Channels(planes)), (32, 40), channels=planes))
    return replace(network, card=replace(network.card, input=InputSpec(**spec), assumed=False))


def dicom(path: Path, pixels: NDArray[np.int16], position: float, series: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.Modality = series, "CT"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.PixelSpacing, file.SliceThickness = [0.5, 0.75], 2
    file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -20, position]
    file.PixelData = (pixels.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)


TIFFS: dict[str, dict[str, Any]] = {
    "strips": {"planarconfig": "contig"},
    "tiles": {"planarconfig": "contig", "tile": (16, 16)},
    "planar": {"planarconfig": "separate"},
    "deflate and a predictor": {"planarconfig": "contig", "compression": "zlib", "predictor": True},
    "lzw": {"planarconfig": "contig", "compression": "lzw"},
    "big": {"planarconfig": "contig", "bigtiff": True},
}


@pytest.mark.parametrize("what", TIFFS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_a_tiff_of_any_layout_and_type_holds_its_bands(what: str, kind: type[np.generic], tmp_path: Path) -> None:
    pixels = (BANDS % 256).astype(kind)
    if TIFFS[what].get("predictor") and np.issubdtype(kind, np.floating):
        pytest.skip("another predictor")
    separate = TIFFS[what].get("planarconfig") == "separate"
    stored = np.moveaxis(pixels, -1, 0) if separate else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **TIFFS[what])
    expected = pixels if kind is np.uint8 else pixels.astype(np.float32)
    found = read(tmp_path / "a.tif", white=255)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert size_of(Source("a", tmp_path / "a.tif")) == (32, 40)


def test_the_same_four_bands_are_the_same_bits_in_every_container(tmp_path: Path) -> None:
    geotiff(tmp_path / "geo.tif", tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    tifffile.imwrite(
        tmp_path / "pages.tif", np.moveaxis(BANDS, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}
    )
    np.save(tmp_path / "last.npy", BANDS)
    np.save(tmp_path / "first.npy", np.moveaxis(BANDS, -1, 0))
    np.savez_compressed(tmp_path / "two.npz", image=BANDS, label=BANDS[..., 0] % 3)
    nibabel.save(nibabel.Nifti1Image(BANDS.swapaxes(0, 1)[:, :, None], np.eye(4)), tmp_path / "v.nii.gz")
    expected = (BANDS.astype(np.float64) / 10000 * 255).astype(np.float32)
    for name in ("geo.tif", "pages.tif", "last.npy", "first.npy", "two.npz"):
        np.testing.assert_array_equal(read(tmp_path / name), expected, err_msg=name)
    np.testing.assert_array_equal(read(tmp_path / "v.nii.gz", part=0), expected)
    network = network_of(4, channels=4, white=10000.0, mean=(0.1, 0.2, 0.3, 0.4), scale=(255.0, 255.0, 200.0, 100.0))
    assert np.array_equal(network.accept.image(BANDS), expected)


def test_an_array_with_its_bands_first_is_turned(tmp_path: Path) -> None:
    twelve = RNG.integers(0, 255, (12, 32, 40)).astype(np.uint8)
    np.save(tmp_path / "a.npy", twelve)
    np.testing.assert_array_equal(read(tmp_path / "a.npy", channels=12), np.moveaxis(twelve, 0, -1))
    np.save(tmp_path / "s.npy", np.stack([COLOURS, COLOURS[::-1]]))
    assert [source.id for source in find_images(tmp_path / "s.npy")] == ["s/0000", "s/0001"]
    np.testing.assert_array_equal(read(tmp_path / "s.npy", "RGB", part=1), COLOURS[::-1])


def test_bands_are_found_by_their_names_in_any_order(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "a.tif")
    expected = (BANDS[..., [3, 2]].astype(np.float64) / 10000 * 255).astype(np.float32)
    np.testing.assert_array_equal(read(path, ("nir", "red")), expected)
    with pytest.raises(ImageUnreadable, match=r"no band 'swir'.*It has blue, green, red, nir"):
        read(path, ("red", "swir"))
    with pytest.raises(ImageUnreadable, match=r"holds 4 bands \(blue.*RGB is asked for.*channels: 4"):
        read(path, "RGB")
    tifffile.imwrite(tmp_path / "n.tif", BANDS, photometric="minisblack", planarconfig="contig")
    names = ("a", "b", "c", "d")  # a file without names has its bands in the card's order
    np.testing.assert_array_equal(read(tmp_path / "n.tif", names), read(tmp_path / "n.tif"))


def test_nodata_and_what_is_not_finite_is_outside_and_zero(tmp_path: Path) -> None:
    pixels = BANDS.astype(np.float32)
    pixels[:4], pixels[10, 10, 2] = -9999, np.nan
    path = geotiff(tmp_path / "a.tif", pixels, nodata=-9999)
    image = read_source(Source("a", path), InputSpec(channels=4, white=10000))
    assert image.valid is not None
    expected = np.ones((32, 40), bool)
    expected[:4], expected[10, 10] = False, False
    np.testing.assert_array_equal(image.valid, expected)
    assert not image.pixels[~expected].any()
    assert geometry_of(Source("a", path)).nodata == -9999


def test_a_stack_in_an_npz_is_refused_with_where_it_belongs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.stack([COLOURS, COLOURS]))
    with pytest.raises(ImageUnreadable, match=r"shape \(2, 32, 40, 3\); an image is .*, a stack an \.npy of N H W C\."):
        read(tmp_path / "a.npz", "RGB")


def test_a_region_mask_is_the_valid_part(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    mask = np.zeros((32, 40), np.uint8)
    mask[8:24] = 255
    Image.fromarray(mask).save(tmp_path / "m.gif")
    image = read_source(Source("a", tmp_path / "a.png", mask=tmp_path / "m.gif"), InputSpec())
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, mask > 0)
    np.testing.assert_array_equal(image.pixels, COLOURS)
    Image.fromarray(mask[:5]).save(tmp_path / "s.png")
    with pytest.raises(ImageUnreadable, match=r"region mask .* is 5x40, its image .* 32x40"):
        read_source(Source("a", tmp_path / "a.png", mask=tmp_path / "s.png"), InputSpec())


def test_a_pyramid_is_one_image_and_a_stack_several(tmp_path: Path) -> None:
    geotiff(tmp_path / "a.tif", tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.build_overviews([2, 4])
    assert [source.part for source in find_images(tmp_path / "a.tif")] == [None]
    stack = RNG.integers(0, 4096, (3, 32, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack", metadata=None)
    sources = find_images(tmp_path / "s.tif")
    assert [source.id for source in sources] == ["s/0000", "s/0001", "s/0002"]
    for source, page in zip(sources, stack, strict=True):
        image = read_source(source, InputSpec(channels=1, white=255)).pixels
        np.testing.assert_array_equal(image[..., 0], page)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("writer", ["pillow", "tifffile", "compressed", "imagej"])
def test_each_page_of_a_stack_in_8_bits_has_its_own_pixels(tmp_path: Path, bands: int, writer: str) -> None:
    stack = RNG.integers(0, 256, (3, 32, 40, bands)).astype(np.uint8)
    stack = stack[..., 0] if bands == 1 else stack
    path, photometric = tmp_path / "s.tif", "minisblack" if bands == 1 else "rgb"
    if writer == "pillow":
        first, *others = map(Image.fromarray, stack)
        first.save(path, save_all=True, append_images=others)
    elif writer == "imagej":
        axes = {"axes": "TYX" if bands == 1 else "TYXS"}
        tifffile.imwrite(path, stack, imagej=True, photometric=photometric, metadata=axes)
    else:
        tifffile.imwrite(path, stack, photometric=photometric, compression="zlib" if writer == "compressed" else None)
    sources = find_images(path)
    assert len(sources) == 3
    for source, page in zip(sources, stack, strict=True):
        image = read_source(source, InputSpec(channels=bands)).pixels
        np.testing.assert_array_equal(image, page.reshape(32, 40, bands))


def test_each_page_has_its_own_mask_and_orientation(tmp_path: Path) -> None:
    stack = RNG.integers(0, 4096, (3, 20, 26)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "m.tif") as file:
        for hidden, page in enumerate(stack):
            inside = np.arange(20)[:, None].repeat(26, 1) >= hidden
            file.write(page, photometric="minisblack", metadata=None, contiguous=False)
            file.write(inside, photometric="mask", subfiletype=4, metadata=None, contiguous=False)
    with tifffile.TiffWriter(tmp_path / "o.tif") as file:
        for page, orientation in zip(stack, (1, 3, 6), strict=True):
            tag = (274, "H", 1, orientation, True)
            file.write(page, photometric="minisblack", metadata=None, contiguous=False, extratags=[tag])
    for number, page in enumerate(stack):
        raster = read_tiff(tmp_path / "m.tif", number)
        np.testing.assert_array_equal(raster.raw[..., 0], page)
        assert raster.mask is None or (~raster.mask).all(axis=1).sum() == number
    assert raster.mask is not None
    turned = (stack[0], stack[1][::-1, ::-1], np.rot90(stack[2], -1))
    for number, page in enumerate(turned):
        np.testing.assert_array_equal(read_tiff(tmp_path / "o.tif", number).raw[..., 0], page)


def test_an_index_of_a_gif_does_not_hang_on_the_other_classes_in_it(tmp_path: Path) -> None:
    colours = [(255, 255, 255), (0, 0, 255), (128, 128, 128)]  # class 0 is white, class 2 grey
    for classes in ((0,), (0, 2), (0, 1, 2)):
        label = np.resize(np.array(classes, np.uint8), (512, 512))  # Pillow leaves colours out of smaller ones
        picture = Image.fromarray(label, "P")
        picture.putpalette([value for colour in colours for value in colour] + [0] * (768 - 9))
        picture.save(tmp_path / "a.gif")
        np.testing.assert_array_equal(read_label(tmp_path / "a.gif"), label)


def test_every_frame_of_a_grey_gif_holds_its_indices(tmp_path: Path) -> None:
    maps = [RNG.integers(0, 4, (32, 40)).astype(np.uint8) for _ in range(3)]
    first, *others = map(Image.fromarray, maps)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    for number, expected in enumerate(maps):
        np.testing.assert_array_equal(read_label(tmp_path / "a.gif", number), expected)
    grey, colours = first.convert("RGB"), Image.fromarray(COLOURS)
    for one, two in ((grey, colours), (colours, grey)):
        one.save(tmp_path / "b.gif", save_all=True, append_images=[two])
        with pytest.raises(ImageUnreadable, match="its pixels are colours"):
            read_label(tmp_path / "b.gif", 1)


def test_frames_of_a_gif_are_images(tmp_path: Path) -> None:
    frames = [Image.fromarray((COLOURS // 64 * 64)[::step]).quantize(32) for step in (1, -1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == ["a/0000", "a/0001"]
    for source, frame in zip(sources, frames, strict=True):
        np.testing.assert_array_equal(read_source(source, InputSpec()).pixels, np.asarray(frame.convert("RGB")))


def test_a_volume_is_its_slices_along_the_axis(tmp_path: Path) -> None:
    voxels = HOUNSFIELD.transpose(2, 1, 0)  # i j k: columns, rows, slices
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.75, 0.5, 2, 1])), tmp_path / "v.nii.gz")
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == [f"v/{k:04d}" for k in range(6)]
    for k, source in enumerate(sources):
        image = read_source(source, InputSpec(channels=1, white=255, scale=1)).pixels
        np.testing.assert_array_equal(image[..., 0], HOUNSFIELD[k])
        assert size_of(source) == (32, 40)
    assert len(find_images(tmp_path, Listing(axis=0))) == 40


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[ArrayProxy]:
    """The volumes that were decoded whole."""
    whole: Any = ArrayProxy.__array__
    proxies: list[ArrayProxy] = []

    def counted(proxy: ArrayProxy, *arguments: Any, **named: Any) -> NDArray[Any]:
        proxies.append(proxy)
        return whole(proxy, *arguments, **named)

    monkeypatch.setattr(ArrayProxy, "__array__", counted)
    monkeypatch.setattr(volumes, "_kept", OrderedDict())
    return proxies


@pytest.mark.parametrize(("kept", "times"), [(volumes.KEPT, 2), (40 * 32 * 6 * 2, 12)])
def test_an_image_and_its_label_are_each_decoded_once_where_both_may_be_kept(
    kept: int, times: int, decoded: list[ArrayProxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "KEPT", kept)
    voxels = HOUNSFIELD.transpose(2, 1, 0)
    for name, values in (("image", voxels), ("label", voxels % 3)):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    for number in range(6):
        image = read(tmp_path / "image.nii.gz", 1, 255, part=number)
        np.testing.assert_array_equal(image[..., 0], HOUNSFIELD[number])
        np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz", number), HOUNSFIELD[number] % 3)
    assert len(decoded) == times


@pytest.mark.parametrize("slope", [None, (2.0, -1024.0)])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2), (5, 4, 3, 1), (5, 4)])
def test_a_plain_volume_gives_the_slices_of_the_compressed_one_and_is_not_converted_whole(
    shape: tuple[int, ...], slope: tuple[float, float] | None, decoded: list[ArrayProxy], tmp_path: Path
) -> None:
    volume = nibabel.Nifti1Image(np.arange(math.prod(shape), dtype=np.int16).reshape(shape), np.eye(4))
    if slope is not None:
        volume.header.set_slope_inter(*slope)
    for suffix in (".nii", ".nii.gz"):
        nibabel.save(volume, tmp_path / f"a{suffix}")
    decoded.clear()
    for axis in range(3):
        for index in range(volumes.volume_shape(tmp_path / "a.nii")[axis]):
            plain = volumes.read_slice(tmp_path / "a.nii", index, axis)
            assert not decoded
            compressed = volumes.read_slice(tmp_path / "a.nii.gz", index, axis)
            decoded.clear()
            assert plain.dtype == compressed.dtype
            np.testing.assert_array_equal(plain, compressed)


def test_files_that_are_written_again_with_the_same_size_and_time_are_read_again(tmp_path: Path) -> None:
    def volume(values: NDArray[Any]) -> bytes:
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), tmp_path / "plain.nii")
        return gzip.compress((tmp_path / "plain.nii").read_bytes(), compresslevel=0)

    def write(path: Path, content: bytes) -> None:
        status = path.stat() if path.exists() else None
        path.write_bytes(content)
        if status is not None:
            assert path.stat().st_size == status.st_size
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    voxels, path = np.arange(60).reshape(5, 4, 3), tmp_path / "v.nii.gz"
    shape = '{"shapes": [{"label": "%s", "points": [[0, 0], [5, 5]], "shape_type": "rectangle"}], "imagePath": "a.png"}'
    for step, label in ((0, "road"), (7, "tree")):
        write(path, volume(voxels + step))
        source = find_images(path)[0]
        image = read_source(source, InputSpec(channels=1, white=255, scale=1)).pixels
        np.testing.assert_array_equal(image[..., 0], (voxels + step)[..., 0].T)
        write(tmp_path / "a.json", (shape % label).encode())
        (annotation,) = annotations_in(tmp_path / "a.json").values()
        assert [shape.name for shape in annotation.shapes] == [label]


def test_a_dicom_series_is_ordered_by_position_in_hounsfield_units_with_its_affine(tmp_path: Path) -> None:
    series = generate_uid()
    for name, k in zip("cafbed", range(6), strict=True):
        dicom(tmp_path / f"{name}.dcm", HOUNSFIELD[k], 100.0 + 2.5 * k, series)
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == list("cafbed")
    for k, source in enumerate(sources):
        image = read_source(source, InputSpec(channels="grey", white=255)).pixels
        np.testing.assert_array_equal(image[..., 0], HOUNSFIELD[k])
        geometry = geometry_of(source)
        assert (geometry.index, geometry.count, geometry.volume) == (k, 6, series)
    # voxel (column, row, slice) to right-anterior-superior, by the standard's equation C.7.6.2.1-1
    affine = np.array(geometry.affine)
    np.testing.assert_allclose(affine @ [3, 5, 2, 1], [10 - 3 * 0.75, 20 - 5 * 0.5, 100 + 2 * 2.5, 1])


def test_every_nth_frame_of_a_video_has_its_number(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (48, 32))
    for number in range(20):
        writer.write(np.full((32, 48, 3), 10 * number, np.uint8))
    writer.release()
    sources = find_images(tmp_path, Listing(every=6))
    assert [source.id for source in sources] == [f"v/{number:06d}" for number in (0, 6, 12, 18)]
    for source, number in zip(sources, (0, 6, 12, 18), strict=True):
        assert abs(float(read_source(source, InputSpec()).pixels.mean()) - 10 * number) < 4


def test_a_video_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    def frame(number: int, value: int) -> Source:
        writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (48, 32))
        for _ in range(4):
            writer.write(np.full((32, 48, 3), value, np.uint8))
        writer.release()
        return find_images(tmp_path)[number]

    for number, value in ((1, 20), (3, 200)):
        assert abs(float(read_source(frame(number, value), InputSpec()).pixels.mean()) - value) < 4


def test_labels_keep_their_values_in_every_container(tmp_path: Path) -> None:
    label = RNG.integers(0, 300, (32, 40))
    np.save(tmp_path / "a.npy", label)
    np.savez(tmp_path / "a.npz", image=COLOURS, label=label)
    tifffile.imwrite(tmp_path / "a.tif", label.astype(np.int32))
    geotiff(tmp_path / "g.tif", label[..., None].astype(np.uint16), nodata=65535)
    nibabel.save(nibabel.Nifti1Image(label.T[..., None].astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    for name in ("a.npy", "a.npz", "a.tif", "g.tif", "a.nii"):
        np.testing.assert_array_equal(read_label(tmp_path / name, part=0 if name == "a.nii" else None), label)
    Image.fromarray((label % 2 * 255).astype(np.uint8)).save(tmp_path / "a_manual1.gif")
    np.testing.assert_array_equal(read_label(tmp_path / "a_manual1.gif"), label % 2 * 255)


def test_a_known_kind_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, *, extra: str, what: str) -> Any:
        raise MissingExtra(f"{what} need {module}: pip install 'mcbn-segment[{extra}]'.")

    monkeypatch.setattr(volumes, "imported", missing)
    (tmp_path / "a.nii").write_bytes(b"")
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[medical\]"):
        find_images(tmp_path)


def test_a_damaged_file_of_each_kind_is_one_line(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.nii", "a.nii.gz", "a.dcm", "a.mp4", "a.gif", "a.jp2", "a.tif"):
        (tmp_path / name).write_bytes(b"no such thing, whatever its name" * 9)
        (source,) = find_images(tmp_path / name)
        with pytest.raises(ImageUnreadable) as refused:
            read_source(source, InputSpec(channels=1))
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "tag", [b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US", b"\x20\x00\x0e\x00UI", b"\x20\x00\x32\x00DS"]
)
def test_a_value_of_a_slice_that_no_type_decodes_is_one_line(tag: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    dicom(path, HOUNSFIELD[0], 100.0, generate_uid())
    whole = path.read_bytes()
    assert whole.count(tag) == 1
    path.write_bytes(whole.replace(tag, tag[:-1] + tag[-1:].lower()))  # a type that DICOM does not have
    (source,) = find_images(path)
    assert size_of(source) is None
    with pytest.raises(ImageUnreadable, match=r"a\.dcm") as refused:
        read_source(source, InputSpec(channels=1))
    assert "\n" not in str(refused.value)


def test_a_geotiff_is_fitted_and_predicted_as_its_array(tmp_path: Path) -> None:
    for number in range(3):
        geotiff(tmp_path / f"{number}.tif", np.roll(BANDS, number, axis=0))
    network = network_of(4, channels=4, white=10000.0)
    arrays = [np.roll(BANDS, number, axis=0) for number in range(3)]
    of_files, of_arrays = (segment.fit_bank(network, images, batch=2, draws=2) for images in (str(tmp_path), arrays))
    for name in of_files.layers:
        assert torch.equal(of_files.mean[name], of_arrays.mean[name])
    mcbn = segment.MCBN(network, of_files, precision="fp32")
    assert torch.equal(mcbn(tmp_path / "1.tif").probability, mcbn(arrays[1]).probability)


def test_names_that_no_band_has_are_refused_and_case_does_not_matter(tmp_path: Path) -> None:
    def named(*names: str) -> Path:
        path = geotiff(tmp_path / "named.tif")
        with rasterio.open(path, "r+") as raster:
            raster.descriptions = names
        return path

    wanted = ("blue", "green", "red", "nir")
    np.testing.assert_array_equal(
        read(named("Red", "Green", "Blue", "NIR"), wanted), read(geotiff(tmp_path / "plain.tif"))[..., [2, 1, 0, 3]]
    )
    with pytest.raises(ImageUnreadable, match=r"no band 'blue'\. It has swir1, swir2, thermal, coastal"):
        read(named("swir1", "swir2", "thermal", "coastal"), wanted)
    numbered = read(named("Band 1", "Band 2", "Band 3", "Band 4"), wanted)
    np.testing.assert_array_equal(numbered, read(tmp_path / "plain.tif"))


def test_names_of_some_bands_are_names(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "some.tif")
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("blue", "green", "red", None)
    assert geometry_of(Source("a", path)).bands == ("blue", "green", "red", "")
    np.testing.assert_array_equal(read(path, ("red", "green", "blue")), read(path)[..., [2, 1, 0]])
    with pytest.raises(ImageUnreadable, match=r"no band 'nir'\. It has blue, green, red and 1 without a name\. Name"):
        read(path, ("red", "green", "blue", "nir"))


@pytest.mark.parametrize("channels", [3, ("vv", "vh", "ratio")])
def test_one_band_is_repeated_for_colours_only(channels: CardChannels, tmp_path: Path) -> None:
    path = geotiff(tmp_path / "one.tif", BANDS[..., :1])
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = (None,)
    with pytest.raises(ImageUnreadable, match=r"holds 1 band, where .* are asked for"):
        read(path, channels)
    assert read(path, "RGB").shape == (32, 40, 3)


def test_bands_of_a_vrt_have_their_own_nodata(tmp_path: Path) -> None:
    bands, rows = BANDS[..., :2].astype(np.int16), []
    bands[:4] = [0, -1]
    bands[4:8] = -1  # in the second band alone
    for number, nodata in enumerate((0, -1)):
        geotiff(tmp_path / f"{number}.tif", bands[..., [number]])
        rows.append(
            f'<VRTRasterBand dataType="Int16" band="{number + 1}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{number}.tif</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
        )
    path = tmp_path / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="32">{"".join(rows)}</VRTDataset>')
    image = read_source(Source("a", path), InputSpec(channels=2, white=10000))
    assert image.valid is not None
    expected = (bands != [0, -1]).any(axis=2)
    assert not expected[:4].any()
    np.testing.assert_array_equal(image.valid, expected)
    assert not image.pixels[~expected].any()


@pytest.mark.parametrize(("kind", "nodata"), [(np.uint8, -9999), (np.uint16, -9999), (np.int16, 65535)])
def test_a_nodata_value_that_the_type_cannot_hold_is_no_pixels(kind: type[np.generic], nodata: float) -> None:
    wrapped = np.array(nodata).astype(kind)
    raw = np.full((4, 5, 1), wrapped)
    assert Raster(raw, nodata=nodata).valid() is None


def test_each_slice_of_a_volume_has_its_own_slice_of_the_mask(tmp_path: Path) -> None:
    inside = RNG.random((6, 32, 40)) > 0.5
    for folder, values in (("images", HOUNSFIELD), ("masks", inside.astype(np.int16))):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / folder / "v.nii")
    spec = InputSpec(channels="grey", white=255)
    for axis in (0, 2):
        listing = Listing(axis=axis)
        sources = with_masks(find_images(tmp_path / "images", listing), tmp_path / "masks", listing)
        assert len(sources) == HOUNSFIELD.shape[axis]
        for number, source in enumerate(sources):
            valid: Any = read_source(source, spec).valid
            own = read_label(tmp_path / "masks" / "v.nii", number) if axis == 2 else None
            assert valid is not None
            if own is not None:
                np.testing.assert_array_equal(valid, own != 0)
            assert valid.sum() == inside.take(number, axis).sum()
    with pytest.raises(ImageUnreadable, match="holds 6 pages or frames"):
        read_source(Source("v", tmp_path / "images" / "v.nii", axis=0), spec)


@pytest.mark.parametrize("values", [np.full((8, 8), "x"), np.ones((8, 8), complex), np.ones((8, 8), "datetime64[s]")])
def test_an_array_of_no_real_numbers_is_refused_in_one_line(values: NDArray[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ImageUnreadable, match="which are no real numbers"):
        read(tmp_path / "a.npy", "grey", 255)
