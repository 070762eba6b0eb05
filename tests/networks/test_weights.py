"""Weights load strictly, and no file runs code on its way in."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from segment.errors import WeightsRefused
from segment.networks.building.weights import load_weights
from segment.networks.cards import Card
from segment.networks.load import load_network

State = dict[str, Tensor]


class Small(nn.Module):
    """Eight tensors under three names, one of them a counter."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


class Harmful:
    """Unpickling this creates a file: what a weights file from an unknown source could do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def state() -> State:
    generator = torch.Generator().manual_seed(5)
    made = {key: torch.randn(value.shape, generator=generator).abs() for key, value in Small().state_dict().items()}
    return made | {"norm.num_batches_tracked": torch.tensor(7)}


def refusal(path: Path, module: nn.Module | None = None, **kwargs: Any) -> str:
    with pytest.raises(WeightsRefused) as refused:
        load_weights(module or Small(), path, **kwargs)
    message = str(refused.value)
    assert path.name in message
    assert "\n" not in message
    return message


def assert_loads(path: Path, state: State) -> None:
    module = Small()
    load_weights(module, path)
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_safetensors_file_loads_value_for_value(state: State, tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert_loads(tmp_path / "w.safetensors", state)


def test_a_safetensors_file_is_known_by_its_content_too(state: State, tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "w.bin")
    assert_loads(tmp_path / "w.bin", state)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_a_torch_file_loads_from_what_training_scripts_wrap_around_it(
    state: State, prefix: str, wrapper: str | None, form: str, tmp_path: Path
) -> None:
    named: Any = {prefix + key: value for key, value in state.items()}
    wrapped = named if wrapper is None else {wrapper: named, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(wrapped, tmp_path / "w.pt", _use_new_zipfile_serialization=form == "zip")
    assert_loads(tmp_path / "w.pt", state)


def test_a_prefix_that_belongs_to_the_network_stays(state: State, tmp_path: Path) -> None:
    module = nn.ModuleDict({"model": Small()})
    torch.save({f"model.{key}": value for key, value in state.items()}, tmp_path / "w.pt")
    load_weights(module, tmp_path / "w.pt")
    assert torch.equal(module.state_dict()["model.norm.running_var"], state["norm.running_var"])


def test_a_file_without_num_batches_tracked_loads(state: State, tmp_path: Path) -> None:
    del state["norm.num_batches_tracked"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert_loads(tmp_path / "w.safetensors", state | {"norm.num_batches_tracked": torch.tensor(0)})


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(state: State, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": state, "callback": Harmful(marker)}, tmp_path / "w.pt")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Harmful(marker)))
    for name in ("w.pt", "bare.pth"):
        message = refusal(tmp_path / name)
        assert "without running code" in message
        assert "state_dict" in message  # the way out
    assert not marker.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)  # the trap works: an unsafe reader springs it
    assert marker.exists()


def test_a_whole_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(Small(), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "holds a whole pickled module, not weights: reading it runs its code (" in message
    assert f"{Small.__module__}.Small" in message
    assert "save its state_dict, once" in message
    assert "torch.save(saved.state_dict(), 'weights.pt')" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_pickled_is_named_in_our_own_words(state: State, tmp_path: Path, *, zipped: bool) -> None:
    contents = {"state_dict": state, "model": Small()}
    torch.save(contents, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "w.pt")
    assert "it holds objects of " in message
    assert f"{Small.__module__}.Small" in message
    assert "\x1b" not in message
    assert "two options" not in message


def test_differences_are_counted_and_the_first_are_named(state: State, tmp_path: Path) -> None:
    state["extra.weight"] = state.pop("norm.weight")
    state["head.weight"] = torch.zeros(5, 4, 1, 1)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "1 of 8 keys missing, norm.weight" in message
    assert "1 of 8 keys not in the network, extra.weight" in message
    assert "1 of 8 keys of another shape, head.weight 5x4x1x1 for 3x4x1x1" in message


def test_many_differences_stay_one_short_line(tmp_path: Path) -> None:
    safetensors.torch.save_file({f"layer{index}": torch.zeros(1) for index in range(500)}, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "and 497 more" in message
    assert len(message) < 600


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(state: State, value: float, tmp_path: Path) -> None:
    state["norm.bias"][2] = value
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert "'norm.bias' holds values that are not finite" in refusal(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore")  # torch's own, of sparse and quantised tensors
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weight: (100 * weight).to(torch.int8), "is int8, as of quantised weights"),
        (lambda weight: weight.to(torch.complex64), "is complex64"),
        (lambda weight: weight.to_sparse(), "is stored sparse"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "is stored sparse or quantised"),
        (lambda weight: weight.to("meta"), "has a shape and no values"),
    ],
)
def test_weights_that_are_no_plain_numbers_are_refused_by_name(
    state: State, change: Callable[[Tensor], Tensor], why: str, tmp_path: Path
) -> None:
    torch.save(state | {"head.weight": change(state["head.weight"])}, tmp_path / "w.pt")
    assert f"'head.weight' {why}" in refusal(tmp_path / "w.pt")


def test_weights_of_eight_bits_are_read_as_they_are(state: State, tmp_path: Path) -> None:
    state["head.weight"] = state["head.weight"].to(torch.float8_e4m3fn)
    torch.save(state, tmp_path / "w.pt")
    assert_loads(tmp_path / "w.pt", state | {"head.weight": state["head.weight"].float()})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_cut_short_anywhere_is_refused(state: State, name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    safetensors.torch.save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(64), bytes(64), b"PK\x03\x04" + bytes(64)]
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.h5"])
def test_a_file_of_another_kind_is_refused(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name)


@pytest.mark.parametrize("contents", [torch.zeros(3), [1, 2], {}, {"epoch": 3}, {"state_dict": {}}])
def test_a_torch_file_without_a_state_dict_is_refused(contents: object, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "w.pt")
    assert refusal(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_are_refused_with_what_to_do(tmp_path: Path) -> None:
    assert "--weights FILE" in refusal(tmp_path / "absent.pt")
    (tmp_path / "saved").mkdir()
    assert "smp-dir:" in refusal(tmp_path / "saved")


def test_the_sum_in_the_card_is_held_against_the_cards_file(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "enet.safetensors"
    network = load_network("segment:enet?classes=2")
    safetensors.torch.save_file(network.module.state_dict(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    card = tmp_path / "card.yaml"
    shape = 'network: segment:enet?classes=2\nweights: {{file: enet.safetensors, sha256: "{}"}}\n'
    card.write_text(shape.format(right), encoding="utf-8")
    assert load_network(card).fingerprint == network.fingerprint
    card.write_text(shape.format("0" * 64), encoding="utf-8")
    with pytest.raises(WeightsRefused, match=re.escape(f"SHA-256 {right[:12]}")):
        load_network(card)
    with caplog.at_level(logging.WARNING):
        assert load_network(card, weights=path).fingerprint == network.fingerprint
    assert "holds other weights than the card names" in caplog.text
    caplog.clear()
    card.write_text(shape.format(right), encoding="utf-8")
    assert load_network(card, weights=path).fingerprint == network.fingerprint
    assert caplog.text == ""


def test_a_cards_weights_are_found_by_name_in_a_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network("segment:enet?classes=2")
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "enet.safetensors"
    safetensors.torch.save_file(network.module.state_dict(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    card = tmp_path / "card.yaml"
    shape = 'network: segment:enet?classes=2\nweights: {{file: ../gone/enet.safetensors, sha256: "{}"}}\n'
    card.write_text(shape.format(right), encoding="utf-8")
    with pytest.raises(WeightsRefused, match="or its folder in the environment variable SEGMENT_WEIGHTS"):
        load_network(card)
    monkeypatch.setenv("SEGMENT_WEIGHTS", f"/nowhere{os.pathsep}{path.parent}")
    assert load_network(card).fingerprint == network.fingerprint
    made = Card(name="made", network="", weights="gone/enet.safetensors")
    assert load_network("segment:enet?classes=2", card=made).fingerprint == network.fingerprint
    card.write_text(shape.format("0" * 64), encoding="utf-8")
    with pytest.raises(WeightsRefused, match=re.escape(f"SHA-256 {right[:12]}")):
        load_network(card)


def test_a_part_under_two_names_loads_from_a_file_that_has_it_once(tmp_path: Path) -> None:
    class Shared(Small):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.norm

    saved, loaded = Shared(), Shared()
    with torch.no_grad():
        saved.norm.weight.uniform_(1, 2, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_model(saved, str(tmp_path / "w.safetensors"))
    load_weights(loaded, tmp_path / "w.safetensors")
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key]), key
    state = safetensors.torch.load_file(tmp_path / "w.safetensors")
    alone = {key: value for key, value in state.items() if not key.endswith("weight")}
    safetensors.torch.save_file(alone, tmp_path / "few.safetensors")
    assert "missing, first.weight, norm.weight" in refusal(tmp_path / "few.safetensors", Shared())


def test_older_smp_checkpoints_load_by_smps_own_renaming(tmp_path: Path) -> None:
    module = load_network("smp:Unet?encoder=tu-regnetx_002&classes=2").module
    state = module.state_dict()
    renamed = {key.replace("encoder.model.", "encoder."): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    torch.save(renamed, tmp_path / "old.pt")
    again = load_network("smp:Unet?encoder=tu-regnetx_002&classes=2", weights=tmp_path / "old.pt")
    assert all(torch.equal(value, state[key]) for key, value in again.module.state_dict().items())
