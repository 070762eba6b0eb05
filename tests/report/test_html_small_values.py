"""The HTML report of runs whose findings or values are small: nothing that is there is rounded away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import noise
from small_networks import network_of

import segment
from segment.files.writing import write_png
from segment.jobs.report import report

SIZE = (64, 80)
HIGH = 3e-5


@pytest.fixture
def page(tmp_path: Path, browser: Any) -> Any:
    """Of two images: `small` has two pixels of class 1, `none` has none; all variances are far below 0.0001."""
    network, generator = network_of(), np.random.default_rng(0)
    for name in ("small", "none"):
        write_png(tmp_path / "images" / f"{name}.png", generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=3)
    plan = segment.PredictPlan(maps=("prediction", "variance"), heat="variance", formats=("npz",))
    segment.predict(network, tmp_path / "images", bank, tmp_path / "run", plan)
    variance = np.linspace(0, 2 * HIGH, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    for name in ("small", "none"):
        mask = np.zeros(SIZE, np.uint8)
        mask[3, 4:6] = name == "small"
        np.savez_compressed(tmp_path / "run" / name / "maps.npz", prediction=mask, variance=variance)
    manifest = tmp_path / "run" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["variance"] = {"mean": float(variance.mean()), "p95": 1.9 * HIGH}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    record["colours"] = {"variance": {"high": HIGH, "from": "bank"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    report([tmp_path / "run"], tmp_path / "r.html")
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri() + "#gallery")
    opened.wait_for_selector("html[data-ready]")
    yield opened
    opened.close()


def test_a_class_of_two_pixels_is_listed_and_filtered_by(page: Any) -> None:
    page.select_option("#with-class", "1")
    assert page.locator("#cards .card .name").all_inner_texts() == ["small"]
    page.evaluate("location.hash = '#image=small'")
    page.wait_for_function("() => view.detail && !$('image').hidden")
    classes = page.evaluate("CONTENT.classes")
    assert page.locator("#classes li").all_inner_texts() == [f"{classes[0]} > 99.9 %", f"{classes[1]} < 0.1 %"]


def test_small_variances_have_their_digits_and_every_colour_of_the_scale(page: Any) -> None:
    assert page.locator("#cards .numbers").all_inner_texts() == ["0.000030"] * 2
    page.evaluate("location.hash = '#image=none'")
    page.wait_for_function("() => view.detail && !$('image').hidden")
    levels = page.evaluate("new Set(view.detail.planes['measure variance']).size")
    assert levels > 100
    page.evaluate("probe([32, 0])")
    assert "variance 0.0000300 " in page.locator("#numbers").inner_text()
    assert page.locator("#threshold-value").inner_text() == "0.00005405"
    page.select_option("#layer-a", "measure")
    page.select_option("#layer-b", "measure")
    page.uncheck("#mark")
    colours = "new Set(layer('measure').getContext('2d').getImageData(0, 0, 80, 64).data.filter((_, i) => i % 4 === 0))"
    assert page.evaluate(f"{colours}.size") > 60
