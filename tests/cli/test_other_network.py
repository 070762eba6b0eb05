"""Every command refuses a bank of another network with exit 3 and one line that says what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from console import Ended, photographs, segment

from segment.files.writing import write_png
from segment.scenes.scene import TEST, scene

SOURCE = """
import torch
from torch import nn
from torch.nn import functional

from own_helpers import activated


class Net(nn.Module):
    def __init__(self, mode="nearest", slope=0.0, eps=1e-5, outputs=4):
        super().__init__()
        self.mode, self.slope = mode, slope
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, eps=eps)
        self.last = nn.Conv2d(8, outputs, 1)
        generator = torch.Generator().manual_seed(0)
        for value in self.parameters():
            value.data = torch.randn(value.shape, generator=generator)
        self.norm.running_var.fill_(0.05)

    def forward(self, x):
        x = activated(self.norm(self.first(x)), self.slope)
        return self.last(functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode=self.mode))


def make(**arguments):
    return Net(**{"slope": 0.0} | arguments)
"""
HELPERS = """
from torch.nn import functional


def activated(x, slope):
    return functional.leaky_relu(x, slope)
"""
INPUT = {"white": 65535.0, "stride": 2}


def card(folder: Path, uri: str = "py:own_net:make", **more: object) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({"network": uri, "input": INPUT} | more))
    return path


def trusting(*arguments: object) -> Ended:
    """A command that may run the code that its card names."""
    return segment(*arguments, "--trust")


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder with the network's code, its images and labels."""
    (tmp_path / "own_net.py").write_text(SOURCE)
    (tmp_path / "own_helpers.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(tmp_path)
    photographs(tmp_path / "images", 4)
    (tmp_path / "labels").mkdir()
    for path in (tmp_path / "images").iterdir():
        write_png(tmp_path / "labels" / path.name, scene(TEST[0], size=(64, 96)).label % 4)
    ended = trusting(
        "fit",
        card(tmp_path),
        "--images",
        tmp_path / "images",
        "--batch",
        2,
        "--draws",
        4,
        "-o",
        tmp_path / "bank.safetensors",
    )
    assert ended.code == 0, ended.err
    return tmp_path / "bank.safetensors"


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "interpolation": ({"uri": "py:own_net:make?mode=bilinear"}, "the same weights, but another output (up to"),
    "factory argument": ({"uri": "py:own_net:make?slope=0.05"}, "the same weights, but another output (up to"),
    "eps": ({"batchnorm_eps": {"*": 1e-3}}, "another interpolation, eps, argument or edited code"),
    "outputs": ({"uri": "py:own_net:make?outputs=5"}, "other weights or layers"),
    "white": ({"input": INPUT | {"white": 4095.0}}, "white: 65535.0 in the bank, 4095.0 now"),
    "stride": ({"input": INPUT | {"stride": 4}}, "stride: 2 in the bank, 4 now"),
    "drop_outputs": ({"drop_outputs": [3]}, "drop_outputs: [] in the bank, [3] now"),
    "head": ({"head": "multilabel"}, "head: softmax in the bank, multilabel now"),
}


def refused(ended: Ended, message: str) -> None:
    assert (ended.code, ended.out) == (3, "")
    assert message in ended.error


@pytest.mark.parametrize("what", CHANGED)
def test_predict_refuses_the_bank_of_another_network_with_what_differs(bank: Path, tmp_path: Path, what: str) -> None:
    changes, message = CHANGED[what]
    other = card(tmp_path, **changes)
    refused(trusting("predict", other, tmp_path / "images", "--bank", bank, "-o", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_predict_refuses_a_network_whose_helper_was_edited(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "own_helpers.py").write_text(HELPERS.replace("relu(x, slope)", "relu(x, slope + 0.01)"))
    ended = trusting("predict", card(tmp_path), tmp_path / "images", "--bank", bank, "-o", tmp_path / "run")
    refused(ended, "edited code")


def test_evaluate_distill_and_sweep_refuse_it_too(bank: Path, tmp_path: Path) -> None:
    other = card(tmp_path, "py:own_net:make?mode=bilinear")
    images, labels = tmp_path / "images", tmp_path / "labels"
    message = "the same weights, but another output"
    refused(
        trusting("evaluate", other, "--images", images, "--labels", labels, "--bank", bank, "-o", tmp_path / "e"),
        message,
    )
    refused(trusting("distill", bank, other, "--images", images, "-o", tmp_path / "d.safetensors"), message)
    ended = trusting(
        "sweep",
        other,
        "--images",
        images,
        "--labels",
        labels,
        "--train",
        images,
        "--batches",
        "2",
        "--draws",
        "1,2",
        "--transforms",
        "plain",
        "--bank",
        bank,
        "-o",
        tmp_path / "s",
    )
    refused(ended, message)
    assert not list((tmp_path / "s").glob("banks/*")), "refused before other banks were recorded"


def test_the_network_of_the_bank_is_taken(bank: Path, tmp_path: Path) -> None:
    ended = trusting("predict", card(tmp_path), tmp_path / "images", "--bank", bank, "-o", tmp_path / "run")
    assert ended.code == 0, ended.err
