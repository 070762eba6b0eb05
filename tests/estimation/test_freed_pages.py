"""Memory that one image frees serves the next, where a process asks for it: the system clears no pages anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import torch

import segment
from segment.scenes.scene import TRAIN, scene

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert segment.keep_freed_pages()
network = segment.load_network("scenes")
small = [scene(seed).image for seed in list(TRAIN)[:4]]
mcbn = segment.MCBN(network, segment.fit_bank(network, small, batch=2, draws=2), precision="fp32")
large = scene(5, size=(512, 512)).image
for _ in range(3):
    mcbn(large)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    mcbn(large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library")
def test_freed_pages_serve_the_next_image_where_they_are_kept() -> None:
    faults = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], check=True, capture_output=True, text=True).stdout)
        for way in ("returned", "kept")
    }
    assert faults["kept"] < 0.3 * faults["returned"]
