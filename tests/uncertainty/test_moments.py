"""Moments over draws equal those of all draws at hand, however they come and whatever is merged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import noise, plain_measures
from torch import Tensor

from segment.errors import ModelRefused, WrongUse
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.moments import KEPT, DrawMoments, entropy

HEADS: Any = ("softmax", "sigmoid", "multilabel")


def draws_of(head: Any, draws: int, classes: int = 4, seed: int = 0, scale: float = 3.0) -> Tensor:  # T N K H W
    channels = 1 if head == "sigmoid" else classes
    logits = scale * noise(draws, 2, channels, 3, 5, seed=seed).double()
    return torch.stack([probabilities(draw, head) for draw in logits])


def added(head: Any, draws: Tensor, weights: Any = None, keep: Any = KEPT) -> DrawMoments:
    moments = DrawMoments(head, keep)
    for p, weight in zip(draws, [1.0] * len(draws) if weights is None else weights, strict=True):
        moments.update(p, weight)
    return moments


def assert_same(first: DrawMoments, second: DrawMoments, tolerance: float = 1e-12) -> None:
    assert first.draws == second.draws
    assert first.weight == pytest.approx(second.weight)
    assert first.effective_draws == pytest.approx(second.effective_draws)
    for name in ("mean", "variance", "expected_entropy", "votes"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.floats(0.01, 5), min_size=1, max_size=6))
def test_moments_are_those_of_all_draws_at_hand(head: Any, weights: list[float]) -> None:
    p = draws_of(head, len(weights))
    moments = added(head, p, weights)
    w = np.array(weights) / np.sum(weights)
    mean = np.average(p, axis=0, weights=w)
    np.testing.assert_allclose(moments.mean, mean, atol=1e-14)
    np.testing.assert_allclose(moments.variance, np.average((p.numpy() - mean) ** 2, axis=0, weights=w), atol=1e-14)
    expected = plain_measures(p.numpy(), weights, head)["expected_entropy"]
    np.testing.assert_allclose(moments.expected_entropy, expected, atol=1e-13)
    if head == "multilabel":
        votes = np.average(p.numpy() >= 0.5, axis=0, weights=w)
    else:
        votes = np.average(p.numpy().argmax(axis=2)[:, :, None] == np.arange(p.shape[2])[:, None, None], 0, w)
    np.testing.assert_allclose(moments.votes, votes, atol=1e-14)
    assert moments.effective_draws == pytest.approx(1 / (w**2).sum())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_draws_have_exactly_no_spread_and_no_mutual_information(head: Any, dtype: torch.dtype) -> None:
    draw = draws_of(head, 1).to(dtype)
    moments = added(head, draw.expand(7, *draw.shape[1:]), [0.3, 1.7, 0.01, 5.0, 1 / 3, 0.1, 0.7])
    assert torch.equal(moments.mean, draw[0])
    assert not moments.variance.any()
    for name in ("variance", "predicted_std", "mutual_information", "variation_ratio", "standard_error"):
        if name == "variation_ratio":  # a share of summed weights, so rounding is allowed
            assert MEASURES[name].of(moments).abs().max() < 1e-6
        else:
            assert not MEASURES[name].of(moments).any(), name


@pytest.mark.parametrize("head", HEADS)
def test_one_draw_has_exactly_no_spread_and_no_mutual_information(head: Any) -> None:
    moments = added(head, draws_of(head, 1).float(), [0.37])
    assert not moments.variance.any()
    assert not MEASURES["mutual_information"].of(moments).any()


@pytest.mark.parametrize(("deviation", "allowed"), [(1e-3, 1e-4), (1e-4, 2e-3)])
def test_small_variances_do_not_cancel_in_float32(deviation: float, allowed: float) -> None:
    """Variances of 1e-6 and 1e-8 around .5 at T = 32, where sums of p and p^2 in float32 are far off."""
    first = 0.5 + deviation * noise(32, 4, 1, 50, 50)
    p = torch.cat([first, 1 - first], dim=2)
    exact = p.double().var(dim=0, correction=0)
    computed = added("softmax", p).variance
    assert computed.dtype == torch.float32
    error = float((computed.double() - exact).abs().mean() / exact.mean())
    plain = p.square().mean(dim=0) - p.mean(dim=0) ** 2
    assert error < allowed
    assert float((plain.double() - exact).abs().mean() / exact.mean()) > 0.02


def test_a_long_run_in_float32_stays_at_the_float64_one() -> None:
    p = draws_of("softmax", 2000).float()
    single, double = added("softmax", p), added("softmax", p.double())
    for name in ("mean", "variance", "expected_entropy", "votes"):
        torch.testing.assert_close(getattr(single, name).double(), getattr(double, name), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_half_precision_never_reaches_the_sums(head: Any, dtype: torch.dtype) -> None:
    logits = noise(2, 1 if head == "sigmoid" else 3, 4, 4).to(dtype)
    p = probabilities(logits, head)
    assert p.dtype == torch.float32
    for given_as in (p, p.to(dtype)):  # also where a caller's own draws are in half precision
        moments = added(head, torch.stack([given_as, given_as]))
        for name in ("mean", "variance", "expected_entropy", "votes"):
            assert getattr(moments, name).dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.floats(0.01, 5), min_size=2, max_size=7), data=st.data())
def test_merged_parts_equal_one_run(weights: list[float], data: st.DataObject) -> None:
    head = data.draw(st.sampled_from(HEADS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(weights)), max_size=3)))
    p = draws_of(head, len(weights))
    merged = DrawMoments(head)
    for start, end in zip([0, *cuts], [*cuts, len(weights)], strict=True):
        merged.merge(added(head, p[start:end], weights[start:end]))
    assert_same(merged, added(head, p, weights))


def test_two_empty_ones_merged_stay_empty_and_still_take_draws() -> None:
    moments = DrawMoments()
    moments.merge(DrawMoments())
    assert (moments.draws, moments.weight, moments.effective_draws) == (0, 0.0, 0.0)
    with pytest.raises(WrongUse, match="No draw was added yet"):
        _ = moments.mean
    p = draws_of("softmax", 3)
    for draw in p:
        moments.update(draw)
    assert_same(moments, added("softmax", p))


def test_merging_an_empty_one_changes_nothing_either_way() -> None:
    p = draws_of("softmax", 3)
    full, empty = added("softmax", p), DrawMoments()
    full.merge(DrawMoments())
    empty.merge(full)
    assert_same(full, added("softmax", p))
    assert_same(empty, full)


def test_merging_leaves_the_other_as_it_was_and_shares_no_memory_with_it() -> None:
    p = draws_of("softmax", 4)
    merged, other = DrawMoments(), added("softmax", p[:2])
    merged.merge(other)
    merged.update(p[2], 3.0)
    merged.mean.add_(1)
    assert_same(other, added("softmax", p[:2]))


def test_a_draw_that_is_overwritten_later_was_copied_in() -> None:
    p = draws_of("softmax", 2)
    wanted = added("softmax", p.clone())
    moments, buffer = DrawMoments(), torch.empty_like(p[0])
    for draw in p:
        buffer.copy_(draw)
        moments.update(buffer)
        assert torch.equal(buffer, draw)
    buffer.zero_()
    assert_same(moments, wanted)


def test_the_order_of_draws_changes_moments_by_rounding_only() -> None:
    p = draws_of("softmax", 9)
    assert_same(added("softmax", p), added("softmax", p.flip(0)), 1e-12)
    assert_same(added("softmax", p.float()), added("softmax", p.flip(0).float()), 1e-6)


def test_a_draw_of_no_weight_changes_nothing() -> None:
    p = draws_of("softmax", 3)
    assert_same(added("softmax", p, [1.0, 0.0, 2.0]), added("softmax", p[[0, 2]], [1.0, 2.0]))
    assert added("softmax", p[:1], [0.0]).draws == 0


def test_scaling_all_weights_changes_no_measure() -> None:
    p = draws_of("softmax", 4)
    first, second = added("softmax", p, [1, 2, 3, 4]), added("softmax", p, [0.1, 0.2, 0.3, 0.4])
    for name, measure in MEASURES.items():
        torch.testing.assert_close(measure.of(first), measure.of(second), msg=name)


def test_what_is_not_kept_is_refused_by_name_and_costs_no_memory() -> None:
    moments = added("softmax", draws_of("softmax", 2), keep=("votes",))
    assert moments.mean.shape == moments.votes.shape
    with pytest.raises(WrongUse, match="'square' was not kept; kept: votes"):
        _ = moments.variance
    with pytest.raises(WrongUse, match="'expected_entropy' was not kept"):
        _ = moments.expected_entropy


def test_moments_of_other_heads_or_sums_do_not_merge() -> None:
    with pytest.raises(WrongUse, match="same head that keep the same sums"):
        DrawMoments("softmax").merge(DrawMoments("multilabel"))
    with pytest.raises(WrongUse, match="same head that keep the same sums"):
        DrawMoments(keep=("square",)).merge(DrawMoments())


def test_reset_moments_are_as_new() -> None:
    p = draws_of("softmax", 3)
    moments = added("softmax", p[:2], [4.0, 1.0])
    moments.reset()
    for draw in p:
        moments.update(draw)
    assert_same(moments, added("softmax", p))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (1, 4, 2, 3, 2)])
def test_the_sums_serve_classifiers_and_volumes_too(shape: tuple[int, ...]) -> None:
    p = torch.stack([noise(*shape, seed=seed).double().softmax(dim=1) for seed in range(3)])
    moments = added("softmax", p)
    for name, measure in MEASURES.items():
        wanted = plain_measures(p.numpy(), [1, 1, 1])[name]
        np.testing.assert_allclose(measure.of(moments), wanted, atol=1e-12, err_msg=name)


# --- heads ---


@pytest.mark.parametrize("logit", [-1e4, -80.0, -3.0, 0.0, 3.0, 80.0, 1e4])
def test_probabilities_stay_finite_and_keep_small_ones(logit: float) -> None:
    background, foreground = probabilities(torch.tensor([[logit]]), "sigmoid")[0].double()
    assert float(background) == pytest.approx(math.exp(-np.logaddexp(0, logit)), rel=1e-5, abs=1e-37)
    assert float(foreground) == pytest.approx(math.exp(-np.logaddexp(0, -logit)), rel=1e-5, abs=1e-37)
    p = probabilities(torch.tensor([[logit, 0.0]]), "softmax")
    for head in HEADS[::2]:
        assert bool(torch.isfinite(entropy(p, head)).all())


def test_a_head_that_does_not_fit_the_channels_is_refused_with_what_to_write() -> None:
    with pytest.raises(ModelRefused, match=r"softmax over one channel.*head: sigmoid"):
        probabilities(torch.zeros(1, 1, 2, 2), "softmax")
    with pytest.raises(ModelRefused, match="sigmoid head has one channel, this network gives 3"):
        probabilities(torch.zeros(1, 3, 2, 2), "sigmoid")
