"""Each measure is its definition: against NumPy in float64, within its range, and in step with a simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import noise, plain_measures
from scipy import special, stats
from torch import Tensor

from segment.errors import ModelRefused, WrongUse
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import (
    MEASURES,
    margin,
    mutual_information,
    needed,
    one_minus_max,
    prediction,
    predictive_entropy,
    standard_error,
    variance,
    variation_ratio,
)
from segment.uncertainty.moments import DrawMoments

HEADS: Any = ("softmax", "sigmoid", "multilabel")
NINE = (
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "variance",
    "predicted_std",
    "one_minus_max",
    "margin",
    "variation_ratio",
    "standard_error",
)


@st.composite
def draws(draw: st.DrawFn, head: str) -> tuple[Tensor, list[float]]:
    """T N K probabilities, among them exact zeros, ones and ties; and weights."""
    count = draw(st.integers(1, 8))
    channels = 1 if head == "sigmoid" else draw(st.integers(2, 5))
    spread = draw(st.sampled_from([0.0, 0.1, 3.0, 1e4]))
    seed = draw(st.integers(0, 10**6))
    weights = draw(st.one_of(st.just([1.0] * count), st.lists(st.floats(0.05, 1), min_size=count, max_size=count)))
    logits = spread * noise(count, 6, channels, seed=seed)
    return torch.stack([probabilities(draw, head) for draw in logits]), weights  # type: ignore[arg-type]


def moments_of(p: Tensor, weights: list[float], head: Any) -> DrawMoments:
    moments = DrawMoments(head)
    for draw, weight in zip(p, weights, strict=True):
        moments.update(draw, weight)
    return moments


def test_the_nine_measures_have_their_names() -> None:
    assert tuple(MEASURES) == NINE


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_measure_is_its_definition_in_float64(head: Any, data: st.DataObject) -> None:
    p, weights = data.draw(draws(head))
    p = p.double()
    moments = moments_of(p, weights, head)
    wanted = plain_measures(p.numpy(), weights, head)
    ties = _near_ties(moments.mean, head)
    for name in NINE:
        if name == "standard_error" and moments.effective_draws <= 1 + 1e-9:
            continue
        measured = MEASURES[name].of(moments).numpy()
        clear = ~ties if name in ("predicted_std", "standard_error") else slice(None)
        np.testing.assert_allclose(measured[clear], wanted[name][clear], rtol=1e-6, atol=1e-9, err_msg=name)


def _near_ties(mean: Tensor, head: str) -> Any:
    """Where rounding decides which class is predicted, whose spread is then another's."""
    if head == "multilabel":
        return np.zeros(len(mean), bool)
    top = mean.topk(2, dim=1).values
    return ((top[:, 0] - top[:, 1]) < 1e-9).numpy()


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_measure_keeps_to_its_range_in_float32(head: Any, data: st.DataObject) -> None:
    p, weights = data.draw(draws(head))
    moments = moments_of(p, weights, head)
    classes = 2 if head == "multilabel" else p.shape[2]
    highest = {
        "predictive_entropy": math.log(classes),
        "expected_entropy": math.log(classes),
        "mutual_information": math.log(classes),
        "variance": (1 - 1 / min(len(p), classes)) / classes,
        "predicted_std": 0.5,
        "one_minus_max": 1 - 1 / classes,
        "margin": 1.0,
        "variation_ratio": 1 - 1 / classes,
    }
    for name, high in highest.items():
        measured = MEASURES[name].of(moments)
        assert measured.shape == (6,)
        assert float(measured.min()) >= (-1e-6 if name in ("one_minus_max", "margin", "variation_ratio") else 0), name
        assert float(measured.max()) <= high + 2e-6, name


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutual_information_is_the_mean_divergence_of_the_draws_from_their_mean(head: Any, data: st.DataObject) -> None:
    """Scipy's relative entropy, which knows neither of the two entropies that ours is the difference of."""
    p, weights = data.draw(draws(head))
    moments = moments_of(p, weights, head)
    predictive, expected, between = (MEASURES[name].of(moments).double().numpy() for name in NINE[:3])
    q = p.double().numpy()
    pairs = np.stack([1 - q, q], axis=-1) if head == "multilabel" else q[:, :, None]  # T N labels K
    w = (np.asarray(weights) / sum(weights))[:, None, None, None]
    wanted = (w * special.rel_entr(pairs, (w * pairs).sum(axis=0))).sum(axis=(0, 3)).mean(axis=1)
    np.testing.assert_allclose(between, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(predictive - expected, wanted, rtol=0, atol=1e-5)  # without what the clamp at 0 hides


@pytest.mark.parametrize(("draws_", "classes"), [(2, 2), (2, 5), (4, 3), (5, 5), (7, 5)])
def test_the_bound_of_variance_is_reached_by_certain_draws_that_disagree(draws_: int, classes: int) -> None:
    bound = (1 - 1 / min(draws_, classes)) / classes
    p = torch.eye(classes, dtype=torch.float64)[torch.arange(draws_) % classes][:, None]
    measured = float(MEASURES["variance"].of(moments_of(p, [1.0] * draws_, "softmax")))
    assert measured <= bound + 1e-12
    if draws_ <= classes or draws_ % classes == 0:
        assert measured == pytest.approx(bound)


def test_the_variance_of_a_sigmoid_is_that_of_its_two_classes_and_of_labels_one_each() -> None:
    labels = torch.tensor([[[0.9]], [[0.2]]], dtype=torch.float64)  # T N 1
    classes = torch.cat([1 - labels, labels], dim=2)
    label = labels.flatten().var(correction=0)
    assert float(variance(moments_of(classes, [1, 1], "sigmoid").variance)) == pytest.approx(float(label))
    assert float(variance(moments_of(labels, [1, 1], "multilabel").variance)) == pytest.approx(float(label))


def test_a_label_head_of_one_is_a_sigmoid_head_in_every_measure() -> None:
    logits = 2 * noise(5, 3, 1, 4, 4).double()
    sigmoid = moments_of(torch.stack([probabilities(z, "sigmoid") for z in logits]), [1, 2, 3, 4, 5], "sigmoid")
    multilabel = moments_of(
        torch.stack([probabilities(z, "multilabel") for z in logits]), [1, 2, 3, 4, 5], "multilabel"
    )
    for name, measure in MEASURES.items():
        torch.testing.assert_close(measure.of(sigmoid), measure.of(multilabel), msg=name)


def test_entropy_is_scipys() -> None:
    p = noise(50, 7).double().softmax(dim=1)
    np.testing.assert_allclose(predictive_entropy(p), stats.entropy(p.numpy(), axis=1), rtol=1e-12)


def test_probabilities_of_exactly_zero_and_one_have_no_entropy() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0]])
    assert predictive_entropy(p).tolist() == [0]
    assert predictive_entropy(p, "multilabel").tolist() == [0]


