"""Scores as a torchmetrics Metric: equal to the scoreboard, mergeable; and any Metric fed from the draws."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import noise
from small_networks import network_of
from torch import Tensor, distributed, multiprocessing
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassCalibrationError, MulticlassJaccardIndex

import segment
from segment.errors import ImageUnreadable, WrongUse
from segment.integrations.metrics import UncertaintyScores
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

CLASSES = 4


def probabilities(images: int, seed: int = 0) -> tuple[Tensor, Tensor]:  # N K H W, N H W
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(images, CLASSES, 16, 16, generator=generator), dim=1)
    return p, torch.randint(0, CLASSES, (images, 16, 16), generator=generator)


def test_the_metric_is_the_scoreboard_and_torchmetrics_agrees() -> None:
    p, labels = probabilities(5)
    metric = UncertaintyScores(CLASSES)
    metric.update(p[:2], labels[:2])
    metric.update(p[2:], labels[2:])
    scores = metric.compute()
    board = Scoreboard(ScorePlan(classes=("a", "b", "c", "d"), measures=("predictive_entropy",)))
    entropy = -(p * p.log()).sum(dim=1)
    for index in range(5):
        board.update(str(index), p[index], {"predictive_entropy": entropy[index]}, labels[index])
    expected = board.compute()["scores"]
    for name in ("nll", "miou", "error_auroc.predictive_entropy", "aurc.predictive_entropy"):
        assert float(scores[name]) == pytest.approx(expected[name]["value"], abs=1e-6), name
    theirs = MulticlassJaccardIndex(CLASSES)
    assert float(scores["miou"]) == pytest.approx(float(theirs(p, labels)), abs=1e-5)
    calibration = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1")
    assert float(scores["ece"]) == pytest.approx(float(calibration(p, labels)), abs=1e-4)


def test_two_merged_halves_equal_one_metric_and_reset_forgets() -> None:
    p, labels = probabilities(4)
    whole, half, other = UncertaintyScores(CLASSES), UncertaintyScores(CLASSES), UncertaintyScores(CLASSES)
    whole.update(p, labels)
    half.update(p[:1], labels[:1])
    other.update(p[1:], labels[1:])
    half.merge(other)
    for name, value in whole.compute().items():
        torch.testing.assert_close(half.compute()[name], value, msg=name)
    torch.testing.assert_close(other.compute()["nll"], _nll(p[1:], labels[1:]))  # the other one is as it was
    half.reset()
    half.update(p[:1], labels[:1])
    torch.testing.assert_close(half.compute()["nll"], _nll(p[:1], labels[:1]))


def _nll(p: Tensor, labels: Tensor) -> Tensor:
    return -p.gather(1, labels[:, None]).log().double().mean()


def test_it_works_in_a_collection_and_a_step_gives_the_batch_alone() -> None:
    p, labels = probabilities(3)
    collection = MetricCollection({"ours": UncertaintyScores(CLASSES, scores=("nll",))})
    step = collection(p[:1], labels[:1])
    collection(p[1:], labels[1:])
    torch.testing.assert_close(step["nll"], _nll(p[:1], labels[:1]))
    torch.testing.assert_close(collection.compute()["nll"], _nll(p, labels))


def test_an_ignored_label_is_not_scored_and_a_score_without_value_is_nan() -> None:
    p, labels = probabilities(1)
    labels[0, :8] = 255
    metric = UncertaintyScores(CLASSES, ignore_index=255, scores=("nll",))
    metric.update(p, labels)
    torch.testing.assert_close(metric.compute()["nll"], _nll(p[:, :, 8:], labels[:, 8:]))
    right = UncertaintyScores(CLASSES)
    right.update(
        torch.nn.functional.one_hot(torch.tensor([[0, 1]]), CLASSES).permute(2, 0, 1).float(), torch.tensor([[0, 1]])
    )
    assert math.isnan(float(right.compute()["error_auroc.predictive_entropy"]))  # without errors nothing is ranked


def test_estimates_are_counted_with_all_their_maps_and_any_metric_takes_the_draws() -> None:
    network = network_of()
    images = noise(6, 3, 32, 32, seed=3)
    bank = segment.fit_bank(network, images, batch=2, draws=3)
    mcbn = segment.MCBN(network, bank, precision="fp32")
    labels = torch.randint(0, CLASSES, (2, 32, 32), generator=torch.Generator().manual_seed(1))
    estimate = mcbn(images[:2])
    one, several = (UncertaintyScores(CLASSES, measures=("mutual_information", "variance")) for _ in range(2))
    several.update(estimate, labels)
    in_numpy = UncertaintyScores(CLASSES, measures=("mutual_information", "variance"))
    in_numpy.update(estimate.numpy(), labels)
    assert in_numpy.compute() == several.compute()
    for index in range(2):
        one.update(mcbn(images[index]), labels[index])
    for name, value in several.compute().items():
        torch.testing.assert_close(one.compute()[name], value, atol=1e-5, rtol=1e-5, msg=name)
    # the recipe of docs/python.md: each draw's own score, and that of their mean
    of_draws = MulticlassJaccardIndex(CLASSES)
    for draw in mcbn.draws(images[0]):
        of_draws.update(draw[None], labels[:1])
    of_mean = MulticlassJaccardIndex(CLASSES)
    of_mean.update(estimate.probability[:1], labels[:1])
    single = np.mean([float(MulticlassJaccardIndex(CLASSES)(draw[None], labels[:1])) for draw in mcbn.draws(images[0])])
    assert float(of_draws.compute()) == pytest.approx(single, abs=0.05)  # pooled pixels against a mean of scores
    assert 0 <= float(of_mean.compute()) <= 1


def test_an_unknown_measure_or_score_is_refused_in_one_line() -> None:
    with pytest.raises(WrongUse, match="No measure is called 'entropy'"):
        UncertaintyScores(2, measures=("entropy",))
    metric = UncertaintyScores(CLASSES, scores=("niou",))
    metric.update(*probabilities(1))
    with pytest.raises(WrongUse, match="No score is called 'niou'"):
        metric.compute()


@pytest.mark.parametrize(("predictions", "label_maps"), [(3, 2), (2, 3), (3, 1)])
def test_another_number_of_labels_than_of_predictions_is_refused_before_any_is_counted(
    predictions: int, label_maps: int
) -> None:
    p, labels = probabilities(3)
    metric = UncertaintyScores(CLASSES)
    wrong = labels[0] if label_maps == 1 else labels[:label_maps]
    with pytest.raises(WrongUse, match=f"There are {predictions} predictions, and label maps for {label_maps}; give"):
        metric.update(p[:predictions], wrong)
    assert metric.board.images == 0
    metric.update(p, labels)
    torch.testing.assert_close(metric.compute()["nll"], _nll(p, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_entropy_of_half_precision_probabilities_is_computed_in_float32(dtype: torch.dtype) -> None:
    p, labels = probabilities(4)
    half, exact = (UncertaintyScores(CLASSES) for _ in range(2))
    half.update(p.to(dtype), labels)
    exact.update(p.to(dtype).float(), labels)
    for name, value in exact.compute().items():
        assert float(half.compute()[name]) == float(value), name


def test_a_merge_after_a_score_counts_and_a_step_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, labels = probabilities(3)
    first, other = (UncertaintyScores(CLASSES, scores=("nll",)) for _ in range(2))
    first.update(p[:1], labels[:1])
    other.update(p[1:], labels[1:])
    first.compute()
    first.merge(other)
    torch.testing.assert_close(first.compute()["nll"], _nll(p, labels))

    def gathered(board: object) -> None:
        raise AssertionError("a step asks no other process")

    monkeypatch.setattr("segment.integrations.metrics._gathered", gathered)
    torch.testing.assert_close(first(p[:1], labels[:1])["nll"], _nll(p[:1], labels[:1]))


def test_a_batch_that_is_refused_leaves_no_image_counted() -> None:
    p, labels = probabilities(4)
    metric, right = UncertaintyScores(CLASSES), UncertaintyScores(CLASSES)
    wrong = labels.clone()
    wrong[3, 0, 0] = 77
    for count in (metric.update, metric):
        with pytest.raises(ImageUnreadable, match="77"):
            count(p, wrong)
    metric.update(p, labels)
    right.update(p, labels)
    assert metric.compute() == right.compute()
    assert metric.board.images == 4


def test_a_step_counts_its_batch_once() -> None:
    p, labels = probabilities(4)
    metric, right = UncertaintyScores(CLASSES), UncertaintyScores(CLASSES)
    metric.update(p[:1], labels[:1])
    first = metric.compute()
    metric(p[1:], labels[1:])
    right.update(p, labels)
    assert metric.compute() == right.compute() != first
    assert metric.update_count == 2


def test_its_images_are_in_no_state_dict_and_it_says_so() -> None:
    metric = UncertaintyScores(CLASSES)
    assert metric.state_dict() == {}
    with pytest.raises(WrongUse, match="pickle the metric"):
        metric.persistent(True)
    metric.update(*probabilities(2))
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()


def _in_groups_of_one(rank: int, address: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    groups = [distributed.new_group([each]) for each in range(2)]
    p, labels = probabilities(2)
    metric = UncertaintyScores(CLASSES, process_group=groups[rank])
    metric.update(p[rank : rank + 1], labels[rank : rank + 1])
    torch.save({name: float(value) for name, value in metric.compute().items()}, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_scores_are_gathered_from_the_processes_of_its_group(tmp_path: Path) -> None:
    multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _in_groups_of_one, (f"file://{tmp_path}/meet", str(tmp_path)), 2
    )
    p, labels = probabilities(2)
    for rank in range(2):
        alone = UncertaintyScores(CLASSES)
        alone.update(p[rank : rank + 1], labels[rank : rank + 1])
        expected = {name: pytest.approx(float(value), nan_ok=True) for name, value in alone.compute().items()}
        assert torch.load(tmp_path / f"{rank}.pt") == expected
