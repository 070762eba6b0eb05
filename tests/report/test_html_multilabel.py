"""The HTML report of a multi-label head: shares are of each label's own mask, and no label map is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import noise
from small_networks import network_of

import segment
from segment.errors import WrongUse
from segment.files.writing import write_png
from segment.jobs.report import report

SIZE = (32, 48)


def test_labels_that_overlap_are_counted_each_and_their_maps_are_not_compared(tmp_path: Path, browser: Any) -> None:
    network, generator = network_of(), np.random.default_rng(0)
    network = replace(network, card=replace(network.card, head="multilabel"))
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=3)
    write_png(tmp_path / "images" / "a.png", generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    for name in network.class_names:
        write_png(tmp_path / "labels" / name / "a.png", generator.integers(0, 2, SIZE, dtype=np.uint8))
    with pytest.raises(WrongUse, match="multi-label: leave --labels out"):
        segment.predict(network, tmp_path / "images", bank, tmp_path / "run", labels=tmp_path / "labels")
    plan = segment.PredictPlan(maps=("prediction", "probability", "variance"))
    segment.predict(network, tmp_path / "images", bank, tmp_path / "run", plan)
    maps = dict(np.load(tmp_path / "run" / "a" / "maps.npz"))
    maps["prediction"][1:3, :16] = 1  # the labels of this network do not overlap
    np.savez_compressed(tmp_path / "run" / "a" / "maps.npz", **maps)
    methods = replace(segment.EvaluatePlan().methods, methods=("mcbn",), precision="fp32")
    data, scores = segment.Labels(tmp_path / "images", tmp_path / "labels"), tmp_path / "scores"
    segment.evaluate(network, data, bank=bank, output=scores, plan=segment.EvaluatePlan(methods=methods))
    with pytest.raises(WrongUse, match="is of a multi-label head"):
        report([tmp_path / "run"], tmp_path / "r.html", labels=tmp_path / "labels")
    report([tmp_path / "run", scores], tmp_path / "r.html")
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri() + "#image")
    opened.wait_for_function("() => view.detail && !$('image').hidden")
    masks = segment.load_run(tmp_path / "run")["a"].prediction == 1
    assert (masks.sum(axis=0) > 1).any(), "labels overlap"
    shares = opened.evaluate("IMAGES[0].shares")
    assert [shares.get(str(k), 0.0) for k in range(4)] == pytest.approx(masks.mean(axis=(1, 2)), rel=1e-3)
    assert opened.locator("#classes-name").inner_text() == "Predicted labels"
    assert opened.locator("#classes-note").is_visible()
    opened.evaluate("location.hash = '#overview'")
    opened.locator("#overview").wait_for()
    assert "that of this run is multi-label" in opened.locator("#warnings").inner_text()
    opened.close()
