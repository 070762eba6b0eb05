"""What scoring an image costs beside its T passes, in `segment evaluate` with every measure and one thread.

    python -m benchmarks.scoring [--images 12] [--draws 16] [--data ../shared/data]

Two networks: a light one (smp.Unet resnet18, 4 classes, 256 x 320; random weights, its logits stretched so that it is
as sure as a trained one; the labels are its own masks with regions set wrong), and the CamVid U-Net on test images. All
is done in line, one image after the other. The ratio is passes and scoring over passes alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segment.draws.identity import network_of_bank
from segment.estimation.estimate import ReadOut
from segment.estimation.memory_budget import keep_freed_pages
from segment.images.find import Source
from segment.images.prepare import normalise
from segment.jobs.evaluation.scoring import Scoring
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.labels import labelled
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.uncertainty.measures import MEASURES

SIZE, CLASSES = (256, 320), 4
STRETCHED = 3.0
"""Standard deviation over the pixels of a random network's logits."""
STARTING = 2
"""Images that are not counted."""


class Stretched(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.by = network, 1.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits * self.by


def smooth(generator: np.random.Generator) -> NDArray[np.float64]:  # H W 3
    """Noise of several scales."""
    height, width = SIZE
    parts = [cv2.resize(generator.normal(size=(height // by, width // by, 3)), (width, height)) for by in (2, 8, 32)]
    return np.sum(parts, axis=0)


def light(folder: Path, images: int) -> tuple[Network, tuple[Source, ...]]:
    with torch.random.fork_rng(devices=[]):
        stretched = Stretched(smp.Unet("resnet18", encoder_weights=None, classes=CLASSES).eval())
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(images):
        pixels = (128 + 40 * smooth(generator)).clip(0, 255).astype(np.uint8)
        network = load_network(stretched)
        with torch.no_grad():
            logits = network(normalise(pixels, network.input)[None])[0]
        if number == 0:
            stretched.by = STRETCHED / float(logits.std())
        wrong = np.abs(smooth(generator)[..., 0]) > 2
        label = np.where(wrong, generator.integers(0, CLASSES), logits.argmax(dim=0).numpy())
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels[..., ::-1])
        cv2.imwrite(str(folder / "labels" / f"{number}.png"), label.astype(np.uint8))
    return load_network(stretched), labelled(folder / "images", folder / "labels")


def measure(network: Network, train: str, sources: tuple[Source, ...], draws: int, void: int) -> dict[str, Any]:
    bank = fit_bank(network, train, draws=draws, batch=4)
    read_out = ReadOut(method=mcbn(network_of_bank(network, bank), bank, FAST), measures=tuple(MEASURES))
    plan = ScorePlan(classes=network.class_names, measures=tuple(MEASURES), void=void)
    scoring = Scoring(network, {"mcbn": read_out}, {"mcbn": Scoreboard(plan)}, workers=0)
    scoring.run(sources[:STARTING])
    before = scoring.seconds["mcbn"], scoring.scoring["mcbn"]
    scoring.run(sources)
    after, counted = (scoring.seconds["mcbn"], scoring.scoring["mcbn"]), len(sources) - STARTING
    passes, scored = ((now - then) / counted for now, then in zip(after, before, strict=True))
    return {
        "images": counted,
        "classes": network.classes,
        "accuracy": scoring.boards["mcbn"].compute()["scores"]["accuracy"]["value"],
        "passes_seconds": passes,
        "scoring_seconds": scored,
        "ratio": 1 + scored / passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    keep_freed_pages()  # as the command line does
    torch.set_num_threads(1)
    count = arguments.images + STARTING
    result: dict[str, Any] = {"draws": arguments.draws, "measures": list(MEASURES)}
    with tempfile.TemporaryDirectory() as folder:
        network, sources = light(Path(folder), count)
        result["light"] = measure(network, str(Path(folder) / "images"), sources, arguments.draws, CLASSES)
    camvid = arguments.data / "camvid"
    network = load_network("unet_lite0_camvid")
    sources = labelled(camvid / "test.txt", None)[:count]
    result["camvid"] = measure(network, str(camvid / "train"), sources, arguments.draws, network.classes)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
