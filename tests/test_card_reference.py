"""The card reference and the shipped JSON schema are what cards are checked by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import card_reference
from segment.errors import WrongUse
from segment.networks.cards import SHIPPED, read_card

jsonschema = pytest.importorskip("jsonschema")


def test_the_page_and_the_schema_are_up_to_date() -> None:
    assert card_reference.PAGE.read_text(encoding="utf-8") == card_reference.page(), (
        "python -m benchmarks.card_reference"
    )
    assert card_reference.SCHEMA.read_text(encoding="utf-8") == card_reference.schema_text()


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in card_reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 15
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_card_follows_the_schema(path: Path) -> None:
    jsonschema.validate(
        json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))),
        json.loads(card_reference.schema_text()),
    )


@pytest.mark.parametrize("text", ["network: 1", "network: a:b\nhead: soft", "network: a:b\nclass: [a]", "input: {}"])
def test_what_the_schema_refuses_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(WrongUse):
        read_card(tmp_path / "card.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json.loads(card_reference.schema_text()))