@pytest.mark.parametrize("head", HEADS)
def test_every_measure_of_a_mean_grows_with_uncertainty(head: Any) -> None:
    sure = torch.linspace(0.5, 1, 20, dtype=torch.float64)[:, None]
    p = sure if head == "multilabel" else torch.cat([sure, 1 - sure], dim=1)
    for measure in (predictive_entropy, one_minus_max, margin):
        assert (measure(p, head).diff() < 0).all()


def test_a_tie_is_predicted_as_its_lowest_class_and_has_the_widest_margin() -> None:
    p = torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    assert prediction(p).tolist() == [0, 1]
    assert margin(p).tolist() == [1, 1]
    assert prediction(torch.tensor([[0.5, 0.49]]), "multilabel").tolist() == [[1, 0]]


def test_a_tied_draw_votes_for_its_lowest_class() -> None:
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.5, 0.5]], [[0.1, 0.1, 0.8]]])
    moments = moments_of(p, [1.0, 1.0, 2.0], "softmax")
    assert moments.votes.tolist() == [[0.25, 0.25, 0.5]]
    assert variation_ratio(moments.votes).tolist() == [0.5]


def test_the_spread_shown_is_the_predicted_classs() -> None:
    p = torch.tensor([[[0.6, 0.1, 0.3]], [[0.6, 0.3, 0.1]]], dtype=torch.float64)
    moments = moments_of(p, [1, 1], "softmax")
    assert float(MEASURES["predicted_std"].of(moments)) == 0
    assert float(MEASURES["variance"].of(moments)) == pytest.approx(2 * 0.01 / 3)


@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2.0, 3.0, 0.5, 1.5]])
@pytest.mark.parametrize("head", ["sigmoid", "multilabel"])
def test_the_standard_error_is_the_spread_of_means_over_many_banks(head: Any, weights: list[float]) -> None:
    """100,000 banks of 5 draws, one a pixel: the mean of its square is the variance of the banks' means."""
    p = torch.special.expit(1.5 * noise(5, 100_000, 1).double() + 0.4)
    p = p if head == "multilabel" else torch.cat([1 - p, p], dim=2)
    moments = moments_of(p, weights, head)
    real = float(moments.mean[:, -1].var(correction=1))
    assert float(MEASURES["standard_error"].of(moments).square().mean()) == pytest.approx(real, rel=0.02)


def test_one_draw_has_no_standard_error() -> None:
    moments = moments_of(torch.tensor([[[0.4, 0.6]]]), [1.0], "softmax")
    with pytest.raises(WrongUse, match="One draw has no standard error"):
        MEASURES["standard_error"].of(moments)
    with pytest.raises(WrongUse, match="two draws or more"):
        standard_error(moments.variance, moments.mean, moments.effective_draws)


def test_mutual_information_never_falls_below_zero_by_rounding() -> None:
    expected = torch.tensor([0.6931472, 0.5])
    assert mutual_information(expected - 1e-7, expected).tolist() == [0, 0]


def test_only_the_sums_that_measures_need_are_asked_for() -> None:
    assert needed(["margin", "predictive_entropy", "one_minus_max"]) == frozenset()
    assert needed(["variance", "variation_ratio"]) == {"square", "votes"}
    for name in NINE:
        moments = DrawMoments(keep=needed([name]))
        for seed in range(2):
            moments.update(noise(2, 3, seed=seed).softmax(dim=1))
        assert MEASURES[name].of(moments).shape == (2,)


def test_a_misspelt_measure_is_refused_with_the_near_one() -> None:
    with pytest.raises(WrongUse, match=r"No measure is called 'variense'. Near: 'variance'. Known: predictive_entropy"):
        needed(["variense"])


def test_another_word_for_a_head_is_refused_and_not_taken_as_multi_label() -> None:
    with pytest.raises(ModelRefused, match=r"No head is called 'Softmax'\. Known: softmax, sigmoid, multilabel"):
        probabilities(torch.zeros(1, 3), "Softmax")  # type: ignore[arg-type]
