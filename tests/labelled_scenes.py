"""Generated scenes as image and label files."""

from __future__ import annotations

from pathlib import Path

from segment.files.writing import write_png
from segment.jobs.evaluation.labelled_images import Labels
from segment.scenes.scene import scene

SIZE = (64, 96)


def written(folder: Path, seeds: range, *, unseen: bool = False) -> Labels:
    """Scenes as image and label files."""
    for seed in seeds:
        drawn = scene(seed, size=SIZE, unseen=unseen)
        write_png(folder / "images" / f"s{seed}.png", drawn.image)
        write_png(folder / "labels" / f"s{seed}.png", drawn.label)
    return Labels(folder / "images", folder / "labels")
