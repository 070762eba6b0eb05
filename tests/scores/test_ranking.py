"""The histograms rank as the sorted pixels do: AUROC, AP, AURC and AUSE against sorting and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from benchmarks.binning import worst_case
from segment.networks.architectures.enet import ENet
from segment.networks.building.weights import load_weights
from segment.scores.functional import detection, rejection
from segment.scores.functional.binning import BINS, bin_of, extremes
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.uncertainty import measures
from segment.uncertainty.moments import DrawMoments

CLOSE = 1e-3


def histogram(values: NDArray[np.float32], wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.bincount(bin_of(values) * np.int64(2) + wrong, minlength=2 * BINS).reshape(1, BINS, 2)


def shared_errors(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Errors in order of the value, each with the mean error of its ties."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=wrong) / count
    return means[np.sort(place)]


def sorted_aurc(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> float:
    errors = shared_errors(values, wrong)
    return float((errors.cumsum() / np.arange(1, len(errors) + 1)).mean())


def sorted_ause(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> float:
    return sorted_aurc(values, wrong) - sorted_aurc(wrong.astype(np.float32), wrong)


def computed_scores(values: NDArray[np.float32], wrong: NDArray[np.bool_]) -> dict[str, float]:
    counts = histogram(values, wrong)
    functions = {"auroc": detection.auroc, "ap": detection.average_precision}
    functions |= {"aurc": rejection.aurc, "ause": rejection.ause}
    return {name: float(function(counts)[0]) for name, function in functions.items()}


def expected(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "auroc": float(roc_auc_score(wrong, values)),
        "ap": float(average_precision_score(wrong, values)),
        "aurc": sorted_aurc(values, wrong),
        "ause": sorted_ause(values, wrong),
    }


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def family(name: str, rng: np.random.Generator, pixels: int) -> NDArray[np.float64]:
    """Doubt as networks have it: most of it next to nothing, or saturated, or on a few levels."""
    hard = rng.random(pixels) < 0.15
    wide = np.where(hard, rng.uniform(0.1, 0.9, pixels), np.exp(rng.normal(-9, 3, pixels)).clip(max=0.9))
    return {
        "as_networks_have_it": wide,
        "most_at_one_tiny_value": np.where(hard, rng.uniform(0.01, 0.7, pixels), 1.1920929e-07),
        "most_close_to_a_tiny_value": np.where(
            hard, rng.uniform(1e-4, 0.02, pixels), rng.lognormal(-16.1, 0.5, pixels)
        ),
        "most_exactly_zero": np.where(hard, rng.exponential(1e-3, pixels), 0.0),
        "all_in_one_octave": rng.uniform(0.5, 1.0, pixels),
        "all_within_a_tenth_of_a_tiny_value": rng.uniform(1e-7, 1.1e-7, pixels),
        "variances_over_ten_decades": 10 ** rng.uniform(-12, -1.5, pixels),
        "votes_of_sixteen": rng.binomial(16, wide / 2, pixels) / 16,
        "entropies_near_their_top": np.log(11) * (1 - rng.exponential(0.1, pixels).clip(max=0.9)),
    }[name]


FAMILIES = (
    "as_networks_have_it",
    "most_at_one_tiny_value",
    "most_close_to_a_tiny_value",
    "most_exactly_zero",
    "all_in_one_octave",
    "all_within_a_tenth_of_a_tiny_value",
    "variances_over_ten_decades",
    "votes_of_sixteen",
    "entropies_near_their_top",
)


@pytest.mark.parametrize("rate", [0.002, 0.15, 0.6])
@pytest.mark.parametrize("name", FAMILIES)
def test_ranking_scores_are_within_a_thousandth_of_sorting(name: str, rate: float) -> None:
    rng = np.random.default_rng(FAMILIES.index(name))
    values = family(name, rng, 200_000).astype(np.float32)
    rank = np.searchsorted(np.sort(values), values) / len(values)
    wrong = rng.random(len(values)) < (2 * rate * sigmoid(6 * (rank - 0.6))).clip(max=1)
    got, want = computed_scores(values, wrong), expected(values, wrong)
    assert max(abs(got[score] - want[score]) for score in want) < CLOSE, (got, want)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 200))
def test_ranking_scores_are_those_of_the_sorted_bins_exactly(data: st.DataObject, pixels: int) -> None:
    values = data.draw(arrays.arrays(np.float32, pixels, elements=st.floats(0, 15, width=32)))
    wrong = data.draw(arrays.arrays(np.bool_, pixels))
    wrong[:2] = [True, False]
    got, want = computed_scores(values, wrong), expected(bin_of(values), wrong)
    assert got == pytest.approx(want, abs=1e-12)
    pairs = np.equal.outer(bin_of(values[wrong]), bin_of(values[~wrong]))
    assert abs(got["auroc"] - roc_auc_score(wrong, values)) <= pairs.mean() / 2 + 1e-12


SCORED = {
    "auroc": detection.auroc,
    "ap": detection.average_precision,
    "fpr": detection.fpr_at_tpr,
    "aurc": rejection.aurc,
    "ause": rejection.ause,
}


def fpr95(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> float:
    fpr, tpr, _ = roc_curve(wrong, values, drop_intermediate=False)
    return float(fpr[(tpr >= 0.95).argmax()])


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.floats(-6, 0),
    base=st.floats(1e-9, 15),
    pixels=st.integers(3, 3000),
    rate=st.floats(0.01, 0.99),
    order=st.sampled_from([-4.0, 0.0, 4.0]),
)
def test_every_ranking_score_is_as_near_to_sorting_as_its_bound_says(
    seed: int, width: float, base: float, pixels: int, rate: float, order: float
) -> None:
    """Doubt within any width of any value, down to a single bin, in and against the order of the errors."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(pixels) < rate
    wrong[:2] = [True, False]
    place = sigmoid(rng.normal(size=pixels) + order * wrong)
    values = (base * (1 - 10**width * place)).astype(np.float32)
    counts = histogram(values, wrong)
    counts = counts[:, counts.any(axis=(0, 2))]  # empty bins change no score, and cost time
    best, worst = extremes(counts)
    want = expected(values, wrong) | {"fpr": fpr95(values, wrong)}
    for name, score in SCORED.items():
        least = detection.least_precision(counts) if name == "ap" else score(worst)
        value, bounds = float(score(counts)[0]), sorted((float(score(best)[0]), float(least[0])))
        assert bounds[0] - 1e-9 <= want[name] <= bounds[1] + 1e-9, name
        assert abs(value - want[name]) <= max(bounds[1] - value, value - bounds[0]) + 1e-9, name


