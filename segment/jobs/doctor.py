"""What this machine has, and whether a network's fast passes give the numbers of plain passes: `segment doctor`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.errors import PredictionFailed
from segment.estimation.precision import audit_key, choose
from segment.files.versions import versions
from segment.images.display import picture_of
from segment.images.outside_runs import images_outside_runs
from segment.images.prepare import normalise, pad
from segment.images.read import read_source
from segment.jobs.fit import fit_bank
from segment.jobs.progress import Progress, silent
from segment.networks.load import Network, load_network
from segment.passes.comparison import TOLERANCE, float32_noise, output_differences, within_noise
from segment.passes.drawn_calls import Program
from segment.passes.fused.onednn import available
from segment.passes.passes import FAST, Passes, PassPlan
from segment.scenes.scene import TRAIN, scene
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

AUDITED = 4
"""Scenes, and draws, of the precision audit."""
EXTRAS = {
    "plots": ("matplotlib",),
    "geo": ("rasterio",),
    "medical": ("nibabel", "pydicom"),
    "annotations": ("pycocotools",),
    "tables": ("pyarrow",),
    "zarr": ("zarr",),
    "hf": ("transformers",),
    "xarray": ("xarray",),
    "lightning": ("lightning", "torchmetrics"),
    "corruptions": ("corrupt_tta",),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "ranking": ("sklearn",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
}
"""The modules that each extra installs."""

COMPARED_IMAGES = 3
COMPARED_DRAWS = 4


@dataclass(frozen=True)
class ImageComparison:
    """Fast and plain passes over one image under every draw of a bank, in float32.

    way: how its passes ran: "fused", "shared" or "plain"
    probability: largest difference of a class's probability over pixels, classes and draws, within [0, 1]
    variance: largest difference in the variance map over pixels
    tolerance: what either may be: 1e-4, or 4 times what float32 costs the network against float64 where that is more
    """

    image: str
    way: str
    probability: float
    variance: float
    tolerance: float

    @property
    def within(self) -> bool:
        return max(self.probability, self.variance) <= self.tolerance


@dataclass(frozen=True)
class PassComparison:
    """Fast passes compared with plain passes, image by image.

    reasons: calls that keep the draws from sharing their work or from fused calls, one sentence each
    given_up: differences for which the engine itself gave up a fast way
    agree: every image is within its tolerance, and nothing was given up
    """

    network: str
    draws: int
    images: tuple[ImageComparison, ...]
    reasons: tuple[str, ...]
    given_up: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        return all(image.within for image in self.images) and not self.given_up

    def as_dict(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "draws": self.draws,
            "agree": self.agree,
            "images": [asdict(image) | {"within": image.within} for image in self.images],
            "reasons": list(self.reasons),
        }


def compare_passes(
    network: Network, images: str | Path, bank: Bank | None = None, *, progress: Progress = silent
) -> PassComparison:
    """Run fast passes and plain passes over the first COMPARED_IMAGES images of a SRC, and compare their outputs.

    bank: its first COMPARED_DRAWS draws are used; None: so many are recorded from those images
    Errors: WrongUse, ImageUnreadable; BankRefused where the bank is not this network's; PredictionFailed where an
    output is not finite; what `fit_bank` raises.
    """
    sources = images_outside_runs(images)[:COMPARED_IMAGES]
    network.log_preprocessing()
    pixels = [read_source(source, network.input).pixels for source in sources]
    compared = []
    with _warnings_of("segment.passes") as warnings:
        if bank is None:
            bank = _recorded(network, pixels, progress)
        bank = bank.take(range(min(COMPARED_DRAWS, len(bank))))
        drawn = network_of_bank(network, bank)
        fast = Passes(drawn, bank, FAST)
        plain = Passes(drawn, bank, PassPlan(share=False))
        for number, (source, values) in enumerate(zip(sources, pixels, strict=True), start=1):
            image = pad(normalise(values, network.input)[None], network.input)
            compared.append(_compared(source.id, image, fast, plain, network.card.head))
            progress("comparing passes", number, len(sources))
    reasons = dict.fromkeys([*_reasons(drawn), *warnings])
    return PassComparison(network.name, len(bank), tuple(compared), tuple(reasons), tuple(fast.given_up))


def _recorded(network: Network, pixels: Sequence[NDArray[Any]], progress: Progress) -> Bank:
    """COMPARED_DRAWS draws of M images, one fewer than there are, so that the draws differ."""
    pictures = [picture_of(image) for image in pixels]
    training = network.card.training
    size = None
    if training is None or not training.transforms:  # mini-batches of images as they are need one size
        size = (min(image.shape[0] for image in pictures), min(image.shape[1] for image in pictures))
    batch = max(1, len(pictures) - 1)
    draws = COMPARED_DRAWS if batch < len(pictures) else 1  # of one image all would be equal
    seed = 1  # of two or three images, the first draws of seed 0 have the same ones
    return fit_bank(network, pictures, batch=batch, draws=draws, seed=seed, size=size, progress=progress)


def _reasons(network: BatchNormNetwork) -> list[str]:
    """Why the draws share no work, or run as no fused call, as far as the trace and the machine say."""
    plain = Program.of(network).plain
    if plain:
        return [f"Each draw runs the whole network: {plain}."]
    if network.device.type != "cpu" or not available():
        return ["No convolution is fused: that needs a CPU and oneDNN."]
    return [] if network.channels_last else ["No convolution is fused: the network does not take channels_last images."]


def _compared(image_id: str, image: Tensor, fast: Passes, plain: Passes, head: Head) -> ImageComparison:
    """image: 1 C H W, normalised and padded; the padding is compared too."""
    fast_moments, plain_moments = DrawMoments(head, ("square",)), DrawMoments(head, ("square",))
    largest, tolerance = 0.0, TOLERANCE
    for draw, (weight, output, expected) in enumerate(
        zip(fast.bank.weights.tolist(), fast(image), plain(image), strict=True)
    ):
        if not output.isfinite().all() or not expected.isfinite().all():
            raise PredictionFailed(f"{image_id}: the output under draw {draw} is not finite: nothing to compare.")
        differences = output_differences(output, expected, head)
        largest = max(largest, float(differences.max()))
        if largest > tolerance and within_noise(
            differences, float32_noise(plain.network, _statistics(plain, draw), image, expected)
        ):
            tolerance = largest
        fast_moments.update(probabilities(output, head), weight)
        plain_moments.update(probabilities(expected, head), weight)
    variance = float((fast_moments.variance - plain_moments.variance).abs().max())
    return ImageComparison(image_id, fast.way, largest, variance, tolerance)


def _statistics(passes: Passes, draw: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance (1 C) of each stochastic layer under a draw, on the network's device."""
    bank, device = passes.bank, passes.network.device
    rows = slice(draw, draw + 1)
    return {name: (bank.mean[name][rows].to(device), bank.var[name][rows].to(device)) for name in bank.layers}


class _Messages(logging.Handler):
    """Keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _warnings_of(package: str) -> Iterator[list[str]]:
    """The warnings that a package logs in this block, kept in place of being shown."""
    logger, handler = logging.getLogger(package), _Messages()
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def examine() -> dict[str, Any]:
    """Name -> version, device or state of this machine; a missing optional package says how to install its extra."""
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
    network = load_network("scenes", device="auto")
    findings[f"precision on {network.device.type}"] = _precision(network)
    return findings


def _precision(network: Network) -> str:
    """What `--precision auto` takes for the shipped network here, and why; another network may differ."""
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN[:AUDITED]], batch=AUDITED, draws=AUDITED)
    chosen, why = choose(bank.provenance["audit"].get(audit_key(network.device, "torch"), {}))
    return f"{chosen} for the shipped network: {why}"
