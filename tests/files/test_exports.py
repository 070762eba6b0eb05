"""Every export is read back by a reader of its own ecosystem, numbers equal."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pandas
import pyarrow.parquet
import pytest
import rasterio
import rasterio.enums
import rasterio.features
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from segment.files.exports import coco, geojson, labelstudio, tables
from segment.files.exports.geotiff import write_tifs
from segment.files.exports.image import ExportedImage
from segment.files.exports.rle import brush, coco_counts, coco_text
from segment.files.exports.videos import rate_of, write_videos
from segment.files.exports.volumes import PlacedImage, write_volumes
from segment.files.exports.zarr_group import write_group
from segment.files.lazy_arrays import FileArray
from segment.files.writing import write_npz, write_png
from segment.images.placing.geometry import Geometry, slice_of
from segment.images.read import read_label
from segment.pictures.palettes import palette

UTM = rasterio.crs.CRS.from_epsg(32633)
PLACED = Geometry(crs=UTM.to_wkt(), transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_400_000.0), nodata=0.0)
CLASSES = ("road", "car", "tree")


def exported(geometry: Geometry | None = None, *, hidden: int = 0, seed: int = 0, side: int = 48) -> ExportedImage:
    """An image of patches of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (side // 4, side // 4)), np.ones((4, 4), int)).astype(np.uint8)
    labels = labels[:, :-5]
    p = rng.dirichlet(np.ones(3), labels.shape).astype(np.float32).transpose(2, 0, 1)
    maps = {name: rng.random(labels.shape).astype(np.float32) for name in ("variance", "predictive_entropy")}
    for values in maps.values():
        values[:hidden] = np.nan
    return ExportedImage(
        id=f"folder/image {seed}",
        source=f"images/image {seed}.tif",
        shape=labels.shape,
        geometry=geometry or Geometry(),
        labels=labels,
        prediction=labels,
        maps=maps,
        probability=p,
        confidence=lambda _: p.max(axis=0),
        classes=CLASSES,
        palette=palette(3),
        head="softmax",
        absent=hidden > 0,
        blank=np.zeros,
    )


def into(folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / name


def segments_by_rasterio(image: ExportedImage) -> list[NDArray[np.bool_]]:
    """The masks of the segments, in their order."""
    return [np.asarray(regions.numbers[:]) == index for regions in image.regions for index in range(len(regions))]


# rasters


@pytest.mark.parametrize("in_file", [False, True])
def test_geotiffs_are_cloud_optimised_and_lie_where_the_source_does(tmp_path: Path, *, in_file: bool) -> None:
    image = exported(PLACED, hidden=3, side=1400)
    if in_file:
        kept = FileArray(tmp_path, image.shape, np.float32)
        kept[..., slice(0, image.shape[0]), slice(0, image.shape[1])] = np.asarray(image.maps["variance"])
        image.maps["variance"] = kept  # type: ignore[index]
    write_tifs(into(tmp_path), image)
    for name, values in image.maps.items():
        with rasterio.open(tmp_path / f"{name}.tif") as raster:
            assert raster.crs == UTM
            assert tuple(raster.transform)[:6] == PLACED.transform
            assert raster.dtypes == ("float32",)
            assert np.isnan(raster.nodata)
            assert raster.descriptions == (name,)
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert raster.overviews(1)
            np.testing.assert_array_equal(raster.read(1), np.asarray(values[0 : image.shape[0]]))
    with rasterio.open(tmp_path / "prediction.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), image.labels[0 : image.shape[0]])
        assert raster.colormap(1)[2][:3] == tuple(palette(3)[2].tolist())
    with rasterio.open(tmp_path / "probability.tif") as raster:
        assert raster.descriptions == CLASSES
        np.testing.assert_array_equal(raster.read(), image.probability)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.tif" for name in (*image.maps, "prediction", "probability"))
    }


def test_a_crs_that_geotiff_has_no_keys_for_lies_beside_each_file(tmp_path: Path) -> None:
    rotated = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +to_meter=0.0174532925199433"
    crs = rasterio.crs.CRS.from_proj4(rotated)
    image, noted = exported(replace(PLACED, crs=crs.to_wkt())), list[str]()

    def path(name: str) -> Path:
        noted.append(name)
        return tmp_path / name

    write_tifs(path, image)
    for name in (*image.maps, "prediction", "probability"):
        with rasterio.open(tmp_path / f"{name}.tif") as raster:
            assert raster.crs == crs
            assert tuple(raster.transform)[:6] == PLACED.transform
        assert (tmp_path / f"{name}.tif.aux.xml").is_file()
    assert sorted(noted) == sorted(file.name for file in tmp_path.iterdir())


def test_tiffs_of_an_image_without_a_georeference_are_plain_and_equal(tmp_path: Path) -> None:
    image = exported(hidden=2, side=600)  # several strips
    write_tifs(into(tmp_path), image)
    for name, values in image.maps.items():
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            assert not file.is_geotiff
            assert file.pages.first.tags["GDAL_NODATA"].value == "nan"
            np.testing.assert_array_equal(file.asarray(), values)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "prediction.tif"), image.labels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "probability.tif"), image.probability)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_class_indices_have_the_colours_of_their_classes_without_a_georeference_too(tmp_path: Path) -> None:
    image = exported(hidden=2)
    labels = np.asarray(image.labels).copy()
    labels[:2] = 255
    write_tifs(into(tmp_path), replace(image, labels=labels, prediction=labels))
    colours = np.array([*palette(3), *[(128, 128, 128)] * 253])
    with rasterio.open(tmp_path / "prediction.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), labels)
        assert [raster.colormap(1)[index][:3] for index in range(256)] == [tuple(colour) for colour in colours.tolist()]
    with Image.open(tmp_path / "prediction.tif") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), labels)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours[labels])
    np.testing.assert_array_equal(read_label(tmp_path / "prediction.tif"), labels)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("geometry", [Geometry(), PLACED])
