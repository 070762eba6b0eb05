"""Checkpoints as training scripts leave them load, and what is taken off and left out is named."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_weights import Small, State, refusal
from torch import nn

from segment.errors import WeightsRefused
from segment.networks.building.weights import load_weights


@pytest.fixture
def state() -> State:
    generator = torch.Generator().manual_seed(5)
    return {key: torch.randn(value.shape, generator=generator).abs() for key, value in Small().state_dict().items()}


def loaded(contents: Any, path: Path, **options: Any) -> State:
    torch.save(contents, path)
    module = Small()
    load_weights(module, path, **options)
    return module.state_dict()


def assert_equal(found: State, expected: State) -> None:
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key].to(value.dtype), rtol=0, atol=0)


def test_a_lightning_checkpoint_with_a_loss_and_an_average_loads_and_says_so(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    average = {key: value + 1 for key, value in state.items()}
    contents = {
        "state_dict": {
            **{f"ema_net.{key}": value for key, value in average.items()},
            **{f"net.{key}": value for key, value in state.items()},
            "loss.weight": torch.ones(3),
        },
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
    }
    assert_equal(loaded(contents, tmp_path / "w.ckpt"), state)
    (message,) = caplog.messages
    assert "prefix 'net.' taken off" in message
    assert f"left out: {len(state) + 1} keys" in message
    assert_equal(loaded(contents, tmp_path / "w.ckpt", prefix="ema_net."), average)
    with pytest.raises(
        WeightsRefused, match=r"no key starts with 'student\.'\. They start with ema_net\., loss\., net\."
    ):
        loaded(contents, tmp_path / "w.ckpt", prefix="student.")


@pytest.mark.parametrize("wrapper", ["network_weights", "ema", "state_dict_ema", "model_state_dict"])
def test_weights_lie_under_the_usual_keys_beside_plain_objects(wrapper: str, state: State, tmp_path: Path) -> None:
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "current_epoch": 7, "optimizer": {}}
    assert_equal(loaded({wrapper: state, **beside}, tmp_path / "w.pth"), state)


def test_a_second_copy_beside_the_weights_is_named(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    average = {key: value + 1 for key, value in state.items()}
    assert_equal(loaded({"model": state, "ema": average}, tmp_path / "w.pt"), state)
    assert "left out: 1 keys, ema" in caplog.text


@pytest.mark.parametrize("prefix", ["model_ema.", "model_ema.module."])
def test_a_second_copy_beside_the_weights_is_taken_by_its_key(
    prefix: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    average = {f"module.{key}": value + 1 for key, value in state.items()} | {"n_averaged": torch.tensor(3)}
    taken = loaded({"model": state, "model_ema": average}, tmp_path / "w.pt", prefix=prefix)
    assert_equal(taken, {key: value + 1 for key, value in state.items()})
    assert "left out: 2 keys, n_averaged, model" in caplog.text
    assert_equal(loaded({"model": state, "model_ema": average}, tmp_path / "w.pt", prefix=""), state)


def test_extra_keys_are_listed_and_left_out_on_request(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = {**state, "loss.weight": torch.ones(3), "head.extra": torch.ones(1)}
    torch.save(contents, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "2 of 8 keys not in the network, loss.weight, head.extra" in message
    assert "--extra-keys ignore" in message
    assert_equal(loaded(contents, tmp_path / "w.pt", extra_keys="ignore"), state)
    assert "left out: 2 keys, loss.weight, head.extra" in caplog.text
    del contents["head.weight"]
    torch.save(contents, tmp_path / "w.pt")
    assert "1 of 8 keys missing, head.weight" in refusal(tmp_path / "w.pt", extra_keys="ignore")


def test_the_usual_prefixes_are_no_news(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for prefix in ("", "module.", "_orig_mod.", "model.", "module._orig_mod."):
            assert_equal(loaded({prefix + key: value for key, value in state.items()}, tmp_path / "w.pt"), state)
    assert not caplog.messages


def test_a_part_of_a_larger_network_is_found_by_its_keys_and_shapes(state: State, tmp_path: Path) -> None:
    other = {f"teacher.{key}": value for key, value in state.items()}
    contents = {f"student.backbone.{key}": value for key, value in state.items()} | other
    assert_equal(loaded(contents, tmp_path / "w.pt"), state)
    module = nn.ModuleDict({"a": Small(), "b": Small()})
    torch.save({f"net.{key}": value for key, value in module.state_dict().items()}, tmp_path / "two.pt")
    again = nn.ModuleDict({"a": Small(), "b": Small()})
    load_weights(again, tmp_path / "two.pt")
    for key, value in again.state_dict().items():
        assert torch.equal(value, module.state_dict()[key])
