"""`--draws auto`: what decides, and that deciding moves nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from console import segment
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plain import noise, random_bank
from small_networks import network_of
from torch import Tensor
from torch.nn.functional import avg_pool2d

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import WrongUse
from segment.estimation.estimate import ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.tiler import Tiling
from segment.files.banks.bank_file import save_bank
from segment.jobs.mcbn import MCBN
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.uncertainty.stopping import CELLS, StoppingRule, StopPlan, check_counts, error_quantile, grid, on_grid


def scene(seed: int, factors: int, side: int = 48) -> tuple[Tensor, Tensor]:
    """Logits (1 K H W) of a smooth scene, and how some random factors common to all pixels move them (F K H W)."""
    generator = torch.Generator().manual_seed(seed)
    logits = avg_pool2d(torch.randn(1, 4, side, side, generator=generator) * 15, 9, 1, 4)
    return logits, avg_pool2d(torch.randn(factors, 4, side, side, generator=generator) * 4, 9, 1, 4)


def draws_of(logits: Tensor, moves: Tensor, count: int, generator: torch.Generator) -> Tensor:  # T K H W
    factors = torch.randn(count, len(moves), generator=generator)
    return (logits + torch.einsum("tf,fkhw->tkhw", factors, moves)).softmax(dim=1)


def used(draws: Tensor, plan: StopPlan) -> tuple[int, float]:
    rule = StoppingRule("softmax", len(draws), plan)
    for count, p in enumerate(draws, start=1):
        if rule(p[None], 1 / len(draws)):
            return count, rule.error
    return len(draws), rule.error


@pytest.mark.parametrize(("factors", "tolerance"), [(1, 0.04), (3, 0.06)])
def test_stopping_early_does_not_shift_the_mean(factors: int, tolerance: float) -> None:
    """Over 300 runs: the mean where each stopped, against the mean of draws that are never stopped.

    One factor behind all pixels is the worst case: a low variance by chance is then low everywhere at once.
    """
    logits, moves = scene(seed=1, factors=factors, side=20)
    generator = torch.Generator().manual_seed(2)
    ended, counts = [], []
    for _ in range(300):
        draws = draws_of(logits, moves, 64, generator)
        count, _ = used(draws, StopPlan(tolerance=tolerance))
        ended.append(draws[:count].mean(dim=0).double())
        counts.append(count)
    assert len(set(counts)) > 1, f"all runs stopped at {counts[0]}, so stopping had no choice to make"
    blind = torch.stack([draws_of(logits, moves, 500, generator).double().mean(dim=0) for _ in range(40)])
    runs = torch.stack(ended)
    shift, noise = runs.mean(dim=0) - blind.mean(dim=0), runs.var(dim=0)
    # chance: what 300 runs and 20 000 draws cannot distinguish from zero; the rest is compared with one run
    chance = noise / 300 + blind.var(dim=0) / 40
    measurable = math.sqrt(max(float((shift**2 - chance).mean()), 0.0))
    assert measurable < 0.15 * math.sqrt(float(noise.mean()))


def test_images_of_low_variance_stop_early_and_others_use_all_draws() -> None:
    logits, moves = scene(seed=3, factors=4)
    counts = [
        used(draws_of(logits, size * moves, 100, torch.Generator().manual_seed(4)), StopPlan(tolerance=0.03))[0]
        for size in (0.0, 0.3, 1.0, 3.0)
    ]
    assert counts[0] == 8
    assert counts == sorted(counts)
    assert counts[-1] == 100


def test_the_error_that_was_reached_is_that_of_the_draws_that_were_used() -> None:
    logits, moves = scene(seed=5, factors=4)
    plan = StopPlan(tolerance=0.04)
    draws = draws_of(logits, moves, 128, torch.Generator().manual_seed(6))
    count, error = used(draws, plan)
    assert 8 < count < 128
    p = draws[:count].double().numpy()
    winner = p.mean(axis=0).argmax(axis=0)
    errors = np.take_along_axis(p.std(axis=0, ddof=1) / math.sqrt(count), winner[None], axis=0)
    expected = float(np.quantile(errors, plan.quiet, method="inverted_cdf"))  # 48 x 48: every pixel is on the grid
    assert error == pytest.approx(expected, rel=1e-4)
    assert error <= plan.tolerance


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 399), st.integers(1, 399))
def test_tiles_hold_the_pixels_of_the_grid_once_each(height: int, width: int, cut: int, side: int) -> None:
    image = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    rows, columns = min(cut, height), min(side, width)
    tiles = [
        on_grid(image[..., top : top + rows, left : left + columns], (top, left), (height, width)).flatten()
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
    whole = on_grid(image).flatten()
    assert len(whole) == min(height, CELLS) * min(width, CELLS)
    assert torch.cat(tiles).sort().values.tolist() == whole.tolist()


@given(st.integers(1, 5000))
def test_the_grid_is_even_and_inside_the_image(length: int) -> None:
    points = grid(length)
    assert len(points) == min(length, CELLS)
    assert int(points[0]) >= 0
    assert int(points[-1]) < length
    gaps = points.diff()
    assert len(gaps) == 0 or int(gaps.max() - gaps.min()) <= 1
    assert abs(int(points[0]) + int(points[-1]) - (length - 1)) <= 1, "it lies to one side"


def test_the_error_that_a_share_of_pixels_stays_below_is_numpys_quantile() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(9))
    for quiet in (0.001, 0.5, 0.95, 0.9501, 1.0):
        wanted = float(np.quantile(values.numpy(), quiet, method="inverted_cdf"))
        assert error_quantile(values.reshape(10, 100), quiet) == pytest.approx(wanted, abs=1e-7)


def test_check_counts_double_and_end_at_the_cap() -> None:
    assert check_counts(128) == (8, 16, 32, 64, 128)
    assert check_counts(100, first=2) == (2, 4, 8, 16, 32, 64, 100)
    assert check_counts(5) == (5,)


def test_images_together_are_refused() -> None:
    with pytest.raises(WrongUse, match="one image at a time"):
        StoppingRule("softmax", 8)(torch.full((2, 2, 3, 3), 0.5), 1.0)


@pytest.mark.parametrize(
    "wrong", [{"tolerance": 0.0}, {"tolerance": 0.6}, {"quiet": 0.0}, {"quiet": 1.1}, {"first": 1}]
)
def test_a_plan_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(WrongUse):
        StopPlan(**wrong)  # type: ignore[arg-type]


# in use


def equal_bank(network: Network, draws: int) -> Bank:
    bank = random_bank(bn_network_of(network), draws=draws)
    return replace(bank, weights=torch.full((draws,), 1 / draws))


def test_an_image_that_stops_has_the_maps_of_its_first_draws() -> None:
    network = network_of()
    bank = equal_bank(network, 60)
    image = noise(3, 64, 60, seed=3)  # every pixel is on the grid
    errors = {
        count: error_quantile(MCBN(network, bank, draws=count)(image).standard_error) for count in (8, 16, 32, 60)
    }
    assert errors[8] > errors[16] > errors[32] > errors[60]
    for count, tolerance in ((8, 0.5), (16, 1.001 * errors[16]), (32, 0.999 * errors[16]), (60, errors[60] / 2)):
        estimate = MCBN(network, bank, draws="auto", tolerance=tolerance)(image)
        expected = MCBN(network, bank, draws=count)(image)
        assert estimate.draws == count
        assert estimate.reached_error == pytest.approx(errors[count], rel=1e-4)
        for name, values in expected.maps.items():
            torch.testing.assert_close(estimate.maps[name], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_an_image_in_tiles_has_the_draws_the_error_and_the_maps_of_the_whole_image(*, keep: bool) -> None:
    network = network_of()
    bank = equal_bank(network, 40)
    images = noise(1, 3, 257, 199, seed=4)
    measures = ("variance", "standard_error") if keep else ("variance",)
    tilings: tuple[Tiling, Tiling] = (160, "off")
    between = error_quantile(MCBN(network, bank, draws=12)(images[0]).standard_error)
    for tolerance, draws in ((0.5, 8), (between, 16), (1e-6, 40)):
        plan = StopPlan(tolerance=tolerance)
        method = mcbn(bn_network_of(network), bank, spec=network.card.input)
        read_out = ReadOut(method=method, measures=measures, probability=keep)
        tiled, whole = (
            Estimator(network, {"": read_out}, EstimatePlan(tile=tile, stop=plan))(images)[""] for tile in tilings
        )
        assert tiled.draws == whole.draws == draws
        assert tiled.reached_error == pytest.approx(whole.reached_error, rel=1e-4)
        assert list(tiled.maps) == list(whole.maps) == list(measures)
        for name in measures:
            np.testing.assert_allclose(tiled.maps[name][:], whole.maps[name][:], rtol=0, atol=1e-5)


def test_a_distilled_bank_a_single_draw_and_images_together_are_refused() -> None:
    network = network_of()
    bank = equal_bank(network, 8)
    with pytest.raises(WrongUse, match="no random sample"):
        MCBN(network, replace(bank, provenance={"distilled": True}), draws="auto")
    with pytest.raises(WrongUse, match="one draw has none"):
        MCBN(network, equal_bank(network, 1), draws="auto")
    with pytest.raises(WrongUse, match="one image at a time"):
        MCBN(network, bank, draws="auto")(noise(2, 3, 32, 32))
    with pytest.raises(WrongUse, match="one image at a time"):
        MCBN(network, bank, draws="auto", memory="8GiB")(noise(2, 3, 32, 32))
    with pytest.raises(WrongUse, match="tolerance = 0"):
        PredictPlan(draws="auto", tolerance=0)


def photographs(folder: Path) -> Path:
    """A flat image and a busy one."""
    folder.mkdir()
    busy = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for name, pixels in (("flat", np.full_like(busy, 90)), ("busy", busy)):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_the_manifest_states_the_draws_and_the_error_of_each_image_and_the_record_the_rule(tmp_path: Path) -> None:
    photos, out = photographs(tmp_path / "photos"), tmp_path / "run"
    network = load_network("scenes")
    bank = equal_bank(network, 20)
    save_bank(identified(network, bn_network_of(network), bank), tmp_path / "bank.safetensors")
    errors = {}
    for name in ("flat", "busy"):
        pixels = np.asarray(Image.open(photos / f"{name}.png"))  # 48 x 64: every pixel is on the grid
        errors[name] = {t: error_quantile(MCBN(network, bank, draws=t)(pixels).standard_error) for t in (8, 16, 20)}
    quiet, busy = sorted(errors, key=lambda name: errors[name][8])
    tolerance = (errors[quiet][8] + errors[busy][8]) / 2
    used = next((t for t in (8, 16) if errors[busy][t] <= tolerance), 20)

    asked = ("predict", "scenes", photos, "--bank", tmp_path / "bank.safetensors", "-o", out, "--precision", "fp32")
    ended = segment(*asked, "--draws", "auto", "--tolerance", tolerance)
    assert ended.code == 0
    assert f"{(8 + used) / 2:.1f} of 20 draws on average" in ended.out
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    draws_and_error = {line["id"]: (line["draws"], line["reached_error"]) for line in lines}
    assert draws_and_error[quiet] == (8, pytest.approx(errors[quiet][8], rel=1e-3, abs=1e-6))
    assert draws_and_error[busy] == (used, pytest.approx(errors[busy][used], rel=1e-3, abs=1e-6))
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["draws"] == "auto"
    assert record["plan"]["stop"] == {"tolerance": tolerance, "quiet": 0.95, "first": 8}
    assert record["timings"]["draws"] == 8 + used
    ended = segment(*asked, "--resume", "--draws", "auto", "--tolerance", tolerance / 2)
    assert ended.code == 2
    assert "tolerance" in ended.err
    ended = segment(*asked[:-4], "-o", tmp_path / "other", "--draws", "many")
    assert ended.code == 2
    assert "--draws is auto or a number" in ended.err


def test_without_auto_the_manifest_has_no_reached_error(tmp_path: Path) -> None:
    network = load_network("scenes")
    bank = equal_bank(network, 3)
    predict(network, str(photographs(tmp_path / "photos")), bank, tmp_path / "run", PredictPlan(formats=("npz",)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert not any("reached_error" in line for line in lines)
