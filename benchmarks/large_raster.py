"""A large four-band scene through `segment predict` within a memory budget: `python -m benchmarks.large_raster`.

Makes a uint16 GeoTIFF of a generated landscape, strip by strip, trains a light U-Net on patches of other landscapes,
records a bank, predicts in a process of its own and prints as JSON: its peak of memory, seconds, what rasterio and
rio-cogeo say of the files, and how far windows across tile borders are from a pass over each in one piece.
`python -m benchmarks.large_raster [FOLDER] [--side 20000] [--memory 2GiB] [--tile-mode exact|blended] ...`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import torch
import yaml
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate
from safetensors.torch import save_file
from torch.nn import functional

import segment
from benchmarks.child_process import run_command
from segment.estimation.memory_budget import bytes_of
from segment.networks.load import Network, load_network

CLASSES = ("water", "forest", "field", "soil", "built")
REFLECTANCE = np.array(  # blue, green, red, nir of each class, in 1/10000
    [
        [600, 500, 300, 150],
        [250, 400, 280, 3200],
        [450, 800, 600, 4200],
        [900, 1300, 1700, 2300],
        [1500, 1600, 1700, 1900],
    ]
)
BANDS = ("blue", "green", "red", "nir")
COARSE, STRIP, BLOCK = 64, 512, 512
"""Pixels of a step of the coarse grid, rows of a strip, pixels of a block of the file."""
URI = "smp:Unet?encoder=timm-mobilenetv3_small_minimal_100&encoder_weights=None&classes=5&in_channels=4"
URI += "&encoder_depth=3&decoder_channels=(32,16,16)"
PATCH, PATCHES, STEPS, BATCH = 192, 48, 240, 8
MARGIN, WINDOW, WINDOWS = 512, 256, 6
"""Pixels around a window that is compared, its side, and how many."""
MEASURES = ("variance", "predictive_entropy", "mutual_information")


def landscape(height: int, width: int, seed: int) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint8]]]:
    """Strips of a landscape: pixels (h W 4), 0 without data, and classes (h W). Nothing of its size is held."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // COARSE) + 2, -(-width // COARSE) + 2
    fields = rng.normal(size=(len(CLASSES), rows, columns)).astype(np.float32)
    fields = np.stack([cv2.GaussianBlur(field, (0, 0), 1.2) for field in fields])
    means = REFLECTANCE.astype(np.float32)
    white = rng.normal(size=(1024, 1024)).astype(np.float32)
    textures = 1 + 0.6 * cv2.GaussianBlur(white, (0, 0), 2.0), 0.12 * white
    for start in range(0, height, STRIP):
        stop = min(height, start + STRIP)
        first, last = start // COARSE, -(-stop // COARSE) + 2
        fine = [
            cv2.resize(field[first:last], None, fx=COARSE, fy=COARSE, interpolation=cv2.INTER_LINEAR)[
                COARSE // 2 + start - first * COARSE :, COARSE // 2 :
            ][: stop - start, :width]
            for field in fields
        ]
        classes = np.stack(fine).argmax(axis=0).astype(np.uint8)
        texture = _cut_out(textures[0], classes.shape, rng)
        pixels = np.empty((*classes.shape, 4), np.uint16)
        for band in range(4):
            noise = _cut_out(textures[1], classes.shape, rng)
            pixels[..., band] = (means[:, band][classes] * (texture + noise)).clip(1, 10000)
        edge = np.arange(start, stop)[:, None] // 4 + np.arange(width)[None] < min(height, width) // 8
        pixels[edge] = 0
        yield pixels, classes


def _cut_out(texture: NDArray[np.float32], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """A part of a repeated texture, from a random place."""
    rows, columns = (np.arange(length) + rng.integers(1024) for length in shape)
    return texture[rows % 1024][:, columns % 1024]


def make_scene(path: Path, side: int, seed: int = 0) -> None:
    """A tiled, compressed GeoTIFF with overviews and nodata."""
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 4, "dtype": "uint16", "nodata": 0}
    tiled = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "lzw", "BIGTIFF": "YES"}
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile, **tiled) as raster:
        raster.descriptions = BANDS
        start = 0
        for pixels, _ in landscape(side, side, seed):
            raster.write(np.moveaxis(pixels, -1, 0), window=Window(0, start, side, len(pixels)))
            start += len(pixels)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([4, 16], Resampling.average)