def test_masks_of_a_multi_label_head_have_no_palette(tmp_path: Path, geometry: Geometry) -> None:
    image = exported(geometry)
    mask = (np.asarray(image.labels) == 1).astype(np.uint8)[None]  # K = 1: one band, as class indices have
    one = replace(image, head="multilabel", classes=("car",), palette=palette(1), prediction=mask, probability=None)
    write_tifs(into(tmp_path), one)
    with rasterio.open(tmp_path / "prediction.tif") as raster:
        assert raster.colorinterp == (rasterio.enums.ColorInterp.gray,)
        np.testing.assert_array_equal(raster.read(), mask)


def test_a_zarr_group_holds_the_maps_in_chunks_and_says_where_they_lie(tmp_path: Path) -> None:
    image = exported(PLACED, hidden=3, side=1100)
    write_group(into(tmp_path), image)
    group = zarr.open_group(tmp_path / "maps.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for name, values in image.maps.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.chunks == (512, 512)
        assert array.metadata.dimension_names == ("y", "x")  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.asarray(array[:]), values)
    np.testing.assert_array_equal(np.asarray(group["prediction"][:]), image.labels)  # type: ignore[index]
    np.testing.assert_array_equal(np.asarray(group["probability"][:]), image.probability)  # type: ignore[index]
    assert group.attrs["transform"] == list(PLACED.transform or ())
    assert rasterio.crs.CRS.from_wkt(str(group.attrs["crs"])) == UTM
    assert group.attrs["classes"] == list(CLASSES)
    write_group(into(tmp_path), image)  # again: replaced
    assert [path.name for path in tmp_path.iterdir()] == ["maps.zarr"]


# segments


def test_the_segments_table_has_numpys_numbers_for_rasterios_regions(tmp_path: Path) -> None:
    image = exported(hidden=6)
    tables.write_segments_csv(tmp_path / "segments.csv", image)
    tables.write_segments_parquet(tmp_path / "segments.parquet", image)
    table = pandas.read_csv(tmp_path / "segments.csv")
    pandas.testing.assert_frame_equal(
        table, pyarrow.parquet.read_table(tmp_path / "segments.parquet").to_pandas(), check_dtype=False
    )
    shapes = list(rasterio.features.shapes(np.asarray(image.labels[:]), connectivity=4))
    assert len(table) == len(shapes)
    found = set()
    for shape, value in shapes:
        inside = rasterio.features.rasterize([shape], image.shape).astype(bool)
        rows, columns = np.nonzero(inside)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        same_box = (table[["left", "top", "width", "height"]].to_numpy() == np.array(box)).all(axis=1)
        match = table[same_box & (table["area"] == inside.sum()) & (table["class_id"] == value)]
        assert len(match) >= 1
        accuracy = float(np.asarray(image.confidence(0))[inside].mean())
        row = match.iloc[int((match["expected_accuracy"] - accuracy).abs().argmin())]
        found.add(int(row["segment"]))
        assert row["class"] == CLASSES[int(value)]
        assert row["expected_accuracy"] == pytest.approx(accuracy, abs=1e-6)
        for name, values in image.maps.items():
            numbers = np.asarray(values)[inside].astype(np.float64)
            numbers = numbers[~np.isnan(numbers)]
            expected = (numbers.mean(), numbers.max(), np.percentile(numbers, 95)) if len(numbers) else (np.nan,) * 3
            actual = [row[f"{what}_{name}"] for what in ("mean", "max", "p95")]
            np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert found == set(table["segment"])


