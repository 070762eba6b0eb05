"""CIFAR-10 for commands that take images with label maps: `python -m benchmarks.cifar_files DATA OUT`.

OUT/train, OUT/validation and OUT/test hold `images`; the last two `labels`, each pixel with the image's class. The card
OUT/resnet32.yaml names a network whose logits are the same at each pixel, so that a score over pixels is one over
images. Validation has every fourth of the test images, for the network was trained on those of OUT/train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml
from torch import Tensor

from segment.experiments.cifar.network import INPUT, TRANSFORMS, read_images
from segment.files.writing import write_png, write_text
from segment.networks.architectures.resnet import ResNet32

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
BATCH = 128


class PerPixel(ResNet32):
    """The ResNet32 with its logits at each pixel."""

    def forward(self, images: Tensor) -> Tensor:  # N 3 H W -> N 10 H W
        logits: Tensor = super().forward(images)
        return logits[:, :, None, None].expand(-1, -1, *images.shape[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    for part in ("train", "test"):
        images, labels = read_images(asked.data, f"{part}1000")
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = asked.out / ("validation" if part == "test" and number % 4 == 0 else part)
            write_png(folder / "images" / f"c{number:04}.png", image)
            if part == "test":
                write_png(folder / "labels" / f"c{number:04}.png", np.full(image.shape[:2], label, np.uint8))
    weights = (asked.data / "weights" / "resnet32_cifar10.safetensors").resolve()
    card = {
        "network": "py:benchmarks.cifar_files:PerPixel",
        "weights": {"file": str(weights)},
        "head": "softmax",
        "input": {"mean": list(INPUT.mean), "std": list(INPUT.std)},
        "classes": CLASSES.split(),
        "training": {"batch": BATCH, "transforms": [dict(transform) for transform in TRANSFORMS]},
    }
    write_text(asked.out / "resnet32.yaml", yaml.safe_dump(card, sort_keys=False))


if __name__ == "__main__":
    main()
