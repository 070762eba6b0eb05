"""No file runs code or takes memory on its way in: cards, settings and weights of strangers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from console import NETWORKS, segment
from torch import nn

from segment.errors import BankRefused, NotTrusted, WeightsRefused, WrongUse
from segment.files.banks.bank_file import load_bank
from segment.networks.building.hf import hf_network
from segment.networks.building.uris import parse_uri, runs_code
from segment.networks.building.weights import load_weights
from segment.networks.cards import read_card
from segment.networks.load import load_network
from segment.settings import read_options

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
CARELESS = {
    "laughs": (LAUGHS, "20000 values"),
    "laughs in a list": ("- &a [x, y]\n" + "- &b [*a, *a]\n" * 3 + "- [" + "*b, " * 9000 + "]", "20000 values"),
    "deep": ("network: " + "[" * 100 + "]" * 100, "20 levels"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(100)), "20 levels"),
    "long": ("network: [" + "a, " * 30_000 + "]", "20000 values"),
    "large": ("network: " + "a" * 2**20, "1048576 bytes"),
    "within itself": ("network: &a [*a]", "repeats *a"),
    "number": ("network: " + "9" * 5000, "not a readable YAML file"),
    "month": ("network: 2001-99-99", "not a readable YAML file"),
    "time": ("network: !!timestamp never", "not a readable YAML file"),
    "truth": ("network: !!bool perhaps", "not a readable YAML file"),
    "object": ("network: !!python/object/apply:os.getcwd []", "not a readable YAML file"),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_or_hostile_yaml_is_one_clear_line_as_a_card_and_as_settings(name: str, tmp_path: Path) -> None:
    text, message = CARELESS[name]
    path = tmp_path / "made.yaml"
    path.write_text(text)
    with pytest.raises(WrongUse, match=r"made\.yaml") as refused:
        read_card(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    if message != "not a readable YAML file":  # settings are texts, of which none is too long a number
        with pytest.raises(WrongUse, match=re.escape(message)):
            read_options(path, ["network"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: a\nclasses: [sky, road", "line 2, column 20: expected ',' or ']', but the file ends, while parsing"),
        ("network: a: b", "line 1, column 11: mapping values are not allowed here."),
        ("network: 'a", "line 1, column 12: found the end of the file, while scanning a quoted scalar from line 1"),
        ("network: a\nhead:\n\t- b", "line 3, column 1: found character '\\t' that cannot start any token"),
    ],
)
def test_a_broken_yaml_is_reported_with_its_line_and_column(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(text)
    for read in (read_card, lambda path: read_options(path, ["network"])):
        with pytest.raises(WrongUse, match=re.escape(message)) as refused:
            read(path)
        assert "<" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: a\nhead: softmax\nnetwork: b", "has 'network' in line 1 and in line 3. Keep one of them."),
        ("network: {a: 1, a: 2}", "has 'a' in line 1 and in line 1."),
        ("network: [{a: 1}, {b: 1,\n b: 2}]", "has 'b' in line 1 and in line 2."),
    ],
)
def test_a_key_that_a_yaml_has_twice_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(text)
    for read in (read_card, lambda path: read_options(path, ["network"])):
        with pytest.raises(WrongUse, match=re.escape(message)):
            read(path)


def test_an_option_in_two_spellings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text("heat-max: 1.5\nheat_max: 0.1\n")
    with pytest.raises(WrongUse, match="has 'heat-max' and 'heat_max', the same option"):
        read_options(path, ["heat_max"])


def test_an_alias_that_a_person_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text(
        "network: segment:tiny?classes=2\nclasses: &names [sky, road]\ninput: {mean: &m [0.5, 0.5, 0.5], std: *m}\n"
    )
    assert read_card(tmp_path / "made.yaml").input.std == (0.5, 0.5, 0.5)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card that names code, which leaves a file behind when it is imported."""
    (tmp_path / "trusted_networks.py").write_text(f"import pathlib\npathlib.Path('ran').touch()\n{NETWORKS}")
    (tmp_path / "own.yaml").write_text("network: py:trusted_networks:plain\nclasses: [a, b, c]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.yaml"


def test_code_that_a_card_names_runs_only_where_the_command_line_trusts_it(card: Path) -> None:
    refused = segment("inspect", card)
    assert refused.code == 3
    assert "'py:trusted_networks:plain', which runs code" in refused.error
    assert "--trust" in refused.error
    with pytest.raises(NotTrusted, match="trust=True"):
        load_network(card)
    (card.parent / "settings.yaml").write_text("model: py:trusted_networks:plain\n")
    assert "Name it on the command line" in segment("inspect", "--config", "settings.yaml").error
    (card.parent / "settings.yaml").write_text("trust: true\n")
    assert "no option 'trust'" in segment("inspect", card, "--config", "settings.yaml").error
    assert not Path("ran").exists()
    assert segment("inspect", card, "--trust").code == 0
    assert Path("ran").exists()
    assert segment("inspect", "py:trusted_networks:plain").code == 0, "named by the person who runs it"
    assert load_network(card, trust=True).classes == 3


def test_a_hub_network_brings_no_code_unless_the_caller_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("network: hf:someone/net?trust_remote_code=True\n")
    with pytest.raises(NotTrusted, match="trust_remote_code"):
        load_network(tmp_path / "own.yaml")
    transformers = pytest.importorskip("transformers")
    asked: list[object] = []

    def from_pretrained(_: str, **arguments: object) -> tuple[nn.Module, dict[str, set[str]]]:
        asked.append(arguments["trust_remote_code"])
        return nn.Identity(), {"missing_keys": set(), "mismatched_keys": set()}

    monkeypatch.setattr(transformers.AutoModelForSemanticSegmentation, "from_pretrained", from_pretrained)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda *_, **arguments: arguments)
    hf_network(parse_uri("hf:someone/net"))
    hf_network(parse_uri("hf:someone/net?trust_remote_code=True"))
    hf_network(parse_uri("hf:someone/net?trust_remote_code=false"))
    assert asked == [False, True, False]