def patches(count: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Pixels (N P P 4) and classes (N P P) of other landscapes, none of them without data."""
    made = []
    for seed in range(count):
        side = 3 * PATCH
        strips = list(landscape(side, side, 1000 + seed))
        pixels, classes = (np.concatenate(parts) for parts in zip(*strips, strict=True))
        made.append((pixels[-PATCH:, -PATCH:], classes[-PATCH:, -PATCH:]))
    images, labels = zip(*made, strict=True)
    return np.stack(images), np.stack(labels)


def train(network: Network, images: NDArray[np.uint16], labels: NDArray[np.uint8]) -> None:
    """A few hundred steps of AdamW on random crops, flipped."""
    module, rng = network.module.train(), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(module.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
    spec = network.card.input
    x = torch.stack(
        [segment.images.prepare.normalise(np.asarray(network.accept.image(image)), spec) for image in images]
    )
    y = torch.from_numpy(labels.astype(np.int64))
    for _ in range(STEPS):
        chosen = rng.integers(0, len(x), BATCH)
        top, left = rng.integers(0, PATCH - 128, 2)
        crop, truth = (part[chosen][..., top : top + 128, left : left + 128] for part in (x, y))
        if rng.random() < 0.5:
            crop, truth = crop.flip(-1), truth.flip(-1)
        loss = functional.cross_entropy(module(crop), truth)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    module.eval()


def make_card(folder: Path) -> Path:
    """The card of the network, its trained weights beside it."""
    card = {
        "network": URI,
        "classes": list(CLASSES),
        "palette": [[40, 90, 160], [30, 110, 50], [190, 200, 90], [170, 130, 90], [200, 60, 60]],
        "input": {
            "channels": list(BANDS),
            "white": 10000,
            "scale": 255,
            "mean": [0.07, 0.09, 0.09, 0.23],
            "std": [0.05, 0.05, 0.07, 0.15],
            "stride": 8,
            "display": ["red", "green", "blue"],
        },
        "weights": {"file": "weights.safetensors"},
    }
    path = folder / "card.yaml"
    if not path.exists():
        untrained = {key: value for key, value in card.items() if key != "weights"}
        (folder / "untrained.yaml").write_text(yaml.safe_dump(untrained))
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(0)
            network = load_network(str(folder / "untrained.yaml"))
        train(network, *patches(PATCHES))
        save_file(network.module.state_dict(), folder / "weights.safetensors")
        path.write_text(yaml.safe_dump(card))
    return path


def scene_and_network(folder: Path, side: int) -> tuple[Path, Path, Path]:
    """The scene, the network's card and its bank: those that are in the folder, else made there."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = folder / f"scene_{side}" / "scene.tif"
    if not scene.exists():
        make_scene(scene, side)
    card, bank = make_card(folder), folder / "bank.safetensors"
    if not bank.exists():
        made = segment.fit_bank(load_network(str(card)), list(patches(PATCHES)[0]), batch=8, draws=8, seed=0)
        segment.save_bank(made, bank)
    return scene, card, bank


def watched(arguments: list[str], log: Path) -> dict[str, Any]:
    """Peak bytes of a command line and its seconds; stderr goes into `log`. Ends this process where it fails."""
    ended = run_command(arguments, log)
    if ended.code:
        sys.stderr.write(log.read_text(errors="replace"))
        raise SystemExit(ended.code)
    return {key: value for key, value in asdict(ended).items() if key != "code"}


def read_back(folder: Path, source: Path) -> dict[str, Any]:
    """What rasterio and rio-cogeo say of every TIFF of an image. Errors: AssertionError where one is wrong."""
    with rasterio.open(source) as raster:
        place = raster.crs, raster.transform, raster.shape
    found = {}
    for path in sorted(folder.glob("*.tif")):
        valid, errors, warnings = cog_validate(path, strict=True)
        with rasterio.open(path) as raster:
            assert (raster.crs, raster.transform, raster.shape) == place, path
            assert raster.nodata is not None, path
            corner = raster.read(1, window=Window(0, 0, 8, 8))
            missing = np.isnan(corner) if path.stem != "prediction" else corner == raster.nodata
            assert missing.all(), path
            found[path.stem] = {
                "cog": bool(valid),
                "errors": [*errors, *warnings],
                "overviews": raster.overviews(1),
                "nodata": str(raster.nodata),
                "bytes": path.stat().st_size,
            }
    return found


def seams(
    folder: Path, source: Path, card: Path, bank: Path, corners: list[tuple[int, int]], draws: int
) -> dict[str, Any]:
    """The largest difference of each measure in windows around tile corners from a pass over each in one piece."""
    network = load_network(str(card))
    model = segment.MCBN(network, segment.load_bank(bank), draws=draws, precision="fp32", memory="64GiB")
    differences = dict.fromkeys(MEASURES, 0.0)
    classes = pixels = 0
    with rasterio.open(source) as raster:
        side = raster.height
        for row, column in corners:
            top, left = max(0, row - MARGIN) // 32 * 32, max(0, column - MARGIN) // 32 * 32
            size = min(2 * MARGIN, side - top), min(2 * MARGIN, side - left)
            window = Window(left, top, size[1], size[0])
            exact = model(np.moveaxis(raster.read(window=window), 0, -1), MEASURES)
            inner = slice(row - top - WINDOW // 2, row - top + WINDOW // 2)
            across = slice(column - left - WINDOW // 2, column - left + WINDOW // 2)
            place = Window(left + across.start, top + inner.start, WINDOW, WINDOW)
            for name in MEASURES:
                with rasterio.open(folder / f"{name}.tif") as written:
                    values = written.read(1, window=place)
                apart = np.abs(values - exact.maps[name].numpy()[inner, across])
                differences[name] = max(differences[name], float(np.nanmax(apart, initial=0.0)))
            with rasterio.open(folder / "prediction.tif") as written:
                predicted, none = written.read(1, window=place), written.nodata
            other = (predicted != exact.prediction.numpy()[inner, across]) & (predicted != none)
            classes, pixels = classes + int(other.sum()), pixels + other.size
    return {"windows": len(corners), "largest": differences, "other_class": classes / pixels}


def tile_corners(run: Path, side: int) -> list[tuple[int, int]]:
    """Where tiles meet, spread over the image."""
    tiling = json.loads((run / "run.json").read_text())["tiling"]
    step = tiling["side"] - 2 * tiling["halo"]
    first = tiling["side"] - tiling["halo"]
    if tiling["blended"]:
        step, first = first, first + tiling["halo"] // 2
    cuts = [cut for cut in range(first, side, step) if MARGIN <= cut <= side - MARGIN]
    rng = np.random.default_rng(0)
    return [(int(rng.choice(cuts)), int(rng.choice(cuts))) for _ in range(WINDOWS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="what is made there is used again")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--tile-mode", default="exact")
    parser.add_argument("--formats", default="tif,png")
    parser.add_argument("--draws", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        source, card, bank = scene_and_network(folder, arguments.side)
        run = folder / f"run_{arguments.side}_{arguments.memory}_{arguments.tile_mode}"
        command = ["predict", str(card), str(source), "--bank", str(bank), "-o", str(run), "--precision", "fp32"]
        command += ["--draws", str(arguments.draws), "--memory", arguments.memory, "--tile-mode", arguments.tile_mode]
        command += ["--format", arguments.formats]
        result: dict[str, Any] = {"side": arguments.side, "bands": 4, "draws": arguments.draws, "network": URI}
        result |= {"memory": arguments.memory, "budget_bytes": bytes_of(arguments.memory), "mode": arguments.tile_mode}
        result |= watched(command, folder / f"{run.name}.log")
        record = json.loads((run / "run.json").read_text())
        result |= {"tiling": record["tiling"], "timings": record["timings"]}
        result |= {"files": read_back(run / "scene", source)}
        result |= {
            "seams": seams(run / "scene", source, card, bank, tile_corners(run, arguments.side), arguments.draws)
        }
        sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
