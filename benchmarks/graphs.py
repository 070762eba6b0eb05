"""Exported graphs, and passes by OpenVINO, beside torch's: `python -m benchmarks.graphs --train SRC --images SRC`.

Of each network: the largest difference of its ONNX and OpenVINO graphs from segment's maps of a real image, their time
over that of segment's fused passes, and that of `--engine openvino`. Contenders take turns, round after round, in one
process: ratios are medians over rounds, and those of the shortest times, which other work on the machine changes least.
Networks without weights are random, with draws of their own. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.draws.recording import Precision, record
from segment.estimation.estimate import Estimate, estimate, from_the_first_draw
from segment.estimation.memory_budget import keep_freed_pages
from segment.files.banks.bank_file import load_bank
from segment.graphs.parts import OUTPUTS
from segment.images.find import find_images
from segment.images.prepare import normalise, prepare
from segment.images.read import read_source
from segment.jobs.prediction.export import export
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.passes.fused.onednn import has_bfloat16
from segment.passes.passes import FAST, Engine

NETWORKS = (
    "unet_lite0_camvid",
    "enet_camvid",
    "smp:Unet?encoder=resnet34&classes=11",
    "smp:DeepLabV3Plus?encoder=resnet34&classes=11",
)
DRAWS, BATCH = 16, 2
RATIOS = {
    "engine fp32": ("openvino fp32", "torch fp32"),
    "engine bf16": ("openvino bf16", "torch bf16"),
    "graph .onnx": ("graph .onnx", "torch fp32"),
    "graph .xml": ("graph .xml", "torch fp32"),
}
MEASURES = tuple(name for name in OUTPUTS if name != "probability")

Pixels = NDArray[Any]
Run = Callable[[Pixels], Any]


class GivenUp(Exception):
    """An engine's passes differ from plain ones by more than rounding, so that torch takes over."""


def ours(network: Network, drawn: BatchNormNetwork, bank: Bank, precision: Precision, engine: Engine) -> Run:
    plan = replace(FAST, precision=precision, engine=engine)
    method = mcbn(drawn, bank, plan, network.input)

    def run(image: Pixels) -> Estimate[torch.Tensor]:
        pixels = normalise(image, network.input)[None]
        made = from_the_first_draw(
            (method,), lambda: estimate(method, pixels, head=network.card.head, measures=MEASURES)
        )
        if method.engine != engine:
            raise GivenUp(f"{network.name}: {engine} was given up")
        return made

    return run


def in_onnxruntime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the next one's time
    session = onnxruntime.InferenceSession(path, options)
    return lambda image: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": image[None]}), strict=True))


def in_openvino(path: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(image: Pixels) -> dict[str, NDArray[np.float32]]:
        made = compiled({"image": image[None]})
        return {name: made[name].copy() for name in OUTPUTS}

    return run


def values_of(made: Any) -> dict[str, NDArray[Any]]:
    if isinstance(made, Estimate):
        return {"probability": made.probability.numpy()} | {name: made.maps[name].numpy() for name in MEASURES}
    return dict(made)


def differences(run: Run, reference: Mapping[str, NDArray[Any]], image: Pixels) -> dict[str, float]:
    """Output -> the largest difference; and `variance_error`, relative L1 of the variance map."""
    made = values_of(run(image))
    worst = {name: float(np.abs(made[name] - reference[name]).max()) for name in OUTPUTS}
    error = float(np.abs(made["variance"] - reference["variance"]).sum())
    return worst | {"variance_error": error / float(reference["variance"].sum())}


def in_turn(runs: Mapping[str, Run], image: Pixels, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Processor time and seconds of each, round after round; each has run before."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            processor, seconds = time.process_time(), time.perf_counter()
            run(image)
            spent[name].append((time.process_time() - processor, time.perf_counter() - seconds))
    return spent


def over(spent: Mapping[str, list[tuple[float, float]]], name: str, base: str) -> dict[str, float]:
    """Medians over rounds of the time of one over that of another, the quartiles of seconds, and the best of each."""
    pairs = list(zip(spent[name], spent[base], strict=True))
    low, middle, high = statistics.quantiles((mine[1] / other[1] for mine, other in pairs), n=4)
    processor = statistics.median(mine[0] / other[0] for mine, other in pairs)
    best = min(mine[1] for mine, _ in pairs) / min(other[1] for _, other in pairs)
    return {"seconds": middle, "low": low, "high": high, "best": best, "processor": processor}


def recorded(network: Network, train: str) -> Bank:
    """Draws of a network of random weights, each from other training images."""
    sources = iter(find_images(train))

    def batch() -> Tensor:
        pixels = [read_source(next(sources), network.input).pixels for _ in range(BATCH)]
        return torch.stack([prepare(image, network.input) for image in pixels])

    return Bank.of_draws(list(record(bn_network_of(network), (batch() for _ in range(DRAWS)))))


def measured(name: str, banks: Sequence[Bank], train: str, image: Pixels, rounds: int, folder: Path) -> dict[str, Any]:
    network = load_network(name)
    bank = next((bank for bank in banks if bank.provenance["network"] == network.name), None)
    bank = recorded(network, train) if bank is None else bank.first(DRAWS)
    drawn = network_of_bank(network, bank)
    runs: dict[str, Run] = {
        "torch fp32": ours(network, drawn, bank, "fp32", "torch"),
        "openvino fp32": ours(network, drawn, bank, "fp32", "openvino"),
    }
    if has_bfloat16():
        runs |= {f"{engine} bf16": ours(network, drawn, bank, "bf16", engine) for engine in get_args(Engine)}
    for suffix, run in (("onnx", in_onnxruntime), ("xml", in_openvino)):
        export(network, bank, folder / f"mcbn.{suffix}")
        runs[f"graph .{suffix}"] = run(folder / f"mcbn.{suffix}")
    reference = values_of(runs["torch fp32"](image))
    different, given_up = dict[str, dict[str, float]](), list[str]()
    for which in [name for name in runs if name != "torch fp32"]:
        try:
            different[which] = differences(runs[which], reference, image)
        except GivenUp:
            given_up.append(which)
            del runs[which]
    spent = in_turn(runs, image, rounds)
    return {
        "network": network.name,
        "differences": different,
        "given_up": given_up,
        "ratios": {
            ratio: over(spent, mine, other) for ratio, (mine, other) in RATIOS.items() if {mine, other} <= spent.keys()
        },
        "seconds": {which: min(each[1] for each in of) for which, of in spent.items()},
    }


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, help="images that banks of random weights are recorded from")
    parser.add_argument("--images", required=True, help="of which the first is used")
    parser.add_argument("--networks", default=" ".join(NETWORKS))
    parser.add_argument("--banks", nargs="*", default=sorted(Path("outputs/measured").glob("*.safetensors")))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args(None if arguments is None else list(arguments))
    logging.getLogger("segment").setLevel(logging.ERROR)
    torch.set_num_threads(given.threads)
    keep_freed_pages()
    banks = [load_bank(path) for path in given.banks]
    source = find_images(given.images)[0]
    rows = []
    for name in given.networks.split():
        image = read_source(source, load_network(name).input).pixels
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(name, banks, given.train, image, given.rounds, Path(folder)))
    size = "x".join(map(str, image.shape[:2]))
    result = {"draws": DRAWS, "batch": BATCH, "size": size, "threads": torch.get_num_threads(), "networks": rows}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