def test_tables_of_several_images_become_one(tmp_path: Path) -> None:
    images = [exported(seed=seed) for seed in range(3)]
    for suffix, write, join in (
        ("csv", tables.write_segments_csv, tables.join_csv),
        ("parquet", tables.write_segments_parquet, tables.join_parquet),
    ):
        parts = [tmp_path / str(number) / f"segments.{suffix}" for number in range(3)]
        for image, part in zip(images, parts, strict=True):
            write(part, image)
        join(tmp_path / f"segments.{suffix}", parts)
    whole = pandas.read_csv(tmp_path / "segments.csv")
    assert len(whole) == sum(len(image.segments[0]) for image in images)
    assert set(whole["image"]) == {image.id for image in images}
    parquet = pandas.read_parquet(tmp_path / "segments.parquet")
    pandas.testing.assert_frame_equal(whole, parquet, check_dtype=False)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_coco_has_the_segments_masks_areas_and_uncertainty_as_pycocotools_reads_them(tmp_path: Path) -> None:
    images = [exported(seed=seed, hidden=5) for seed in range(2)]
    parts = [tmp_path / str(number) / "coco.json" for number in range(2)]
    for image, part in zip(images, parts, strict=True):
        coco.write_coco(part, image)
    coco.join_coco(tmp_path / "coco.json", parts)
    data = COCO(str(tmp_path / "coco.json"))
    assert sorted(data.getImgIds()) == [1, 2]
    assert len(data.anns) == sum(len(image.segments[0]) for image in images)
    for number, image in enumerate(images, start=1):
        annotations = data.loadAnns(data.getAnnIds(imgIds=[number]))
        painted = np.full(image.shape, -1)
        for annotation, segment in zip(annotations, image.segments[0], strict=True):
            mask = data.annToMask(annotation).astype(bool)
            assert (painted[mask] == -1).all()
            painted[mask] = annotation["category_id"] - 1
            assert annotation["area"] == mask.sum() == coco_masks.area(data.annToRLE(annotation))
            np.testing.assert_array_equal(annotation["bbox"], coco_masks.toBbox(data.annToRLE(annotation)))
            values = np.asarray(image.maps["variance"])[mask]
            if np.isnan(values).all():
                assert "variance" not in annotation["uncertainty"]
            else:
                assert annotation["uncertainty"]["variance"]["mean"] == pytest.approx(np.nanmean(values), rel=1e-5)
                assert annotation["uncertainty"]["variance"]["max"] == pytest.approx(np.nanmax(values))
            assert annotation["score"] == pytest.approx(segment.accuracy)
        np.testing.assert_array_equal(painted, image.labels)
    assert [data.cats[index + 1]["name"] for index in range(3)] == list(CLASSES)


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths_are_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    expected = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert coco_text(coco_counts(mask, 0, 0, (mask.shape[0], mask.shape[1]))) == expected


