"""The code on docs/other-libraries.md, run: `python -m benchmarks.other_libraries`, with those libraries installed.

Each Python block is run on one small network, as a reader would paste it, and must leave a mask and a map of its
size. Prints what ran and on which version as JSON. Must not know what the blocks do: they stand on the page.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import segment

PAGE = Path(__file__).parent.parent / "docs" / "other-libraries.md"
BLOCK = re.compile(r"^\*\*([\w-]+)\*\*.*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SIZE = (64, 96)


def given() -> dict[str, Any]:
    """What the page takes for granted: `module`, `module_with_dropout`, `loader` and `image`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(128, 3, *SIZE, generator=generator)
    labels = torch.zeros(128, *SIZE, dtype=torch.long)
    module = smp.Unet("resnet18", encoder_weights=None, classes=4).eval()
    with_dropout = nn.Sequential(module, nn.Dropout(0.1)).eval()
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    return {"module": module, "module_with_dropout": with_dropout, "loader": loader, "image": images[0]}


def main() -> None:
    ran = {}
    for library, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        names = given()
        exec(compile(block, f"{PAGE.name}: {library}", "exec"), names)
        maps = [name for name in ("entropy", "disagreement", "spread") if name in names]
        wrong = [name for name in ("mask", *maps) if tuple(names[name].shape) != SIZE]
        if wrong or not maps:
            raise AssertionError(f"{library}: {wrong or 'no map'} is not of the image's size.")
        ran[library] = {"version": segment.__version__ if library == "segment" else version(library), "maps": maps}
    sys.stdout.write(json.dumps(ran) + "\n")


if __name__ == "__main__":
    main()
