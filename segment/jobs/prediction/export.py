"""A network and a bank to one graph that other programs run: `segment export`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segment.axes import size_text
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.errors import ModelRefused, WrongUse, imported, one_line, ran_out_of_memory
from segment.estimation.estimate import estimate
from segment.files.banks.bank_file import bank_of
from segment.files.graphs import write_onnx, write_openvino
from segment.files.replacing import refuse_other_file
from segment.files.versions import versions
from segment.files.writing import check_writable
from segment.graphs.deployed import MARK, deployed, metadata, takes_bytes
from segment.graphs.parts import OUTPUTS
from segment.graphs.running import RunGraph, in_onnxruntime, in_openvino
from segment.images.prepare import normalise
from segment.images.specs import LARGEST, Channels, numbers_of
from segment.methods.mcbn import mcbn
from segment.networks.given import network_of, on_device
from segment.networks.load import Network
from segment.networks.trial_images import noise
from segment.passes.onnx_pass import pass_graph
from segment.tracing.trace import trace

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference from the engine, of any value of any output."""

SIDES = (128, 160)
"""Least rows and columns of the image that is traced."""

COMPARED = ((150, 131), (97, 202), (270, 333))
"""Rows and columns of the images that are compared with the engine; no stride divides them."""

LARGE = ((640, 768), (1152, 1408))
"""Sizes of images at which the network must make the calls that were traced; what usual strides divide."""

SMALL = (41, 67)
"""The size of one more such image, where the network takes so small a one."""


@dataclass(frozen=True)
class Exported:
    """A graph that was written.

    path: the file; engine: what compared it; draws: T; bytes: of its files
    differences: output -> the largest difference from the engine, on images of several sizes
    """

    path: Path
    engine: str
    draws: int
    bytes: int
    differences: dict[str, float]


