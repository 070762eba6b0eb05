"""Groups of tiles, estimated in any order and put together, have the bits of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import noise, random_bank
from small_networks import Pooling, Small, network_of

from segment.batch_norm.network import bn_network_of
from segment.errors import PredictionFailed
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.groups import TileGroup, split
from segment.estimation.tiling.tiles import Cut
from segment.files.lazy_arrays import FileArray
from segment.files.runs.window_groups import GroupFiles
from segment.methods.mcbn import mcbn
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan

SIZE = (228, 292)


def estimator_of(folder: Path, build: type[Small] = Small, **plan: Any) -> Estimator:
    network = network_of(build)
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn, 4), spec=network.card.input)
    read_out = ReadOut(method=method, measures=tuple(MEASURES), probability=True, sums=True)
    return Estimator(network, {"": read_out}, EstimatePlan(tile=160, blank=lambda *a: FileArray(folder, *a), **plan))


def by_groups(
    estimator: Estimator, image: torch.Tensor, folder: Path, groups: Sequence[TileGroup], order: Sequence[int]
) -> Estimate[Any]:
    """As workers do it, through files."""
    cut, files = estimator.tiler.cut(160, estimator.plan.mode), GroupFiles(folder, "a")
    for draws in estimator.rounds():
        for number in order:
            files.write(number, draws, estimator.group(image, cut, groups[number], draws, "a"))
        if draws is not None and estimator.enough(files.errors(len(groups), draws)):
            break
    assert estimator.plan.blank is not None
    windows = [group.window(cut, SIZE) for group in groups]
    tiles = files.joined(windows, draws, SIZE, estimator.plan.blank)
    files.forget()
    assert not list(folder.glob(".windows"))
    return estimator.put_together(image, cut, tiles, draws, "a")[""]


def assert_same_bits(one: Estimate[Any], other: Estimate[Any]) -> None:
    names = ("draws", "withheld", "reached_error", "blending")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert one.class_sums is not None
    assert other.class_sums is not None
    assert torch.equal(one.class_sums, other.class_sums)
    assert list(one.maps) == list(other.maps)
    assert one.prediction.dtype == other.prediction.dtype
    pairs = [(one.prediction, other.prediction), (one.mean, other.mean)]
    for mine, theirs in [*pairs, *((one.maps[name], other.maps[name]) for name in one.maps)]:
        np.testing.assert_array_equal(mine[..., :, :], theirs[..., :, :])


@pytest.mark.parametrize(
    ("build", "plan"),
    [
        (Small, {}),
        (Pooling, {"mode": "blended"}),
        (Small, {"mode": "blended", "stop": StopPlan(tolerance=1e-4, first=2)}),
        (Small, {"stop": StopPlan(tolerance=0.2, first=2)}),
    ],
    ids=["exact", "blended", "blended, all draws asked for", "few draws are enough"],
)
@settings(max_examples=2)
@given(data=st.data())
def test_groups_in_any_order_have_the_bits_of_the_whole_image(
    build: type[Small], plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, image = tmp_path_factory.mktemp("run"), noise(1, 3, *SIZE, seed=2)
    estimator = estimator_of(folder, build, **plan)
    rows, columns = estimator.tiler.cut(160, estimator.plan.mode).grid(*SIZE)
    assert min(rows, columns) > 1
    down, across = (data.draw(spans(length)) for length in (rows, columns))
    groups = [TileGroup(each, other) for each in down for other in across]
    order = data.draw(st.permutations(range(len(groups))))
    whole = estimator(image, "a")[""]
    assert_same_bits(by_groups(estimator, image, folder, groups, order), whole)


def spans(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """0 to length in pieces."""
    cuts = st.sets(st.integers(1, length - 1)).map(sorted)
    return cuts.map(lambda inner: [*zip([0, *inner], [*inner, length], strict=True)])


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    halo=st.integers(0, 2),
    workers=st.integers(1, 9),
    blended=st.booleans(),
)
def test_groups_cover_the_image_once_and_there_is_one_for_every_worker_that_can_have_one(
    height: int, width: int, halo: int, workers: int, *, blended: bool
) -> None:
    cut, size = Cut(4 * (2 * halo + 2), 4 * halo, 4, blended=blended), (height, width)
    times, groups = np.zeros(size, int), split(cut, size, workers)
    for group in groups:
        rows, columns = group.window(cut, size)
        times[slice(*rows), slice(*columns)] += 1
    assert (times == 1).all()
    rows_of_tiles, columns_of_tiles = cut.grid(*size)
    assert len(groups) >= min(workers, max(rows_of_tiles, columns_of_tiles))


def test_an_error_tells_the_window(tmp_path: Path) -> None:
    estimator, image = estimator_of(tmp_path), noise(1, 3, *SIZE, seed=2)
    image[..., 200:, 250:] = float("nan")
    cut = estimator.tiler.cut(160, "exact")
    tile = next(tile for tile in cut.tiles(*SIZE) if tile.rows[1] > 200 and tile.columns[1] > 250)
    with pytest.raises(PredictionFailed) as failed:
        estimator(image)
    (rows, columns) = tile.rows, tile.columns
    place = f"in the window of rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}"
    assert failed.value.__notes__ == [place]


def test_a_multi_label_estimate_keeps_a_mask_for_each_label(tmp_path: Path) -> None:
    network = network_of()
    network = replace(network, card=replace(network.card, head="multilabel"))
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn, 2), spec=network.card.input)
    read_out = ReadOut(method=method, measures=("variance",), sums=True)
    plan = EstimatePlan(tile=160, blank=lambda *a: FileArray(tmp_path, *a))
    estimator, image = Estimator(network, {"": read_out}, plan), noise(1, 3, *SIZE, seed=2)
    groups = split(estimator.tiler.cut(160, "exact"), SIZE, 1)
    whole = estimator(image, "a")[""]
    assert whole.prediction.shape == (4, *SIZE)
    assert_same_bits(by_groups(estimator, image, tmp_path, groups, range(len(groups))), whole)
