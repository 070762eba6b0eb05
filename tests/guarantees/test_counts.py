"""Laws of the counts of an image: those of plain arrays, whatever the order, the shards or the file in between."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segment.axes import Head
from segment.errors import WrongUse
from segment.files.runs.image_counts import IMAGE_COUNTS, read_image_counts, write_image_counts
from segment.guarantees.counts import MISSED, RIGHT, WRONG, ImageCounts
from segment.guarantees.groups import frames, sequence_of
from segment.guarantees.levels import LEVELS, level_of, thresholds
from segment.guarantees.segments import mean_over, segments_of
from segment.guarantees.sets import Penalty, rank_and_rest, score_bins, sets, true_class_counts
from segment.scores.plan import ScorePlan

SIZE, VOID, UNSEEN = (12, 9), 255, 7
CLASSES = ("road", "sky", "car")
PLAN = ScorePlan(classes=CLASSES, measures=("variance",), void=VOID, unseen=(UNSEEN,))


def image(
    seed: int, head: Head = "softmax"
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Probability, maps and label of one image, with void and unseen pixels."""
    rng = np.random.default_rng(seed)
    k = len(CLASSES)
    variance = (rng.random(SIZE) ** 4).astype(np.float32)
    if head == "multilabel":
        p = rng.random((k, *SIZE)).astype(np.float32)
        return p, {"variance": variance}, rng.choice([0, 1, VOID], (k, *SIZE), p=[0.5, 0.4, 0.1])
    p = rng.dirichlet(np.ones(k) / 2, SIZE).astype(np.float32).transpose(2, 0, 1)
    return p, {"variance": variance}, rng.choice([0, 1, 2, VOID, UNSEEN], SIZE, p=[0.4, 0.3, 0.1, 0.1, 0.1])


def counted(seeds: range, plan: ScorePlan = PLAN) -> ImageCounts:
    counts = ImageCounts(plan)
    for seed in seeds:
        counts.update(f"i{seed:02}", *image(seed, plan.head))
    return counts


def test_counts_below_every_threshold_are_those_of_the_pixels() -> None:
    counts = counted(range(1))
    p, maps, label = image(0)
    prediction = p.argmax(axis=0)
    wrong = (label == UNSEEN) | ((label < 3) & (label != prediction))
    right = (label < 3) & (label == prediction)
    at_levels = counts.at_levels("pixel", "variance", (RIGHT, WRONG, MISSED + 1))[:, 0].cumsum(axis=-1)
    for level in range(0, LEVELS, 5):
        below = maps["variance"] < thresholds()[level]
        missed = wrong & (label == 1)
        assert at_levels[:, level].tolist() == [int((below & of).sum()) for of in (right, wrong, missed)]
    assert counts.labelled[0].tolist() == [int((right | wrong).sum()), *(int((label == k).sum()) for k in range(3))]


def test_with_several_labels_a_pixel_is_wrong_where_any_of_them_is() -> None:
    plan = ScorePlan(classes=CLASSES, head="multilabel", measures=("variance",), void=VOID)
    counts = counted(range(1), plan)
    p, _, label = image(0, "multilabel")
    wrong_of = (label != VOID) & ((p >= 0.5) != (label == 1))
    right, wrong, missed = counts.at_levels("pixel", "variance", (RIGHT, WRONG, MISSED)).sum(axis=(1, 2))
    known = (label != VOID).any(axis=0)
    assert wrong == wrong_of.any(axis=0).sum()
    assert right + wrong == known.sum()
    assert missed == (wrong_of[0] & (label[0] == 1)).sum()


@given(st.floats(0, 20, width=32))
def test_a_value_lies_below_the_threshold_of_its_level_and_not_below_the_one_before(value: float) -> None:
    level = int(level_of(np.array([value], np.float32))[0])
    assert level == LEVELS - 1 or np.float32(value) < thresholds()[level]
    assert level == 0 or np.float32(value) >= thresholds()[level - 1] or value < thresholds()[0]


