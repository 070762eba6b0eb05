"""What this machine has: versions, devices, what is missing and how to get it: `segment doctor`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from segment.estimation.precision import choose
from segment.files.versions import versions
from segment.jobs.fit import fit_bank
from segment.networks.load import load_network
from segment.scenes.scene import TRAIN, scene

AUDITED = 4
"""Scenes, and draws, of the precision audit."""
EXTRAS = {"plots": ("matplotlib",), "bench": ("torch_uncertainty",)}


def examine() -> dict[str, Any]:
    """Name -> what was found; a missing optional package says how to install its extra."""
    findings: dict[str, Any] = dict(versions())
    findings["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            findings[f"cuda:{index}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        findings["cuda"] = "none; the CPU is used"
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        findings[f"extra {extra}"] = f"missing: pip install 'mcbn-segment[{extra}]'" if missing else "installed"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    findings[f"precision on {device}"] = _precision(device)
    return findings


def _precision(device: str) -> str:
    """What `--precision auto` would take for the shipped network here, and why; another network may differ."""
    network = load_network("scenes", device=device)
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN[:AUDITED]], batch=AUDITED, draws=AUDITED)
    chosen, why = choose(bank.provenance["audit"].get(device, {}))
    return f"{chosen} for the shipped network: {why}"
