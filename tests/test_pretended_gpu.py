"""Nothing mixes two devices: on a GPU that is pretended, the jobs give the CPU's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from labelled_scenes import written
from plain import noise
from pretended_gpu import OnGpu, pretended_gpu
from torch import Tensor, nn

import segment
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.errors import WrongUse
from segment.estimation.precision import choose, resolve_precision
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.prediction import export as exporting
from segment.networks.load import Network
from segment.passes.comparison import float32_noise
from segment.passes.passes import Passes, PassPlan
from segment.scenes.scene import TEST, TRAIN, VALIDATION, scene

METHODS = (
    *("deterministic", "temperature", "vector_scaling", "mean_statistics", "tta", "dropout"),
    *("mcbn", "mcbn+temperature", "mcbn+tta"),
)


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


def placed(device: str) -> Network:
    network = segment.load_network("scenes", device=device)
    network.module.requires_grad_(False)
    return network


def banks_of(device: str) -> Bank:
    return segment.fit_bank(placed(device), [scene(seed).image for seed in TRAIN[:6]], batch=4, draws=3)


@pytest.mark.usefixtures("gpu")
def test_two_devices_are_mixed_by_nothing_that_a_gpu_refuses() -> None:
    here, there = noise(1, 3, 16, 16), noise(1, 3, 16, 16).to("cuda:0")
    mixtures: list[Callable[[], Tensor]] = [
        lambda: here + there,
        lambda: nn.functional.conv2d(there, noise(4, 3, 3, 3)),
        lambda: torch.cat([here, there]),
        lambda: here.add_(there),
        lambda: here[torch.zeros(1, dtype=torch.int64, device="cuda:0")],
    ]
    for mixed in mixtures:
        with pytest.raises(RuntimeError, match="at least two devices"):
            mixed()
    with pytest.raises(TypeError, match="device type tensor to numpy"):
        there.numpy()
    assert isinstance(there + torch.tensor(2.0), OnGpu), "a number may be on the CPU"
    assert isinstance(there[:, torch.tensor([0, 2])], OnGpu), "and so may indices"
    torch.testing.assert_close((there.cpu() + 1), (there + 1).cpu())
    assert there.new_zeros(2).device == torch.ones(2, device="cuda").device == torch.device("cuda:0")


@pytest.mark.parametrize(
    "options", [{"precision": "fp32"}, {"precision": "bf16"}, {"plan": PassPlan(fold=3, fuse=True)}]
)
def test_passes_on_a_gpu_have_the_cpus_maps(options: dict[str, Any]) -> None:
    bank, image = banks_of("cpu"), scene(TEST[0]).image
    wanted = segment.MCBN(placed("cpu"), bank, precision="fp32")(image)
    with pretended_gpu():
        network = placed("auto")
        assert network.device == torch.device("cuda:0")
        made = segment.MCBN(network, bank, **options)(image)
        found = {"probability": made.probability.cpu(), **{name: map.cpu() for name, map in made.maps.items()}}
    allowed = 0.05 if options.get("precision") == "bf16" else 1e-4
    torch.testing.assert_close(found.pop("probability"), wanted.probability, rtol=0, atol=allowed)
    for name, values in found.items():
        assert (values - wanted.maps[name]).abs().mean() <= 3 * allowed * wanted.maps[name].abs().mean(), name


def test_a_bank_that_is_recorded_on_a_gpu_is_the_cpus() -> None:
    wanted = banks_of("cpu")
    with pretended_gpu():
        found = banks_of("cuda")
    for name in wanted.layers:
        torch.testing.assert_close(found.mean[name], wanted.mean[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.var[name], wanted.var[name], rtol=1e-4, atol=1e-5)


def test_predict_and_evaluate_on_a_gpu_write_the_cpus_numbers(tmp_path: Path) -> None:
    data, held_out = written(tmp_path / "test", TEST[:3]), written(tmp_path / "validation", VALIDATION[:3])
    bank = banks_of("cpu")

    def jobs(device: str) -> tuple[dict[str, Any], list[Any]]:
        network, folder = placed(device), tmp_path / device
        plan = segment.PredictPlan(precision="fp32", formats=("npz",), batch=2)
        segment.predict(network, data.images, bank, folder / "run", plan)
        methods = MethodPlan(methods=METHODS, insert_dropout=0.1, precision="fp32")
        scores = segment.evaluate(
            network,
            data,
            bank=bank,
            plan=segment.EvaluatePlan(methods=methods),
            validation=held_out,
        ).scores
        nll = {name: of["scores"]["nll"]["value"] for name, of in scores["methods"].items() if "dropout" not in name}
        return nll, [np.load(path)["predictive_entropy"] for path in sorted((folder / "run").glob("*/maps.npz"))]

    wanted, maps = jobs("cpu")
    with pretended_gpu():
        found, others = jobs("cuda")
    assert found == pytest.approx(wanted, rel=1e-4)
    assert len(maps) == len(others) == 3
    for one, other in zip(maps, others, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_a_distilling_on_a_gpu_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, output = [scene(seed).image for seed in TRAIN[:8]], tmp_path / "small.safetensors"
    options: dict[str, Any] = {"draws": 2, "views": 4, "held_out": 2, "steps": 0}  # gradients are not pretended
    bank = banks_of("cpu")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pretended_gpu():
        network = placed("cuda")
        whole = segment.distill_bank(network, bank, images, **options)
        with monkeypatch.context() as during:
            during.setattr("segment.jobs.distill.audit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                segment.distill_bank(network, bank, images, output=output, **options)
        assert list(tmp_path.glob("*.partial.*"))
        gone_on = segment.distill_bank(network, bank, images, output=output, **options)
    assert all(torch.equal(whole.mean[name], gone_on.mean[name]) for name in whole.layers)


def test_the_rounding_of_float32_is_measured_on_a_gpu_too() -> None:
    bank, image = banks_of("cpu"), noise(1, 3, 64, 64)
    with pretended_gpu():
        drawn = network_of_bank(placed("cuda"), bank)
        passes = Passes(drawn, bank, PassPlan(share=False))
        statistics = {name: (bank.mean[name][:1], bank.var[name][:1]) for name in bank.layers}
        statistics = {name: (mean.to("cuda:0"), var.to("cuda:0")) for name, (mean, var) in statistics.items()}
        rounded = float32_noise(drawn, statistics, image, next(iter(passes(image))))
        assert 0 < float(rounded.max()) < 1e-4


def test_openvino_is_refused_on_a_gpu() -> None:
    bank = banks_of("cpu")
    with pretended_gpu(), pytest.raises(WrongUse, match="OpenVINO runs on the processor"):
        segment.MCBN(placed("cuda"), bank, plan=PassPlan(engine="openvino"))


def test_a_network_on_a_gpu_is_exported_by_the_processor(tmp_path: Path) -> None:
    bank = banks_of("cpu")
    made = mock.Mock(side_effect=WrongUse("as far as this is pretended"))
    patched = mock.patch.multiple(exporting, pass_graph=made, LARGE=())
    with pretended_gpu(), patched, pytest.raises(WrongUse, match="as far as this"):
        segment.export(placed("cuda"), bank, tmp_path / "g.onnx")
    assert made.call_args.args[0].device == torch.device("cpu")


def test_one_gpus_audit_says_nothing_of_another() -> None:
    figures = {"variance_error": 0.02, "speed": 1.9, "speed_low": 1.8, "speed_high": 2.0}
    bank, device = banks_of("cpu"), torch.device("cuda:0")
    with pretended_gpu():
        audited = replace(bank, provenance={"audit": {"pretended": {"bf16": figures}}})
        assert resolve_precision("auto", audited, device)[0] == "bf16"
        with mock.patch.object(torch.cuda, "is_bf16_supported", return_value=False):
            assert resolve_precision("auto", audited, device)[0] == "fp32"
        with mock.patch.object(torch.cuda, "get_device_name", return_value="another"):
            assert resolve_precision("auto", audited, device) == ("fp32", choose({})[1])
