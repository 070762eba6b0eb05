"""A triage holds for maps that are made as those that it was calibrated on, and the run says so of no other."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_scenes import written
from plain import calibrated, random_bank, seeded
from small_networks import Pooling, Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.files.triages import load_triage, save_triage
from segment.files.writing import write_png
from segment.guarantees.triage import Triage, TriagePlan
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.triage.calibration import calibrate_triage
from segment.jobs.triage.checking import check_triage
from segment.jobs.triage.predicting import TriageOfRun
from segment.networks.load import Network, load_network
from segment.scenes.scene import TEST, VALIDATION, scene

MEASURES = ("one_minus_max", "mutual_information")
METHODS = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=MEASURES, precision="fp32"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Labels, Labels]:
    folder = tmp_path_factory.mktemp("data")
    return written(folder / "validation", VALIDATION[:24]), written(folder / "test", TEST[:10])


def calibrated_on(kind: type[Small], validation: Labels, folder: Path) -> tuple[Network, Bank, Triage]:
    network = load_network(calibrated(seeded(kind), (64, 96)))
    network = replace(network, card=replace(network.card, void=255))
    with torch.no_grad():
        labels = {path.name: network.accept.batch(str(path))[0] for path in sorted(Path(validation.images).iterdir())}
        for name, image in labels.items():
            label = network.module(image).argmax(dim=1)[0].numpy().astype(np.uint8)
            label[::7, ::5] = 0
            write_png(folder / "labels" / name, label)
    bank = random_bank(bn_network_of(network))
    evaluate_into(network, Labels(validation.images, folder / "labels"), folder / "scores", banks=[bank], plan=METHODS)
    return network, bank, calibrate_triage(folder / "scores", TriagePlan(max_error=0.2))


def test_a_border_hides_measures_and_decides_nothing(data: tuple[Labels, Labels], tmp_path: Path) -> None:
    validation, test = data
    network, bank, triage = calibrated_on(Small, validation, tmp_path)
    tables, shifts = [], []
    for border in (0, 12):
        plan = PredictPlan(precision="fp32", triage=triage, border=border, formats=("npz",))
        run = predict(network, test.images, bank, tmp_path / f"run{border}", plan).folder
        with (run / "triaged.csv").open() as stream:
            tables.append([{**row, "source": ""} for row in csv.DictReader(stream)])
        shifts.append(json.loads((run / "triaged.json").read_text())["shift"])
    assert tables[0] == tables[1]
    assert shifts[0] == shifts[1]
    decided = triage.decisions["image"]
    for row in tables[0]:
        assert (row["decision"] == "accept") == bool(decided.accepts(float(row[f"mean.{decided.measure}"])))


def test_a_network_that_needs_the_whole_image_is_not_tiled_under_a_triage(
    data: tuple[Labels, Labels], tmp_path: Path
) -> None:
    validation, test = data
    network, bank, triage = calibrated_on(Pooling, validation, tmp_path)
    write_png(tmp_path / "large" / "a.png", scene(TEST[0], size=(160, 192)).image)
    tiled = PredictPlan(precision="fp32", triage=triage, tile=96)
    with pytest.raises(WrongUse, match=r"cannot be tiled exactly .*thresholds were chosen on whole images"):
        predict(network, tmp_path / "large", bank, tmp_path / "run", tiled)
    plan = PredictPlan(precision="fp32", triage=triage, formats=("npz",))
    assert predict(network, test.images, bank, tmp_path / "whole", plan).done == 10
    with pytest.raises(WrongUse, match="--triage needs exact maps"):
        replace(plan, tile=64, tile_mode="blended")


def test_a_triage_without_region_masks_is_refused_for_a_run_with_them(
    data: tuple[Labels, Labels], tmp_path: Path
) -> None:
    validation, test = data
    network, bank, triage = calibrated_on(Small, validation, tmp_path)
    write_png(tmp_path / "mask.png", np.full((64, 96), 255, np.uint8))
    plan = PredictPlan(precision="fp32", triage=triage)
    with pytest.raises(WrongUse, match="whether images have region masks differs: None there, True here"):
        predict(network, test.images, bank, tmp_path / "run", plan, masks=tmp_path / "mask.png")


def test_images_that_a_run_no_longer_has_are_in_no_check_of_it(
    data: tuple[Labels, Labels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches: list[TriageOfRun] = []

    def kept(*given: Any) -> TriageOfRun:
        watches.append(TriageOfRun(*given))
        return watches[-1]

    monkeypatch.setattr("segment.jobs.prediction.recipe.TriageOfRun", kept)
    validation, test = data
    network, bank, triage = calibrated_on(Small, validation, tmp_path)
    images = sorted(Path(test.images).iterdir())
    plan = PredictPlan(precision="fp32", triage=triage, formats=("npz",))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, images)))
    predict(network, listed, bank, tmp_path / "run", plan)
    listed.write_text("\n".join(map(str, images[:7])))
    predict(network, listed, bank, tmp_path / "run", plan, resume=True)
    assert [len(each._means) for each in watches] == [10, 7]


class Scaled(Small):
    """Its logits have a factor behind the last BN layer, which neither its weights nor its draws show."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


def test_a_triage_is_refused_for_a_network_of_the_same_weights_that_computes_something_else(
    data: tuple[Labels, Labels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation, test = data
    network, bank, triage = calibrated_on(Scaled, validation, tmp_path)
    save_triage(triage, tmp_path / "triage.json")
    triage = load_triage(tmp_path / "triage.json")
    plan, scored = PredictPlan(precision="fp32", triage=triage), replace(METHODS)
    assert predict(network, test.images, bank, tmp_path / "run", plan).done == 10
    evaluate_into(network, test, tmp_path / "same", banks=[bank], plan=scored)
    assert check_triage(tmp_path / "same", triage)["text"]
    monkeypatch.setattr(Scaled, "factor", 2.0)
    with pytest.raises(WrongUse, match="of the same weights that computes something else"):
        predict(network, test.images, bank, tmp_path / "other", plan)
    with pytest.raises(WrongUse, match="of the same weights that computes something else"):
        evaluate_into(network, test, tmp_path / "other", banks=[bank], plan=scored, triage=triage)
    evaluate_into(network, test, tmp_path / "other", banks=[bank], plan=scored)
    with pytest.raises(WrongUse, match="of the same weights that computes something else"):
        check_triage(tmp_path / "other", triage)


def test_a_damaged_probe_of_a_triage_is_a_sentence(data: tuple[Labels, Labels], tmp_path: Path) -> None:
    validation, test = data
    network, bank, triage = calibrated_on(Small, validation, tmp_path)
    probe = triage.source["probe"]
    for broken in ({**probe, "places": "?"}, {**probe, "side": "x"}, {**probe, "trained": ""}):
        plan = PredictPlan(precision="fp32", triage=replace(triage, source={**triage.source, "probe": broken}))
        with pytest.raises(WrongUse, match="`source: probe` is damaged"):
            predict(network, test.images, bank, tmp_path / "run", plan)