@pytest.mark.parametrize(
    ("width", "auroc", "ap", "fpr"),
    [
        (1.0, 1e-4, 1e-3, 1e-3),
        (0.1, 1e-3, 6e-3, 0.012),
        (0.01, 5e-3, 0.06, 0.09),
    ],
)
def test_the_worst_case_by_concentration_is_what_the_page_states(
    width: float, auroc: float, ap: float, fpr: float
) -> None:
    """The search of `python -m benchmarks.binning`, shorter."""
    errors = worst_case(width, trials=8, pixels=20_000, seed=1)
    assert errors["auroc"] <= auroc
    assert errors["ap"] <= ap
    assert errors["fpr95"] <= fpr


def test_a_score_says_how_far_its_bins_may_have_taken_it() -> None:
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",), void=255))
    rng = np.random.default_rng(0)
    kept: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    for number in range(3):
        label = (rng.random((40, 40)) < 0.3).astype(np.int64)
        uncertainty = (1 - 1e-3 * rng.random((40, 40)) + 5e-4 * label).astype(np.float32)
        board.update(f"{number}", np.stack([np.full((40, 40), 0.9), np.full((40, 40), 0.1)]), {"m": uncertainty}, label)
        kept.append((uncertainty.ravel(), label.ravel() == 1))
    values, wrong = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    scores, want = board.compute()["scores"], expected(values, wrong)
    for name, short in (("error_auroc.m", "auroc"), ("error_ap.m", "ap"), ("aurc.m", "aurc"), ("ause.m", "ause")):
        assert 1e-5 < scores[name]["exact_to"] < 0.1
        assert abs(scores[name]["value"] - want[short]) <= scores[name]["exact_to"], name
    assert "exact_to" not in scores["nll"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_area_under_risk_and_coverage_is_the_mean_over_every_coverage(bins: list[tuple[int, int]]) -> None:
    counts = np.array([bins])
    values = np.repeat(np.arange(len(bins)), counts[0].sum(axis=1))
    wrong = np.concatenate([np.repeat([False, True], pair) for pair in bins])
    if not len(wrong):
        assert np.isnan(rejection.aurc(counts)).all()
        return
    assert rejection.aurc(counts)[0] == pytest.approx(sorted_aurc(values, wrong), abs=1e-12)
    assert rejection.ause(counts)[0] == pytest.approx(sorted_ause(values, wrong), abs=1e-12)
    risk = shared_errors(values, wrong).cumsum() / np.arange(1, len(wrong) + 1)
    whole = np.arange(1, len(wrong) + 1) / len(wrong)
    np.testing.assert_allclose(rejection.risk_at(counts, whole)[0], risk, atol=1e-9)


def test_harmonic_numbers_are_sums_of_fractions() -> None:
    n = np.array([0, 1, 255, 256, 257, 5000])
    np.testing.assert_allclose(rejection.harmonic(n), [(1 / np.arange(1, k + 1)).sum() for k in n], rtol=1e-14)


@given(st.integers(0, 2**32 - 1))
def test_false_positives_at_95_percent_recall_are_those_of_the_roc_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, 30, 300) / 32).astype(np.float32)
    wrong = rng.random(300) < values
    wrong[:2] = [True, False]
    fpr, tpr, _ = roc_curve(wrong, values, drop_intermediate=False)
    assert detection.fpr_at_tpr(histogram(values, wrong))[0] == pytest.approx(fpr[(tpr >= 0.95).argmax()])


