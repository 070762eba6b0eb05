"""Every container goes through fit, predict and evaluate by the documented lines, with the numbers of its arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pandas
import pytest
import torch
from console import NETWORKS
from console import segment as command
from numpy.typing import NDArray
from PIL import Image
from test_containers import dicom, geotiff, network_of
from torch.utils.data import DataLoader, Dataset

import segment
from segment.images.find import Source, find_images
from segment.jobs.evaluate import EvaluatePlan
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.networks.load import Network

SIZE = (32, 40)
RNG = np.random.default_rng(5)
BANDS = [RNG.integers(1, 10000, (*SIZE, 4)).astype(np.uint16) for _ in range(3)]
COLOURS = [RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(3)]
GREY = [(4 * RNG.integers(0, 64, SIZE)).astype(np.uint8) for _ in range(3)]  # Pillow's GIF of 256 greys is not exact
DEEP = [RNG.integers(0, 4096, SIZE).astype(np.uint16) for _ in range(3)]

Arrays = list[NDArray[Any]]
MEASURES = ("variance", "predictive_entropy", "mutual_information")
SCORED = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("predictive_entropy",)))


def geotiffs(folder: Path) -> Arrays:
    for number, pixels in enumerate(BANDS):
        geotiff(folder / f"{number}.tif", pixels)
    return list(BANDS)


def deep_pngs(folder: Path) -> Arrays:
    for number, pixels in enumerate(DEEP):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return list(DEEP)


def gif(folder: Path) -> Arrays:
    first, *others = (Image.fromarray(pixels) for pixels in GREY)
    first.save(folder / "a.gif", save_all=True, append_images=others)
    return [np.repeat(pixels[..., None], 3, axis=2) for pixels in GREY]  # its palette holds colours


def volume(folder: Path) -> Arrays:
    stack = np.stack([pixels.T for pixels in DEEP], axis=2)
    nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), folder / "v.nii.gz")
    return list(DEEP)


def series(folder: Path) -> Arrays:
    for number, pixels in enumerate(DEEP):
        dicom(folder / f"{9 - number}.dcm", pixels.astype(np.int16), float(number), "1.2.3")
    return list(DEEP)


def video(folder: Path) -> Arrays:
    writer = cv2.VideoWriter(str(folder / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE[::-1])
    for pixels in COLOURS:
        writer.write(cv2.GaussianBlur(pixels, (0, 0), 3))
    writer.release()
    reader = cv2.VideoCapture(str(folder / "v.mp4"))
    frames = [reader.read()[1][..., ::-1].copy() for _ in COLOURS]
    reader.release()
    return frames


def stack(folder: Path) -> Arrays:
    np.save(folder / "s.npy", np.stack(COLOURS))
    return list(COLOURS)


FILES: dict[str, tuple[Callable[[Path], Arrays], dict[str, Any]]] = {
    "GeoTIFF of four 16-bit bands": (geotiffs, {"channels": 4, "white": 10000.0}),
    "16-bit grey PNG": (deep_pngs, {"channels": 1, "white": 4095.0}),
    "GIF": (gif, {"channels": "grey"}),
    "NIfTI volume": (volume, {"channels": 1, "white": 4095.0}),
    "DICOM series": (series, {"channels": 1, "white": 4095.0}),
    "mp4": (video, {"channels": "RGB"}),
    "npy": (stack, {"channels": "RGB"}),
}


def network_for(spec: dict[str, Any]) -> Network:
    return network_of({"RGB": 3, "grey": 1}.get(spec["channels"], spec["channels"]), **spec)


def labels_for(network: Network, count: int) -> Arrays:
    return [RNG.integers(0, network.classes, SIZE).astype(np.uint8) for _ in range(count)]


def values(evaluation: Any) -> dict[str, dict[str, float | None]]:
    return {
        name: {score: entry["value"] for score, entry in method["scores"].items()}
        for name, method in evaluation.scores["methods"].items()
    }


def assert_same_bank(made: segment.Bank, expected: segment.Bank) -> None:
    for name in expected.layers:
        assert torch.equal(made.mean[name], expected.mean[name])
        assert torch.equal(made.var[name], expected.var[name])


def as_yaml(spec: dict[str, Any]) -> str:
    channels = spec["channels"]
    if channels in ("RGB", "grey"):
        mean, std = [0.4, 0.5, 0.6][: 3 if channels == "RGB" else 1], [0.2] * (3 if channels == "RGB" else 1)
        return json.dumps(spec | {"scale": 255, "mean": mean, "std": std})
    return json.dumps(spec | {"scale": 255})


def pngs(folder: Path) -> Arrays:
    for number, pixels in enumerate(COLOURS):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return list(COLOURS)


LISTS = {"text list": "txt", "CSV list": "csv", "Parquet list": "parquet"}


def listed(sources: Sequence[Source], labels: Path, path: Path) -> None:
    """A list of absolute paths, in a folder that holds none of the images."""
    rows = [{"image": str(source.path), "label": str(labels / f"{source.id}.png")} for source in sources]
    if path.suffix == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(f"{row['image']}\t{row['label']}\n" for row in rows))


@pytest.mark.parametrize("container", [*FILES, *LISTS])
def test_every_container_and_list_goes_through_the_commands_as_its_arrays(container: str, tmp_path: Path) -> None:
    write, spec = FILES.get(container, (pngs, {"channels": "RGB"}))
    folder, labels = tmp_path / "images", tmp_path / "labels"
    folder.mkdir()
    arrays, sources = write(folder), find_images(folder)
    planes = {"RGB": 3, "grey": 1}.get(spec["channels"], spec["channels"])
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    card = tmp_path / "card.yaml"
    card.write_text(f"network: py:own_networks:plain?inputs={planes}\nclasses: [a, b, c]\ninput: {as_yaml(spec)}\n")
    network = segment.load_network(card, trust=True)
    truths = labels_for(network, len(arrays))
    for source, label in zip(sources, truths, strict=True):
        path = labels / f"{source.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
    images: Path = folder
    if container in LISTS:
        images = tmp_path / "lists" / f"set.{LISTS[container]}"
        images.parent.mkdir()
        listed(sources, labels, images)

    bank_file, model = tmp_path / "bank.safetensors", (card, "--trust")
    ended = command("fit", *model, "--images", images, "--batch", 2, "--draws", 2, "-o", bank_file, "--no-cache")
    assert ended.code == 0, ended.err
    bank = segment.load_bank(bank_file)
    assert_same_bank(bank, segment.fit_bank(network, arrays, batch=2, draws=2))

    run = tmp_path / "run"
    wanted = ("--precision", "fp32", "--format", "npz", "--maps", ",".join(MEASURES))
    ended = command("predict", card, images, "--trust", "--bank", bank_file, "-o", run, *wanted)
    assert ended.code == 0, ended.err
    mcbn = segment.MCBN(network, bank, precision="fp32")
    for source, pixels in zip(sources, arrays, strict=True):
        written, expected = np.load(run / source.id / "maps.npz"), mcbn(pixels)
        for name in MEASURES:
            np.testing.assert_array_equal(written[name], expected.maps[name].numpy(), err_msg=name)

    where = ("--images", images, *(() if container in LISTS else ("--labels", labels)))
    scored = ("--methods", "mcbn", "--measures", "predictive_entropy", "--precision", "fp32")
    ended = command("evaluate", *model, *where, "--bank", bank_file, "-o", tmp_path / "scores", *scored, "--json")
    assert ended.code == 0, ended.err
    pairs = list(zip(arrays, truths, strict=True))
    methods = MethodPlan(methods=("mcbn",), measures=("predictive_entropy",), precision="fp32")
    expected_scores = values(segment.evaluate(network, pairs, bank=bank, plan=EvaluatePlan(methods=methods)))
    found = {name: entry["value"] for name, entry in ended.json["methods"]["mcbn"]["scores"].items()}
    assert found == expected_scores["mcbn"]


class Pairs(Dataset[Any]):
    """Normalised images with their labels, as training code has them."""

    def __init__(self, network: Network, labels: Arrays) -> None:
        self.images, self.labels = [network.accept.batch(pixels)[0][0] for pixels in COLOURS], labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], torch.from_numpy(self.labels[index].astype(np.int64))


@pytest.mark.parametrize("container", ["PIL", "Dataset", "DataLoader"])
def test_what_python_holds_is_fitted_predicted_and_evaluated_as_its_arrays(container: str) -> None:
    network = network_for({"channels": "RGB"})
    labels = labels_for(network, len(COLOURS))
    pairs = Pairs(network, labels)
    pictures = [Image.fromarray(pixels) for pixels in COLOURS]
    given: Any = {"PIL": pictures, "Dataset": pairs, "DataLoader": DataLoader(pairs, batch_size=2)}[container]
    bank = segment.fit_bank(network, given, batch=2, draws=4)
    assert_same_bank(bank, segment.fit_bank(network, COLOURS, batch=2, draws=4))
    mcbn = segment.MCBN(network, bank, precision="fp32")
    for index, pixels in enumerate(COLOURS):
        made = mcbn(pictures[index] if container == "PIL" else pairs[index][0])
        assert torch.equal(made.probability, mcbn(pixels).probability)
    items = list(zip(pictures, labels, strict=True)) if container == "PIL" else given
    evaluated = segment.evaluate(network, items, bank=bank, plan=SCORED)
    expected = segment.evaluate(network, list(zip(COLOURS, labels, strict=True)), bank=bank, plan=SCORED)
    assert values(evaluated) == values(expected)
