"""What a run wrote over all of its images goes before an image of it is made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_scenes import SIZE, written
from plain import Toy, calibrated, random_bank, seeded

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import WrongUse
from segment.files.runs.manifest import MADE_AGAIN, read_entries
from segment.files.runs.places import RunPlaces
from segment.files.writing import write_png
from segment.images.labels.read import read_label_ids
from segment.images.prepare import prepare
from segment.images.read import read_image, read_label
from segment.jobs.decisions.compare import compare
from segment.jobs.decisions.regions import select_regions
from segment.jobs.decisions.run_table import run_table
from segment.jobs.decisions.select import select
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.results_files import FINISHED
from segment.jobs.labelled import labels
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.report import report
from segment.jobs.triage.calibration import EvaluationFolder
from segment.networks.load import Network, load_network
from segment.report.results import Evaluation
from segment.report.run_files.saved_run import load_run
from segment.scenes.classes import CLASSES
from segment.scenes.scene import TEST, VALIDATION


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    return written(tmp_path / "test", TEST[:3])


@pytest.fixture(scope="module")
def small() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(lambda: Toy(len(CLASSES))), SIZE))
    drawn = bn_network_of(network)
    return network, identified(network, drawn, random_bank(drawn, draws=3))


def evaluated(network: Network, data: Labels, folder: Path, **given: Any) -> Evaluation:
    names = ("deterministic", "temperature") if "validation" in given else ("deterministic",)
    methods = MethodPlan(methods=names, measures=("predictive_entropy",), precision="fp32")
    plan = EvaluatePlan(methods=methods, workers=0)
    return evaluate_into(network, data, folder, plan=plan, **given)


def with_other_labels(data: Labels) -> None:
    for path in Path(str(data.labels)).iterdir():
        write_png(path, (np.flipud(read_label(path)) % len(CLASSES)).astype(np.uint8))


def with_predicted_labels(network: Network, data: Labels) -> None:
    for path in Path(str(data.images)).iterdir():
        with torch.inference_mode():
            label = network(prepare(read_image(path), network.input)[None]).argmax(dim=1)[0]
        write_png(Path(str(data.labels)) / path.name, label.numpy().astype(np.uint8))


def values(evaluation: Evaluation) -> dict[str, Any]:
    methods = evaluation.scores["methods"].items()
    return {name: {key: score["value"] for key, score in of["scores"].items()} for name, of in methods}


def cut(_: str, done: int, *__: Any) -> None:
    if done == 2:
        raise KeyboardInterrupt


def test_an_evaluation_goes_on_with_other_validation_labels_as_a_new_one_begins(
    small: tuple[Network, Bank], data: Labels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, folder, held_out = small[0], tmp_path / "run", written(tmp_path / "validation", VALIDATION[:2])
    before = evaluated(network, data, folder, validation=held_out)
    evaluated(network, data, folder, validation=held_out, resume=True)
    assert "all images are scored again" not in caplog.text
    with_predicted_labels(network, held_out)
    after = evaluated(network, data, folder, validation=held_out, resume=True)
    assert caplog.text.count("all images are scored again") == 1
    fresh = evaluated(network, data, tmp_path / "fresh", validation=held_out)
    assert values(after) == values(fresh) != values(before)
    calibrations = [json.loads((tmp_path / name / "run.json").read_text())["calibrations"] for name in ("run", "fresh")]
    assert calibrations[0] == calibrations[1]


def test_scores_of_other_labels_are_not_taken_for_those_of_an_evaluation_that_was_interrupted(
    small: tuple[Network, Bank], data: Labels, tmp_path: Path
) -> None:
    network, folder, held_out = small[0], tmp_path / "run", written(tmp_path / "validation", VALIDATION[:2])
    evaluated(network, data, folder, validation=held_out)
    there = {name for name in FINISHED if (folder / name).exists()}
    assert {"scores.json", "per_image.csv", "image_counts.npz"} < there
    with_other_labels(data)
    with pytest.raises(KeyboardInterrupt):
        evaluated(network, data, folder, validation=held_out, resume=True, progress=cut)
    assert not [name for name in FINISHED if (folder / name).exists()]
    with pytest.raises(WrongUse, match="finish the run first, with --resume"):
        run_table(folder)
    with pytest.raises(WrongUse, match="--resume"):
        EvaluationFolder.read(folder)
    with pytest.raises(WrongUse, match="has no scores yet: finish it first, with --resume"):
        report([folder], tmp_path / "page.html")
    again = evaluated(network, data, folder, validation=held_out, resume=True)
    assert {name for name in FINISHED if (folder / name).exists()} == there
    assert values(again) == values(evaluated(network, data, tmp_path / "fresh", validation=held_out))


def test_tables_and_sheet_of_earlier_images_are_gone_while_images_that_have_changed_are_made_again(
    small: tuple[Network, Bank], data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PredictPlan(precision="fp32", workers=0, formats=("png", "csv", "coco"))
    folder, images = tmp_path / "run", sorted(Path(str(data.images)).iterdir())

    def run(*, resume: bool) -> None:
        predict(small[0], data.images, small[1], folder, plan, resume=resume)

    def top() -> set[str]:
        return {path.name for path in folder.iterdir() if path.is_file()}

    run(resume=False)
    whole, lines = top(), dict(read_entries(folder / "manifest.jsonl"))
    for image in images[1:]:
        write_png(image, np.fliplr(read_image(image)))
    real = RunPlaces.add

    def interrupted(self: RunPlaces, entry: Any) -> None:
        if entry.id == images[2].stem:
            raise KeyboardInterrupt
        real(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(RunPlaces, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(resume=True)
    assert top() == {".lock", "run.json", "manifest.jsonl"}
    assert json.loads((folder / "run.json").read_text())["files"] == []
    saved = load_run(folder)
    assert saved.missing == "1 of 3 images without a result (1 failed): --resume tries them."
    assert [saved[image.stem].status for image in images] == ["done", "done", "failed"]
    assert saved[images[2].stem].error == MADE_AGAIN
    run(resume=True)
    assert top() == whole
    assert load_run(folder).missing == ""
    made = read_entries(folder / "manifest.jsonl")
    assert [made[image.stem]["sha256"] == lines[image.stem]["sha256"] for image in images] == [True, False, False]
    assert all(line["status"] == "done" for line in made.values())


def test_a_label_map_that_is_replaced_while_it_is_scored_is_scored_again(
    small: tuple[Network, Bank], data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, one = read_label_ids, replace(data, images=next(Path(str(data.images)).iterdir()))

    def replaced_then(path: Path, *given: Any, **named: Any) -> Any:
        ids = real(path, *given, **named)
        with_predicted_labels(small[0], data)
        return ids

    with monkeypatch.context() as patched:
        patched.setattr(labels, "read_label_ids", replaced_then)
        evaluated(small[0], one, tmp_path / "run")
    again = evaluated(small[0], one, tmp_path / "run", resume=True)
    assert values(again) == values(evaluated(small[0], one, tmp_path / "fresh"))


def test_an_image_that_failed_and_was_taken_away_has_not_failed(
    small: tuple[Network, Bank], data: Labels, tmp_path: Path
) -> None:
    for folder in (data.images, data.labels):
        (Path(str(folder)) / "bad.png").write_bytes(b"no image")
    assert list(evaluated(small[0], data, tmp_path / "run").failed) == ["bad"]
    for folder in (data.images, data.labels):
        (Path(str(folder)) / "bad.png").unlink()
    again = evaluated(small[0], data, tmp_path / "run", resume=True)
    assert (again.failed, again.scores["images"]) == ({}, 3)


def test_select_compare_and_report_say_how_many_images_have_no_result(
    small: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = Path(str(written(tmp_path / "test", TEST[:6]).images))
    (images / "bad.png").write_bytes(b"no image")
    gone = images / f"s{TEST[0]}.png"
    plan = PredictPlan(precision="fp32", workers=0, formats=("npz",))
    real = RunPlaces.add

    def interrupted(self: RunPlaces, entry: Any) -> None:
        if entry.id == f"s{TEST[4]}":
            raise KeyboardInterrupt
        real(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(RunPlaces, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict(small[0], images, small[1], tmp_path / "run", plan)
        gone.unlink()
        with pytest.raises(KeyboardInterrupt):
            predict(small[0], images, small[1], tmp_path / "run", plan, resume=True)
    missing = "3 of 6 images without a result (1 failed, 2 not made yet): --resume tries them."
    assert "4 images, 1 failed, 2 not made yet" in repr(load_run(tmp_path / "run"))
    assert select(tmp_path / "run").missing == missing
    select_regions(tmp_path / "run", 1, side=16)
    assert missing in caplog.text
    notes = compare(tmp_path / "run", tmp_path / "run").notes
    assert [note for note in notes if "without a result" in note] == [f"A: {missing}", f"B: {missing}"]
    assert f"run: {missing}" in report([tmp_path / "run"], tmp_path / "page.html").warnings
