"""Files of every kind that the program reads, what reads each, and ways to damage one."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from segment.errors import SegmentError
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.runs.image_counts import read_image_counts, write_image_counts
from segment.files.runs.manifest import Entry, Lines, read_manifest
from segment.files.triages import load_triage, save_triage
from segment.guarantees.counts import ImageCounts
from segment.guarantees.triage import Decision, Reference, Sets, Triage, TriagePlan
from segment.images.find import find_images
from segment.images.labels.annotations import annotations_in
from segment.images.placing.of_source import geometry_of
from segment.images.read import read_label, read_source, size_of
from segment.images.specs import InputSpec
from segment.images.transforms.augment import pipeline
from segment.jobs.fit import fit_bank
from segment.networks.building.weights import load_weights
from segment.networks.cards import SHIPPED, read_card
from segment.scenes.scene import TRAIN, scene
from segment.scores.plan import ScorePlan
from segment.settings import read_options

LISTED = ("listed.png", "listed.jpg", "label.png")
"""Whole images that lists name."""
PARTS = 3
"""Images of a file with several that are read."""
SPECS = (InputSpec(), InputSpec(white=65535, channels=1), InputSpec(white=1.0))

Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """name: of the file, with the suffix that says how it is read; data: a whole one; reader: what is called on it."""

    name: str
    data: bytes
    reader: Reader


def _read_images(path: Path) -> None:
    """As a run reads a file: listed, measured, decoded for three cards, as a label map, and placed."""
    refusal: SegmentError | None = None
    read = 0
    for source in find_images(path)[:PARTS]:
        size_of(source)
        geometry_of(source)
        calls: list[Callable[[], object]] = [partial(read_source, source, spec) for spec in SPECS]
        calls.append(partial(read_label, source.path, source.part))
        for call in calls:
            try:
                call()
                read += 1
            except SegmentError as error:
                refusal = error
    if refusal is not None and not read:
        raise refusal


def _read_list(path: Path) -> None:
    for source in find_images(path)[:PARTS]:
        read_source(source, SPECS[0])


def _read_annotations(path: Path) -> None:
    for annotation in list(annotations_in(path).values())[:PARTS]:
        for shape in annotation.shapes[:PARTS]:
            shape.mask((20, 30))


def _read_card(path: Path) -> None:
    card = read_card(path)
    if card.training is not None:
        pipeline(card.training.transforms)(np.zeros((40, 40, 3), np.uint8), 0)


def _read_options(path: Path) -> None:
    read_options(path, ["draws", "maps", "tile", "bank"], ["bank"])


def _read_weights(path: Path) -> None:
    load_weights(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), path)


def _pictures(folder: Path, pixels: Any) -> list[str]:
    picture = Image.fromarray(pixels)
    more: Mapping[str, Mapping[str, Any]] = {
        "rgb.png": {},
        "rgb.jpg": {},
        "progressive.jpg": {"progressive": True},
        "rgb.webp": {},
        "lossless.webp": {"lossless": True},
        "rgb.bmp": {},
        "palette.gif": {},
        "frames.gif": {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]},
        "frames.webp": {"save_all": True, "append_images": [picture.rotate(180)]},
        "rgb.tif": {},
        "lzw.tif": {"compression": "tiff_lzw"},
        "jpeg.tif": {"compression": "jpeg"},
    }
    for name, options in more.items():
        picture.save(folder / name, **options)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("1").save(folder / "bits.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("LA").save(folder / "alpha.png")
    cv2.imwrite(str(folder / "deep.png"), pixels.astype(np.uint16) * 257)
    return [*more, "cmyk.jpg", "bits.png", "palette.png", "alpha.png", "deep.png"]


def _arrays(folder: Path, pixels: Any) -> list[str]:
    tifffile.imwrite(folder / "deep.tif", pixels.astype(np.uint16), compression="zlib", predictor=2)
    tifffile.imwrite(folder / "tiles.tif", np.tile(pixels, (4, 4, 1)), tile=(32, 32), compression="lzw")
    tifffile.imwrite(folder / "stack.tif", np.stack([pixels[..., 0].astype(np.float32)] * 3), photometric="minisblack")
    tifffile.imwrite(folder / "planar.tif", np.moveaxis(pixels, 2, 0), planarconfig="separate", photometric="rgb")
    np.save(folder / "rgb.npy", pixels)
    np.save(folder / "stack.npy", np.stack([pixels] * 3).astype(np.float32))
    np.savez(folder / "plain.npz", image=pixels, label=pixels[..., 0])
    np.savez_compressed(folder / "packed.npz", a=pixels, b=pixels[..., 0])
    names = ["deep.tif", "tiles.tif", "stack.tif", "planar.tif", "rgb.npy", "stack.npy", "plain.npz", "packed.npz"]
    writer = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (30, 20))
    for _ in range(3):
        writer.write(pixels)
    writer.release()
    return [*names, "video.avi", *_scans(folder, pixels), *_rasters(folder, pixels)]


def _scans(folder: Path, pixels: Any) -> list[str]:
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    volume = nibabel.Nifti1Image(np.repeat(pixels[..., :1], 4, axis=2).astype(np.int16), np.eye(4))
    nibabel.save(volume, folder / "scan.nii")
    nibabel.save(volume, folder / "scan.nii.gz")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    slice = FileDataset(str(folder / "slice.dcm"), {}, file_meta=meta, preamble=bytes(128))
    slice.Rows, slice.Columns, slice.SamplesPerPixel, slice.PhotometricInterpretation = 20, 30, 1, "MONOCHROME2"
    slice.BitsAllocated = slice.BitsStored = 16
    slice.HighBit, slice.PixelRepresentation, slice.SeriesInstanceUID, slice.InstanceNumber = 15, 0, "1.2", 1
    slice.ImagePositionPatient, slice.ImageOrientationPatient, slice.PixelSpacing = (
        [0, 0, 1],
        [1, 0, 0, 0, 1, 0],
        [1, 1],
    )
    slice.RescaleSlope, slice.RescaleIntercept = 2, -1000
    slice.PixelData = pixels[..., 0].astype(np.uint16).tobytes()
    slice.save_as(folder / "slice.dcm", enforce_file_format=True)
    return ["scan.nii", "scan.nii.gz", "slice.dcm"]


def _rasters(folder: Path, pixels: Any) -> list[str]:
    import rasterio
    from rasterio.transform import from_origin

    place: dict[str, Any] = {"crs": "EPSG:32632", "transform": from_origin(500000, 5000000, 10, 10), "nodata": 0}
    shape: dict[str, Any] = {"height": 20, "width": 30, "count": 3, "dtype": "uint8"}
    for name, driver in (("geo.tif", "GTiff"), ("geo.jp2", "JP2OpenJPEG"), ("geo.img", "HFA")):
        with rasterio.open(folder / name, "w", driver=driver, **shape, **place) as raster:
            raster.write(np.moveaxis(pixels, 2, 0))
    return ["geo.tif", "geo.jp2", "geo.img"]


def _annotations(folder: Path) -> list[str]:
    polygon = [2, 3, 20, 4, 15, 15, 3, 12]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "road"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": [polygon]},
            {"image_id": 1, "category_id": 1, "segmentation": {"size": [20, 30], "counts": [100, 200, 300]}},
            {"image_id": 1, "category_id": 1, "segmentation": {"size": [20, 30], "counts": "T3X6d9"}},
        ],
    }
    points = [[2, 3], [20, 4], [15, 15]]
    labelme = {"imagePath": "a.png", "imageHeight": 20, "imageWidth": 30, "shapes": [{"label": "x", "points": points}]}
    value = {"polygonlabels": ["x"], "points": points}
    result = {"value": value, "original_width": 30, "original_height": 20}
    studio = [{"data": {"image": "/a.png"}, "annotations": [{"result": [result]}]}]
    for name, content in (("coco.json", coco), ("labelme.json", labelme), ("studio.json", studio)):
        (folder / name).write_text(json.dumps(content))
    (folder / "cvat.xml").write_text(
        '<annotations><image name="a.png" width="30" height="20"><polygon label="x" points="1,2;9,3;7,8" z_order="1"/>'
        '<box label="y" xtl="1" ytl="1" xbr="9" ybr="9"/>'
        '<mask label="z" left="2" top="3" width="4" height="2" rle="3,5"/></image></annotations>'
    )
    return ["coco.json", "labelme.json", "studio.json", "cvat.xml"]


def _triage() -> Triage:
    decision = Decision(
        unit="pixel", measure="predictive_entropy", threshold=0.3, why="", images=9, groups=9, loss=0.01, accepted=0.9
    )
    sets = Sets(kind="aps", coverage=0.9, threshold=0.8, weight=0.0, free=0, images=9, groups=9, found=0.91)
    reference = Reference(measure="predictive_entropy", values=(0.1, 0.2, 0.3))
    decisions = {"pixel": decision, "image": replace(decision, unit="image")}
    return Triage(plan=TriagePlan(), decisions=decisions, reference=reference, source={"method": "mcbn"}, sets=sets)


def _our_files(folder: Path) -> dict[str, Reader]:
    """What this program writes and reads back, and lists."""
    images = [scene(number).image for number in TRAIN[:2]]
    save_bank(fit_bank("scenes", images, batch=2, draws=2), folder / "bank.safetensors")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    save_file(network.state_dict(), folder / "weights.safetensors")
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "weights.pt")
    lines = Lines(folder / "lines.jsonl")
    for number in range(3):
        lines.add(Entry(id=f"image{number}", source="a.png", measures={"variance": {"mean": 0.1, "p95": 0.2}}))
    save_triage(_triage(), folder / "triage.json", text="accepts")
    counts = ImageCounts(ScorePlan(classes=("a", "b"), measures=("one_minus_max",)))
    write_image_counts(folder / "image_counts.npz", {"mcbn": counts})
    shutil.copy(SHIPPED / "unet_lite0_camvid.yaml", folder / "card.yaml")
    (folder / "settings.yaml").write_text("draws: 4\nmaps: [variance, margin]\nbank: [a, b]\ntile: off\n")
    (folder / "list.txt").write_text("# images\nlisted.png\nlisted.jpg\tlabel.png\n")
    (folder / "list.csv").write_text("image,label,id\nlisted.png,label.png,one\nlisted.jpg,,two\n")
    (folder / "list.tsv").write_text("image\tlabel\nlisted.png\tlabel.png\n")
    table = pyarrow.table({"image": ["listed.png", "listed.jpg"], "id": ["one", "two"]})
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    lists: dict[str, Reader] = {f"list.{suffix}": _read_list for suffix in ("txt", "csv", "tsv", "parquet")}
    return lists | {
        "bank.safetensors": load_bank,
        "weights.safetensors": _read_weights,
        "weights.pt": _read_weights,
        "lines.jsonl": lambda path: dict(read_manifest(path)),
        "triage.json": load_triage,
        "image_counts.npz": lambda path: read_image_counts(path.parent),
        "card.yaml": _read_card,
        "settings.yaml": _read_options,
    }


def kinds(folder: Path) -> list[Kind]:
    """A whole file of every kind. Images that lists name stay in the folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    readers: dict[str, Reader] = dict.fromkeys([*_pictures(folder, pixels), *_arrays(folder, pixels)], _read_images)
    readers |= dict.fromkeys(_annotations(folder), _read_annotations)
    readers |= _our_files(folder)
    for name, listed in zip(("rgb.png", "rgb.jpg", "palette.png"), LISTED, strict=True):
        shutil.copy(folder / name, folder / listed)
    return [Kind(name, (folder / name).read_bytes(), reader) for name, reader in readers.items()]