def test_no_order_gives_the_scores_of_chance_and_the_oracle_the_best() -> None:
    wrong = np.arange(1000) % 5 == 0
    chance, best = computed_scores(np.zeros(1000, np.float32), wrong), computed_scores(wrong.astype(np.float32), wrong)
    assert chance["auroc"] == pytest.approx(0.5)
    assert chance["ap"] == chance["aurc"] == pytest.approx(0.2)
    assert (best["auroc"], best["ap"], best["ause"]) == (1.0, 1.0, 0.0)


def read(path: Path) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("images", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_camvid_images_score_as_their_sorted_pixels(images: int, shared_data: Path) -> None:
    network = ENet(12)
    load_weights(network, shared_data / "weights" / "enet_camvid.safetensors")
    network.eval()
    names = ("predictive_entropy", "mutual_information", "variance", "one_minus_max")
    board = Scoreboard(ScorePlan(classes=tuple("abcdefghijk"), measures=names, void=11))
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    errors, hits = [], []
    for line in (shared_data / "camvid" / "test.txt").read_text().splitlines()[::24][:images]:
        image, label = (read(shared_data / "camvid" / name) for name in line.split())
        x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255  # 1 C H W
        moments = DrawMoments()
        with torch.no_grad():
            moments.update(network(x)[:, :11].softmax(dim=1))
            moments.update(network(x.flip(-1)).flip(-1)[:, :11].softmax(dim=1))
        mean, spread = moments.mean, moments.variance
        entropy = measures.predictive_entropy(mean)
        maps = {
            "predictive_entropy": entropy[0],
            "mutual_information": measures.mutual_information(entropy, moments.expected_entropy)[0],
            "variance": measures.variance(spread)[0],
            "one_minus_max": measures.one_minus_max(mean)[0],
        }
        board.update(line, mean[0], maps, label)
        valid = label != 11
        errors.append((mean[0].argmax(0).numpy() != label)[valid])
        hits.append(mean[0].numpy()[:, valid])
        for name in names:
            kept[name].append(maps[name].numpy()[valid])
    wrong = np.concatenate(errors)
    scores = board.compute()["scores"]
    for name in names:
        want = expected(np.concatenate(kept[name]), wrong)
        for score, key in (("auroc", "error_auroc"), ("ap", "error_ap"), ("aurc", "aurc"), ("ause", "ause")):
            assert abs(scores[f"{key}.{name}"]["value"] - want[score]) < CLOSE, (name, score)
            assert scores[f"{key}.{name}"]["low"] < want[score] < scores[f"{key}.{name}"]["high"]
    confidence = np.concatenate([p.max(axis=0) for p in hits])
    order = np.argsort(confidence, kind="stable")
    parts = [(confidence[at].mean(dtype=np.float64), 1 - wrong[at].mean(), len(at)) for at in np.array_split(order, 15)]
    adaptive = sum(abs(sure - right) * n for sure, right, n in parts) / len(wrong)
    assert scores["ece_adaptive"]["value"] == pytest.approx(adaptive, abs=1e-4)
