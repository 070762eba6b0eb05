"""The libraries' architectures: fast passes compared with a plain loop; docs/networks.md lists many more."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from plain import noise, plain_loop

from benchmarks.architectures import NETWORKS, TIMM
from benchmarks.measure import run_step
from benchmarks.measured_files import measured
from benchmarks.networks import Row, examine, survey_networks
from benchmarks.plain_loop import largest_difference, noise_images, plain, random_bank, settle
from segment.batch_norm.network import bn_network_of
from segment.networks.load import load_network

FEW = (
    "smp:Unet?encoder=mobilenet_v2&classes=5",
    "smp:Unet?encoder=tu-tf_efficientnet_cc_b0_4e&classes=5",  # its weights are computed from the image
    "smp:PAN?encoder=resnet18&classes=5",
    "torchvision:lraspp_mobilenet_v3_large?num_classes=5",
)
MORE = [f"smp:Unet?encoder=tu-{name}&classes=5" for name in TIMM[::4]] + list(NETWORKS[5:130:25])


@pytest.mark.filterwarnings("ignore:.*moved in the future")  # smp's, of its timm- encoders
@pytest.mark.parametrize("uri", [*FEW, *(pytest.param(uri, marks=pytest.mark.slow) for uri in MORE)])
def test_fast_passes_equal_a_plain_loop_on_images_of_other_brightness_and_size(uri: str) -> None:
    row = examine(uri)
    assert row.outcome == "equal", row
    assert row.noise is not None
    assert row.noise < 2e-4  # else being equal says little
    assert row.stochastic > 10
    assert row.refused == 0


def test_an_encoder_of_stride_4_whose_first_level_has_no_channels_runs_fused() -> None:
    row = examine("smp:Unet?encoder=mit_b0&classes=5")
    assert (row.outcome, row.way, row.message) == ("equal", "fused", "")


def test_a_network_without_batch_normalisation_is_refused_and_what_no_library_builds_is_not_built() -> None:
    row = examine("smp:FPN?encoder=mit_b0&classes=5")
    assert (row.outcome, row.stochastic) == ("refused", 0)
    assert "no batch normalisation" in row.message
    row = examine("smp:PAN?encoder=vgg11_bn&classes=5")
    assert row.outcome == "not built"
    assert "do not support dilated mode" in row.message


def test_the_plain_loop_of_the_survey_is_the_one_of_the_tests() -> None:
    network = load_network("segment:tiny?classes=4")
    settle(network)
    bank = random_bank(bn_network_of(network))
    for image in noise_images():
        torch.testing.assert_close(
            torch.stack(list(plain(network, bank, image))), plain_loop(network.module, bank, image), rtol=0, atol=0
        )


def test_a_difference_is_in_probability_of_scaled_logits_and_a_number_that_is_not_finite_is_seen() -> None:
    logits = [[noise(1, 3, 8, 8)]]
    other = [[logits[0][0].clone()]]
    assert largest_difference(other, logits) == 0
    other[0][0][0, 1, 2, 3] += 1e-2
    assert 1e-4 < largest_difference(other, logits) < 1e-2
    assert largest_difference([[other[0][0] * 1e-6]], [[logits[0][0] * 1e-6]]) > 1e-4
    other[0][0][0, 1, 2, 3] = torch.inf
    assert not largest_difference(other, logits) < 1


def test_the_survey_in_the_docs_holds_every_network() -> None:
    rows = measured("networks")["result"]["networks"]
    assert [row["network"] for row in rows] == list(NETWORKS)


def test_a_survey_that_was_stopped_continues_and_one_of_other_versions_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[str] = []

    def refuse_all(uri: str) -> Row:
        examined.append(uri)
        return Row(network=uri, outcome="refused")

    monkeypatch.setattr("benchmarks.networks.examine", refuse_all)
    out = tmp_path / "networks.json"
    survey_networks(out, ["first", "second"])
    survey_networks(out, ["first", "second", "third"])
    assert examined == ["first", "second", "third"]
    assert [row["network"] for row in json.loads(out.read_text())["networks"]] == ["first", "second", "third"]
    monkeypatch.setattr("benchmarks.networks.versions", lambda: {"torch": "0"})
    survey_networks(out, ["first"])
    assert examined == ["first", "second", "third", "first"]


def test_a_survey_by_benchmarks_measure_says_how_it_was_made(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    uri = "smp:FPN?encoder=mit_b0"  # refused at once: no batch normalisation
    command = shlex.join(["python", "-m", "benchmarks.networks", "--only", uri, "-o", str(rows)])
    run_step("networks", {"run": command, "keep": [str(rows)], "measures": True}, tmp_path, tmp_path / "ran")
    measurement = json.loads((tmp_path / "networks.json").read_text(encoding="utf-8"))
    assert list(measurement) == ["command", "date", "versions", "machine", "result"]
    assert measurement["command"].startswith("python -m benchmarks.networks")
    assert [row["outcome"] for row in measurement["result"]["networks"]] == ["refused"]
