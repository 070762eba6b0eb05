"""Damaged files of every kind end in a result or a refusal: some cases of `python -m benchmarks.fuzz`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import LONGEST, MEMORY, FuzzOutcome, fuzz
from benchmarks.fuzz_cases import LISTED, Kind
from segment.errors import SegmentError, WrongUse
from segment.files.triages import FORMAT, digest_of, load_triage
from segment.networks.card_file import CardFile
from segment.networks.cards import read_card

ROOT = Path(__file__).parents[1]
CASES, SEED = 1500, 20261128


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_damaged_files_end_in_a_result_or_a_refusal_and_in_nothing_else() -> None:
    # in a process of its own: one that has used decoders with threads forks children that wait for these for ever
    command = [sys.executable, "-m", "benchmarks.fuzz", "--cases", str(CASES), "--seed", str(SEED)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcome = json.loads(ended.stdout)
    assert outcome["trouble"] == [], f"python -m benchmarks.fuzz --seed {outcome['seed']} --only CASE"
    assert ended.returncode == 0
    assert sum(sum(ends.values()) for ends in outcome["kinds"].values()) == CASES
    assert {end for ends in outcome["kinds"].values() for end in ends} == {"result", "refused"}


def troubled(path: Path) -> None:
    number = int(path.read_bytes().split()[0])
    if number == 1:
        raise KeyError("of another class")
    if number == 2:
        os.abort()
    if number == 3:
        (path.parent / "left").write_text("behind")
    if number == 4:
        bytearray(2 * MEMORY)
    if number == 5:
        while True:
            pass
    if number == 6:
        raise WrongUse("as it should")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits address space")
def test_the_fuzzer_sees_each_kind_of_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fuzz.kinds", lambda folder: _whole(folder))
    monkeypatch.setattr("benchmarks.fuzz.case", lambda number, *_: (Kind("a.txt", b"", troubled), f"{number}".encode()))
    outcome: FuzzOutcome = fuzz(range(8), 0)
    assert {name: dict(ends) for name, ends in outcome.ends.items()} == {"a.txt": {"result": 2, "refused": 1}}
    what = {each["case"]: each["what"] for each in outcome.trouble}
    assert set(what) == {1, 2, 3, 4, 5}
    assert what[1].startswith("KeyError: 'of another class'")
    assert what[2] == "died, -6"
    assert what[3].startswith("left files behind")
    assert what[4].startswith("MemoryError")
    assert what[5] == f"longer than {LONGEST} s"


def _whole(folder: Path) -> list[Kind]:
    for name in LISTED:
        (folder / name).touch()
    return []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
INNER = {"input": ("scale", "mean", "channels", "size", "white", "max_pixels"), "weights": ("file", "sha256")}


@st.composite
def cards(draw: st.DrawFn) -> dict[str, Any]:
    """Keys of a card with values of any kind."""
    keys = draw(st.lists(st.sampled_from(sorted(CardFile.model_fields)), max_size=4, unique=True))
    card: dict[str, Any] = {"network": "segment:tiny?classes=2"} | {key: draw(VALUES) for key in keys}
    for key, names in INNER.items():
        if draw(st.booleans()):
            card[key] = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3))
    return card


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


@given(cards())
@settings(max_examples=150)
def test_any_values_in_a_card_make_a_card_or_a_refusal(folder: Path, card: dict[str, Any]) -> None:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(card))
    with suppress(SegmentError):
        read_card(path)


@given(st.dictionaries(st.sampled_from(["plan", "decisions", "reference", "source", "sets", "warnings"]), VALUES))
@settings(max_examples=150)
def test_any_values_in_a_triage_make_a_triage_or_a_refusal(folder: Path, values: dict[str, Any]) -> None:
    path = folder / "triage.json"
    path.write_text(json.dumps({"format": FORMAT} | values | {"digest": digest_of({"format": FORMAT} | values)}))
    with pytest.raises(WrongUse, match=r"triage\.json"):
        load_triage(path)
