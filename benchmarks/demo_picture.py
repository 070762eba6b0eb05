"""README's picture, docs/images/demo.png: `python -m benchmarks.demo_picture FOLDER`.

FOLDER is what `segment demo` wrote: the picture is the sheet of some of its images with its bank.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from segment.files.banks.bank_file import load_bank
from segment.files.writing import write_bytes
from segment.images.find import Source
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "demo.png"
SHOWN = (100011, 100014, 100017, 100008, 100022)
"""Seeds of the scenes: all but the last hold an unseen object."""
MAPS = ("prediction", "predictive_entropy", "mutual_information")


def main() -> None:
    folder = Path(sys.argv[1])
    names = [f"scene_{seed}" for seed in SHOWN]
    sources = [Source(name, folder / "images" / f"{name}.png", folder / "labels" / f"{name}.png") for name in names]
    with tempfile.TemporaryDirectory() as made:
        run, bank = Path(made) / "run", load_bank(folder / "bank.safetensors")
        predict(load_network("scenes"), sources, bank, run, PredictPlan(maps=MAPS, formats=("png",)))
        write_bytes(PICTURE, (run / "sheet.png").read_bytes())


if __name__ == "__main__":
    main()