def test_shards_merge_and_a_file_keeps_every_count(tmp_path: Path) -> None:
    whole, first = counted(range(6)), counted(range(3, 6))
    first.merge(counted(range(3)))
    write_image_counts(tmp_path / IMAGE_COUNTS, {"mcbn": first})
    read = read_image_counts(tmp_path)["mcbn"]
    assert read.ids == whole.ids
    assert read.plan == whole.plan
    for unit in ("pixel", "segment"):
        columns = tuple(range(MISSED + 3))
        expected = whole.at_levels(unit, "variance", columns)
        np.testing.assert_array_equal(read.at_levels(unit, "variance", columns), expected)
    np.testing.assert_array_equal(read.labelled, whole.labelled)
    np.testing.assert_array_equal(read.true_classes("i04"), whole.true_classes("i04"))
    with pytest.raises(WrongUse, match="in both"):
        read.merge(first)


def test_no_image_at_all_survives_its_file_too(tmp_path: Path) -> None:
    write_image_counts(tmp_path / IMAGE_COUNTS, {"mcbn": ImageCounts(PLAN)})
    assert read_image_counts(tmp_path)["mcbn"].ids == []


def test_an_image_is_counted_once_and_a_refused_one_changes_nothing() -> None:
    counts = counted(range(1))
    with pytest.raises(WrongUse, match="counted before"):
        counts.update("i00", *image(0))
    p, maps, label = image(1)
    with pytest.raises(Exception, match="holds 9"):
        counts.update("i01", p, maps, np.full_like(label, 9))
    assert counts.ids == ["i00"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_segments_are_the_connected_regions_of_each_class(seed: int, classes: int) -> None:
    prediction = np.random.default_rng(seed).integers(0, classes, (7, 8))
    segments = segments_of(prediction)
    assert sorted(np.unique(segments)) == list(range(segments.max() + 1))
    for k in range(classes):
        count, places = cv2.connectedComponents((prediction == k).astype(np.uint8), connectivity=4)
        for n in range(1, count):
            inside = np.unique(segments[places == n])
            assert len(inside) == 1
            assert ((segments == inside[0]) == (places == n)).all()
    values = np.random.default_rng(seed).random((7, 8)).astype(np.float32)
    means = mean_over(segments, values)
    for n in np.unique(segments):
        np.testing.assert_allclose(means[segments == n], values[segments == n].mean(dtype=np.float64), rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1.2), st.sampled_from([Penalty(), Penalty(weight=0.1, free=2)]))
def test_a_class_is_in_its_set_where_its_score_is_at_most_the_threshold(
    seed: int, threshold: float, penalty: Penalty
) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(5) / 3, 20).T  # K P
    inside = sets(p, threshold, penalty)
    for pixel in range(20):
        order = sorted(range(5), key=lambda k: -p[k, pixel])
        above = 0.0
        for rank, k in enumerate(order, start=1):
            score = 0.0 if rank == 1 else above + penalty.weight * max(rank - penalty.free, 0)
            if abs(score - threshold) > 1e-9:
                assert inside[k, pixel] == (score <= threshold)
            above += p[k, pixel]
    assert inside.any(axis=0).all()


@given(st.integers(0, 2**32 - 1))
def test_the_binned_score_of_a_true_class_is_at_least_its_own_and_close_to_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4) / 2, 30).T.astype(np.float32)
    label = rng.integers(0, 4, 30)
    for pixel in range(30):
        one = slice(pixel, pixel + 1)
        rank, rest = rank_and_rest(p[:, one], label[one])
        exact = 0.0 if rank[0] == 1 else 1 - float(rest[0])
        binned = float(score_bins(Penalty())[true_class_counts(p[:, one], label[one]) > 0][0])
        assert exact - 1e-6 <= binned <= exact + 1 / 64 + 1e-6


def test_frames_of_a_video_look_like_frames_and_photographs_do_not() -> None:
    assert frames([f"val/0016E5_{n:05}" for n in range(390, 8700, 30)]) == ("val/0016E5",)
    assert frames(["beach", "portrait 2", "IMG_9", "IMG_77", "IMG_4012", "IMG_100", "IMG_3"]) == ()
    assert sequence_of("night/7") == "night/"
