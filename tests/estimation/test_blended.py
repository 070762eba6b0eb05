"""Blended tiles: each draw is mixed as probabilities where tiles overlap, and its distance from exact is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain import noise, plain_loop, plain_measures, probabilities_of, random_bank
from processes import photographs
from small_networks import Pooling, Small, network_of

from segment.batch_norm.network import bn_network_of
from segment.errors import OutOfMemory, WrongUse
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import BYTES_OF_WRITING, FIRST_PASS_BYTES, MemoryBudget, bytes_of
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.blending import ramp
from segment.estimation.tiling.tiler import duration
from segment.estimation.tiling.tiles import Cut
from segment.files.lazy_arrays import FileArray
from segment.images.formats.georeference import GDAL_CACHE
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.uncertainty.measures import MEASURES

DRAWS = 3
SIZE = (228, 292)


def estimator_of(network: Network, temperature: float = 1.0, **plan: Any) -> Estimator:
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn, DRAWS), spec=network.card.input)
    read_out = ReadOut(method=method, measures=tuple(MEASURES), temperature=temperature)
    return Estimator(network, {"": read_out}, EstimatePlan(**plan))


def blended_by_hand(network: Network, images: torch.Tensor, cut: Cut) -> NDArray[np.float64]:  # T 1 K H W
    """Weights of every tile over the whole image, all draws at hand, NumPy in float64."""
    bank = random_bank(bn_network_of(network), DRAWS)
    height, width = images.shape[-2:]
    total = np.zeros((DRAWS, 1, 4, height, width))
    rise = ramp(cut.halo).numpy().astype(np.float64)
    for tile in cut.tiles(height, width):
        sides = []
        for (start, stop), length in ((tile.rows, height), (tile.columns, width)):
            weight = np.zeros(length)
            weight[start:stop] = 1
            if start:
                weight[start : start + cut.halo] = rise
            if stop < length:
                weight[stop - cut.halo : stop] = rise[::-1]
            sides.append(weight)
        logits = plain_loop(network.module, bank, images[(..., *tile.seen)].contiguous(), dtype=torch.float64)
        here = total[(..., *tile.seen)]
        here += probabilities_of(logits.numpy()) * np.outer(*sides)[tile.seen]
    return total


@pytest.mark.parametrize("build", [Small, Pooling])
@pytest.mark.parametrize("in_files", [False, True])
def test_the_maps_are_those_of_draws_blended_as_probabilities(
    build: type[Small], tmp_path: Path, *, in_files: bool
) -> None:
    network, images = network_of(build), noise(1, 3, *SIZE, seed=2)
    blank = partial(FileArray, tmp_path) if in_files else None
    estimator = estimator_of(network, tile=128, mode="blended", blank=blank)
    cut = estimator.tiler.cut(128, "blended")
    assert (cut.side, cut.halo) == (128, 32)
    made = estimator(images)[""]
    draws = blended_by_hand(network, images, cut)
    np.testing.assert_allclose(draws.sum(axis=2), 1, atol=1e-6)
    expected = plain_measures(draws, random_bank(bn_network_of(network), DRAWS).weights.tolist())
    assert set(made.maps) == set(expected)
    for name, values in expected.items():
        tolerance = 1e-3 if name in ("predicted_std", "standard_error") else 1e-5  # a root of what is nearly 0
        np.testing.assert_allclose(np.asarray(made.maps[name][:]), values[0], rtol=0, atol=tolerance, err_msg=name)


def exact(network: Network, images: torch.Tensor) -> Estimate[Any]:
    return estimator_of(network, tile="off")(images)[""]


def test_a_local_network_has_the_maps_of_the_whole_image() -> None:
    network, images = network_of(), noise(1, 3, *SIZE, seed=2)
    made, whole = estimator_of(network, tile=256, mode="blended")(images)[""], exact(network, images)
    for name, values in whole.maps.items():
        assert float((made.maps[name] - values).abs().max()) < 1e-3, name
    assert made.blending is not None
    assert made.blending.exact
    assert max(made.blending.largest.values()) < 1e-3


def test_the_told_error_is_that_of_its_windows_and_no_tile_is_left_out() -> None:
    network, images = network_of(), noise(1, 3, *SIZE, seed=2)
    network = replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))
    estimator = estimator_of(network, tile=128, mode="blended")
    made, whole = estimator(images)[""], exact(network, images)
    assert made.blending is not None
    assert made.blending.windows == 4
    apart = (made.maps["variance"] - whole.maps["variance"]).abs()
    starts = [(row, column) for row in (96, 192) for column in (96, 192)]
    at = torch.stack([apart[row : row + 32, column : column + 32] for row, column in starts])
    assert made.blending.largest["variance"] == pytest.approx(float(at.max()), abs=1e-6)
    assert made.blending.mean["variance"] == pytest.approx(float(at.mean()), abs=1e-6)
    assert float(apart[:90, :90].max()) < 1e-6  # where no tile overlaps, exact


def test_no_border_shows_in_a_network_that_sees_the_whole_image() -> None:
    network, images = network_of(Pooling), noise(1, 3, *SIZE, seed=2).cumsum(dim=-1) / 40
    with pytest.raises(OutOfMemory, match="--tile-mode blended, or --tile N"):
        estimator_of(network, budget=MemoryBudget(FIRST_PASS_BYTES + SIZE[0] * SIZE[1] * 100))(noise(1, 3, 640, 640))
    made = estimator_of(network, tile=128, mode="blended")(images)[""]
    hard = estimator_of(network, tile=128)(images)[""]
    whole = exact(network, images)

    def step(estimate: Estimate[Any]) -> float:
        """The largest jump between neighbours along a row that the whole image does not have."""
        off = estimate.probability - whole.probability
        return float((off[..., 1:] - off[..., :-1]).abs().max())

    assert step(made) < 0.25 * step(hard)
    assert made.blending is not None
    assert not made.blending.exact


def test_an_image_that_fits_is_unchanged() -> None:
    network, images = network_of(), noise(1, 3, 96, 64)
    roomy = MemoryBudget(2**40)
    for plan in ({"budget": roomy}, {"tile": 512}, {"tile": "off"}):
        made = estimator_of(network, mode="blended", **plan)(images)[""]
        assert made.blending is None
        for name, values in exact(network, images).maps.items():
            assert torch.equal(made.maps[name], values)


def test_the_cost_is_told_with_the_memory_and_the_mode_that_would_do(tmp_path: Path) -> None:
    network, size = network_of(), (1600, 1600)
    blank = partial(FileArray, tmp_path)
    pixel = estimator_of(network, budget=MemoryBudget(2**40)).pixel
    free = FIRST_PASS_BYTES + BYTES_OF_WRITING + GDAL_CACHE + size[0] * size[1] // 8 + int(2 * pixel * 224**2 + 2**20)

    def windows(height: int, width: int) -> bool:
        return height * width > 1000 * 1000

    tight = MemoryBudget(free, held=300 * 2**20)
    estimator = estimator_of(network, budget=tight, blank=blank)
    cost = estimator.cost([size, (32, 32)], windows)
    assert cost is not None
    assert (cost.images, cost.size) == (1, size)
    side = estimator.side_for(*size, in_memory=False)
    assert side is not None
    passed = [tile.seen for tile in Cut(side, cost.cut.halo, cost.cut.align).tiles(*size)]
    pixels = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in passed)
    assert cost.work == pytest.approx(pixels / (size[0] * size[1]))
    assert 0 < cost.seconds < 600
    said = cost.sentence()
    assert f"{cost.work:.3g} times the work of whole images, about {duration(cost.seconds)}." in said
    named = bytes_of(said.partition("--memory ")[2].split(" ")[0])
    better = estimator_of(network, budget=MemoryBudget(named - tight.held), blank=blank).cost([size], windows)
    assert better is None or better.work <= 2
    blended = estimator_of(network, budget=tight, blank=blank, mode="blended").cost([size], windows)
    assert blended is not None
    assert cost.blended == blended.work < 2
    assert "blended" not in blended.sentence().partition("blended tiles")[2]


def test_a_run_keeps_its_mode_and_says_how_far_it_is_off(tmp_path: Path) -> None:
    network = load_network("segment:tiny?classes=4")
    images = photographs(tmp_path / "images", 2, 160, 224)
    bank = fit_bank(network, str(images), batch=2, draws=2)
    plan = PredictPlan(tile=128, tile_mode="blended", formats=("npz",), precision="fp32")
    summary = predict(network, str(images), bank, tmp_path / "run", plan)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["plan"]["tile_mode"] == record["settings"]["tile_mode"] == "blended"
    assert record["tiling"]["blended"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert record["blending"]["windows"] == sum(line["blending"]["windows"] for line in lines) > 0
    largest = max(line["blending"]["differences"]["variance"]["largest"] for line in lines)
    assert record["blending"]["differences"]["variance"]["largest"] == largest
    assert summary.tiling.startswith("Blended tiles beside exact ones")
    with pytest.raises(WrongUse, match="tile_mode"):
        predict(network, str(images), bank, tmp_path / "run", replace(plan, tile_mode="exact"), resume=True)
    with pytest.raises(WrongUse, match="exact or blended"):
        PredictPlan(tile_mode="soft")  # type: ignore[arg-type]
