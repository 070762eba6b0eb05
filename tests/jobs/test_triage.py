"""Laws of triage: calibrated on an evaluation, applied to a run, checked on labels; refused where it must be."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from console import invoked
from labelled_scenes import SIZE, bank_of_scenes, written
from PIL import Image

from segment.axes import Plane
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.estimate import Estimate
from segment.files.banks.bank_file import save_bank
from segment.files.lazy_arrays import FileArray
from segment.files.runs.image_counts import IMAGE_COUNTS, read_image_counts
from segment.files.triages import digest_of, load_triage, save_triage
from segment.files.writing import write_png
from segment.guarantees.levels import thresholds
from segment.guarantees.triage import Decision, Reference, Sets, Triage, TriagePlan, Unit
from segment.images.read import read_image, read_label
from segment.jobs.decisions.run_table import run_table
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.mcbn import MCBN
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.triage.calibration import calibrate_triage, frames_warning
from segment.jobs.triage.checking import check_triage, shift_sentence, shift_test_of
from segment.jobs.triage.predicting import TriageOfRun, decide
from segment.jobs.tuning.tuned import Tuned
from segment.methods.augmentation import View
from segment.networks.load import Network
from segment.report.run_files.triaged_files import triaged_image, write_triaged
from segment.scenes.scene import TEST, VALIDATION, scene
from segment.scores.functional.expected import EXPECTED

MEASURES = ("one_minus_max", "mutual_information")
METHODS = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=MEASURES, precision="fp32"))
ASKED = TriagePlan(max_error=0.05, coverage=0.9)
IMAGES = 24


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, images=12, draws=3)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return written(tmp_path_factory.mktemp("validation"), VALIDATION[:IMAGES])


@pytest.fixture(scope="module")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return written(tmp_path_factory.mktemp("test"), TEST[:6])


@pytest.fixture(scope="module")
def scores(network: Network, bank: Bank, validation: Labels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores") / "validation"
    evaluate_into(network, validation, folder, banks=[bank], plan=METHODS)
    return folder


@pytest.fixture(scope="module")
def triage(scores: Path) -> Triage:
    return calibrate_triage(scores, ASKED)


def of_run(folder: Path, identity: str, name: str) -> np.ndarray[Any, Any]:
    picture = cv2.imdecode(np.frombuffer((folder / identity / name).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def predicted(network: Network, bank: Bank, data: Labels, folder: Path, triage: Triage, **options: Any) -> Path:
    plan = PredictPlan(precision="fp32", triage=triage, **options)
    return predict(network, data.images, bank, folder, plan).folder


def test_the_calibrated_loss_and_share_are_those_of_plain_arrays(
    network: Network, bank: Bank, validation: Labels, triage: Triage, tmp_path: Path
) -> None:
    run = predicted(network, bank, validation, tmp_path / "run", triage)
    losses, accepted = [], []
    for seed in VALIDATION[:IMAGES]:
        label = read_label(Path(str(validation.labels)) / f"s{seed}.png")
        known = label < network.classes
        kept = of_run(run, f"s{seed}", "accepted.png") == 0
        wrong = read_label(run / f"s{seed}" / "prediction.png") != label
        losses.append((kept & wrong & known).sum() / known.sum())
        accepted.append((kept & known).sum() / known.sum())
    assert np.mean(losses) == pytest.approx(triage.decision.loss, abs=1e-9)
    assert np.mean(accepted) == pytest.approx(triage.decision.accepted, abs=1e-9)
    assert np.mean(losses) <= 0.05 * (IMAGES + 1) / IMAGES - 1 / IMAGES


def test_the_threshold_is_the_loosest_that_conformal_risk_control_allows(scores: Path, triage: Triage) -> None:
    counts = read_image_counts(scores)["mcbn"]
    right, wrong = counts.at_levels("pixel", triage.decision.measure, (0, 1))
    losses = wrong.cumsum(axis=1) / (right + wrong).sum(axis=1)[:, None]
    bound = (losses.sum(axis=0) + 1) / (IMAGES + 1)
    level = int(np.flatnonzero(thresholds() == triage.decision.threshold)[0])
    assert bound[level] <= 0.05
    assert bound[level + 1] > 0.05 or (right + wrong)[:, level + 1 :].sum() == 0


def test_predict_writes_what_is_accepted_pixel_by_pixel_and_image_by_image(
    network: Network, bank: Bank, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    run = predicted(network, bank, test_images, tmp_path / "run", triage, maps=("one_minus_max", "prediction"))
    with (run / "triaged.csv").open(newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 6
    threshold, of_image = triage.decision.threshold, triage.decisions["image"]
    assert triage.decision.measure == of_image.measure == "one_minus_max"
    assert threshold is not None
    for identity, row in rows.items():
        with np.load(run / identity / "maps.npz") as maps:
            values = maps["one_minus_max"]
        review = of_run(run, identity, "accepted.png")
        np.testing.assert_array_equal(review, np.where(values < threshold, 0, 255))
        assert float(row["accepted"]) == pytest.approx((values < threshold).mean(), abs=1e-6)
        passes = of_image.threshold is not None and values.mean(dtype=np.float64) < of_image.threshold
        assert row["decision"] == ("accept" if passes else "review")
        sizes = read_label(run / identity / "set_size.png")
        assert 1 <= sizes.min() <= sizes.max() <= network.classes
        assert float(row["set_size"]) == pytest.approx(sizes.mean(), abs=1e-6)
    content = json.loads((run / "triaged.json").read_text(), parse_constant=pytest.fail)
    assert content["images"] == 6
    assert content["shift"]["p"] is not None
    assert content["text"][0] == f"Guarantee: {content['promise']}."
    assert "is at most 5 %" in content["promise"]


def test_the_sets_of_a_run_cover_the_true_classes_as_often_as_asked(
    network: Network, bank: Bank, validation: Labels, triage: Triage, tmp_path: Path
) -> None:
    assert triage.sets is not None
    run = predicted(network, bank, validation, tmp_path / "run", triage, maps=("probability", "prediction"))
    covered = []
    for seed in VALIDATION[:IMAGES]:
        label = read_label(Path(str(validation.labels)) / f"s{seed}.png")
        known = label < network.classes
        with np.load(run / f"s{seed}" / "maps.npz") as maps:
            p = maps["probability"].astype(np.float64)
        order = np.argsort(-p, axis=0, kind="stable")
        above = np.take_along_axis(p, order, axis=0).cumsum(axis=0) - np.take_along_axis(p, order, axis=0)
        ranked = order == label[None]
        covered.append((ranked & (above <= triage.sets.threshold + 1e-6)).any(axis=0)[known].mean())
    assert np.mean(covered) == pytest.approx(triage.sets.found, abs=0.01)
    assert np.mean(covered) >= 0.9


def test_segments_are_accepted_as_a_whole(
    network: Network, bank: Bank, scores: Path, test_images: Labels, tmp_path: Path
) -> None:
    triage = calibrate_triage(scores, TriagePlan(max_error=0.1, unit="segment"))
    run = predicted(network, bank, test_images, tmp_path / "run", triage)
    for folder in sorted(path.parent for path in run.glob("*/accepted.png")):
        prediction, review = read_label(folder / "prediction.png"), of_run(run, folder.name, "accepted.png")
        for k in np.unique(prediction):
            count, places = cv2.connectedComponents((prediction == k).astype(np.uint8), connectivity=4)
            assert all(len(np.unique(review[places == n])) == 1 for n in range(1, count))


def test_a_run_resumes_under_its_triage_and_under_no_other(
    network: Network, bank: Bank, scores: Path, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    run = predicted(network, bank, test_images, tmp_path / "run", triage)
    first = (run / "triaged.csv").read_bytes()
    next(run.glob("*/accepted.png")).unlink()
    plan = PredictPlan(precision="fp32", triage=triage)
    predict(network, test_images.images, bank, run, plan, resume=True)
    assert (run / "triaged.csv").read_bytes() == first
    other = calibrate_triage(scores, TriagePlan(max_error=0.1))
    with pytest.raises(WrongUse, match="triage is"):
        predict(network, test_images.images, bank, run, PredictPlan(precision="fp32", triage=other), resume=True)


def test_a_triage_is_refused_for_another_bank_other_draws_or_precision(
    network: Network, bank: Bank, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    with pytest.raises(WrongUse, match=r"the number of draws differs.*--draws 3"):
        predicted(network, bank, test_images, tmp_path / "a", triage, draws=2)
    with pytest.raises(WrongUse, match="give --draws 3"):
        predicted(network, bank, test_images, tmp_path / "b", triage, draws="auto")
    other = bank_of_scenes(network, images=12, draws=3, seed=1)
    with pytest.raises(WrongUse, match="the bank differs"):
        predicted(network, other, test_images, tmp_path / "c", triage)
    assert not list(tmp_path.iterdir()), "no folder is made for a refused run"


def test_a_shifted_run_is_warned_of_at_once_and_called_void_at_its_end(
    network: Network, bank: Bank, triage: Triage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in TEST[:12]:
        write_png(tmp_path / "images" / f"n{seed}.png", scene(seed, size=SIZE).image // 5)  # at night
    plan = PredictPlan(precision="fp32", triage=triage)
    summary = predict(network, tmp_path / "images", bank, tmp_path / "run", plan)
    assert summary.triaged is not None
    assert summary.triaged["shift"]["shifted"]
    assert summary.triaged["promise"].startswith("void")
    assert summary.triaged["text"][0] == "Guarantee: void: the images are shifted."
    assert caplog.text.count("of the first 8 images differs from the validation images'") == 1
    assert "of the first" not in " ".join(summary.triaged["text"])


def test_validation_images_themselves_are_not_called_shifted_where_their_names_sort_them(
    triage: Triage, caplog: pytest.LogCaptureFixture
) -> None:
    measure, values = triage.reference.measure, [float(value) for value in range(60)]
    triage = replace(triage, reference=replace(triage.reference, values=tuple(values)))
    of_run = TriageOfRun(triage, SimpleNamespace(record={}, entries=dict))  # type: ignore[arg-type]
    lines = {f"{number:03}": {"triage": {}, measure: {"mean": value}} for number, value in enumerate(values)}
    for id, line in lines.items():
        of_run.watch({"id": id, **line})
    assert caplog.text.count("The test of all images, at the end, decides") == 1
    test = shift_test_of({id: line[measure]["mean"] for id, line in lines.items()}, triage)
    assert not test.shifted
    assert test.auroc == 0.5


def test_an_image_that_is_made_again_counts_once_in_the_watch_for_shift(
    triage: Triage, caplog: pytest.LogCaptureFixture
) -> None:
    line: dict[str, Any] = {"triage": {}, triage.reference.measure: {"mean": 5.0}}
    before = {"before": {**line, "status": "done"}}
    of_run = TriageOfRun(triage, SimpleNamespace(record={}, entries=before.copy))  # type: ignore[arg-type]
    for _ in range(8):
        of_run.watch({"id": "replaced", **line})
    assert not caplog.text
    for number in range(6):
        of_run.watch({"id": f"other {number}", **line})
    assert "of the first 8 images differs" in caplog.text


def test_an_evaluation_by_other_labels_than_the_triage_s_says_so_first(
    network: Network, bank: Bank, test_images: Labels, triage: Triage, scores: Path, tmp_path: Path
) -> None:
    plan = replace(METHODS, unseen=(1,))
    triaged = evaluate_into(network, test_images, tmp_path / "scores", banks=[bank], plan=plan, triage=triage).triaged
    assert triaged is not None
    assert triaged["text"][0].startswith(
        "THE LABELS DIFFER from those that calibrated the triage: unseen is [6] there and [1] here"
    )
    assert "THE LABELS" not in " ".join(check_triage(scores, triage)["text"])


def test_a_resume_without_a_triage_leaves_no_outcome_of_the_images_before(
    network: Network, bank: Bank, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    evaluate_into(network, test_images, tmp_path / "scores", banks=[bank], plan=METHODS, triage=triage)
    assert (tmp_path / "scores" / "triaged.json").is_file()
    evaluate_into(network, test_images, tmp_path / "scores", banks=[bank], plan=METHODS, resume=True)
    assert not (tmp_path / "scores" / "triaged.json").exists()
    assert not (tmp_path / "scores" / "triaged.csv").exists()


def test_banks_of_several_lengths_are_scored_at_a_common_number_of_draws_only(
    network: Network, bank: Bank, test_images: Labels, tmp_path: Path
) -> None:
    banks = [bank, bank_of_scenes(network, images=12, draws=2, seed=1)]
    with pytest.raises(WrongUse, match=r"The banks have 2 and 3 draws.*give --draws 2"):
        evaluate_into(network, test_images, tmp_path / "scores", banks=banks, plan=METHODS)
    plan = replace(METHODS, methods=replace(METHODS.methods, draws=2))
    evaluate_into(network, test_images, tmp_path / "scores", banks=banks, plan=plan)
    second = calibrate_triage(tmp_path / "scores", TriagePlan(max_error=0.4), method="mcbn#2")
    assert second.source["draws"] == 2


def test_evaluate_makes_no_promise_of_shifted_images(scores: Path, triage: Triage) -> None:
    assert check_triage(scores, triage)["promise"].startswith("in expectation")
    far = replace(triage.reference, values=tuple(value + 1 for value in triage.reference.values))
    content = check_triage(scores, replace(triage, reference=far))
    assert content["shift"]["shifted"]
    assert content["promise"] == "void: the images are shifted"


def test_evaluate_says_what_was_kept_and_what_was_wrong_in_it(
    network: Network, bank: Bank, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    evaluation = evaluate_into(network, test_images, tmp_path / "test", banks=[bank], plan=METHODS, triage=triage)
    assert evaluation.triaged is not None
    pixel = evaluation.triaged["units"]["pixel"]
    run = predicted(network, bank, test_images, tmp_path / "run", triage)
    losses, wrong_kept, all_kept = [], 0, 0
    for path in sorted(Path(test_images.images).iterdir()):
        label = read_label(Path(str(test_images.labels)) / path.name)
        known = label < network.classes
        kept = (of_run(run, path.stem, "accepted.png") == 0) & known
        wrong = kept & (read_label(run / path.stem / "prediction.png") != label)
        losses.append(wrong.sum() / known.sum())
        wrong_kept, all_kept = wrong_kept + int(wrong.sum()), all_kept + int(kept.sum())
    assert pixel["loss"] == pytest.approx(np.mean(losses), abs=1e-9)
    assert pixel["error"] == pytest.approx(wrong_kept / all_kept, abs=1e-9)
    assert (tmp_path / "test" / "triaged.csv").is_file()


@pytest.mark.parametrize(
    ("images", "reference", "ending"),
    [
        (np.arange(4) + 6.5, np.arange(12), "(4 images against 12, AUROC 0.708, p = 0.26); so few images show only a"),
        (np.arange(2) + 0.5, np.arange(2), "); too few images: not even the largest shift could be seen."),
        (np.arange(40) + 0.5, np.arange(40), "(40 images against 40, AUROC 0.512, p = 0.85)."),
    ],
)
def test_a_shift_that_is_not_shown_is_not_called_none(
    images: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], ending: str
) -> None:
    triage = replace(asked_of("pixel", 0.5), reference=Reference(measure="margin", values=tuple(map(float, reference))))
    shift = shift_test_of({str(number): float(value) for number, value in enumerate(images)}, triage)
    sentence = shift_sentence(shift, triage)
    assert sentence.startswith("No shift shown at level 0.01 in margin (")
    assert ending in sentence


def test_evaluating_the_very_images_that_calibrated_is_named(scores: Path, triage: Triage) -> None:
    content = check_triage(scores, triage)
    assert any("those that calibrated" in line for line in content["text"])
    assert content["units"]["pixel"]["loss"] == pytest.approx(triage.decision.loss)
    assert triage.sets is not None
    assert content["sets"]["found"] == pytest.approx(triage.sets.found)


def test_a_triage_survives_its_file_and_a_damaged_one_is_refused(triage: Triage, tmp_path: Path) -> None:
    path = tmp_path / "triage.json"
    save_triage(triage, path)
    assert load_triage(path).digest == triage.digest
    for text in ("", "{}", path.read_text().replace('"plan"', '"plans"'), "[1]"):
        path.write_text(text)
        with pytest.raises(WrongUse, match="triage"):
            load_triage(path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (TriagePlan(max_error=0.02), "24 images cannot carry.*takes 49 images at least.*least --max-error is 0.04"),
        (TriagePlan(guarantee="images"), "takes 29 images at least"),
        (TriagePlan(guarantee="mean"), "takes 150 images at least"),
        (TriagePlan(max_error=1e-300), "it takes 10000001 images at least, even without a single error. With so many"),
        (TriagePlan(guarantee="mean", max_error=1e-17), "it takes 10000001 images at least, even .* error. Evaluate"),
        (TriagePlan(max_error=0.05, protect="unicorn"), "No class is called 'unicorn'"),
        (TriagePlan(max_error=0.05, measure="margin"), "No measure 'margin' was scored"),
        (TriagePlan(max_error=0.3, coverage=0.99), "cannot carry a coverage of 0.99"),
    ],
)
def test_what_the_images_cannot_carry_is_refused_with_the_number_they_would_take(
    scores: Path, plan: TriagePlan, message: str
) -> None:
    with pytest.raises(WrongUse, match=message):
        calibrate_triage(scores, plan)


def test_a_seed_below_0_is_refused() -> None:
    with pytest.raises(WrongUse, match="--seed is an integer from 0 up, not -1"):
        TriagePlan(seed=-1)


def test_groups_are_the_unit_where_they_are_named(scores: Path, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    lines = ["id,patient", *(f"s{seed},p{seed % 21}" for seed in VALIDATION[:IMAGES])]
    table.write_text("\n".join(lines))
    plan = TriagePlan(max_error=0.1)
    triage = calibrate_triage(scores, plan, groups="patient", table=table)
    assert triage.decision.groups == 21
    assert len(triage.reference.values) == 21
    content = check_triage(scores, triage)
    assert content["shift"]["why"] == "the patient of these images is not known"
    assert (content["shift"]["p"], content["shift"]["shifted"]) == (None, False)
    assert any("each counts as its own" in line for line in content["text"])
    assert "the mean over the images of a group of the share" in content["promise"]
    assert "over new groups" in repr(triage)
    of_two = {identity: f"p{number // 2}" for number, identity in enumerate(content_ids(scores))}
    assert check_triage(scores, triage, of_two)["shift"]["images"] == 12
    with pytest.raises(WrongUse, match=r"1 group \(24 images\) cannot carry"):
        calibrate_triage(scores, plan, groups="sequence")
    with pytest.raises(WrongUse, match="no column 'patent'"):
        calibrate_triage(scores, plan, groups="patent", table=table)
    table.write_text("\n".join(lines[:5]))
    with pytest.raises(WrongUse, match="names no group for 20 of 24 images"):
        calibrate_triage(scores, plan, groups="patient", table=table)


def content_ids(scores: Path) -> list[str]:
    return read_image_counts(scores)["mcbn"].ids


@pytest.mark.parametrize("column", ["patient", "sequence"])
def test_the_list_of_a_run_names_the_groups_of_its_shift_test(
    network: Network, bank: Bank, scores: Path, test_images: Labels, tmp_path: Path, column: str
) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("\n".join([f"id,{column}", *(f"s{seed},p{seed % 21}" for seed in VALIDATION[:IMAGES])]))
    save_triage(calibrate_triage(scores, TriagePlan(max_error=0.1), groups=column, table=table), tmp_path / "t.json")
    triage = load_triage(tmp_path / "t.json")
    images = sorted(Path(test_images.images).iterdir())
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join([f"image,{column}", *(f"{path},q{n // 3}" for n, path in enumerate(images))]))
    plan = PredictPlan(precision="fp32", triage=triage)
    triaged = predict(network, listed, bank, tmp_path / "run", plan).triaged
    assert triaged is not None
    assert triaged["shift"]["images"] == 2, "six images of two patients"
    assert "not known" not in triaged["shift"].get("why", "")
    listed.write_text("\n".join([f"image,{column}", f"{images[0]},q0", f"{images[1]},"]))
    incomplete = predict(network, listed, bank, tmp_path / "incomplete", plan).triaged
    assert incomplete is not None
    assert incomplete["shift"]["p"] is None
    assert incomplete["shift"]["why"] == f"the {column} of these images is not known"
    checked = check_triage(scores, triage)
    assert checked["shift"]["why"] == f"the {column} of these images is not known"
    of_two = {identity: f"p{number // 2}" for number, identity in enumerate(content_ids(scores))}
    units = check_triage(scores, triage, of_two)["units"]
    assert units["pixel"]["groups"] == 12, "groups of a table are not those of the ids"


def test_other_views_ensembles_and_corruptions_are_other_uncertainties(
    network: Network, validation: Labels, test_images: Labels, tmp_path: Path
) -> None:
    def scored(name: str, images: Labels, of: tuple[View, ...], shift: tuple[str, int] | None = None) -> Path:
        methods = MethodPlan(methods=("tta",), measures=("predictive_entropy",), precision="fp32", views=of)
        evaluate_into(network, images, tmp_path / name, plan=EvaluatePlan(methods=methods, shift=shift))
        return tmp_path / name

    flipped, scaled = (View(), View(flip=True)), (View(), View(scale=0.5))
    plan = TriagePlan(max_error=0.2, measure="predictive_entropy")
    triage = calibrate_triage(scored("validation", validation, flipped), plan, method="tta")
    check_triage(scored("same", test_images, flipped), triage)
    with pytest.raises(WrongUse, match="the views of test-time augmentation differs"):
        check_triage(scored("scaled", test_images, scaled), triage)
    with pytest.raises(WrongUse, match="the corruption of the images differs"):
        check_triage(scored("fog", test_images, flipped, ("noise", 1)), triage)
    methods = MethodPlan(methods=("tta",), measures=("predictive_entropy",), precision="fp32", views=scaled)
    with pytest.raises(WrongUse, match="the views of test-time augmentation differs"):
        evaluate_into(network, test_images, tmp_path / "refused", plan=EvaluatePlan(methods=methods), triage=triage)
    assert not (tmp_path / "refused").exists()


def test_another_fitted_temperature_is_another_uncertainty(
    network: Network, validation: Labels, test_images: Labels, tmp_path: Path
) -> None:
    fit, again, wrong = (written(tmp_path / name, VALIDATION[40:44]) for name in ("fit", "again", "wrong"))
    for path in Path(str(wrong.labels)).iterdir():
        label = read_label(path)
        write_png(path, ((label + 1) % network.classes).astype(np.uint8))

    def scored(name: str, images: Labels, fitted_on: Labels) -> Path:
        methods = MethodPlan(methods=("temperature",), measures=("predictive_entropy",), precision="fp32")
        evaluate_into(network, images, tmp_path / name, plan=EvaluatePlan(methods=methods), validation=fitted_on)
        return tmp_path / name

    plan = TriagePlan(max_error=0.2, measure="predictive_entropy")
    triage = calibrate_triage(scored("validation", validation, fit), plan, method="temperature")
    save_triage(triage, tmp_path / "triage.json")
    triage = load_triage(tmp_path / "triage.json")
    check_triage(scored("same", test_images, again), triage)
    with pytest.raises(WrongUse, match=r"the fitted temperature or scaling differs: .* there"):
        check_triage(scored("other fit", test_images, wrong), triage)


def test_a_tuned_setting_is_triaged_as_it_was_evaluated_and_under_no_other(
    network: Network, bank: Bank, validation: Labels, test_images: Labels, triage: Triage, tmp_path: Path
) -> None:
    tuned = Tuned(
        method=combination("mcbn+tta+temperature"),
        bank=bank,
        views=(View(), View(flip=True)),
        calibration=1.5,
        network=network.fingerprint,
        seen=frozenset(),
        images=IMAGES,
        why="why",
    )
    plain = replace(METHODS, methods=replace(METHODS.methods, methods=("deterministic",)))
    evaluate_into(network, validation, tmp_path / "validation", plan=plain, tuned=tuned)
    own = calibrate_triage(tmp_path / "validation", TriagePlan(max_error=0.05))
    assert own.source["method"] == "tuned"
    save_triage(own, tmp_path / "own.json")
    own = load_triage(tmp_path / "own.json")
    plan = PredictPlan(precision="fp32", triage=own, tuned=tuned)
    predict(network, test_images.images, bank, tmp_path / "run", plan)
    checked = evaluate_into(network, test_images, tmp_path / "test", plan=plain, tuned=tuned, triage=own).triaged
    assert checked is not None
    kept = []
    for path in image_paths(test_images):
        known = read_label(Path(str(test_images.labels)) / path.name) < network.classes
        kept.append(float((of_run(tmp_path / "run", path.stem, "accepted.png") == 0)[known].mean()))
    assert checked["units"]["pixel"]["accepted"] == pytest.approx(np.mean(kept), abs=1e-9)
    warmer = replace(plan, tuned=replace(tuned, calibration=2.0))
    with pytest.raises(WrongUse, match="the tuned setting differs"):
        predict(network, test_images.images, bank, tmp_path / "warmer", warmer)
    with pytest.raises(WrongUse, match="of method 'mcbn', and this run makes what `segment tune` chose"):
        predict(network, test_images.images, bank, tmp_path / "other", replace(plan, triage=triage))
    with pytest.raises(WrongUse, match="of method 'tuned', and this run makes mcbn"):
        predicted(network, bank, test_images, tmp_path / "none", own)
    with pytest.raises(WrongUse, match="give its folder by --tuned"):
        evaluate_into(network, test_images, tmp_path / "without", banks=[bank], plan=METHODS, triage=own)


def image_paths(data: Labels) -> list[Path]:
    return sorted(Path(data.images).iterdir())


def test_ids_that_look_like_frames_are_named(triage: Triage) -> None:
    assert any("look like frames" in line for line in triage.warnings), "s20000, s20001, ... look like frames"
    assert "look like frames of a sequence (numbers alone)." in frames_warning([""])


def test_a_limit_that_accepting_everything_meets_is_warned_of(scores: Path, triage: Triage) -> None:
    loose = calibrate_triage(scores, TriagePlan(max_error=0.5, unit="image"))
    assert loose.decision.accepted == 1
    (warning,) = (line for line in loose.warnings if line.startswith("Accepting every image of the validation"))
    assert "the limit of 50 %: the mean loss is " in warning
    assert "--loss dice" in warning
    of_dice = calibrate_triage(scores, TriagePlan(max_error=0.9, unit="image", loss="dice"))
    assert of_dice.warnings[-1].endswith("Ask for less by --max-error.")
    assert triage.decision.accepted < 1
    assert not any(line.startswith("Accepting every") for line in triage.warnings)


def test_numbers_and_nesting_beyond_what_python_reads_are_refused(triage: Triage, tmp_path: Path) -> None:
    path = tmp_path / "triage.json"
    save_triage(triage, path)
    values = json.loads(path.read_text())
    values["reference"]["values"][0] = 10**400  # no float holds it
    path.write_text(json.dumps(values | {"digest": digest_of(values)}))
    with pytest.raises(WrongUse, match="is damaged: Out of range float values"):
        load_triage(path)
    path.write_text("[" * 100_000)
    with pytest.raises(WrongUse, match="does not read as a triage: ValueError: it is nested too deep"):
        load_triage(path)


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("pixel", "threshold", "0.5", r"decisions.pixel.threshold: .*number"),
        ("pixel", "threshold", [0.5], r"decisions.pixel.threshold: .*number"),
        ("pixel", "images", 1.5, r"decisions.pixel.images: .*integer"),
        ("pixel", "unit", "image", r"of the decision of 'pixel', it is for 'image'"),
        ("image", "", None, r"of the decision of 'image', there is none"),
    ],
)
def test_a_triage_that_was_edited_is_refused_and_so_is_a_damaged_one(
    triage: Triage, tmp_path: Path, part: str, key: str, value: object, reason: str
) -> None:
    path = tmp_path / "triage.json"
    save_triage(triage, str(path), text="At most 2 % are wrong.")  # as docs/triage.md gives it
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values, sort_keys=True))
    assert load_triage(path).digest == triage.digest, "another layout is the same content"
    if key:
        values["decisions"][part][key] = value
    else:
        del values["decisions"][part]
    path.write_text(json.dumps(values))
    with pytest.raises(WrongUse, match=r"triage.json' was changed after `segment triage` wrote it.*Make it again"):
        load_triage(path)
    path.write_text(json.dumps(values | {"digest": digest_of(values)}))
    with pytest.raises(WrongUse, match=f"is damaged: {reason}") as refusal:
        load_triage(path)
    assert "\n" not in str(refusal.value)
    del values["digest"]
    path.write_text(json.dumps(values | {"format": 1}))
    with pytest.raises(WrongUse, match=r"has format 1; this version reads 3. Make it again"):
        load_triage(path)


def test_a_folder_without_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="holds no run"):
        calibrate_triage(tmp_path, ASKED)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(WrongUse, match="holds no counts of images"):
        calibrate_triage(tmp_path, ASKED)
    (tmp_path / IMAGE_COUNTS).write_bytes(b"no archive")
    with pytest.raises(WrongUse, match="is damaged"):
        calibrate_triage(tmp_path, ASKED)


def test_the_commands_go_from_scores_to_a_triaged_run(
    bank: Bank, scores: Path, test_images: Labels, tmp_path: Path
) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    triage, run = tmp_path / "triage.json", tmp_path / "run"
    assert invoked("triage", scores, "--max-error", ".1", "-o", triage).exit_code == 0
    made = invoked("triage", scores, "--max-error", ".05", "-o", triage, "--coverage", ".9")  # in place of that
    assert made.exit_code == 0, made.output
    assert "in expectation over validation sets and new images" in " ".join(made.output.split())
    options = ("--bank", tmp_path / "bank.safetensors", "--triage", triage, "--precision", "fp32")
    done = invoked("predict", "scenes", test_images.images, *options, "-o", run)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "images are accepted whole" in said
    assert "Guarantee: in expectation over validation sets and new images, the share" in said
    asked = ("evaluate", "scenes", "--json", "--images", test_images.images, "--labels", test_images.labels)
    checked = invoked(*asked, *options, "--methods", "mcbn", "-o", tmp_path / "test")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.output)["triaged"]["units"]["pixel"]["limit"] == 0.05


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("per_image.csv", "[" * 9999),
        ("per_image.csv", "method,id\nmcbn,x\n"),
        ("per_image.csv", "method,id,dice\nmcbn,x\n"),
        ("run.json", '{"settings": {}, "plan": {}}'),
        ("run.json", "[" * 100_000),
        ("scores.json", '{"methods": {}}'),
        ("scores.json", '{"methods": []}'),
        ("scores.json", None),
        ("manifest.jsonl", '{"id": "a"}\n'),
    ],
)
def test_an_evaluation_that_lacks_a_part_gives_no_triage(
    scores: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    folder = shutil.copytree(scores, tmp_path / "scores")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    refused = (
        r"no whole evaluation|is damaged|does not read: a row is cut short|does not hold what an evaluation writes"
    )
    with pytest.raises(WrongUse, match=refused) as refusal:
        calibrate_triage(folder)
    assert "\n" not in str(refusal.value)


def test_an_interrupted_evaluation_has_the_counts_of_a_whole_one(
    network: Network, bank: Bank, test_images: Labels, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int, draws: int = 0) -> None:
        if stage == "evaluating" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_into(network, test_images, tmp_path / "cut", banks=[bank], plan=METHODS, progress=stop)
    assert not (tmp_path / "cut" / IMAGE_COUNTS).exists()
    evaluate_into(network, test_images, tmp_path / "cut", banks=[bank], plan=METHODS, resume=True)
    evaluate_into(network, test_images, tmp_path / "whole", banks=[bank], plan=METHODS)
    assert (tmp_path / "cut" / IMAGE_COUNTS).read_bytes() == (tmp_path / "whole" / IMAGE_COUNTS).read_bytes()


def test_a_tensor_may_be_asked_what_is_accepted_of_it(triage: Triage) -> None:
    assert triage.decision.threshold is not None
    values = torch.tensor([0.0, triage.decision.threshold, float("nan")])
    assert triage.decision.accepts(values).tolist() == [True, False, False]


def estimate_of(prediction: np.ndarray[Any, Any], values: np.ndarray[Any, Any], **more: Any) -> Estimate[Plane]:
    return Estimate(prediction=prediction, mean=more.get("mean"), maps={"margin": values}, draws=3)


def asked_of(unit: Unit, threshold: float | None, *, sets: Sets | None = None) -> Triage:
    facts: dict[str, Any] = {"measure": "margin", "why": "", "images": 60, "groups": 60, "loss": 0.0, "accepted": 0.5}
    units: tuple[Unit, ...] = (unit, "image")
    return Triage(
        plan=TriagePlan(unit=unit),
        decisions={name: Decision(unit=name, threshold=threshold, **facts) for name in units},
        reference=Reference(measure="margin", values=(0.1, 0.2)),
        source={"classes": ["a", "b", "c"]},
        sets=sets,
    )


@pytest.mark.parametrize("unit", ["pixel", "segment", "image"])
def test_a_result_in_python_is_decided_on_as_the_same_image_of_a_run(
    unit: Unit, network: Network, bank: Bank, scores: Path, test_images: Labels, tmp_path: Path
) -> None:
    triage = calibrate_triage(scores, replace(ASKED, unit=unit))
    folder = predicted(network, bank, test_images, tmp_path / "run", triage)
    images = [read_image(Path(str(test_images.images)) / f"s{seed}.png") for seed in TEST[:6]]
    results = MCBN(network, bank, precision="fp32")(np.stack(images), measures=MEASURES)
    decided = decide(triage, results)
    for index, seed in enumerate(TEST[:6]):
        in_the_run = of_run(folder, f"s{seed}", "accepted.png") == 0
        np.testing.assert_array_equal(decided[index], in_the_run)
        np.testing.assert_array_equal(decide(triage, results.image(index)), in_the_run)
    assert decided.any()


def test_a_result_of_other_draws_is_not_decided_on(
    network: Network, bank: Bank, triage: Triage, test_images: Labels
) -> None:
    result = MCBN(network, bank, draws=2)(Path(str(test_images.images)) / f"s{TEST[0]}.png")
    with pytest.raises(WrongUse, match=r"The triage is of 3 draws, and this result of 2\."):
        decide(triage, result)


def test_the_threshold_of_images_is_not_compared_with_pixels() -> None:
    decision = asked_of("image", 0.5).decision
    assert decision.accepts([0.2, 0.7]).tolist() == [True, False]
    with pytest.raises(WrongUse, match=r"of images, and a map was given"):
        decision.accepts(np.zeros((4, 4)))


@pytest.mark.parametrize("unit", ["pixel", "segment", "image"])
def test_an_image_on_disk_is_triaged_as_the_same_one_in_memory(unit: Unit, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.random((300, 11)).astype(np.float32), rng.integers(0, 3, (300, 11))
    p = rng.dirichlet(np.ones(3), (300, 11)).transpose(2, 0, 1).astype(np.float32)
    on_disk = FileArray(tmp_path, p.shape, np.float32)
    on_disk[..., slice(0, 300), slice(0, 11)] = p
    sets = Sets(kind="aps", coverage=0.9, threshold=0.6, weight=0.0, free=1, images=9, groups=9, found=0.9)
    triage = asked_of(unit, 0.5, sets=sets)
    first = triaged_image(estimate_of(mask, values, mean=p), triage)
    second = triaged_image(estimate_of(mask, values, mean=on_disk), triage)
    assert first.set_size is not None
    assert second.set_size is not None
    np.testing.assert_array_equal(first.set_size[:], second.set_size[:])
    np.testing.assert_array_equal(first.review[:], second.review[:])
    assert first.accepted == (first.review[:] == 0).mean()


@pytest.mark.parametrize("unit", ["pixel", "segment", "image"])
def test_pixels_without_data_decide_nothing_and_are_neither_accepted_nor_for_review(unit: Unit, tmp_path: Path) -> None:
    values = np.array([[0.1, 0.1, 0.9, 0.9], [0.1, 0.4, 0.9, 0.9]], np.float32)
    mask = np.zeros((2, 4), int)
    valid = np.array([[True, True, False, False], [True, True, True, False]])
    sets = Sets(kind="aps", coverage=0.9, threshold=0.6, weight=0.0, free=1, images=9, groups=9, found=0.9)
    p = np.full((2, 2, 4), 0.5, np.float32)
    triage = asked_of(unit, 0.45, sets=sets)
    image = triaged_image(estimate_of(mask, values, mean=p), triage, valid)
    review = image.review[:]
    assert (review[~valid] == 128).all()
    expected = {"pixel": values >= 0.45, "segment": np.zeros((2, 4), bool), "image": np.zeros((2, 4), bool)}[unit]
    np.testing.assert_array_equal(review[valid] == 255, expected[valid])  # the mean within is .32, of all .5
    assert image.accepted == pytest.approx((~expected)[valid].mean())
    assert image.passes
    assert image.set_size is not None
    assert (image.set_size[:][~valid] == 0).all()
    assert image.sets == pytest.approx(image.set_size[:][valid].mean())
    source = {"classes": ["a", "b"]}
    write_triaged(lambda name: tmp_path / name, image, replace(triage, source=source), ("png",))
    colours = np.asarray(Image.open(tmp_path / "set_size.png").convert("RGB"))
    assert (colours[~valid] == 128).all()
    assert not (colours[valid] == 128).all(axis=-1).any()


def test_a_triage_under_region_masks_is_that_of_the_pixels_within(
    network: Network, bank: Bank, test_images: Labels, tmp_path: Path
) -> None:
    rows, columns = np.mgrid[:64, :96]
    inside = (rows - 32) ** 2 + (columns - 48) ** 2 < 30**2
    write_png(tmp_path / "masks" / "mask.png", inside.astype(np.uint8) * 255)
    masks = tmp_path / "masks" / "mask.png"
    data = replace(test_images, masks=masks)
    evaluate_into(network, data, tmp_path / "scores", banks=[bank], plan=METHODS)
    triage = calibrate_triage(tmp_path / "scores", TriagePlan(max_error=0.2, unit="segment"))
    plan = PredictPlan(precision="fp32", triage=triage, maps=("prediction", *MEASURES))
    run = predict(network, test_images.images, bank, tmp_path / "run", plan, masks=masks).folder
    table, of_scores = run_table(run), run_table(tmp_path / "scores")
    losses, accepted = [], []
    for identity, row in table.rows.items():
        for column in (*EXPECTED, *(f"mean.{name}" for name in MEASURES)):
            assert row[column] == pytest.approx(of_scores.rows[identity][column], abs=1e-5), column
        review = of_run(run, identity, "accepted.png")
        assert (review[~inside] == 128).all()
        label = read_label(Path(str(test_images.labels)) / f"{identity}.png")
        known = (label < network.classes) & inside
        wrong = read_label(run / identity / "prediction.png") != label
        losses.append(((review == 0) & wrong & known).sum() / known.sum())
        accepted.append(((review == 0) & known).sum() / known.sum())
    assert np.mean(losses) == pytest.approx(triage.decision.loss, abs=1e-9)
    assert np.mean(accepted) == pytest.approx(triage.decision.accepted, abs=1e-9)


def test_masks_of_several_labels_make_segments_together() -> None:
    masks = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 1]]])  # K H W
    image = triaged_image(estimate_of(masks, np.array([[0.0, 0.6, 0.9, 0.1]], np.float32)), asked_of("segment", 0.5))
    assert image.review[:].tolist() == [[0, 0, 255, 0]]
    assert image.set_size is None


def test_nothing_is_accepted_where_no_threshold_would_do() -> None:
    image = triaged_image(estimate_of(np.zeros((2, 3), int), np.zeros((2, 3), np.float32)), asked_of("pixel", None))
    assert image.line() == {"decision": "review", "accepted": 0.0, "means": {"margin": 0.0}}
    assert (image.review[:] == 255).all()
