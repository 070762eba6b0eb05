"""Every container goes through fit, predict and evaluate by the documented lines, with the numbers of its arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from test_containers import dicom, geotiff, network_of
from torch.utils.data import DataLoader, Dataset

import segment
from segment.images.find import find_images
from segment.jobs.evaluate import EvaluatePlan
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.prediction.plan import PredictPlan
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


@pytest.mark.parametrize("container", FILES)
def test_files_of_every_kind_are_fitted_predicted_and_evaluated_as_their_arrays(container: str, tmp_path: Path) -> None:
    write, spec = FILES[container]
    folder = tmp_path / "images"
    folder.mkdir()
    arrays, network = write(folder), network_for(spec)
    sources = find_images(folder)
    labels = labels_for(network, len(arrays))
    for source, label in zip(sources, labels, strict=True):
        path = tmp_path / "labels" / f"{source.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)

    bank = segment.fit_bank(network, str(folder), batch=2, draws=4)
    assert_same_bank(bank, segment.fit_bank(network, arrays, batch=2, draws=4))

    plan = PredictPlan(precision="fp32", formats=("npz",))
    summary = segment.predict(network, str(folder), bank, tmp_path / "run", plan)
    assert (summary.done, dict(summary.failed)) == (3, {})
    mcbn = segment.MCBN(network, bank, precision="fp32")
    for source, pixels in zip(sources, arrays, strict=True):
        written, expected = np.load(tmp_path / "run" / source.id / "maps.npz"), mcbn(pixels)
        assert float(expected.maps["variance"].max()) > 0
        for name in MEASURES:
            np.testing.assert_array_equal(written[name], expected.maps[name].numpy(), err_msg=name)

    evaluated = segment.evaluate(network, str(folder), str(tmp_path / "labels"), bank=bank, plan=SCORED)
    pairs = list(zip(arrays, labels, strict=True))
    assert values(evaluated) == values(segment.evaluate(network, pairs, bank=bank, plan=SCORED))


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
