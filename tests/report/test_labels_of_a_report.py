"""A report shows the label maps that an evaluation was scored with, whatever kind of file they came in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from plain import calibrated, random_bank, seeded
from small_networks import Small

import segment
from segment.draws.bank import Bank
from segment.jobs.evaluate import EvaluatePlan, Labels, evaluate
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.report import report
from segment.networks.load import Network, load_network
from segment.report.html.build import Sources
from segment.tracing.bn_network import drawable

PALETTE = ((0, 0, 0), (200, 10, 10), (10, 200, 10), (9, 9, 200))
SIZE = (32, 40)


@pytest.fixture(scope="module")
def fitted() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(Small), SIZE))
    network = replace(network, card=replace(network.card, palette=PALETTE, labels={7: 2}))
    return network, random_bank(drawable(network))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Sources]:
    """What the newest report would have been written from."""
    kept: list[Sources] = []
    monkeypatch.setattr("segment.jobs.report.write_report", lambda sources, *_: kept.append(sources))
    return kept


def ids(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SIZE, dtype=np.uint8)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def runs(fitted: tuple[Network, Bank], top: Path, images: str, data: Labels) -> list[Path]:
    network, bank = fitted
    predict(network, images, bank, top / "run", PredictPlan(formats=("npz",)))
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("variance",)))
    evaluate(network, data, top / "scores", banks=[bank], plan=plan)
    return [top / "run", top / "scores"]


def test_colours_with_a_suffix_and_values_that_stand_for_others(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[Sources]
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        Image.fromarray(pixels(seed)).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(np.array(PALETTE, np.uint8)[ids(1)]).save(tmp_path / "labels" / "a_L.png")
    Image.fromarray(np.where(ids(2) == 2, 7, ids(2)).astype(np.uint8)).save(tmp_path / "labels" / "b_L.png")
    data = Labels(str(tmp_path / "images"), str(tmp_path / "labels"), "_L")
    report(runs(fitted, tmp_path, str(tmp_path / "images"), data), tmp_path / "r.html")
    for name, seed in (("a", 1), ("b", 2)):
        np.testing.assert_array_equal(shown[0].label_of(name), ids(seed))


@pytest.mark.parametrize("named", [False, True])
def test_each_slice_of_a_volume_has_its_own_label_map(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[Sources], *, named: bool
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "v.tif", np.stack([pixels(seed) for seed in range(3)]), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "labels" / "v.tif", np.stack([ids(seed) for seed in range(3)]), photometric="minisblack"
    )
    data = Labels(str(tmp_path / "images"), str(tmp_path / "labels"))
    made = runs(fitted, tmp_path, str(tmp_path / "images"), data)
    report(made[:1] if named else made, tmp_path / "r.html", labels=tmp_path / "labels" if named else None)
    slices = sorted(segment.load_run(made[0]))
    assert len(slices) == 3
    for seed, name in enumerate(slices):
        np.testing.assert_array_equal(shown[0].label_of(name), ids(seed))
