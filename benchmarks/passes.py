"""T = 16 passes of smp.Unet resnet34 over a 384x480 image: ours, torch-uncertainty 0.13.0, 16 deterministic passes.

Everything runs in turn in one process, round after round; ratios are of the medians. Weights are random: time only.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segment.draws.bank import Bank
from segment.draws.recording import record
from segment.networks.batchnorm import survey
from segment.sampling.estimate import estimate
from segment.sampling.memory import keep_freed_pages
from segment.sampling.methods import mcbn
from segment.sampling.passes import PassPlan

T, SIZE, CLASSES = 16, (384, 480), 11
MEASURES = ("variance", "predictive_entropy", "mutual_information")


def contenders(network: nn.Module, image: Tensor) -> dict[str, Callable[[], object]]:
    """Name -> one whole prediction: T passes, mean probability and its maps."""
    found: dict[str, Callable[[], object]] = {}
    drawn = survey(network, network, image[..., :128, :128])
    batches = [torch.rand(2, 3, 128, 128) for _ in range(T)]
    bank = Bank.of_draws(list(record(drawn, batches)))
    ours = {
        "segment, fp32": PassPlan(channels_last=True, fuse=True),
        "segment, bf16": PassPlan(precision="bf16", channels_last=True, fuse=True),
    }
    for name, plan in ours.items():
        method = mcbn(drawn, bank, plan)
        found[name] = partial(estimate, method, image, head="softmax", measures=MEASURES)
    found |= _torch_uncertainty(network, image, batches)
    fused = _fused(network).to(torch.bfloat16).to(memory_format=torch.channels_last)
    still = image.to(torch.bfloat16).to(memory_format=torch.channels_last)

    def deterministic() -> None:
        with torch.no_grad():
            for _ in range(T):
                fused(still)

    found["16 deterministic, fused, bf16"] = deterministic
    return found


def _torch_uncertainty(network: nn.Module, image: Tensor, batches: list[Tensor]) -> dict[str, Callable[[], object]]:
    try:
        from torch_uncertainty.post_processing import MCBatchNorm
    except ImportError:
        sys.stderr.write("torch-uncertainty is missing: pip install 'mcbn-segment[bench]'\n")
        return {}
    wrapped = MCBatchNorm(network, num_estimators=T, convert=True, mc_batch_size=2)
    images = torch.cat(batches)
    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    wrapped.fit(torch.utils.data.DataLoader(data, batch_size=2))
    wrapped.eval()
    last = image.to(memory_format=torch.channels_last)

    def maps(logits: Tensor) -> tuple[Tensor, ...]:
        p = logits.float().softmax(dim=1)
        mean = p.mean(dim=0)
        predictive = torch.special.entr(mean).sum(dim=0)
        return p.var(dim=0).mean(dim=0), predictive, predictive - torch.special.entr(p).sum(dim=1).mean(dim=0)

    def as_documented() -> object:
        with torch.no_grad():
            return maps(wrapped(image))

    def tuned() -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return maps(wrapped(last))

    return {"torch-uncertainty, as documented": as_documented, "torch-uncertainty, bf16, channels_last": tuned}


def _fused(network: nn.Module) -> nn.Module:
    """Each convolution with its BN folded in, as a deployed network has it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = copy.deepcopy(network).eval()
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (name, first), (after, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(first, second))
                setattr(parent, after, nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return network


def main(out: Path, rounds: int = 7) -> None:
    logging.basicConfig(level=logging.WARNING)
    keep_freed_pages()
    torch.set_num_threads(2)
    with torch.random.fork_rng():
        network = smp.Unet("resnet34", encoder_weights=None, classes=CLASSES).eval()
        runs = contenders(network, torch.rand(1, 3, *SIZE))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    ours = median["segment, bf16"]
    lines = [f"{'':42} seconds   against segment, bf16"]
    lines += [f"{name:42} {value:7.3f}   {value / ours:5.2f}" for name, value in median.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    ratios = {name: value / ours for name, value in median.items()}
    (out / "passes.json").write_text(json.dumps({"seconds": seconds, "median": median, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    main(Path("outputs/bench"))
