"""What stands in a bank's file is a bank of ours, or is refused in one line: whatever a hand or a disk made of it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Toy, calibrated, random_bank, seeded
from safetensors.torch import load, save

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import BankRefused, SegmentError, WrongUse
from segment.estimation.precision import choose
from segment.files.banks.bank_file import load_bank, save_bank
from segment.jobs.mcbn import MCBN
from segment.networks.load import Network, load_network

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
AUDIT = {"cpu": {"bf16": {"variance_error": 0.01, "speed": 1.5, "speed_low": 1.4, "speed_high": 1.6}}}


@cache
def written() -> tuple[Network, bytes]:
    network = load_network(calibrated(seeded(Toy)))
    drawn = bn_network_of(network)
    bank = random_bank(drawn)
    provenance = {
        "audit": AUDIT,
        "batch": 2,
        "draws": 3,
        "seed": 0,
        "images": 4,
        "layers": "all",
        "distilled": False,
        "recipe": {"sha256": "a", "draws": "b"},
        "versions": {"torch": "2"},
    }
    bank = identified(network, drawn, Bank(bank.weights, bank.mean, bank.var, provenance))
    with tempfile.TemporaryDirectory() as folder:
        save_bank(bank, Path(folder) / "bank.safetensors")
        return network, (Path(folder) / "bank.safetensors").read_bytes()


def metadata_of(whole: bytes) -> dict[str, str]:
    size = int.from_bytes(whole[:8], "little")
    return dict(json.loads(whole[8 : 8 + size])["__metadata__"])


def used(metadata: dict[str, str]) -> str:
    """What the refusal of a file with this metadata says; "" where all that is done with a bank went well."""
    network, whole = written()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        path.write_bytes(save(load(whole), metadata))
        try:
            bank = load_bank(path)
            MCBN(network, bank)
            choose(bank.provenance["audit"].get("cpu", {}))
            save_bank(bank, path)
        except BankRefused as refusal:
            return str(refusal)
    return ""


def test_the_file_as_it_was_written_is_taken() -> None:
    assert used(metadata_of(written()[1])) == ""


@settings(max_examples=150)
@given(st.data())
def test_a_provenance_of_any_shape_is_taken_or_refused_in_one_line(data: st.DataObject) -> None:
    metadata = metadata_of(written()[1])
    provenance = json.loads(metadata["provenance"])
    place: Any = provenance
    while isinstance(place, dict) and place:  # some key, at any depth
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or data.draw(st.booleans()):
            place[name] = data.draw(JSON)
            break
        place = place[name]
    metadata["provenance"] = json.dumps(provenance)
    assert "\n" not in used(metadata)


@settings(max_examples=100)
@given(st.sampled_from(["provenance", "probe", "layers", "version", "format"]), JSON)
def test_metadata_of_any_shape_are_refused_in_one_line(key: str, value: Any) -> None:
    refusal = used(metadata_of(written()[1]) | {key: json.dumps(value)})
    assert refusal or (key, value) == ("version", 2)
    assert "\n" not in refusal


@settings(max_examples=50)
@given(st.sampled_from(["provenance", "probe", "layers"]), st.text(max_size=20))
def test_metadata_that_are_no_json_are_refused(key: str, text: str) -> None:
    refusal = used(metadata_of(written()[1]) | {key: text})
    assert refusal
    assert "\n" not in refusal


@settings(max_examples=100)
@given(st.sampled_from(["side", "seed", "shape", "noise"]), JSON)
def test_a_probe_of_any_shape_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    metadata = metadata_of(written()[1])
    assert "\n" not in used(metadata | {"probe": json.dumps(json.loads(metadata["probe"]) | {key: value})})


@settings(max_examples=50)
@given(JSON)
def test_what_cannot_be_read_back_is_not_written(value: Any) -> None:
    network, _ = written()
    drawn = bn_network_of(network)
    bank = identified(network, drawn, random_bank(drawn))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        try:
            save_bank(Bank(bank.weights, bank.mean, bank.var, {**bank.provenance, "audit": value}, bank.probe), path)
        except WrongUse:
            assert not path.exists()
            return
        try:
            load_bank(path)
        except SegmentError as error:
            raise AssertionError(f"written but not read: {error}") from error


def test_a_bank_of_bands_each_with_its_own_scale_is_written_and_read() -> None:
    _, whole = written()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        path.write_bytes(whole)
        bank = load_bank(path)
        for channels in (4, ["blue", "green", "red", "nir"]):
            bands = {"channels": channels, "scale": [1.0, 1.0, 1.0, 2.0], "white": [4095.0] * 4, "size": [64, 64]}
            preprocessing = {**bank.provenance["preprocessing"], **bands}
            save_bank(replace(bank, provenance={**bank.provenance, "preprocessing": preprocessing}), path)
            assert load_bank(path).provenance["preprocessing"] == preprocessing
