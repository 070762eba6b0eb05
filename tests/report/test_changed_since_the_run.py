"""What changed or moved after a run is not shown as if it were the run's, and a report says what it leaves out."""

from __future__ import annotations

import base64
import glob
import json
import logging
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import segment as command
from PIL import Image
from plain import noise
from small_networks import network_of

import segment
from segment.errors import ImageUnreadable
from segment.files.runs.places import WORKING_FOLDER, place_of
from segment.files.writing import write_png
from segment.jobs.decisions.regions import select_regions, write_regions
from segment.jobs.decisions.select import select
from segment.jobs.report import report

SIZE = (32, 48)
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, labels, a run and its scores, all named relative to it."""
    top = tmp_path_factory.mktemp("made") / "top"
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        write_png(top / "images" / f"{name}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        write_png(top / "labels" / f"{name}.png", rng.integers(0, 4, SIZE).astype(np.uint8))
    network = network_of()
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        segment.predict(network, "images", bank, "run", segment.PredictPlan(formats=("npz",), precision="fp32"))
        segment.evaluate(network, "images", "labels", bank=bank, output="scores", methods="mcbn")
    return top


@pytest.fixture
def top(original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as it was made, in its place; the test may change it."""
    kept = original.with_name("kept")
    if kept.exists():
        shutil.rmtree(original, ignore_errors=True)
        shutil.copytree(kept, original)
    else:
        shutil.copytree(original, kept)
    monkeypatch.chdir(original)
    return original


def content_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script id="content"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def pictures(page: Path) -> dict[str, np.ndarray]:
    """The picture of each image, as the page holds it."""
    text = page.read_text(encoding="utf-8")
    found = {}
    for number, row in enumerate(content_of(page)["images"]):
        block = re.search(rf'<script id="block-{number}" type="text/plain">(.*?)</script>', text)
        assert block is not None
        start, length, *_ = row["streams"]["picture"]
        data = base64.b64decode(block[1])[start : start + length]
        found[row["id"]] = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    return found


def is_grey(picture: np.ndarray) -> bool:
    return bool(np.ptp(picture) < 4)


def other(path: Path) -> None:
    """Put another picture of the same kind in a file's place."""
    write_png(path, np.rot90(np.asarray(Image.open(path)), 2).copy())