def unpacked(data: list[int]) -> NDArray[np.uint8]:
    """A packed picture, read bit by bit as Label Studio's front end does."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 300))).filter(lambda mask: bool(mask.any())))
def test_a_brush_unpacks_to_its_mask(mask: NDArray[np.bool_]) -> None:
    values = unpacked(brush(mask, 0, 0, (mask.shape[0], mask.shape[1]))).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(values, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


def test_label_studio_tasks_have_the_segments_as_brushes_with_scores(tmp_path: Path) -> None:
    with warnings.catch_warnings():  # of its own dependencies
        warnings.simplefilter("ignore")
        from label_studio_sdk.converter.brush import decode_rle
        from label_studio_sdk.label_interface.interface import LabelInterface

    image = exported()
    labelstudio.write_task(tmp_path / "one.json", image, "my network")
    labelstudio.join_tasks(tmp_path / "all.json", [tmp_path / "one.json"] * 2)
    labelstudio.write_interface(tmp_path / "labelstudio.xml", CLASSES, palette(3))
    interface = LabelInterface((tmp_path / "labelstudio.xml").read_text())
    tasks = json.loads((tmp_path / "all.json").read_text())
    assert len(tasks) == 2
    painted = np.full(image.shape, -1)
    (prediction,) = tasks[0]["predictions"]
    assert interface.validate_task({"data": tasks[0]["data"]})  # type: ignore[arg-type]
    # its check of run lengths expects another coding than its own encoder writes: they are decoded below instead
    bare = [{**result, "value": {**result["value"], "rle": [1, 1]}} for result in prediction["result"]]
    assert interface.validate_prediction({**prediction, "result": bare})  # type: ignore[no-untyped-call]
    for result, segment in zip(prediction["result"], image.segments[0], strict=True):
        mask = decode_rle(result["value"]["rle"]).reshape(*image.shape, 4)[..., 3] > 0
        assert mask.sum() == segment.area
        assert result["score"] == segment.accuracy
        painted[mask] = CLASSES.index(result["value"]["brushlabels"][0])
    np.testing.assert_array_equal(painted, image.labels)
    assert prediction["score"] == pytest.approx(float(np.asarray(image.confidence(0)).mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("/data/a b.png", "/data/local-files/?d=data/a%20b.png"),
        ("s3://bucket/a.png", "s3://bucket/a.png"),
        ("s3:/bucket/a.png", "s3://bucket/a.png"),
    ],
)
def test_a_label_studio_task_names_a_local_file_and_the_url_of_an_image_on_a_store(
    source: str, url: str, tmp_path: Path
) -> None:
    labelstudio.write_task(tmp_path / "one.json", replace(exported(), source=source), "my network")
    assert json.loads((tmp_path / "one.json").read_text())[0]["data"]["image"] == url


@pytest.mark.parametrize(("proj", "code"), [("EPSG:32633", "32633"), ("+proj=utm +zone=33 +ellps=WGS84", None)])
def test_geojson_names_the_sources_crs_and_no_code_of_another(proj: str, code: str | None, tmp_path: Path) -> None:
    """The second has a datum shift, which the code that PROJ finds for it has not."""
    crs = rasterio.crs.CRS.from_string(proj if code else f"{proj} +towgs84=100,200,300,0,0,0,0 +units=m")
    image = exported(replace(PLACED, crs=crs.to_wkt()))
    geojson.write_polygons(tmp_path / "segments.geojson", image)
    name = json.loads((tmp_path / "segments.geojson").read_text())["crs"]["properties"]["name"]
    assert rasterio.crs.CRS.from_user_input(name) == crs
    assert name.startswith("urn:ogc:def:crs:EPSG") == (code is not None)


@pytest.mark.parametrize("geometry", [PLACED, Geometry()])
def test_geojson_polygons_rasterise_to_the_mask_in_the_source_s_crs(tmp_path: Path, geometry: Geometry) -> None:
    image = exported(geometry)
    geojson.write_polygons(tmp_path / "segments.geojson", image)
    data = json.loads((tmp_path / "segments.geojson").read_text())
    placed = geometry.crs is not None
    transform = rasterio.Affine(*(geometry.transform or (1, 0, 0, 0, 1, 0)))
    shapes = [(each["geometry"], each["properties"]["class_id"] + 1) for each in data["features"]]
    np.testing.assert_array_equal(
        rasterio.features.rasterize(shapes, image.shape, transform=transform), np.asarray(image.labels) + 1
    )
    assert (rasterio.crs.CRS.from_user_input(data["crs"]["properties"]["name"]) == UTM) if placed else "crs" not in data
    for each, segment in zip(data["features"], image.segments[0], strict=True):
        assert each["properties"]["area_pixels"] == segment.area
        assert each["properties"]["mean_variance"] == segment.measures["variance"][0]


# volumes and videos


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_become_the_volume_that_they_were_cut_from(tmp_path: Path, axis: int) -> None:
    rng = np.random.default_rng(axis)
    volume, mask = rng.random((5, 6, 7)).astype(np.float32), rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    affine = ((2.0, 0.0, 0.0, -9.0), (0.0, 0.0, -3.0, 8.0), (0.0, 4.0, 0.0, 7.0), (0.0, 0.0, 0.0, 1.0))
    count = volume.shape[axis]
    parts = []
    for index in range(count - 1):  # the last slice failed
        folder = tmp_path / "scan" / f"{index:06}"
        write_npz(
            folder / "maps.npz", {"prediction": slice_of(mask, axis, index), "variance": slice_of(volume, axis, index)}
        )
        geometry = Geometry(volume="scan.nii", affine=affine, axis=axis, index=index, count=count)
        parts.append(PlacedImage(f"scan/{index}", folder, geometry))
    write_volumes(tmp_path / "scan", parts, classes=("a", "b", "c"))
    inside = [slice(None)] * 3
    inside[axis] = slice(0, count - 1)
    for name, expected, none in (("variance", volume, np.nan), ("prediction", mask, 255)):
        image: Any = nibabel.load(tmp_path / "scan" / f"{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, affine)
        values = np.asanyarray(image.dataobj)
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values[tuple(inside)], expected[tuple(inside)])
        last = np.take(values, count - 1, axis=axis)
        np.testing.assert_array_equal(last, np.full_like(last, none))


def test_maps_of_several_classes_become_a_volume_a_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks, p = rng.integers(0, 2, (2, 2, 5, 6)).astype(np.uint8), rng.random((2, 2, 5, 6)).astype(np.float32)
    parts = []
    for index in range(2):  # of three
        write_npz(tmp_path / str(index) / "maps.npz", {"prediction": masks[index], "probability": p[index]})
        parts.append(
            PlacedImage(str(index), tmp_path / str(index), Geometry(volume="scan", axis=2, index=index, count=3))
        )
    written = write_volumes(tmp_path, parts, classes=("vein", "a/b"))
    stems = ["prediction_0_vein", "prediction_1_a_b", "probability_0_vein", "probability_1_a_b"]
    assert [path.name for path in written] == [f"{stem}.nii.gz" for stem in stems]
    expected: list[NDArray[Any]] = [masks[:, 0], masks[:, 1], p[:, 0], p[:, 1]]
    for stem, of_class in zip(stems, expected, strict=True):
        values = np.asanyarray(nibabel.load(tmp_path / f"{stem}.nii.gz").dataobj)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(values[..., :2], np.moveaxis(of_class, 0, -1).swapaxes(0, 1))
        missing = np.nan if "probability" in stem else 255
        np.testing.assert_array_equal(values[..., 2], np.full((6, 5), missing))


def test_a_video_has_the_frames_at_the_source_s_speed(tmp_path: Path) -> None:
    parts = []
    for index in (0, 4, 8):
        picture = np.full((41, 60, 3), (40 + 20 * index, 90, 200 - 10 * index), np.uint8)
        write_png(tmp_path / "film" / f"{index:06}" / "overlay.png", picture)
        geometry = Geometry(video="film.mp4", frame_rate=24.0, index=index, count=12)
        parts.append(PlacedImage(f"film/{index}", tmp_path / "film" / f"{index:06}", geometry))
    assert rate_of(parts) == 6.0
    (path,) = write_videos(tmp_path / "film", parts, ["overlay"])
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(6.0)
    for index in (0, 4, 8):
        read, frame = capture.read()
        assert read
        assert frame.shape == (42, 60, 3)
        expected = np.array((200 - 10 * index, 90, 40 + 20 * index))  # BGR
        assert np.abs(frame[:41].reshape(-1, 3).mean(axis=0) - expected).max() < 6, "what compression changes"
    assert not capture.read()[0]
    capture.release()
    assert not list((tmp_path / "film").glob(".*"))


def test_a_row_of_images_holds_numbers_and_words_alone() -> None:
    line = {
        "id": "a/b",
        "source": "a/b.png",
        "status": "done",
        "variance": {"mean": 0.1, "p95": 0.3},
        "expected": {"expected_accuracy": 0.9},
        "triage": {"accepted": 0.7, "decision": "review", "means": {"variance": 0.1}},
    }
    columns, (row,) = tables.image_rows([line])
    assert row == {
        "image": "a/b",
        "source": "a/b.png",
        "mean_variance": 0.1,
        "p95_variance": 0.3,
        "expected_accuracy": 0.9,
        "accepted": 0.7,
        "decision": "review",
    }
    assert columns == list(row)
