"""Laws of the choice: no scaling is scored on what it was fitted on, a search stays in budget, one pass wins ties."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from segment.errors import PredictionFailed
from segment.methods.method import OnePass
from segment.report.tuned_page import candidate_rows, tuned_words
from segment.tuning.choice import (
    Candidate,
    candidate,
    choose,
    folds,
    halving_loss,
    loses_masks,
    pareto,
)
from segment.tuning.halving import BUDGET, FOR, rungs
from segment.tuning.samples import GRID, ImageSample, MethodSamples, Pooled, fitted_temperature, in_common


class Sharpened(OnePass):
    """Passes whose logits are too sharp by a factor: the right temperature is that factor."""

    name, random, note = "sharpened", False, ""

    def __init__(self, factor: float, draws: int = 1, noise: float = 0.0) -> None:
        self.factor, self.draws, self.noise = factor, draws, noise

    def __call__(self, images: Tensor) -> Any:
        for t in range(self.draws):
            generator = torch.Generator().manual_seed(t)
            yield 1 / self.draws, self.factor * (images + self.noise * torch.randn(images.shape, generator=generator))


def filled(method: Sharpened, count: int = 12, prefixes: tuple[int, ...] = (1,)) -> MethodSamples:
    samples = MethodSamples("softmax", prefixes)
    for number in range(count):
        rng = np.random.default_rng(number)
        logits = torch.from_numpy(rng.normal(size=(1, 3, 24, 24)).astype(np.float32) * 2)
        p = logits.softmax(dim=1)[0].numpy()
        label = (rng.random((24, 24))[None] > p.cumsum(axis=0)).sum(axis=0).clip(max=2)
        samples.add(f"s{number:02d}", method, logits, label, np.ones((24, 24), dtype=np.bool_), keep=True)
    return samples


def plain_loss(samples: MethodSamples, draws: int) -> float:
    """The mean NLL without a scaling."""
    at, plain = samples.prefixes.index(draws), int(np.flatnonzero(GRID == 1.0)[0])
    return float(np.mean([sample.nll[at, plain] for sample in samples.images.values()]))


PARTS = folds([f"s{number:02d}" for number in range(12)], {})


def test_the_temperature_that_undoes_the_sharpening_is_chosen_and_its_nll_is_that_of_the_probabilities() -> None:
    samples = filled(Sharpened(2.0))
    assert float(GRID[fitted_temperature(samples, 1, samples.images)]) == pytest.approx(2.0, rel=0.1)
    warm = candidate(samples, "a", 1, "temperature", PARTS)
    plain = candidate(samples, "a", 1, "", PARTS)
    assert warm.mean < plain.mean
    assert plain.mean == pytest.approx(plain_loss(samples, 1), abs=1e-5)
    assert warm.mean == pytest.approx(halving_loss(samples, 1), abs=0.01)
    assert warm.ece is not None
    assert plain.ece is not None
    assert warm.ece < plain.ece
    assert warm.ause == pytest.approx(plain.ause, abs=0.02)  # a temperature hardly changes an order


def test_an_image_with_outputs_that_are_not_finite_is_no_sample_and_arms_compare_on_images_that_all_have() -> None:
    class Broken(Sharpened):
        def __call__(self, images: Tensor) -> Any:
            for weight, output in super().__call__(images):
                output[..., 0, 0] = torch.nan  # a pixel that is not sampled
                yield weight, output

    known = np.ones((24, 24), dtype=np.bool_)
    samples = MethodSamples("softmax", (1,))
    with pytest.raises(PredictionFailed, match="not finite"):
        samples.add("s", Broken(1.0), torch.zeros(1, 3, 24, 24), np.zeros((24, 24), np.int64), known, keep=False)
    assert samples.images == {}
    whole, most, few = filled(Sharpened(1.0)), filled(Sharpened(2.0)), filled(Sharpened(2.0), count=5)
    del most.images["s03"]
    common = in_common({"whole": whole, "few": few, "most": most})
    assert {name: len(samples.images) for name, samples in common.items()} == {"whole": 11, "most": 11}
    assert "s03" not in common["whole"].images
    assert len(whole.images) == 12
    assert in_common({"none": MethodSamples("softmax", (1,))}) == {}


def test_the_first_draws_are_a_run_of_their_own() -> None:
    both = filled(Sharpened(1.0, draws=4, noise=1.0), prefixes=(2, 4))
    fewer = filled(Sharpened(1.0, draws=2, noise=1.0), prefixes=(2,))
    for name, sample in both.images.items():
        np.testing.assert_allclose(sample.nll[0], fewer.images[name].nll[0], atol=1e-5)


def test_draws_count_by_their_weights_in_every_score_and_in_a_scaling() -> None:
    class Weighted(Sharpened):
        def __call__(self, images: Tensor) -> Any:
            outputs = [output for _, output in super().__call__(images)]
            return zip((0.85, 0.05, 0.05, 0.05), outputs, strict=True)

    class Repeated(Sharpened):  # the same mixture of equal draws
        def __call__(self, images: Tensor) -> Any:
            first, *others = [output for _, output in super().__call__(images)]
            return ((1 / 20, output) for output in [*[first] * 17, *others])

    weighted = filled(Weighted(1.0, draws=4, noise=2.0), prefixes=(4,))
    repeated = filled(Repeated(1.0, draws=4, noise=2.0), prefixes=(20,))
    equal = filled(Sharpened(1.0, draws=4, noise=2.0), prefixes=(4,))
    for scaling in ("", "temperature", "vector_scaling"):
        one, other = (candidate(s, "a", s.prefixes[0], scaling, PARTS) for s in (weighted, repeated))
        assert one.nll == pytest.approx(other.nll, rel=1e-3)
        assert (one.ause, one.ece) == pytest.approx((other.ause, other.ece), abs=2e-3)
        assert one.mean != pytest.approx(candidate(equal, "a", 4, scaling, PARTS).mean, rel=1e-2)
    assert candidate(weighted, "a", 4, "", PARTS).mean == pytest.approx(plain_loss(weighted, 4), rel=1e-5)


def test_frames_of_a_few_groups_are_no_evidence_of_a_gain() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    nll = {f"g{number // 20}_{number}": 0.5 for number in range(40)}
    masks = dict.fromkeys(nll, np.ones((3, 2), dtype=np.int64))
    plain = Candidate("deterministic", 1, "", nll, None, None, masks)
    better = replace(plain, arm="mcbn", passes=4, nll=dict(zip(nll, 0.4 + noise, strict=True)))
    assert choose([plain, better]).chosen is better
    by_group = choose([plain, better], groups={name: name[:2] for name in nll})
    assert by_group.chosen is plain  # two groups, which no test can tell apart
    assert by_group.gain is not None
    assert by_group.gain.images == 2
    words = tuned_words(by_group, 40, 1.0)
    assert re.search(r"It is the best of one pass\. The best of all, .*; whether .* cannot be tested\.", words)
    assert "2 groups can show no difference: 6 are the least." in words
    assert "as good" not in words
    cheapest = choose([plain, better], "cheapest", groups={name: name[:2] for name in nll})
    assert cheapest.chosen is plain
    assert "2 groups can show no difference" in tuned_words(cheapest, 40, 1.0)


def test_a_scaling_is_never_scored_on_the_images_that_it_was_fitted_on() -> None:
    samples = filled(Sharpened(1.0), count=10)
    odd = filled(Sharpened(6.0), count=10)
    samples.images["s09"] = odd.images["s09"]  # an image unlike all others: its own temperature would be 6
    parts = [["s09"], [name for name in samples.images if name != "s09"]]
    held_out = candidate(samples, "a", 1, "temperature", parts)
    plain = candidate(samples, "a", 1, "", parts)
    assert held_out.nll["s09"] == pytest.approx(plain.nll["s09"], rel=0.15)


def test_groups_are_never_divided_and_every_image_is_held_out_once() -> None:
    ids = [f"g{group}_{number}" for group in range(7) for number in range(4)]
    groups = {name: name.split("_")[0] for name in ids}
    parts = folds(ids, groups)
    assert sorted(name for part in parts for name in part) == sorted(ids)
    for part in parts:
        whole = {groups[name] for name in part}
        assert {name for name in ids if groups[name] in whole} == set(part)
    few = {name: name.split("_")[0] for name in ids[:12]}
    assert folds(ids[:12], few, whole=True) == [ids[:4], ids[4:8], ids[8:12]]
    blocks = folds(ids, dict.fromkeys(ids, "one sequence"))
    assert all(part == sorted(part) for part in blocks)
    assert len(blocks) == 5


@pytest.mark.parametrize("arms", [1, 2, 3, 8, 24])
@pytest.mark.parametrize("images", [40, 101, 400])
def test_a_search_costs_less_than_thirty_passes_over_every_image(arms: int, images: int) -> None:
    steps = rungs(arms, images, 16, 3)
    cost = (sum(rung.cost for rung in steps) + 3 * images) / images
    limit = BUDGET * 16 / FOR
    assert cost <= limit
    assert steps[-1].images == images
    assert steps[-1].draws == 16


def test_a_rung_has_a_pass_for_each_view_and_its_cost_counts_them() -> None:
    for views in (1, 2, 3):
        steps = rungs(8, 200, 8, 3, views)
        assert all(rung.draws >= views for rung in steps)
        assert sum(rung.cost for rung in steps) / 200 + 3 <= BUDGET * 8 / FOR


def of(name: str, passes: int, values: list[float]) -> Candidate:
    masks = {f"s{i}": np.array([[90, 8], [100, 10], [92, 8]]) for i in range(len(values))}
    return Candidate(name, passes, "", {f"s{i}": value for i, value in enumerate(values)}, 0.1, 0.1, masks)


def test_one_pass_is_run_where_more_is_not_significantly_better_and_not_where_it_is() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(40)
    single = of("deterministic", 1, base.tolist())
    little = of("mcbn", 16, (base - 0.001 + rng.normal(0, 0.05, 40)).tolist())
    much = of("mcbn", 16, (base - 0.1 + rng.normal(0, 0.05, 40)).tolist())
    assert choose([single, little]).chosen is single
    clear = choose([single, little, much])
    assert clear.chosen is much
    assert clear.gain is not None
    assert clear.gain.difference.high is not None
    assert clear.gain.difference.high < 0
    alone = choose([single, of("mcbn", 16, (base + 1).tolist())])
    assert (alone.chosen, alone.gain) == (single, None)


def test_an_arm_competes_with_all_of_its_draws_however_well_the_first_ones_suit_the_images() -> None:
    single, lucky = of("deterministic", 1, [0.5] * 12), of("mcbn", 8, [0.30] * 12)
    whole, other = of("mcbn", 16, [0.32] * 12), of("tta", 2, [0.4] * 12)
    assert choose([single, lucky, whole, other]).chosen is whole


def test_the_cheapest_rule_takes_the_fewest_passes_without_a_significant_loss_and_says_what_they_cost() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(60)

    def worse(by: float, spread: float = 0.02) -> list[float]:
        return (base + by + rng.normal(0, spread, 60)).tolist()

    single, pair = of("deterministic", 1, worse(0.1)), of("tta", 2, worse(0.05))
    draws = [
        of("mcbn", 1, worse(0.0)),
        of("mcbn", 2, worse(0.03)),
        of("mcbn", 4, worse(0.001)),
        of("mcbn", 8, worse(0)),
    ]
    whole = of("mcbn", 16, (base - 0.001).tolist())
    candidates = [single, pair, *draws, whole]
    best, cheapest = choose(candidates), choose(candidates, "cheapest")
    assert best.chosen is best.best is whole
    assert cheapest.chosen is best.cheapest is draws[2], "one draw of many is no setting"
    loss = cheapest.loss
    assert loss is not None
    assert loss.difference.low is not None
    assert loss.difference.low <= 0
    assert cheapest.missed is not None
    noise = np.array(list(draws[2].nll.values())) - np.array(list(whole.nll.values()))
    assert cheapest.missed == pytest.approx(2.8016 * noise.std(ddof=1) / 60**0.5, rel=1e-4)
    words = tuned_words(cheapest, 60, 20.0)
    assert "The rule is `cheapest`" in words
    assert f"12 passes fewer cost {loss.difference.value:+.4f} (" in words
    assert "`--rule cheapest` would take mcbn, 4 passes, at a cost of" in tuned_words(best, 60, 20.0)


def test_nothing_cheaper_is_taken_where_everything_cheaper_is_significantly_worse() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(40)
    single, whole = of("deterministic", 1, (base + 0.1).tolist()), of("mcbn", 16, base.tolist())
    choice = choose([single, whole], "cheapest")
    assert (choice.chosen, choice.loss, choice.missed) == (whole, None, None)
    assert "every setting of fewer passes that could be taken is significantly worse" in tuned_words(choice, 40, 20.0)
    lucky = of("mcbn", 2, (base - 0.01).tolist())  # of a bank whose 16 draws are worse
    pair = of("tta", 2, base.tolist())
    assert choose([single, lucky, pair, of("mcbn", 16, (base + 0.01).tolist())], "cheapest").chosen is pair
    lowest = choose([single, of("mcbn", 16, (base + 1).tolist())], "cheapest")
    assert (lowest.chosen, lowest.loss) == (single, None)


def test_the_front_holds_what_nothing_as_cheap_beats() -> None:
    cheap, worse, better = of("a", 1, [0.5, 0.5]), of("b", 2, [0.6, 0.6]), of("c", 4, [0.4, 0.4])
    assert pareto([better, worse, cheap]) == (cheap, better)


def test_a_setting_whose_masks_lose_a_rare_class_is_refused_whatever_its_nll() -> None:
    plain = of("deterministic", 1, [0.5] * 12)
    lost = {name: np.array([[100, 0], [100, 10], [110, 0]]) for name in plain.masks}
    vanishing = replace(of("scaled", 1, [0.1] * 12), masks=lost)
    same = of("mcbn", 16, [0.4] * 12)
    choice = choose([plain, vanishing, same])
    assert choice.refused == (vanishing,)
    assert choice.chosen is same
    assert vanishing not in choice.front
    one_image = {name: lost[name] if name == "s3" else counts for name, counts in plain.masks.items()}
    assert not loses_masks(plain, replace(vanishing, masks=one_image))  # one image proves nothing
    few = {name: lost[name] for name in [*lost][:5]}
    assert not loses_masks(plain, replace(vanishing, masks=few))  # nor do five that agree
    pairs = {name: name if name == "s11" else "all the others" for name in lost}
    assert not loses_masks(plain, vanishing, pairs)
    for label, predicted in ((1, 1), (0, 1)):  # a third class, labelled in one image, or predicted there alone
        third = np.array([[0], [label], [predicted]])
        more = [
            {
                name: np.hstack([counts, third if name == "s3" else np.zeros((3, 1), int)])
                for name, counts in each.masks.items()
            }
            for each in (plain, vanishing)
        ]
        assert loses_masks(replace(plain, masks=more[0]), replace(vanishing, masks=more[1]))


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_mask_counts_are_those_of_the_scoreboard(head: Literal["softmax", "multilabel"]) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((3, 50)) if head == "multilabel" else rng.dirichlet(np.ones(3), 50).T
    truth = (rng.random((3, 50)) < 0.5 if head == "multilabel" else rng.integers(0, 3, 50)).astype(np.int64)
    known = np.ones_like(truth, dtype=np.bool_)
    sample = ImageSample(np.zeros((1, 1)), 50, None, torch.from_numpy(truth), torch.from_numpy(known))
    pooled = Pooled()
    pooled.add("a", torch.from_numpy(p.astype(np.float32)), sample, head)
    for k in range(3):
        true, predicted = (truth[k], p[k] >= 0.5) if head == "multilabel" else (truth == k, p.argmax(axis=0) == k)
        assert pooled.masks["a"][:, k].tolist() == [(true & predicted).sum(), true.sum(), predicted.sum()]


@pytest.mark.parametrize("case", ["all right", "all wrong", "one class", "one pixel"])
@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("scaling", ["", "temperature", "vector_scaling"])
def test_degenerate_images_are_chosen_on_with_a_sentence_and_without_nan(case: str, count: int, scaling: str) -> None:
    samples = MethodSamples("softmax", (1,))
    side = 1 if case == "one pixel" else 8
    for number in range(count):
        logits = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(number))
        mask = logits[0].argmax(dim=0).numpy()
        label = {"all wrong": (mask + 1) % 3, "one class": np.zeros_like(mask)}.get(case, mask)
        known = np.ones((side, side), dtype=np.bool_)
        samples.add(f"s{number}", Sharpened(1.0), logits, label, known, keep=True)
    parts = folds(sorted(samples.images), {name: name for name in samples.images})  # groups of one image
    assert all(len(part) == 1 for part in parts) or count > 5
    plain, other = (candidate(samples, name, 1, of, parts) for name, of in (("a", ""), ("b", scaling)))
    choice = choose([plain, other])
    content = json.dumps([plain.as_dict(), other.as_dict(), choice.chosen.as_dict()], allow_nan=False)
    assert "NaN" not in content
    words = tuned_words(choice, count, 1.0)
    assert words.startswith(f"Chosen: {choice.chosen.name}")
    assert f"{count} images {'are few' if count == 6 else 'can show no difference'}" in words
    assert "nan" not in words.split()
    assert all("nan" not in cell for row in candidate_rows([plain, other], choice) for cell in row)
