"""Generated scenes as image and label files, and a bank of others."""

from __future__ import annotations

from pathlib import Path

from segment.draws.bank import Bank
from segment.files.writing import write_png
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.networks.load import Network
from segment.scenes.scene import TRAIN, scene

SIZE = (64, 96)


def written(folder: Path, seeds: range, *, unseen: bool = False) -> Labels:
    """Scenes as image and label files."""
    for seed in seeds:
        drawn = scene(seed, size=SIZE, unseen=unseen)
        write_png(folder / "images" / f"s{seed}.png", drawn.image)
        write_png(folder / "labels" / f"s{seed}.png", drawn.label)
    return Labels(folder / "images", folder / "labels")


def bank_of_scenes(network: Network, *, draws: int, images: int = 8, seed: int = 0) -> Bank:
    """Draws of M = 4 from the first scenes for training."""
    return fit_bank(network, [scene(number).image for number in TRAIN[:images]], batch=4, draws=draws, seed=seed)
