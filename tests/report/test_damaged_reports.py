"""Reports of runs that lack files: what is there is shown, and what is not is named; no browser is needed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import noise
from small_networks import network_of

import segment
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.files.writing import write_npz, write_png
from segment.jobs.report import report
from segment.report.html import build

SIZE = (32, 48)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return segment.fit_bank(network_of(), noise(4, 3, *SIZE, seed=3), batch=2, draws=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(4):
        rng = np.random.default_rng(number)
        write_png(folder / "images" / f"v{number}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        write_png(folder / "labels" / f"v{number}.png", rng.integers(0, 4, SIZE).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def made(images: Path, bank: Bank) -> Path:
    plan = segment.PredictPlan(maps=("prediction", "predictive_entropy", "variance"), formats=("npz",))
    segment.predict(network_of(), images / "images", bank, images / "run", replace(plan, precision="fp32"))
    return images / "run"


def content_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script id="content"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


@pytest.mark.parametrize("damaged", ["v0", "v1", "v3"])
@pytest.mark.parametrize("how", ["missing", "cut short", "one map"])
def test_an_image_whose_maps_do_not_read_is_named_and_adds_nothing_to_the_sums(
    made: Path, images: Path, tmp_path: Path, damaged: str, how: str
) -> None:
    for name in ("damaged", "without"):
        shutil.copytree(made, tmp_path / name)
    path = tmp_path / "damaged" / damaged / "maps.npz"
    if how == "one map":  # the last that is read
        maps = segment.load_run(made)[damaged].maps
        write_npz(path, {name: np.asarray(maps[name]) for name in maps})
        data = bytearray(path.read_bytes())
        last = np.asarray(maps["variance"]).tobytes()
        data[data.index(last) + 8] ^= 255
        path.write_bytes(bytes(data))
    else:
        path.write_bytes(path.read_bytes()[:100]) if how == "cut short" else path.unlink()
    lines = (made / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "without" / "manifest.jsonl").write_text("".join(x for x in lines if json.loads(x)["id"] != damaged))
    labels = images / "labels"
    written = report([tmp_path / "damaged"], tmp_path / "r.html", labels=labels)
    assert (written.images, written.failed) == (3, 1)
    shown = content_of(tmp_path / "r.html")
    assert [id for id, _ in shown["failed"]] == [damaged]
    assert "maps.npz" in shown["failed"][0][1]
    report([tmp_path / "without"], tmp_path / "w.html", labels=labels)
    expected = content_of(tmp_path / "w.html")
    for key in ("images", "measures", "charts", "classes", "labelled"):
        assert shown[key] == expected[key]


@pytest.mark.parametrize(
    "plan",
    [
        segment.PredictPlan(maps=("variance",), heat="variance", precision="fp32"),
        segment.PredictPlan(formats=("geojson",), precision="fp32"),
    ],
)
def test_a_run_without_masks_is_refused_in_a_sentence(
    plan: segment.PredictPlan, images: Path, bank: Bank, tmp_path: Path
) -> None:
    segment.predict(network_of(), images / "images", bank, tmp_path / "run", plan)
    for labels in (None, images / "labels"):
        with pytest.raises(WrongUse, match=r"no image that can be shown. v\d: It has no mask.*prediction among --maps"):
            report([tmp_path / "run"], tmp_path / "r.html", labels=labels)
    assert not (tmp_path / "r.html").exists()


def test_a_report_that_shrinks_takes_its_own_further_pages_away_and_no_other_file(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "r.html"
    with monkeypatch.context() as patched:
        patched.setattr(build, "MOST", 1e-6)
        assert len(report([made], page).files) == 4
        report([made], tmp_path / "other.html")
    others = {
        "r-5.html": "<html>a user's</html>",  # after the pages of the report
        "r-2-2.html": (tmp_path / "other-2.html").read_text(),
        "s-2.html": (tmp_path / "r-2.html").read_text(),  # a copy
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    assert len(report([made], page).files) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"r.html", *others, "other.html", "other-2.html", "other-3.html", "other-4.html"}
    for name in ("r-2-2.html", "s-2.html"):  # pages of another name than theirs
        shutil.copy(tmp_path / name, tmp_path / "r-2.html")
        text = (tmp_path / "r-2.html").read_text()
        if name == "s-2.html":
            (tmp_path / "r-2.html").write_text(text.replace('"pages":["r.html"', '"pages":["s.html"'))
        report([made], page)
        assert (tmp_path / "r-2.html").exists(), name
