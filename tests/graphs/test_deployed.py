"""An exported graph gives the engine's numbers in other programs, at any size; what it cannot express is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from plain import (
    assert_same_state,
    calibrated,
    noise,
    plain_loop,
    plain_measures,
    probabilities_of,
    random_bank,
    seeded,
    state_of,
)
from small_networks import Pooling, Random, Small, Strided
from torch import Tensor, nn
from torch.nn import functional

from segment.axes import Head
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import ModelRefused, WrongUse, warn_once
from segment.graphs.deployed import takes_bytes
from segment.graphs.parts import OUTPUTS
from segment.images.prepare import prepare
from segment.images.specs import InputSpec
from segment.jobs.mcbn import MCBN
from segment.jobs.prediction.export import export
from segment.networks.load import Network, load_network

SIZES = ((64, 48), (41, 75))
COLOURS = InputSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), stride=8)


class Twice(nn.Module):
    """A BN layer that is used twice, a functional one, and one on a pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.vector = nn.BatchNorm1d(6)
        self.weight = nn.Parameter(torch.ones(6))
        self.running_mean, self.running_var = torch.zeros(6), torch.ones(6)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).relu_()
        y = self.norm(self.second(y)).relu()
        y = y * self.vector(y.mean(dim=(2, 3)))[:, :, None, None].sigmoid()
        mean, var = self.running_mean, self.running_var
        return self.last(functional.batch_norm(y, mean, var, self.weight * 2, training=False))


def network_of(
    build: Callable[[], nn.Module], head: Head = "softmax", spec: InputSpec = COLOURS, drop: tuple[int, ...] = ()
) -> Network:
    network = load_network(calibrated(seeded(build), (64, 64), spec.planes))
    return replace(network, card=replace(network.card, head=head, input=spec, drop_outputs=drop))


def bank_of(network: Network, layers: str = "all", draws: int = 3) -> Bank:
    return random_bank(bn_network_of(network, layers), draws)


def pixels(size: tuple[int, int], network: Network) -> NDArray[Any]:  # H W C
    planes = network.input.pixel_planes
    image = 127 + 60 * noise(*size, planes, seed=sum(size)).numpy()
    return image.clip(0, 255).astype(np.uint8 if takes_bytes(network) else np.float32)


