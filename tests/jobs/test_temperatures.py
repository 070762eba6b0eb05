"""Laws of what is fitted on validation images: an image counts for every fit or for none, and none goes unnamed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from given_passes import Given
from plain import Toy, calibrated, noise, seeded
from small_networks import Contrast
from torch import Tensor

from segment.draws.bank import Bank
from segment.errors import OutOfMemory, PredictionFailed, WrongUse
from segment.estimation.memory_budget import resident
from segment.files.writing import write_png
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.evaluation.temperatures import temperatures
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.jobs.progress import silent
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.states import SweepPlan
from segment.methods.mcbn import BankMethod
from segment.methods.temperature import Fit, TemperatureFit, update
from segment.methods.vector_scaling import LEAST_IMAGES, VectorScalingFit
from segment.networks.load import Network, load_network
from segment.report.results import Evaluation
from segment.scores.plan import ScorePlan
from segment.uncertainty.scaling import VectorScaling

FITTED = ("temperature", "mcbn+temperature", "mcbn+vector_scaling")
KNOWN = np.ones((12, 12), dtype=np.bool_)


class Limited(Toy):
    """Runs out of memory above so many pixels of all images of a pass together."""

    limit = 10**9

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[-1] * x.shape[-2] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(calibrated(seeded(Contrast), (32, 32)))


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return fit_bank(network, [noise(3, 32, 40, seed=seed) for seed in range(8)], batch=4, draws=3)


def made(folder: Path, count: int, *, black: int = 0, size: tuple[int, int] = (32, 40), void: bool = False) -> Labels:
    """Random images, the first of them black."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.integers(1, 255, (*size, 3), dtype=np.uint8) * np.uint8(number >= black)
        label = rng.integers(0, 4, size).astype(np.uint8)
        write_png(folder / "images" / f"i{number}.png", image)
        write_png(folder / "labels" / f"i{number}.png", np.full_like(label, 255) if void else label)
    return Labels(folder / "images", folder / "labels")


def scored(network: Network, bank: Bank, folder: Path, validation: Labels, *, resume: bool = False) -> Evaluation:
    plan = EvaluatePlan(
        methods=MethodPlan(methods=FITTED, measures=("predictive_entropy",), precision="fp32"), void=255, workers=0
    )
    data = made(folder / "test", 2)
    return evaluate_into(
        network, data, folder / "run", banks=[bank], plan=plan, validation=validation, memory="8GiB", resume=resume
    )