def test_remote_code_is_asked_for_by_true_alone(tmp_path: Path) -> None:
    assert not runs_code("hf:someone/net?trust_remote_code=false")
    assert runs_code("hf:someone/net?trust_remote_code=true")
    for word in ("no", "0", "None", "off"):
        with pytest.raises(WrongUse, match=f"trust_remote_code={word} is neither true nor false"):
            load_network(f"hf:{tmp_path}?trust_remote_code={word}")


def header(text: str, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


ENTRY = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
HEADERS = {
    "long": header("{}", 10**15),
    "claims": header(json.dumps({"weight": ENTRY | {"shape": [10**8, 10**7], "data_offsets": [0, 4 * 10**15]}})),
    "overflow": header(json.dumps({"weight": ENTRY | {"shape": [2**62, 4], "data_offsets": [0, 0]}})),
    "overlap": header(json.dumps({"weight": ENTRY, "bias": ENTRY})) + bytes(64),
    "type": header(json.dumps({"weight": ENTRY | {"dtype": "OBJ"}})) + bytes(64),
    "deep": header('{"a":' + "[" * 10**5),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_is_checked_before_anything_is_allocated(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "w.safetensors"
    path.write_bytes(HEADERS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsRefused, match=r"w\.safetensors"):
        load_weights(nn.Linear(4, 4), path)
    with pytest.raises(BankRefused, match=r"w\.safetensors"):
        load_bank(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_a_tensor_that_only_claims_its_size_is_refused_by_its_shape(tmp_path: Path) -> None:
    claims = torch.zeros(1).as_strided((10**6, 10**9), (0, 0))
    torch.save({"weight": claims, "bias": torch.zeros(4)}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    with pytest.raises(WeightsRefused, match="1000000x1000000000 for 4x4"):
        load_weights(nn.Linear(4, 4), tmp_path / "w.pt")
    safetensors.torch.save_file({"weight": torch.zeros(4, 4), "bias": torch.zeros(4)}, tmp_path / "w.safetensors")
    load_weights(nn.Linear(4, 4), tmp_path / "w.safetensors")