def test_nothing_is_left_out_where_nothing_has_changed_also_from_another_working_folder(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = report([top / "run", top / "scores"], tmp_path / "r.html")
    content = content_of(tmp_path / "r.html")
    assert list(written.warnings) == content["warnings"] == []
    assert content["labelled"] == 2
    assert {id: is_grey(picture) for id, picture in pictures(tmp_path / "r.html").items()} == {"a": False, "b": False}
    assert write_regions(select_regions(top / "run", 2, side=16), tmp_path / "regions", top / "run").exists()
    assert len(list((tmp_path / "regions").glob("*.png"))) == 2
    assert len(select(top / "run", 1, unlike=True).images) == 1


def test_right_and_wrong_are_left_out_of_label_maps_that_are_not_those_that_were_scored(
    top: Path, tmp_path: Path
) -> None:
    other(top / "labels" / "a.png")
    written = report([top / "run", top / "scores"], tmp_path / "r.html")
    content = content_of(tmp_path / "r.html")
    (line,) = written.warnings
    assert content["warnings"] == [line]
    assert line.startswith("The scores in 'scores' are of other files than lie there now: 1 of its 2 images or their ")
    assert {row["id"]: "right" in row for row in content["images"]} == {"a": False, "b": True}
    report([top / "run", top / "scores"], tmp_path / "r.html", labels=top / "labels")
    assert all("right" in row for row in content_of(tmp_path / "r.html")["images"])


def test_an_image_that_has_changed_is_shown_without_its_picture_and_named(
    top: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other(top / "images" / "a.png")
    written = report([top / "run"], tmp_path / "r.html")
    (line,) = written.warnings
    assert line.startswith("1 of 2 images is shown without the picture, which is grey. a: ")
    assert line.endswith(f"'{top}/images/a.png' has changed since the run.")
    assert {id: is_grey(picture) for id, picture in pictures(tmp_path / "r.html").items()} == {"a": True, "b": False}
    run = segment.load_run(top / "run")
    with pytest.raises(ImageUnreadable, match="has changed since the run"):
        _ = run["a"].image
    assert run["b"].image.shape == (*SIZE, 3)
    with caplog.at_level(logging.WARNING, logger="segment"):
        write_regions(select_regions(top / "run", 6, side=16), tmp_path / "regions", top / "run")
        assert "2 of 4 crops could not be made. a: " in caplog.text
        chosen = select(top / "run", 1, unlike=True).images
    assert {path.stem.partition("_")[2] for path in (tmp_path / "regions").glob("*.png")} == {"b"}
    assert [id for id, _, _ in chosen] == ["b"]
    assert "a is left out of the choice: " in caplog.text


def test_what_cannot_be_read_any_more_is_counted_on_the_page_and_on_the_terminal(top: Path, tmp_path: Path) -> None:
    (top / "labels").rename(top / "elsewhere")
    (top / "images" / "b.png").unlink()
    ended = command("report", top / "run", top / "scores", "-o", tmp_path / "r.html")
    assert ended.code == 0
    warnings = content_of(tmp_path / "r.html")["warnings"]
    assert [line.partition(". ")[0] for line in warnings if "left out" not in line] == [
        "1 of 2 images is shown without the picture, which is grey",
    ]
    assert f"The labels of 'scores' are left out: '{top}/labels' is not there." in " ".join(warnings)
    for line in warnings:
        assert line[:40] in " ".join(ended.err.split())
    ended = command("report", top / "run", top / "scores", "-o", tmp_path / "r.html", "--json")
    assert json.loads(ended.out)["warnings"] == warnings
    (top / "elsewhere" / "a.png").write_bytes(b"none")
    written = report([top / "run"], tmp_path / "r.html", labels=top / "elsewhere")
    assert written.warnings[1].startswith("1 of 2 images is shown without the label map. a: ")


def test_a_glob_of_a_run_is_found_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("run [1]", "here/own"):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / "a.png").touch()
    record = {WORKING_FOLDER: str(tmp_path / "run [1]")}
    monkeypatch.chdir(tmp_path / "here")
    assert [*glob.glob(str(place_of(record, "images/*.png")))] == [str(tmp_path / "run [1]/images/a.png")]  # noqa: PTH207
    assert place_of(record, "own/images/*.png") == Path("own/images/*.png")
    assert place_of(record, "gone/a.png") == tmp_path / "run [1]" / "gone" / "a.png"
    for path in ("s3://bucket/a.png", "/images/a.png"):
        assert str(place_of(record, path)) == path.replace("//", "/")
    assert place_of({}, "images/a.png") == Path("images/a.png")


def test_labels_held_in_python_are_asked_for_and_not_looked_for(top: Path) -> None:
    data = [(np.asarray(Image.open(top / "images" / f"{name}.png")), np.full(SIZE, 1, np.int64)) for name in NAMES]
    network = network_of()
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=2)
    segment.evaluate(network, data, bank=bank, output="held", methods="mcbn")
    warnings = report(["run", "held"], "page.html").warnings
    (asked,) = (line for line in warnings if line.startswith("The labels of 'held'"))
    assert "were held in Python: give label files by --labels" in asked


def test_a_report_with_labels_is_made_where_a_file_of_several_images_is_gone(top: Path) -> None:
    for name in NAMES:
        np.save(top / f"{name}.npy", np.zeros((2, *SIZE, 3), np.uint8))
    (top / "stacks").mkdir()
    for name in NAMES:
        (top / f"{name}.npy").rename(top / "stacks" / f"{name}.npy")
        for page in range(2):
            write_png(top / "marks" / name / f"{page:04}.png", np.full(SIZE, 1, np.uint8))
    network = network_of()
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=2)
    segment.predict(network, "stacks", bank, "of_stacks", segment.PredictPlan(formats=("npz",), precision="fp32"))
    (top / "stacks" / "b.npy").unlink()
    warnings = report(["of_stacks"], "page.html", labels="marks").warnings
    assert any(line.startswith("2 of 4 images are shown without the picture") for line in warnings)