# damage

NUMBERS = (0, 1, 2, 127, 128, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = (
    *(
        "0",
        "-1",
        "1e999",
        "NaN",
        "null",
        "true",
        "[]",
        "{}",
        '""',
        "10000000000000000",
        "9" * 400,
        "../../x",
        "/dev/zero",
    ),
    *(
        "&a [*a, *a]",
        "*a",
        "!!python/name:os.system",
        "\x00",
        "\u202e",
        "\ud800",
        "[" * 300,
        "{" * 300,
        "a" * 5000,
        "\n- ",
    ),
)
TEXTS = (".json", ".jsonl", ".yaml", ".xml", ".txt", ".csv", ".tsv")


def damaged(kind: Kind, others: list[Kind], rng: random.Random) -> bytes:
    """A few changes to a whole file; often with its checksums mended, so that they reach further than those."""
    if kind.name.endswith(".gz") and rng.random() < 0.7:
        return gzip.compress(_changed(gzip.decompress(kind.data), kind, others, rng))
    if kind.name.endswith(".safetensors") and rng.random() < 0.7:
        length = int.from_bytes(kind.data[:8], "little")
        head = _with_words(kind.data[8 : 8 + length], rng)
        return len(head).to_bytes(8, "little") + head + kind.data[8 + length :]
    data = _changed(kind.data, kind, others, rng)
    return _with_checksums(data) if kind.name.endswith(".png") and rng.random() < 0.7 else data


def _changed(data: bytes, kind: Kind, others: list[Kind], rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if kind.name.endswith(TEXTS) and rng.random() < 0.6:
            data = _with_words(data, rng)
        else:
            data = rng.choice((_flip, _flip, _number, _number, _number, _cut, _repeat, _insert, _splice))(
                data, others, rng
            )
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Half of the places are in the first bytes, where headers are."""
    return rng.randrange(max(1, min(len(data), 200 if rng.random() < 0.5 else len(data))))


def _flip(data: bytes, _: list[Kind], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes([(data[place] if data else 0) ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _number(data: bytes, _: list[Kind], rng: random.Random) -> bytes:
    place, width = _place(data, rng), rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(NUMBERS) % 2 ** (8 * width)
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def _cut(data: bytes, _: list[Kind], rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + (b"" if rng.random() < 0.5 else data[start + rng.randrange(1, 40) :])


def _repeat(data: bytes, _: list[Kind], rng: random.Random) -> bytes:
    start = _place(data, rng)
    part = data[start : start + rng.randrange(1, 60)]
    return data[:start] + part * rng.choice((2, 3, 50)) + data[start:]


def _insert(data: bytes, _: list[Kind], rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.randbytes(rng.randrange(1, 20)) + data[start:]


def _splice(data: bytes, others: list[Kind], rng: random.Random) -> bytes:
    other = rng.choice(others).data
    return data[: _place(data, rng)] + other[_place(other, rng) :][:100_000]


def _with_words(data: bytes, rng: random.Random) -> bytes:
    """A word of a text in place of another, or a value of it."""
    starts = [place for place in range(len(data)) if data[place : place + 1] in b' :,["{<\t\n;=']
    start = rng.choice(starts) + 1 if starts else 0
    end = start
    while end < len(data) and data[end : end + 1] not in b',]}"\n\t<>;':
        end += 1
    return data[:start] + rng.choice(WORDS).encode("utf-8", "surrogatepass") + data[end:]


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold."""
    mended, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        chunk = data[place + 4 : place + 8 + length]
        mended += data[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return bytes(mended + data[place:])