def in_onnxruntime(path: Path, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(path)
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": image[None]}), strict=True))


def in_openvino(path: Path, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    made = compiled({"image": image[None]})
    return {name: made[name] for name in OUTPUTS}


def graphs_in(graph: Any) -> list[Any]:
    """A graph of ONNX and those within its nodes."""
    within = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(inner for other in within for inner in graphs_in(other))]


def unused_constants(path: Path) -> set[str]:
    """Names of constants that no node takes: ONNX Runtime warns of each whenever it loads the file."""
    graphs = graphs_in(onnx.load(path, load_external_data=False).graph)
    taken = {name for graph in graphs for node in graph.node for name in node.input}
    given = {output.name for graph in graphs for output in graph.output}
    return {constant.name for graph in graphs for constant in graph.initializer} - taken - given


def plainly(network: Network, bank: Bank, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """By a plain loop over the draws and NumPy in float64, without segment's passes or measures."""
    padded = prepare(image, network.input)[None]
    logits = plain_loop(network.module, bank, padded, lambda module, x: replace(network, module=module)(x))
    head = network.card.head
    p = probabilities_of(logits[..., : image.shape[0], : image.shape[1]].numpy(), head)
    mean = np.einsum("t,t...->...", bank.weights.double().numpy(), p)
    return {"probability": mean, **plain_measures(p, bank.weights.tolist(), head)}


CASES: dict[str, Callable[[], Network]] = {
    "softmax": lambda: network_of(Small),
    "sigmoid": lambda: network_of(lambda: Pooling(1), "sigmoid"),
    "multilabel": lambda: network_of(lambda: Strided(4, classes=3, cropped=True), "multilabel"),
    "drop_outputs": lambda: network_of(lambda: Small(5), drop=(2,)),
    "grey, stretched": lambda: network_of(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 1), Strided(4)), spec=InputSpec(channels="grey", stride=8, pad="edge")
    ),
    "BGR, padded by 0": lambda: network_of(Small, spec=replace(COLOURS, channels="BGR", pad="zero", stride=16)),
    "bands": lambda: network_of(
        lambda: nn.Sequential(nn.Conv2d(5, 3, 1), Small()), spec=InputSpec(channels=5, scale=(1, 2, 3, 4, 5), stride=4)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_graph_gives_the_numbers_of_a_plain_loop_in_onnxruntime_and_openvino(case: str, tmp_path: Path) -> None:
    network = CASES[case]()
    bank = bank_of(network)
    for name, run in (("g.onnx", in_onnxruntime), ("g.xml", in_openvino)):
        exported = export(network, bank, tmp_path / name)
        assert max(exported.differences.values()) < 1e-4
        assert name != "g.onnx" or not unused_constants(tmp_path / name)
        for size in SIZES:
            image = pixels(size, network)
            expected, made = plainly(network, bank, image), run(tmp_path / name, image)
            for output in OUTPUTS:
                assert made[output].shape == expected[output].shape
                np.testing.assert_allclose(made[output], expected[output], rtol=0, atol=1e-4, err_msg=output)


@pytest.mark.parametrize(("channels", "white"), [("RGB", 4095.0), ("BGR", (1.0, 2000.0, 65535.0)), (3, 10000.0)])
def test_a_graph_takes_the_raw_values_of_deeper_files(channels: Any, white: Any, tmp_path: Path) -> None:
    spec = InputSpec(channels=channels, white=white, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), stride=8)
    network = network_of(Small, spec=spec)
    bank = bank_of(network)
    exported = export(network, bank, tmp_path / "g.onnx")
    assert max(exported.differences.values()) < 1e-4
    whites = np.broadcast_to(white, 3)[:: -1 if channels == "BGR" else 1]
    raw = (np.random.default_rng(0).random((24, 40, 3)) * whites).astype(np.float32)
    expected = MCBN(network, bank, precision="fp32")(raw)
    made = in_onnxruntime(tmp_path / "g.onnx", raw)
    np.testing.assert_allclose(made["probability"][0], expected.probability.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(made["variance"][0], expected.variance.numpy(), rtol=0, atol=1e-5)
    assert "raw values of white" in onnx.load(tmp_path / "g.onnx").SerializeToString().decode(errors="replace")


def test_a_layer_used_twice_and_a_functional_one_are_drawn_as_in_the_engine(tmp_path: Path) -> None:
    network = network_of(Twice)
    bank = bank_of(network)
    assert {"norm", "norm#2", "vector", "(root)"} == set(bank.layers)
    for _ in range(2):  # a graph that was exported before is replaced
        assert max(export(network, bank, tmp_path / "g.onnx").differences.values()) < 1e-4  # from the engine


def test_layers_that_are_not_in_the_bank_keep_their_trained_statistics(tmp_path: Path) -> None:
    network = network_of(Small)
    bank = bank_of(network, "bn2")
    export(network, bank, tmp_path / "g.onnx")
    image = pixels(SIZES[1], network)
    made, expected = in_onnxruntime(tmp_path / "g.onnx", image), plainly(network, bank, image)
    np.testing.assert_allclose(made["variance"], expected["variance"], rtol=0, atol=1e-5)
    assert expected["variance"].max() > 1e-3
    (loop,) = (node for node in onnx.load(tmp_path / "g.onnx").graph.node if node.op_type == "Loop")
    kinds = [node.op_type for node in loop.attribute[0].g.node]
    assert kinds.count("Conv") == 1  # that of the head; those before the stochastic layer are made once


def test_equal_draws_have_exactly_no_variance_and_small_variances_keep_their_digits(tmp_path: Path) -> None:
    network = network_of(Small)
    one = bank_of(network, draws=1)
    mean, var = ({name: values.repeat(3, 1) for name, values in of.items()} for of in (one.mean, one.var))
    equal = Bank(torch.tensor([0.25, 0.5, 0.25]), mean, var)
    export(network, equal, tmp_path / "equal.onnx")
    image = pixels(SIZES[0], network)
    assert (in_onnxruntime(tmp_path / "equal.onnx", image)["variance"] == 0).all()
    near = random_bank(bn_network_of(network), 32, spread=1e-4)
    export(network, near, tmp_path / "near.onnx")
    made = in_onnxruntime(tmp_path / "near.onnx", image)["variance"]
    logits = plain_loop(network.module, near, prepare(image, network.input)[None], dtype=torch.float64).numpy()
    expected = plain_measures(probabilities_of(logits), near.weights.tolist())["variance"]
    assert expected.max() < 1e-6
    assert np.abs(made - expected).sum() / expected.sum() < 0.02  # sums of p and p^2 would be 13 % off


def test_an_image_smaller_than_its_padding_repeats_its_edge_as_the_engine_does(tmp_path: Path) -> None:
    network = network_of(Small, spec=replace(COLOURS, stride=32))
    bank = bank_of(network)
    export(network, bank, tmp_path / "g.onnx")
    image = pixels((9, 40), network)
    made, expected = in_onnxruntime(tmp_path / "g.onnx", image), plainly(network, bank, image)
    np.testing.assert_allclose(made["probability"], expected["probability"], rtol=0, atol=1e-5)


def test_a_graph_holds_what_a_program_must_know_and_is_written_the_same_twice(tmp_path: Path) -> None:
    network, path = network_of(Small), tmp_path / "g.onnx"
    bank = replace(bank_of(network), provenance={"batch": 8, "images": 3, "audit": {}})
    export(network, bank, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(entries["classes"]) == [f"class {k}" for k in range(4)]
    assert entries["bank_fingerprint"] == bank_fingerprint(bank)
    assert entries["network_fingerprint"] == network.fingerprint
    assert json.loads(entries["bank"]) == {"batch": 8, "images": 3}
    assert json.loads(entries["preprocessing"])["std"] == [0.2, 0.3, 0.25]
    assert network.input.sentence in entries["input"]
    export(network, bank, tmp_path / "g.xml")
    graph = openvino.Core().read_model(tmp_path / "g.xml")
    for key in ("input", "bank"):
        assert graph.get_rt_info(["segment", key]).value == entries[key]
    before = path.read_bytes()
    export(network, bank, path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.bin", "g.onnx", "g.xml"]


class ByValue(Small):
    """Decides by the mean of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


class BySize(Small):
    """Decides by the width of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.shape[-1] > 140 else 3.0)


class ByNarrow(Small):
    """Decides by the width of a narrow image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.shape[-1] > 80 else 3.0)


class ByWide(Small):
    """Decides by the width of a wide image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.shape[-1] < 300 else 3.0)


class HalvesLarge(Small):
    """Passes large images at half of their size."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = functional.interpolate(x, scale_factor=0.5, mode="bilinear") if max(size) > 512 else x
        return functional.interpolate(super().forward(x), size, mode="bilinear")


class OnlyLarge(Small):
    """Takes no image below 96 columns, but for the 64 that it is calibrated on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[-1] == 64 else super().forward(x) + super().forward(x[..., 96:]).mean()


class Pyramid(Small):
    """Pools to a grid of 3 x 3."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * functional.interpolate(functional.adaptive_avg_pool2d(x, 3), x.shape[-2:]))


class ByImage(Small):
    """A BN layer whose weight the image gives."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        scale = y.mean(dim=(0, 2, 3))
        y = functional.batch_norm(y, self.bn1.running_mean, self.bn1.running_var, scale, None, training=False)
        return self.head(functional.interpolate(y, scale_factor=2))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (ByValue, "gives values of the image to Python"),
        (BySize, "computes another probability at 150x131 .*by the size of its image"),
        (ByNarrow, "computes another probability at 41x67"),
        (ByWide, "computes another probability at 270x333"),
        (HalvesLarge, "At 640x768 the network makes other calls than at 128x160: it decides by the size of its image"),
        (Random, "draws random numbers"),
        (Pyramid, "ONNX cannot express this network: .*adaptive_avg_pool2d"),
        (ByImage, "the weight of BN layer '.root.' depends on the image"),
    ],
)
def test_what_a_graph_cannot_express_is_refused_in_one_line(
    build: type[nn.Module], why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = network_of(build)
    with pytest.raises(ModelRefused, match=why) as refusal:
        export(network, bank_of(network), tmp_path / "g.onnx")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_a_network_that_takes_no_small_image_is_exported(tmp_path: Path) -> None:
    network = network_of(OnlyLarge)
    assert max(export(network, bank_of(network), tmp_path / "g.onnx").differences.values()) < 1e-4


def test_a_preprocessing_that_nobody_stated_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    bank = random_bank(bn_network_of(load_network(module)), 2)
    export(module, bank, tmp_path / "stated.onnx", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    assert "Nothing says" not in caplog.text
    export(module, bank, tmp_path / "unsaid.onnx")
    assert "Nothing says how the images of Sequential were prepared" in caplog.text


def test_the_network_is_as_it_was(tmp_path: Path) -> None:
    network = network_of(Twice)
    bank = bank_of(network)
    before = state_of(network.module)
    export(network, bank, tmp_path / "g.onnx")
    assert_same_state(before, state_of(network.module))


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    network = network_of(Small)
    with pytest.raises(WrongUse, match=r"as \.onnx, or as \.xml for OpenVINO"):
        export(network, bank_of(network), tmp_path / "g.pt")
