"""Peak RSS of `segment predict` over its --memory budget, each run in a process of its own.

A run that ends with exit code 4 must say the number needed and stay under its budget too. Ratios are of the high water
mark that the system kept of the process to the budget. `python -m benchmarks.memory [OUT] [--networks A,B] ...`
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.child_process import run_command
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.estimation.memory_budget import bytes_of
from segment.files.banks.bank_file import save_bank
from segment.networks.load import load_network

SIZES = ((360, 480), (4096, 4096))
BUDGETS = ("1GiB", "2GiB", "4GiB")
NETWORKS = ("unet_lite0_camvid", "scenes")


def make_image(folder: Path, height: int, width: int) -> Path:
    """A folder with an image of that size: smooth noise, so that its PNG is no larger than a photograph's."""
    small = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    data = cv2.imencode(".png", cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))[1]
    folder.mkdir(parents=True)
    (folder / "image.png").write_bytes(data.tobytes())
    return folder


def make_bank(folder: Path, name: str, draws: int) -> Path:
    """A bank of `draws` scaled copies of the trained statistics: memory depends on their number, not their values."""
    network = load_network(name)
    drawn = bn_network_of(network)
    trained = Bank.of_trained(drawn)
    factors = 1 + 0.01 * np.arange(draws)
    path = folder / f"{name}_{draws}.safetensors"
    statistics = [
        {layer: (trained.mean[layer][0] * factor, trained.var[layer][0] * factor) for layer in trained.layers}
        for factor in factors.tolist()
    ]
    save_bank(identified(network, drawn, Bank.of_draws(statistics)), path)
    return path


def run(arguments: list[str], folder: Path) -> dict[str, object]:
    """Exit code, peak bytes, seconds and the last line of stderr of one command line."""
    stderr = folder / "stderr"
    ended = run_command(arguments, stderr)
    lines = stderr.read_text(errors="replace").strip().splitlines()
    return {
        "code": ended.code,
        "peak": ended.peak_bytes,
        "seconds": ended.seconds,
        "processor": ended.processor_seconds,
        "last_line": lines[-1] if lines else "",
    }


def main(out: Path, networks: list[str], sizes: list[tuple[int, int]], budgets: list[str], draws: int) -> None:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {size: make_image(folder / f"{size[0]}x{size[1]}", *size) for size in sizes}
        for network in networks:
            bank = make_bank(folder, network, draws)
            for size in sizes:
                for budget in budgets:
                    command = [
                        "predict",
                        network,
                        str(sources[size]),
                        "--bank",
                        str(bank),
                        "--memory",
                        budget,
                        "--precision",
                        "fp32",
                        "-o",
                        str(folder / f"{network}_{size[0]}_{budget}"),
                    ]
                    result = run(command, folder)
                    ratio = int(str(result["peak"])) / bytes_of(budget)
                    refused = result["code"] == 4 and re.search(r"needs [\d.]+ [GM]iB", str(result["last_line"]))
                    row = {
                        "network": network,
                        "size": list(size),
                        "budget": budget,
                        "draws": draws,
                        **result,
                        "ratio": round(ratio, 3),
                        "held": ratio <= 1 and (result["code"] == 0 or bool(refused)),
                    }
                    rows.append(row)
                    ending = "done" if result["code"] == 0 else result["last_line"]
                    sys.stdout.write(
                        f"{network:18} {size[0]}x{size[1]} {budget}  {ratio:.3f}  {result['seconds']} s  {ending}\n"
                    )
                    sys.stdout.flush()
    out.mkdir(parents=True, exist_ok=True)
    (out / "memory.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--sizes", default=",".join(f"{height}x{width}" for height, width in SIZES))
    parser.add_argument("--budgets", default=",".join(BUDGETS))
    parser.add_argument("--draws", type=int, default=2)
    arguments = parser.parse_args()
    sizes = [(int(height), int(width)) for height, width in (size.split("x") for size in arguments.sizes.split(","))]
    main(arguments.out, arguments.networks.split(","), sizes, arguments.budgets.split(","), arguments.draws)
