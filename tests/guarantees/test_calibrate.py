"""Laws of a calibration: it keeps its promise on images whose truth is known, and degenerate ones get a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from segment.errors import WrongUse
from segment.guarantees import control
from segment.guarantees.calibrate import (
    ValidationImages,
    _nothing,
    calibrate_sets,
    calibrate_unit,
    loosest_level,
    losses_by_measure,
    reference_of,
)
from segment.guarantees.counts import ImageCounts
from segment.guarantees.levels import thresholds
from segment.guarantees.losses import Losses
from segment.guarantees.outcome import images_outcomes, outcome_of, verdict_of
from segment.guarantees.sentences import nothing_for_most, promise, sentences, too_much
from segment.guarantees.sets import score_bins
from segment.guarantees.triage import Decision, Triage, TriagePlan, Unit
from segment.jobs.triage.calibration import EvaluationFolder
from segment.scores.plan import OUTSIDE, ScorePlan

SPLITS = 400
SIZE, VOID = (10, 10), 9
CLASSES = ("road", "car")
MEASURES = ("one_minus_max", "margin")
SOURCE = {"method": "mcbn", "draws": 8, "precision": "fp32", "classes": list(CLASSES), "sha256": []}


def images_of(errors: NDArray[np.float64], seed: int = 0, *, noise: float = 0.3, **options: Any) -> ValidationImages:
    """Images with these shares of wrong pixels, whose margin ranks worse than their one_minus_max.

    The maps are larger at wrong pixels, up to noise.
    """
    rng = np.random.default_rng(seed)
    plan = ScorePlan(classes=CLASSES, measures=MEASURES, void=VOID)
    counts, dice = ImageCounts(plan), dict[str, float]()
    means: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for number, error in enumerate(errors):
        label = rng.integers(0, 2, SIZE)
        wrong = rng.permutation(100).reshape(SIZE) < round(100 * error)
        prediction = np.where(wrong, 1 - label, label)
        p = np.where(np.stack([prediction == k for k in range(2)]), 0.75, 0.25).astype(np.float32)
        maps = {
            name: (0.2 + 0.5 * wrong + spread * rng.random(SIZE)).astype(np.float32)
            for name, spread in (("one_minus_max", noise), ("margin", 3.0))
        }
        identity = f"image {number:04} x"
        counts.update(identity, p, maps, label, prediction)
        for name in MEASURES:
            means[name][identity] = float(maps[name].mean())
        dice[identity] = 1 - error
    return ValidationImages(counts, means, dice, **options)


def triage_of(images: ValidationImages, plan: TriagePlan) -> Triage:
    units: tuple[Unit, ...] = ("pixel", "image")
    decisions: dict[str, Decision] = {unit: calibrate_unit(images, plan, unit) for unit in units}
    return Triage(plan=plan, decisions=decisions, reference=reference_of(images, ""), source=SOURCE)


def split_losses(images: ValidationImages, plan: TriagePlan, calibrating: int) -> Iterator[tuple[Losses, int | None]]:
    """The losses of the images left over, and the level that the others calibrate, over random splits."""
    losses = losses_by_measure(images, plan, plan.unit)("one_minus_max")
    rng, each = np.random.default_rng(0), np.arange(calibrating)
    for _ in range(SPLITS):
        order = rng.permutation(len(losses.ids))
        yield losses.of(order[calibrating:]), loosest_level(losses.of(order[:calibrating]), plan, each)


@pytest.mark.parametrize("unit", ["pixel", "segment", "image"])
def test_the_promise_in_expectation_is_kept_over_random_splits(unit: Unit) -> None:
    pool = images_of(np.random.default_rng(7).beta(0.7, 4, 160), noise=1.0)
    found = [
        0.0 if level is None else float((rest.lost[:, level] / rest.total).mean())
        for rest, level in split_losses(pool, TriagePlan(max_error=0.05, unit=unit), 40)
    ]
    assert np.mean(found) <= 0.05 + 2 * np.std(found) / math.sqrt(SPLITS)
    assert max(found) > 0.03, "a threshold that never comes near the limit would be of no use"


def test_the_promise_for_most_images_is_kept_in_at_least_the_confidence_of_splits() -> None:
    pool = images_of(np.random.default_rng(8).beta(0.7, 4, 200), noise=1.0)
    plan = TriagePlan(max_error=0.1, guarantee="images", share=0.8)
    bad = losses_by_measure(pool, plan, "pixel")("one_minus_max").bad(0.1, np.arange(200)).mean(axis=0)
    violated = sum(level is not None and bad[level] > 0.2 for _, level in split_losses(pool, plan, 60))
    assert violated <= binom.ppf(0.999, SPLITS, 0.05)


def test_the_measure_is_chosen_on_one_half_and_the_threshold_on_the_other() -> None:
    images = images_of(np.random.default_rng(1).beta(1, 8, 240))
    plan = TriagePlan(max_error=0.05)
    decision = calibrate_unit(images, plan, "pixel")
    assert decision.measure == "one_minus_max", "the other one hardly ranks"
    assert decision.images == 120
    assert "chosen on 120 other images" in decision.why
    few = calibrate_unit(images_of(np.random.default_rng(1).beta(1, 8, 60)), plan, "pixel")
    assert few.images == 60
    assert "set in advance" in few.why
    asked = calibrate_unit(images, replace(plan, measure="margin"), "pixel")
    assert (asked.measure, asked.why, asked.images) == ("margin", "asked for", 240)


def test_images_that_are_all_right_are_accepted_up_to_the_largest_value_seen() -> None:
    images = images_of(np.zeros(60))
    decision = calibrate_unit(images, TriagePlan(), "pixel")
    assert decision.accepted == 1
    assert decision.loss == 0
    assert decision.threshold is not None
    assert decision.threshold < 0.6, "what was never seen is not accepted"


@pytest.mark.parametrize("guarantee", ["expectation", "images", "mean"])
def test_images_that_are_all_wrong_are_never_accepted_and_the_reason_is_told(guarantee: Any) -> None:
    images = images_of(np.ones(200))
    decision = calibrate_unit(images, TriagePlan(guarantee=guarantee), "pixel")
    assert decision.threshold is None
    assert decision.accepted == decision.loss == 0
    assert decision.why
    assert not decision.accepts(np.array([0.0, 0.5, np.nan])).any()
    triage = triage_of(images, TriagePlan(guarantee=guarantee))
    assert sentences(triage)[0].startswith("No pixel may be accepted: ")
    assert outcome_of(images, triage.plan, decision).error is None


@pytest.mark.parametrize("count", [0, 1, 48])
def test_too_few_images_are_refused_with_the_number_it_takes(count: int) -> None:
    with pytest.raises(WrongUse, match=rf"^{count} image.*takes 49 images at least"):
        calibrate_unit(images_of(np.zeros(count)), TriagePlan(), "pixel")


def test_the_smallest_limit_that_a_refusal_names_is_accepted() -> None:
    images = images_of(np.zeros(30))
    with pytest.raises(WrongUse, match=r"least --max-error is 0\.033"):
        calibrate_unit(images, TriagePlan(), "pixel")
    assert calibrate_unit(images, TriagePlan(max_error=0.033), "pixel").accepted == 1


def test_a_mean_names_about_how_many_images_it_would_take() -> None:
    images = images_of(np.full(200, 0.02), noise=0.0)  # images that only one threshold accepts
    decision = calibrate_unit(images, TriagePlan(guarantee="mean", max_error=0.025), "image")
    assert decision.threshold is None
    found = re.search(r"about (\d+) images like these would do", decision.why)
    assert found
    assert int(found[1]) > 1000
    wrong = calibrate_unit(images_of(np.ones(200), noise=0.0), TriagePlan(guarantee="mean"), "image")
    assert wrong.threshold is None
    assert "no number of them would do" in wrong.why


def test_groups_of_one_image_are_the_images_themselves() -> None:
    errors = np.random.default_rng(2).beta(1, 8, 80)
    alone = images_of(errors)
    grouped = replace(alone, groups={i: i for i in alone.counts.ids})
    for guarantee in ("expectation", "images"):
        plan = TriagePlan(max_error=0.05, guarantee=guarantee, share=0.8)
        first, second = (calibrate_unit(images, plan, "pixel") for images in (alone, grouped))
        assert (first.threshold, first.loss, first.groups) == (second.threshold, second.loss, second.groups)


def test_copies_in_a_group_count_once() -> None:
    errors = np.random.default_rng(3).beta(1, 8, 240)
    images = images_of(errors)
    plan = TriagePlan(max_error=0.05, measure="one_minus_max")
    groups = {i: i.partition(" x")[0][:-1] for i in images.counts.ids}  # ten images a group
    decision = calibrate_unit(replace(images, groups=groups), plan, "pixel")
    assert (decision.images, decision.groups) == (240, 24)
    single = calibrate_unit(images, plan, "pixel")
    assert decision.threshold is not None
    assert single.threshold is not None
    assert decision.threshold <= single.threshold


def test_a_protected_class_counts_its_missed_pixels_in_the_images_that_hold_it() -> None:
    images = images_of(np.random.default_rng(4).beta(1, 8, 60))
    plan = TriagePlan(max_error=0.05, protect="car", measure="one_minus_max")
    decision = calibrate_unit(images, plan, "pixel")
    missed = images.counts.at_levels("pixel", "one_minus_max", (3,))[0]
    cars = images.counts.labelled[:, 2]
    level = int(np.flatnonzero(thresholds() == decision.threshold)[0])
    assert decision.loss == pytest.approx(np.mean(missed[:, : level + 1].sum(axis=1) / cars))
    with pytest.raises(WrongUse, match="Near: 'car'"):
        calibrate_unit(images, replace(plan, protect="cat"), "pixel")


@pytest.mark.parametrize("unit", ["pixel", "image"])
def test_what_is_wrong_in_the_accepted_does_not_depend_on_the_loss(unit: Unit) -> None:
    images = images_of(np.random.default_rng(3).uniform(0, 0.3, 60))
    decision = Decision(
        unit=unit, measure="one_minus_max", threshold=0.8, why="", images=60, groups=60, loss=0.0, accepted=0.0
    )
    plain = TriagePlan(unit=unit, max_error=0.1)
    protected = replace(plain, protect="car", guarantee="images")
    first, second = (outcome_of(images, plan, decision) for plan in (plain, protected))
    assert first.error == second.error
    assert first.loss != second.loss
    assert "of their car pixels accepted as another class" in verdict_of(second, protected)
    decisions = {"pixel": decision, "image": replace(decision, unit="image")}
    errors = [[row.error for row in images_outcomes(images, plan, decisions)] for plan in (plain, protected)]
    assert errors[0] == errors[1]


@pytest.mark.parametrize("guarantee", ["expectation", "images"])
def test_images_above_the_limit_are_counted_by_what_is_promised(guarantee: Any) -> None:
    images = images_of(np.random.default_rng(3).uniform(0, 0.6, 60))
    decision = Decision(
        unit="pixel", measure="one_minus_max", threshold=0.8, why="", images=60, groups=60, loss=0.0, accepted=0.0
    )
    plan = TriagePlan(max_error=0.1, guarantee=guarantee)
    rows = images_outcomes(images, plan, {"pixel": decision, "image": replace(decision, unit="image")})
    wrong = np.array([row.error or 0.0 for row in rows])
    accepted = np.array([row.accepted or 0.0 for row in rows])
    above = {"expectation": wrong * accepted > 0.1, "images": wrong > 0.1}
    assert outcome_of(images, plan, decision).bad == above[guarantee].sum()
    assert above["images"].sum() > above["expectation"].sum()


def test_images_without_the_protected_class_do_not_count_as_safe() -> None:
    images = images_of(np.random.default_rng(4).beta(1, 8, 60))
    for identity in images.counts.ids[:20]:
        images.counts._labelled[identity][2] = 0
    with pytest.raises(WrongUse, match="40 images with pixels of 'car' cannot carry"):
        calibrate_unit(images, TriagePlan(protect="car"), "pixel")


def test_an_image_without_the_protected_class_has_a_row_and_a_decision() -> None:
    images = images_of(np.random.default_rng(4).beta(1, 8, 60))
    plan = TriagePlan(protect="car", max_error=0.3, measure="one_minus_max")
    decisions = {unit: calibrate_unit(images, plan, unit) for unit in ("pixel", "image")}
    without = images.counts.ids[:3]
    for identity in without:
        images.counts._labelled[identity][2] = 0
    rows = images_outcomes(images, plan, decisions)
    assert [row.id for row in rows] == images.counts.ids
    assert [row.id for row in rows if row.accepted is None] == without
    assert {row.decision for row in rows} <= {"accept", "review"}


def test_dice_of_accepted_images_is_the_loss_where_asked() -> None:
    errors = np.concatenate([np.zeros(50), np.full(10, 0.6)])
    images = images_of(errors)
    plan = TriagePlan(unit="image", loss="dice", max_error=0.03, measure="one_minus_max")
    decision = calibrate_unit(images, plan, "image")
    assert decision.accepted == pytest.approx(51 / 60), "one such image still keeps (0.6 + 1) / 61 below the limit"
    assert decision.loss == pytest.approx(0.6 / 60)
    accepted = [row.decision for row in images_outcomes(images, plan, {"image": decision})]
    assert accepted.count("accept") == 51


def test_one_class_is_always_right_and_all_of_it_is_accepted() -> None:
    counts = ImageCounts(ScorePlan(classes=("all",), measures=("one_minus_max",)))
    for number in range(60):
        ones = np.ones((1, 4, 4), np.float32)
        counts.update(f"{number}", ones, {"one_minus_max": np.zeros((4, 4))}, np.zeros((4, 4), np.int64))
    means = {"one_minus_max": dict.fromkeys(counts.ids, 0.0)}
    images = ValidationImages(counts, means, dict.fromkeys(counts.ids, 1.0))
    decision = calibrate_unit(images, TriagePlan(), "pixel")
    assert decision.accepted == 1
    assert decision.accepts(np.zeros(3)).all()
    assert calibrate_sets(images, TriagePlan(coverage=0.9)).threshold == 0


def test_all_void_images_are_refused() -> None:
    counts = ImageCounts(ScorePlan(classes=CLASSES, measures=("margin",), void=VOID))
    for number in range(60):
        p = np.full((2, 4, 4), 0.5, np.float32)
        counts.update(f"{number}", p, {"margin": np.zeros((4, 4))}, np.full((4, 4), VOID))
    images = ValidationImages(counts, {"margin": dict.fromkeys(counts.ids, 0.0)}, dict.fromkeys(counts.ids))
    with pytest.raises(WrongUse, match=r"^0 images cannot carry"):
        calibrate_unit(images, TriagePlan(), "pixel")
    with pytest.raises(WrongUse, match="0 images cannot carry a coverage"):
        calibrate_sets(images, TriagePlan(coverage=0.9))


def four_classes(rng: np.random.Generator, count: int = 120) -> ValidationImages:
    """Images whose labels are drawn from their own probabilities."""
    counts = ImageCounts(ScorePlan(classes=("a", "b", "c", "d"), measures=("margin",)))
    for number in range(count):
        p = rng.dirichlet(np.ones(4) * rng.uniform(0.2, 1), 64).T.astype(np.float32)
        drawn = (p.cumsum(axis=0) < rng.random(64)).sum(axis=0).clip(max=3)
        counts.update(f"{number:03}", p.reshape(4, 8, 8), {"margin": np.zeros((8, 8))}, drawn.reshape(8, 8))
    return ValidationImages(counts, {"margin": dict.fromkeys(counts.ids, 0.0)}, {})


def test_prediction_sets_cover_as_promised_over_random_splits() -> None:
    rng = np.random.default_rng(9)
    images = four_classes(rng)
    counts = images.counts
    for kind in ("aps", "raps"):
        plan, covered = TriagePlan(coverage=0.85, sets=kind), []
        for _ in range(12):
            order = rng.permutation(120)
            part = ValidationImages(counts.of_images([counts.ids[n] for n in order[:30]]), images.means, {})
            made = calibrate_sets(part, plan)
            rest = ValidationImages(counts.of_images([counts.ids[n] for n in order[30:]]), images.means, {})
            covered.append(covered_by(rest, made.threshold, made.penalty))
        assert np.mean(covered) >= 0.85 - 2 * np.std(covered) / math.sqrt(12)
        assert np.mean(covered) <= 0.85 + 2 / 31 + 0.02


def test_the_rank_of_a_penalty_is_chosen_on_other_images_than_calibrate() -> None:
    images = four_classes(np.random.default_rng(4), 100)
    plan = TriagePlan(coverage=0.85, sets="raps")
    made = calibrate_sets(images, plan)
    assert made.images == 50
    free = []
    for chooses in (True, False):  # the images of one half, then of the other, have labels of the last rank
        half = (np.random.default_rng(plan.seed).permutation(100) < 50) == chooses
        counts = ImageCounts(images.counts.plan)
        for place, i in enumerate(images.counts.ids):
            p = np.array([0.6, 0.3, 0.08, 0.02], np.float32)[:, None, None] * np.ones((4, 8, 8), np.float32)
            label = np.full((8, 8), 3 if half[place] else 0)
            counts.update(i, p, {"margin": np.zeros((8, 8))}, label)
        free.append(calibrate_sets(ValidationImages(counts, images.means, {}), plan).free)
    assert free == [4, 1]
    few = ValidationImages(images.counts.of_images(images.counts.ids[:40]), images.means, {})
    assert (calibrate_sets(few, plan).free, calibrate_sets(few, plan).images) == (1, 40)


def covered_by(images: ValidationImages, threshold: float, penalty: Any) -> float:
    inside = score_bins(penalty) <= threshold
    tables = [images.counts.true_classes(i) for i in images.counts.ids]
    return float(np.mean([table[inside].sum() / table.sum() for table in tables]))


def test_a_broken_promise_is_called_one_and_chance_is_called_chance() -> None:
    plan = TriagePlan(max_error=0.02, measure="one_minus_max")
    images = images_of(np.random.default_rng(5).beta(1, 20, 80))
    decision = calibrate_unit(images, plan, "pixel")
    assert verdict_of(outcome_of(images, plan, decision), plan).startswith("Kept")
    confident = images_of(np.full(40, 0.3), noise=0.0)
    loose = replace(decision, threshold=1.0)
    assert verdict_of(outcome_of(confident, plan, loose), plan).startswith("Above the limit beyond chance")
    few = images_of(np.array([0.0] * 9 + [0.3]))
    assert "within chance" in verdict_of(outcome_of(few, plan, loose), plan)


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9, 0.95])
def test_as_many_bad_images_as_are_promised_at_most_keep_the_promise(share: float) -> None:
    plan = TriagePlan(max_error=0.05, guarantee="images", share=share, measure="one_minus_max")
    bad = round((1 - share) * 100)
    images = images_of(np.array([0.5] * bad + [0.0] * (100 - bad)), noise=0.0)
    decision = Decision(
        unit="pixel", measure="one_minus_max", threshold=1.0, why="", images=80, groups=80, loss=0.0, accepted=1.0
    )
    outcome = outcome_of(images, plan, decision)
    assert outcome.bad == bad
    assert verdict_of(outcome, plan).startswith("Kept")


def test_sets_that_miss_one_pixel_in_ten_need_nine_images() -> None:
    assert control.needed_in_expectation(control.complement(0.9)) == 9


@pytest.mark.parametrize("count", [1, 2, 5])
def test_so_few_images_say_nothing_about_chance(count: int) -> None:
    plan = TriagePlan(max_error=0.02, measure="one_minus_max")
    images = images_of(np.full(count, 0.3), noise=0.0)
    decision = Decision(
        unit="pixel", measure="one_minus_max", threshold=1.0, why="", images=80, groups=80, loss=0.0, accepted=1.0
    )
    outcome = outcome_of(images, plan, decision)
    assert outcome.loss > 0.02
    assert outcome.loss_interval is None
    assert "chance" in (said := verdict_of(outcome, plan))
    assert "beyond chance" not in said
    assert "within chance" not in said


def with_far_views(groups: int) -> ValidationImages:
    """Groups of two images: a near car of 100 pixels that is found, and a far one of 2 pixels that is missed."""
    plan = ScorePlan(classes=CLASSES, measures=MEASURES, void=VOID)
    counts, of_image = ImageCounts(plan), dict[str, str]()
    for number in range(groups):
        for view, pixels in (("near", 100), ("far", 2)):
            label = (np.arange(100) < pixels).reshape(SIZE).astype(int)
            car = np.full(SIZE, 0.9 if view == "near" else 0.1, np.float32)
            maps = {name: 1 - np.maximum(car, 1 - car) for name in MEASURES}
            counts.update(f"{number}/{view}", np.stack([1 - car, car]), maps, label)
            of_image[f"{number}/{view}"] = str(number)
    means = {name: dict.fromkeys(of_image, 0.1) for name in MEASURES}
    return ValidationImages(counts, means, dict.fromkeys(of_image), of_image)


@pytest.mark.parametrize("unit", ["pixel", "image"])
def test_a_missed_share_of_a_class_is_a_mean_over_the_images_of_a_group_also_for_most_groups(unit: Unit) -> None:
    plan = TriagePlan(guarantee="images", protect="car", max_error=0.02, measure="one_minus_max", unit=unit)
    images = with_far_views(40)
    assert calibrate_unit(images, plan, unit).threshold is None, "in every group half of the cars are missed"
    decision = Decision(
        unit=unit, measure="one_minus_max", threshold=0.5, why="", images=80, groups=40, loss=0.5, accepted=1.0
    )
    outcome = outcome_of(images, plan, decision)
    assert (outcome.bad, outcome.loss) == (40, 0.5)
    assert verdict_of(outcome, plan).startswith(
        "Above the limit beyond chance: 40 of 40 (100 %) have more than 2 % of their car pixels accepted as another "
        "class, as the mean over their images, where at most 10 % is promised."
    )
    allowed = replace(plan, max_error=0.51)
    assert outcome_of(images, allowed, decision).bad == 0
    assert calibrate_unit(images, allowed, unit).threshold is not None


@pytest.mark.parametrize(
    ("plan", "unit", "kind", "words"),
    [
        ({}, "pixel", "images", "more than 2 % wrong among what is accepted of them"),
        ({}, "pixel", "groups", "more than 2 % wrong among what is accepted of them"),
        (
            {},
            "image",
            "groups",
            "more than 2 % wrong among what is accepted of them, as the mean over their accepted images",
        ),
        ({"loss": "dice", "unit": "image"}, "image", "images", "a 1 - Dice above 2 %"),
        ({"loss": "dice", "unit": "image"}, "image", "groups", "a 1 - Dice above 2 %, as the mean over their images"),
        ({"protect": "car"}, "pixel", "images", "more than 2 % of their car pixels accepted as another class"),
    ],
)
def test_what_is_above_the_limit_is_said_as_it_is_counted(
    plan: dict[str, Any], unit: str, kind: str, words: str
) -> None:
    assert too_much(TriagePlan(guarantee="images", **plan), unit, kind) == words


def test_groups_of_whole_images_are_promised_the_mean_over_their_accepted_images() -> None:
    """Four images of 4 pixels that are right, and one of 100 with 10 wrong: 2 % a mean image, 8.6 % of the pixels."""
    plan = TriagePlan(guarantee="images", unit="image", max_error=0.03)
    assert "the mean over the accepted images of a group of the share of their pixels" in promise(
        plan, "image", "groups"
    )
    assert "of what is accepted of an image is wrong" in promise(plan, "image", "images")
    refused = nothing_for_most(plan, "image", "groups", bad=9, most=2, count=60, from_others=True)
    assert refused.startswith(
        "even a threshold that accepts at least a tenth of the images of other groups leaves 9 of 60"
    )


def without_an_error(images: int) -> Losses:
    """Images of 100 pixels, all right; the accepted share grows from threshold 10 to threshold 20 of 40."""
    accepted = np.zeros((images, 40))
    accepted[:, 10:] = np.linspace(0.02, 1, 30)
    ids = tuple(f"{number:04}" for number in range(images))
    total = np.full(images, 100.0)
    return Losses(ids, np.linspace(0.01, 1, 40), np.zeros_like(accepted), total, 100 * accepted, accepted)


@pytest.mark.parametrize(("share", "confidence"), [(0.95, 0.95), (0.9, 0.9), (0.9, 0.99), (0.99, 0.95), (0.8, 0.9)])
def test_images_without_an_error_are_accepted_from_the_fewest_images_on(share: float, confidence: float) -> None:
    plan = TriagePlan(guarantee="images", share=share, confidence=confidence)
    for images in range(plan.needed, plan.needed + 60):
        assert loosest_level(without_an_error(images), plan, np.arange(images)) is not None, images


def test_a_refusal_counts_the_bad_images_at_the_threshold_that_stopped_it() -> None:
    losses = without_an_error(64)
    losses.lost[::4] = losses.kept[::4] / 2  # at every threshold half of what 16 images accept is wrong
    plan = TriagePlan(guarantee="images", max_error=0.02)
    assert loosest_level(losses, plan, np.arange(64)) is None
    found = re.search(
        r"pixels of other images leaves (\d+) of (\d+) images with more than 2 % wrong .* at most (\d+) may",
        _nothing(losses, plan, np.arange(64), "pixel", "images"),
    )
    assert found is not None
    bad, count, most = map(int, found.groups())
    assert bad > most
    assert count == 58  # the others found the threshold
    assert binom.cdf(most, count, 0.1) <= 0.05 * 0.95 < binom.cdf(most + 1, count, 0.1)


def test_an_image_without_data_is_in_neither_the_reference_nor_the_decisions() -> None:
    images = images_of(np.array([0.1] * 20 + [0.0] * 20))
    ids, (first, last) = images.counts.ids, MEASURES
    p, label = np.full((2, *SIZE), 0.5, np.float32), np.full(SIZE, OUTSIDE)
    images.counts.update("blank", p, dict.fromkeys(MEASURES, np.zeros(SIZE, np.float32)), label)
    rows = {i: {f"mean.{name}": str(images.means[name].get(i, "")) for name in MEASURES} for i in images.counts.ids}
    dice = {i: {"dice": str(images.dice.get(i, ""))} for i in rows}
    run = SimpleNamespace(rows={"mcbn": {i: row | dice[i] for i, row in rows.items()}})
    read = EvaluationFolder(run=cast(Any, run), counts={"mcbn": images.counts}).images_of("mcbn", None)
    assert read.means == images.means
    assert read.of(["blank", ids[0]]).means[last].keys() == {ids[0]}
    assert sorted(reference_of(read, "").values) == sorted(read.means[first].values())
    decision = calibrate_unit(read, TriagePlan(max_error=0.2, measure=first), "image")
    assert decision.images == len(ids)
    verdicts = images_outcomes(read, TriagePlan(max_error=0.2, unit="image"), {"image": decision})
    assert [row.decision for row in verdicts if row.id == "blank"] == ["review"]


def test_with_groups_the_sets_and_what_is_accepted_are_means_over_groups() -> None:
    errors = np.array([0.4] * 60 + [0.02] * 40)
    images = images_of(errors)
    ids = images.counts.ids
    images = replace(images, groups={i: "large" if n < 60 else i for n, i in enumerate(ids)})
    plan = TriagePlan(max_error=0.1, coverage=0.8, measure="one_minus_max", guarantee="expectation")
    sets, decision = calibrate_sets(images, plan), calibrate_unit(images, plan, "pixel")
    assert (sets.images, sets.groups, decision.groups) == (100, 41, 41)
    outcome = outcome_of(images, plan, decision)
    assert outcome.accepted == pytest.approx(decision.accepted)
    single = [outcome_of(images.of([i]), plan, decision).accepted for i in ids]
    assert decision.accepted == pytest.approx(np.mean([np.mean(single[:60]), *single[60:]]))
    triage = Triage(
        plan=plan,
        decisions={"pixel": decision, "image": decision},
        reference=reference_of(images, "sequence"),
        source=SOURCE,
        sets=sets,
    )
    said = sentences(triage)
    assert "as means over the groups" in said[0]
    assert "the mean over the images of a group, in expectation; on the 41 groups that calibrated them" in said[3]
    assert "Measure" not in said[0] + said[1]
    assert said[2] == f"The measure was {decision.why}.", "once for both"
