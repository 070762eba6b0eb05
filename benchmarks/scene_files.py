"""Generated scenes as files, for commands that take folders: `python -m benchmarks.scene_files OUT [--test 200]`.

OUT/train, OUT/validation, OUT/test and OUT/unseen hold `images` and `labels`; the scenes of `unseen` are those of
`test` with an object of no trained class in them. OUT/quarter_validation.txt lists every fourth of `validation`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.image_lists import folder_pairs, write_list
from segment.files.writing import write_png
from segment.scenes.scene import TEST, TRAIN, VALIDATION, scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", type=int, default=200, help="so many test scenes")
    asked = parser.parse_args()
    seeds = {"train": TRAIN, "validation": VALIDATION, "test": TEST[: asked.test], "unseen": TEST[: asked.test]}
    for name, chosen in seeds.items():
        for seed in chosen:
            drawn = scene(seed, unseen=name == "unseen")
            write_png(asked.out / name / "images" / f"s{seed}.png", drawn.image)
            write_png(asked.out / name / "labels" / f"s{seed}.png", drawn.label)
    write_list(asked.out / "quarter_validation.txt", folder_pairs(asked.out, "validation")[::4])


if __name__ == "__main__":
    main()
