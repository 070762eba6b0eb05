"""Seconds of T passes of smp.Unet resnet34 over a 384x480 image: segment, torch-uncertainty 0.13.0, deterministic.

Each contender is set up as its users would have it; they take turns. Ratios are of the medians. Weights are random:
time only. Contenders in bf16 run where the processor has instructions for it, rivals in fp32 where it has none.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from benchmarks.turns import answer_lines, take_turns
from segment.batch_norm.layers import survey
from segment.draws.bank import Bank
from segment.draws.recording import Precision, record
from segment.estimation.estimate import estimate
from segment.estimation.memory_budget import keep_freed_pages
from segment.methods.mcbn import mcbn
from segment.passes.fused.onednn import has_bfloat16
from segment.passes.passes import FAST

SIZE, CLASSES, THREADS, M = (384, 480), 11, 2, 2
MEASURES = ("variance", "predictive_entropy", "mutual_information")

Run = Callable[[], object]


def rival(network: nn.Module, image: Tensor, draws: int, *, tuned: bool = False) -> Run:
    maps = torch_uncertainty(network, _batches(draws), tuned=tuned)
    return lambda: maps(image)


def ours(network: nn.Module, image: Tensor, draws: int, precision: Precision, layers: str = "*") -> Run:
    keep_freed_pages()  # as the command line does
    drawn = survey(network, network, image[..., :128, :128]).select([layers])
    bank = Bank.of_draws(list(record(drawn, _batches(draws))))
    method = mcbn(drawn, bank, replace(FAST, precision=precision))
    return lambda: estimate(method, image, head="softmax", measures=MEASURES)


def torch_uncertainty(
    network: nn.Module, batches: Sequence[Tensor], *, tuned: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """From an image to its maps of MEASURES. batches: of training images (M 3 H W), one a draw."""
    from torch_uncertainty.post_processing import MCBatchNorm

    size = len(batches[0])
    wrapped = MCBatchNorm(network, num_estimators=len(batches), convert=True, mc_batch_size=size)
    images = torch.cat(list(batches))
    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    wrapped.fit(torch.utils.data.DataLoader(data, batch_size=size))
    wrapped.eval()

    def maps(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image = image.to(memory_format=torch.channels_last) if tuned else image
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            p = wrapped(image).float().softmax(dim=1)
            mean = p.mean(dim=0)
            predictive = torch.special.entr(mean).sum(dim=0)
            return p.var(dim=0).mean(dim=0), predictive, predictive - torch.special.entr(p).sum(dim=1).mean(dim=0)

    return maps


def deterministic(
    network: nn.Module,
    image: Tensor,
    passes: int,
    precision: torch.dtype,
    *,
    pages: bool = False,
    compiled: bool = False,
) -> Run:
    """A deployed network: BN folded into its convolutions, channels_last; its logits, no maps."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if pages:
        keep_freed_pages()
    network = copy.deepcopy(network).eval()
    for parent in list(network.modules()):
        for (name, first), (after, second) in itertools.pairwise(list(parent.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(first, second))
                setattr(parent, after, nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    fused: Callable[[Tensor], object] = network.to(precision).to(memory_format=torch.channels_last)
    still = image.to(precision).to(memory_format=torch.channels_last)
    if compiled:
        torch._inductor.config.freezing = True
        fused = torch.compile(network, mode="max-autotune")

    def run() -> None:
        with torch.no_grad():
            for _ in range(passes):
                fused(still)

    return run


def _batches(draws: int) -> list[Tensor]:
    return [torch.rand(M, 3, 128, 128) for _ in range(draws)]


BF16, FP32 = torch.bfloat16, torch.float32
WITH_BF16: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "segment, bf16": lambda n, x: ours(n, x, 16, "bf16"),
    "torch-uncertainty, bf16, channels_last": lambda n, x: rival(n, x, 16, tuned=True),
    "16 deterministic, fused, bf16": lambda n, x: deterministic(n, x, 16, BF16),
    "16 deterministic, fused, bf16, freed pages kept": lambda n, x: deterministic(n, x, 16, BF16, pages=True),
    "16 deterministic, compiled, bf16": lambda n, x: deterministic(n, x, 16, BF16, pages=True, compiled=True),
    "segment, bf16, 8 draws": lambda n, x: ours(n, x, 8, "bf16"),
    "segment, bf16, 32 draws": lambda n, x: ours(n, x, 32, "bf16"),
    "segment, bf16, 32 draws, decoder layers only": lambda n, x: ours(n, x, 32, "bf16", "decoder.*"),
}
WITHOUT_BF16: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "16 deterministic, fused, fp32": lambda n, x: deterministic(n, x, 16, FP32),
    "16 deterministic, fused, fp32, freed pages kept": lambda n, x: deterministic(n, x, 16, FP32, pages=True),
    "16 deterministic, compiled, fp32": lambda n, x: deterministic(n, x, 16, FP32, pages=True, compiled=True),
}
CONTENDERS: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "segment, fp32": lambda n, x: ours(n, x, 16, "fp32"),
    "torch-uncertainty, as documented": lambda n, x: rival(n, x, 16),
    "torch-uncertainty, as documented, 64 draws": lambda n, x: rival(n, x, 64),
    **(WITH_BF16 if has_bfloat16() else WITHOUT_BF16),
}

REFERENCE = "segment, bf16" if has_bfloat16() else "segment, fp32"
"""The contender whose time the ratios are over."""


def contend(name: str) -> None:
    """One contender, in a process of its own."""
    torch.set_num_threads(THREADS)
    network = smp.Unet("resnet34", encoder_weights=None, classes=CLASSES).eval()
    answer_lines(CONTENDERS[name](network, torch.rand(1, 3, *SIZE)))


def main(out: Path, rounds: int = 7) -> None:
    commands = {name: [sys.executable, "-m", "benchmarks.passes", name] for name in CONTENDERS}
    seconds = take_turns(commands, rounds)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    if REFERENCE not in median:
        raise SystemExit(f"{REFERENCE!r} did not run, so there are no ratios.")
    reference = median[REFERENCE]
    lines = [f"{'':48} seconds   time / {REFERENCE}"]
    lines += [f"{name:48} {value:7.3f}   {value / reference:5.2f}" for name, value in median.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    ratios = {name: value / reference for name, value in median.items()}
    (out / "passes.json").write_text(json.dumps({"seconds": seconds, "median": median, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    contend(sys.argv[1])