def export(
    network: Network | nn.Module | str | Path,
    bank: Bank | str | Path,
    output: str | Path,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Exported:
    """Write a network under the draws of a bank as one graph, after comparing it with the engine at several sizes.

    Args:
        network: What `load_network` gave; a URI, a card, or any torch module with BN. One on a GPU is copied.
        bank: Its bank, or the file of it; a pass is made for each draw, so a distilled one is fastest.
        output: A file .onnx; or .xml, for OpenVINO, beside which the weights are written as .bin.
        mean: As `MCBN` takes it.
        std: As `MCBN` takes it.
        channels: As `MCBN` takes them.

    Returns:
        What was written, and how far it is from the engine.

    Raises:
        BankRefused: The bank is not this network's.
        ModelRefused: A graph cannot express the network, or computes something else.
        MissingExtra: `onnx`, or for .xml `openvino`, is not installed.
        WrongUse: The file has another suffix, cannot be written, or is there already and is no exported graph.

    """
    path = Path(output)
    if path.suffix not in (".onnx", ".xml"):
        raise WrongUse(f"A graph is written as .onnx, or as .xml for OpenVINO, not {str(path)!r}.")
    check_writable(path)
    _refuse_other_file(path)
    openvino = path.suffix == ".xml"
    runtime, extra = ("openvino", "openvino") if openvino else ("onnxruntime", "onnx")
    imported(runtime, extra=extra, what="Exported graphs")
    network = on_device(network_of(network, mean=mean, std=std, channels=channels), torch.device("cpu"))
    network.log_preprocessing()  # it becomes part of the graph
    bank = bank_of(bank)
    drawn = network_of_bank(network, bank)
    stride = network.input.stride
    rows, columns = (-(-side // stride) * stride for side in SIDES)
    image = torch.randn((1, network.channels, rows, columns), device="cpu", generator=torch.Generator().manual_seed(0))
    traced = drawn.retraced(image)
    _refuse_other_calls(traced, image)
    model = deployed(network, bank, pass_graph(traced, bank, image))
    differences = _compared(network, traced, bank, (in_openvino if openvino else in_onnxruntime), model)
    notes = metadata(network, bank, versions(), differences)
    (write_openvino if openvino else write_onnx)(path, model, notes)
    files = [path, path.with_suffix(".bin")] if openvino else [path]
    size = sum(file.stat().st_size for file in files)
    return Exported(path, "OpenVINO" if openvino else "ONNX Runtime", len(bank), size, differences)


def _refuse_other_file(path: Path) -> None:
    """Errors: WrongUse where what lies there, or the weights beside it, is no graph that was exported before."""
    refuse_other_file(
        path, "graph of segment export", (".onnx", ".xml"), lambda file: MARK.encode() in file.read_bytes()
    )
    if path.suffix == ".xml" and not path.exists():
        refuse_other_file(path.with_suffix(".bin"), "file of weights of segment export", (".bin",), lambda _: False)


def _refuse_other_calls(traced: BatchNormNetwork, image: Tensor) -> None:
    """Errors: ModelRefused where a pass over a larger image makes other calls than that over the traced one."""
    functions = [call.function for call in traced.calls]
    for rows, columns in LARGE:
        larger = noise(*image.shape[:2], rows, columns)
        try:
            calls = trace(traced.module, traced.forward, larger).calls
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            log.warning("A pass at %s runs out of memory: the graph is not checked at that size.", f"{rows}x{columns}")
            return
        if [call.function for call in calls] != functions:
            raise ModelRefused(
                f"At {rows}x{columns} the network makes other calls than at {size_text(image.shape[-2:])}: it decides "
                "by the size of its image, which a graph cannot express."
            )


def _compared(network: Network, drawn: BatchNormNetwork, bank: Bank, runtime: Any, model: Any) -> dict[str, float]:
    """Output -> largest difference. Errors: ModelRefused where one is too large, or the graph does not run."""
    method = mcbn(drawn, bank, None, network.input)
    measures = [name for name in OUTPUTS if name != "probability"]
    worst = dict.fromkeys(OUTPUTS, 0.0)
    try:
        run: RunGraph = runtime(model)
    except Exception as error:  # whatever the runtime raises
        raise ModelRefused(f"The exported graph does not load: {one_line(error, 200)}.") from error
    for image in _images(network):
        size = size_text(image.shape[:2])
        try:
            expected = estimate(
                method, normalise(image, network.input)[None], head=network.card.head, measures=measures
            )
        except Exception:  # whatever an unknown network raises for an image that is too small for it
            if image.shape[:2] == SMALL:
                continue
            raise
        try:
            made = run(_raw(image, network)[None])
        except Exception as error:  # whatever the runtime raises
            raise ModelRefused(
                f"The exported graph does not run at {size}, so it would not at other sizes than the traced one: "
                f"{one_line(error, 160)}."
            ) from error
        for name in OUTPUTS:
            reference = expected.probability if name == "probability" else expected.maps[name]
            same = made[name].shape == tuple(reference.shape)
            difference = float(np.abs(made[name] - reference.numpy()).max()) if same else float("inf")
            if not difference <= TOLERANCE:
                raise ModelRefused(
                    f"The exported graph computes another {name} at {size} (difference {difference:.2g}): the network "
                    "decides by the size of its image, which a graph cannot express."
                )
            worst[name] = max(worst[name], difference)
    return worst


def _raw(image: NDArray[Any], network: Network) -> NDArray[Any]:  # H W C
    """The raw pixels that are this image in 0..255."""
    spec = network.input
    if spec.white is None:
        return image
    white = np.array(numbers_of(spec.white, image.shape[2]))
    return (image * ((white[::-1] if spec.channels == "BGR" else white) / LARGEST)).astype(np.float32)


def _images(network: Network) -> Iterator[NDArray[Any]]:  # H W C
    """Blurred noise, of the type that the graph takes."""
    generator = np.random.default_rng(0)
    for rows, columns in (*COMPARED, SMALL):
        coarse = generator.uniform(0, 255, (rows // 8 + 1, columns // 8 + 1, network.input.pixel_planes))
        image = np.kron(coarse, np.ones((8, 8, 1)))[:rows, :columns]
        yield image.astype(np.uint8 if takes_bytes(network) else np.float32)
