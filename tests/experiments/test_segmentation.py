"""The segmentation experiment: mini-batches that nest, the demonstration's way held to train mode, honest verdicts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import passes
from torch import nn

from segment.batch_norm.network import bn_network_of
from segment.draws.minibatches import DrawPlan, choices
from segment.errors import WeightsRefused, WrongUse
from segment.experiments.segmentation import experiment as segmentation
from segment.experiments.segmentation.cases import CASES, Case, scenes_case
from segment.experiments.segmentation.experiment import (
    INSIDE,
    CaseScores,
    Effort,
    SegmentationPlan,
    bank_with_the_image,
    scored,
)
from segment.images.prepare import prepare
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

EFFORT = Effort(batches=(1, 4, 8), draws=2, images=2)


@pytest.fixture(scope="module")
def case() -> Case:
    return scenes_case(Path())


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmentation")
    verdicts = segmentation.run(out, budget="quick", data=out, plan=SegmentationPlan(cases={"scenes": EFFORT}))
    assert [verdict.experiment for verdict in verdicts] == ["segmentation"] * 3
    return out


def test_the_experiment_leaves_pictures_scores_and_verdicts(once: Path) -> None:
    names = {path.name for path in once.iterdir()}
    assert {"segmentation.csv", "segmentation.png", "segmentation_scenes.png", "page.md", "verdicts.csv"} <= names
    methods = [line.split(",")[1] for line in (once / "segmentation.csv").read_text().splitlines()[1:]]
    assert methods == ["M = 1", "M = 4", "M = 8", "trained statistics", INSIDE]


def test_the_same_seed_writes_the_same_bytes(once: Path, tmp_path: Path) -> None:
    segmentation.run(tmp_path, budget="quick", data=tmp_path, plan=SegmentationPlan(cases={"scenes": EFFORT}))
    for path in once.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_missing_network_or_list_is_named_before_the_first_one_is_measured(shared_data: Path, tmp_path: Path) -> None:
    plan = SegmentationPlan(cases={"scenes": EFFORT, "camvid-enet": EFFORT})
    messages: list[str] = []
    with pytest.raises(WeightsRefused, match=r"enet_camvid\.safetensors' are not there; .* --data DIR"):
        segmentation.run(tmp_path / "out", budget="quick", data=tmp_path, plan=plan, progress=messages.append)
    (tmp_path / "weights").symlink_to(shared_data / "weights")
    with pytest.raises(WrongUse, match=r"train\.txt' is not there"):
        segmentation.run(tmp_path / "out", budget="quick", data=tmp_path, plan=plan, progress=messages.append)
    assert messages == []


def test_the_demonstrations_way_is_train_mode_with_the_image_in_the_batch(case: Case) -> None:
    drawn = bn_network_of(case.network)
    images = prepare(case.test_image(0).image, case.network.card.input)[None]
    plan = DrawPlan(draws=1, batch=3, seed=0)
    bank = bank_with_the_image(case, drawn, images, plan)
    (output,) = passes(drawn, bank, images)
    (pick,) = choices(plan, case.train)
    others = [prepare(case.train_image(index), case.network.card.input) for index in pick.images]
    module = copy.deepcopy(case.network.module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.training = True
    with torch.no_grad():
        expected = module(torch.cat([images, torch.stack(others)]))[:1]
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-3)


def test_the_scores_of_the_trained_statistics_do_not_depend_on_the_draws(case: Case) -> None:
    small = replace(EFFORT, batches=(2,), images=1)
    first, second = (scored(case, small, seed, lambda _: None) for seed in (0, 1))
    name = segmentation.TRAINED
    assert first.boards[name].per_image() == second.boards[name].per_image()
    assert first.boards["M = 2"].per_image() != second.boards["M = 2"].per_image()


def boards(case: Case, sharpness_of: dict[str, float], images: int = 12) -> CaseScores:
    """Masks with a tenth of wrong pixels; `sharpness_of`: how sharply each method's variance marks them."""
    rng = np.random.default_rng(0)
    plan = ScorePlan(classes=("a", "b"), measures=segmentation.MEASURES)
    scoreboards = {name: Scoreboard(plan) for name in sharpness_of}
    for number in range(images):
        label = (rng.random((16, 16)) < 0.1).astype(np.int64)  # class b is what the mask, all a, gets wrong
        for name, sharpness in sharpness_of.items():
            variance = rng.random((16, 16)) * 0.1 + sharpness * label
            p_wrong = np.where(label > 0, 0.2 + 0.2 * sharpness, 0.2)
            maps = dict.fromkeys(segmentation.MEASURES, variance)
            scoreboards[name].update(f"{number}", np.stack([1 - p_wrong, p_wrong]), maps, label)
    return CaseScores(boards=scoreboards, shown=case.test_image(0), estimates={})


def test_a_sharper_uncertainty_is_judged_better_and_a_duller_one_not(case: Case) -> None:
    case_scores = boards(case, {"M = 1": 0.0, "M = 8": 0.5, "M = 16": 0.0, segmentation.TRAINED: 0.0})
    rising = segmentation._larger(case, case_scores, 1, 8, "larger is better")
    falling = segmentation._larger(case, case_scores, 8, 16, "larger is better")
    assert (rising.outcome, falling.outcome) == ("reproduced", "not reproduced")
    assert "better in 3 of 3" in rising.numbers
    assert "worse in 3" in falling.numbers
    assert "PLL +" in rising.numbers
    assert "AUSE -" in rising.numbers


def test_scores_that_do_not_differ_are_inconclusive(case: Case) -> None:
    case_scores = boards(case, {"M = 1": 0.3})
    same = CaseScores(
        boards=dict.fromkeys(("M = 1", "M = 8"), case_scores.boards["M = 1"]), shown=case_scores.shown, estimates={}
    )
    verdict = segmentation._larger(case, same, 1, 8, "larger is better")
    assert verdict.outcome == "inconclusive"
    assert "better in 0 of 3" in verdict.numbers


def test_a_few_images_give_no_verdict(case: Case) -> None:
    case_scores = boards(case, {"M = 1": 0.0, "M = 8": 0.5}, images=3)
    assert segmentation._larger(case, case_scores, 1, 8, "larger is better").outcome == "not testable here"


@pytest.mark.parametrize(
    ("sharpness", "images", "outcome"),
    [(0.5, 12, "reproduced"), (0.0, 12, "inconclusive"), (0.5, 3, "not testable here")],
)
def test_wrong_pixels_have_a_larger_variance_where_the_error_auroc_is_above_a_half(
    case: Case, sharpness: float, images: int, outcome: str
) -> None:
    board = boards(case, {"M = 8": sharpness}, images).boards["M = 8"]
    assert segmentation._errors_are_uncertain(case, board, 8).outcome == outcome


@pytest.mark.slow
def test_the_quick_budget_runs_on_camvid(tmp_path: Path, shared_data: Path) -> None:
    plan = SegmentationPlan(cases={name: Effort(batches=(1, 4), draws=2, images=2) for name in CASES})
    assert len(segmentation.run(tmp_path, budget="quick", data=shared_data, plan=plan)) >= 3
    assert (tmp_path / "segmentation_camvid-enet.png").is_file()