def test_an_image_with_outputs_that_are_not_finite_is_in_no_fit_and_is_named(
    network: Network, bank: Bank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = made(tmp_path / "validation", 6, black=1)
    clean = made(tmp_path / "clean", 6, black=1)
    for folder in ("images", "labels"):
        (tmp_path / "clean" / folder / "i0.png").unlink()
    caplog.set_level(logging.WARNING)
    evaluation = scored(network, bank, tmp_path / "a", whole)
    assert dict(evaluation.validation.temperatures) == pytest.approx(
        dict(scored(network, bank, tmp_path / "b", clean).validation.temperatures), rel=1e-4
    )
    assert list(evaluation.validation.left_out) == ["i0"]
    (line,) = [line for line in evaluation.warnings if "left out" in line]
    assert "1 of 6 validation images is left out of every temperature and scaling (i0)" in line
    assert "not finite" in line
    assert line not in caplog.messages, "the command shows it, once"
    assert scored(network, bank, tmp_path / "a", whole, resume=True).warnings == evaluation.warnings


def test_a_fit_that_no_image_reaches_is_refused(network: Network, bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"None of the 3 validation images can be used to fit .* i0: .*not finite"):
        scored(network, bank, tmp_path / "a", made(tmp_path / "black", 3, black=3))
    with pytest.raises(WrongUse, match="all of them are void"):
        scored(network, bank, tmp_path / "b", made(tmp_path / "void", 3, void=True))
    for fit in (TemperatureFit("softmax"), VectorScalingFit("softmax", 1)):
        with pytest.raises(WrongUse, match="no image"):
            fit.best()


def test_an_image_whose_label_scores_refuse_is_in_no_fit(network: Network, bank: Bank, tmp_path: Path) -> None:
    validation = made(tmp_path / "validation", 3)
    label = np.random.default_rng(0).integers(0, 4, (32, 40)).astype(np.uint8)
    label[0, 0] = 77
    write_png(tmp_path / "validation" / "labels" / "i1.png", label)
    evaluation = scored(network, bank, tmp_path, validation)
    assert set(evaluation.validation.left_out) == set(evaluation.validation.failed) == {"i1"}
    assert "holds 77" in evaluation.validation.left_out["i1"]


@pytest.fixture
def limited() -> Network:
    return load_network(calibrated(seeded(Limited), (32, 32)))


def test_an_image_that_runs_out_of_memory_whole_is_in_no_fit_and_is_named(
    limited: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fit_bank(limited, [noise(3, 32, 40, seed=seed) for seed in range(8)], batch=4, draws=3)
    few = scored(limited, own, tmp_path / "few", made(tmp_path / "small", 3))
    made(tmp_path / "mixed", 3)
    large = made(tmp_path / "large", 1, size=(512, 640))
    for folder in ("images", "labels"):
        (tmp_path / "large" / folder / "i0.png").rename(tmp_path / "mixed" / folder / "x.png")
    mixed = Labels(tmp_path / "mixed" / "images", tmp_path / "mixed" / "labels")
    monkeypatch.setattr(Limited, "limit", 300_000)
    evaluation = scored(limited, own, tmp_path / "mixed", mixed)
    assert dict(evaluation.validation.temperatures) == pytest.approx(dict(few.validation.temperatures), rel=1e-4)
    assert evaluation.validation.failed == {}  # it is scored, in tiles
    assert evaluation.validation.images == 4
    (line,) = [line for line in evaluation.warnings if "left out" in line]
    assert "1 of 4 validation images is left out of every temperature and scaling (x): 512 x 640 image: memory" in line
    made(tmp_path / "large", 1, size=(512, 640))
    with pytest.raises(OutOfMemory, match=r"None of the 1 validation images .* takes about [\d.]+ [KMG]iB"):
        scored(limited, own, tmp_path / "none", large)


def test_fits_go_on_with_fewer_draws_in_a_pass_where_memory_runs_out(
    limited: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fit_bank(limited, [noise(3, 32, 40, seed=seed) for seed in range(8)], batch=4, draws=4)
    plan = MethodPlan(methods=("mcbn+temperature",), precision="fp32")
    data = made(tmp_path / "validation", 2).sources(limited)
    fits = []
    for limit in (10**9, 32 * 40):
        methods = build_methods(limited, [own], plan, validated=True)
        method = methods.methods["mcbn+temperature"][0]
        assert isinstance(method, BankMethod)
        method.passes.plan = replace(method.passes.plan, fold=4)
        monkeypatch.setattr(Limited, "limit", limit)
        scores = ScorePlan(classes=limited.class_names, head="softmax")
        fits.append(temperatures(limited, data, methods, scores, silent, memory="8GiB", workers=0))
    whole, halved = fits
    assert "half as many draws" in caplog.text
    assert method.fold == 1
    assert halved.left_out == {}
    assert dict(halved.calibrations) == pytest.approx(dict(whole.calibrations), rel=1e-4)


def test_a_sweep_names_the_images_that_its_temperatures_leave_out(network: Network, tmp_path: Path) -> None:
    plan = SweepPlan(
        grid=Grid(batches=(2,), draws=(2,), transforms=("plain",)),
        methods=MethodPlan(methods=("mcbn+temperature",), measures=("predictive_entropy",), precision="fp32"),
    )
    train, data = made(tmp_path / "train", 5), made(tmp_path / "test", 2, size=(32, 48))
    validation = made(tmp_path / "validation", 3, black=1, size=(32, 36))
    swept = sweep(network, data, str(train.images), tmp_path / "run", plan, validation=validation)
    (line,) = [line for line in swept.warnings if "left out" in line]
    assert "(i0)" in line
    assert (
        swept.warnings
        == sweep(network, data, str(train.images), tmp_path / "run", plan, validation=validation, resume=True).warnings
    )
    assert line in json.loads((tmp_path / "run" / "scores.json").read_text())["warnings"]


def test_a_sweep_fits_its_temperatures_within_the_memory_that_is_asked(limited: Network, tmp_path: Path) -> None:
    plan = SweepPlan(
        grid=Grid(batches=(2,), draws=(2,), transforms=("plain",)),
        methods=MethodPlan(methods=("mcbn+temperature",), measures=("predictive_entropy",), precision="fp32"),
    )
    train, data = made(tmp_path / "train", 5), made(tmp_path / "test", 2)
    validation = made(tmp_path / "validation", 1, size=(2000, 2000))
    memory = resident() + 400 * 2**20
    with pytest.raises(OutOfMemory, match="Even the smallest plan needs"):
        sweep(limited, data, str(train.images), tmp_path / "run", plan, validation=validation, memory=memory)


@pytest.mark.parametrize("broken", ["elsewhere", "second pass", "overflow"])
def test_an_image_is_in_all_fits_or_in_none(broken: str) -> None:
    good = noise(1, 3, 12, 12, seed=1) * 3
    label = noise(3, 12, 12, seed=1).argmax(dim=0).numpy()
    bad = good.clone()
    bad[0, :, 5, 5] = 3e38 if broken == "overflow" else float("nan")  # 3e38 / .25 is infinite
    methods = [Given(good), Given(good, bad) if broken == "second pass" else Given(bad)]
    first, second = TemperatureFit("softmax"), TemperatureFit("softmax")
    scaling = VectorScalingFit("softmax", 2, values=9)  # of few pixels, not that one
    fits: list[Fit] = [second, scaling]
    image = torch.zeros(1, 3, 12, 12)
    assert update([(Given(good), [first]), (Given(good), fits)], image, label, KNOWN)
    before = first.best(), second.best(), scaling.best()
    with pytest.raises(PredictionFailed, match="not finite"):
        update([(methods[0], [first]), (methods[1], fits)], image, label, KNOWN)
    assert (first.best(), second.best(), scaling.best()) == before
    assert first.pixels == second.pixels == 144


def test_a_class_that_a_network_rules_out_by_minus_infinity_does_not_stop_a_fit() -> None:
    fit, finite = VectorScalingFit("softmax", LEAST_IMAGES), VectorScalingFit("softmax", LEAST_IMAGES)
    for number in range(LEAST_IMAGES):
        logits = noise(1, 3, 12, 12, seed=number) * 3
        label = (logits[0, :2] + noise(2, 12, 12, seed=99 + number)).argmax(dim=0).numpy()
        for each, low in ((fit, -torch.inf), (finite, -1e4)):
            ruled = logits.clone()
            ruled[:, 2] = low
            assert update([(Given(ruled), [each])], torch.zeros(1, 3, 12, 12), label, KNOWN)
    found, expected = fit.best(), finite.best()
    assert isinstance(found, VectorScaling)
    assert isinstance(expected, VectorScaling)
    np.testing.assert_allclose(found.factors[:2], expected.factors[:2], rtol=1e-3)
    assert found.factors[0] > 1.2
