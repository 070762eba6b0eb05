"""What the HTML report says and draws, before a browser shows it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segment.guarantees.sentences import sentences
from segment.guarantees.triage import Decision, Reference, Triage, TriagePlan
from segment.report.html.charts import reliability
from segment.report.html.details import DetailShape, Sums, thumbnail
from segment.report.html.tables import table_of_file
from segment.report.html.words import finding


def test_the_first_sentence_is_about_the_threshold_that_the_page_begins_with() -> None:
    sums = Sums(images=3)
    sums.add_ranked("margin", np.array([0.01, 0.02, 0.3, 0.4]), np.array([False, False, True, True]))
    sums.add_levels("margin", np.array([[10, 0, 0], [80, 2, 0], [5, 0, 1], [5, 0, 1]]))
    rows = [{"id": name, "means": {"margin": mean}} for name, mean in (("a", 0.1), ("b", 0.2))]
    measure = {"name": "margin", "title": "margin", "unit": "", "decimals": 1}
    assert sums.start("margin") == (1, 0.1)
    assert finding(rows, measure, sums)[0] == (
        "Of the labelled pixels of 3 images, 50.0 % are right; without the 50 % whose margin is above 0.15, "
        "100.0 % are."
    )


def test_of_many_methods_the_best_calibrated_are_drawn_and_the_others_named() -> None:
    def method(ece: float) -> dict[str, object]:
        curve = {"x": [0.5], "y": [0.5], "low": [0.4], "high": [0.6]}
        return {"scores": {"ece": {"value": ece}}, "curves": {"reliability": curve}}

    errors = {"deterministic": 0.9, "mcbn": 0.8, **{f"other{n}": 0.1 * n for n in range(1, 8)}, "best": 0.01}
    (chart,) = reliability(Sums(), [{"methods": {name: method(ece) for name, ece in errors.items()}}])
    names = ["deterministic", "mcbn", *(f"other{n}" for n in range(1, 6)), "best"]
    assert [line["name"] for line in chart["lines"]] == names
    assert chart["left_out"].startswith("Not shown: other6; other7 (2 of 10 methods). Shown are the best by ECE,")


def test_a_triage_is_a_list_of_its_own_sentences() -> None:
    decision = Decision(
        unit="pixel", measure="margin", threshold=0.0553476, why="set", images=24, groups=24, loss=0.01, accepted=0.781
    )
    triage = Triage(
        plan=TriagePlan(max_error=0.05),
        decisions={"pixel": decision},
        reference=Reference(measure="variance", values=()),
        source={"method": "mcbn", "draws": 4, "precision": "bf16"},
    )
    lines = sentences(triage)
    content = {"format": 3, "text": " ".join(lines), **triage.as_dict()}
    table = table_of_file(content, "t.json")
    assert table["text"] == lines
    assert (len(lines), table["rows"][0][2]) == (3, "0.055348")
    assert "below 0.055348 may" in lines[0]
    assert table_of_file(content | {"text": "By hand."}, "t.json")["text"] == ["By hand."]


@pytest.mark.parametrize(("height", "width", "size"), [(48, 48, (96, 96)), (300, 100, (32, 96)), (90, 300, (144, 43))])
def test_the_picture_of_a_card_shows_all_of_an_image(height: int, width: int, size: tuple[int, int]) -> None:
    nothing: Any = None  # no maps are shown
    stream = thumbnail(nothing, nothing, np.zeros((height, width, 3), np.uint8), DetailShape(measures=(), stride=1))
    assert Image.open(io.BytesIO(stream)).size == size
