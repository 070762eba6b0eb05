"""Scores and a program's estimates keep within a budget of memory: an image that does not fit is read in tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_scenes import written
from plain import noise, random_bank
from small_networks import Pooling, network_of

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import OutOfMemory, WrongUse
from segment.estimation.estimate import ReadOut, estimate
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import BYTES_BESIDE_PASSES, FIRST_PASS_BYTES, MemoryBudget
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.tiler import TILE_MODES, TileMode
from segment.files.writing import write_png
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.scoring import SCORING
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.jobs.mcbn import MCBN
from segment.methods.augmentation import View, augmented, mcbn_augmented
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import PassPlan
from segment.scenes.scene import TEST, TRAIN, scene

SIZE = (509, 573)

MEASURES = ("variance", "predictive_entropy", "mutual_information")


def read_outs_of(network: Network) -> dict[str, ReadOut]:
    drawn, plan, spec = bn_network_of(network), PassPlan(channels_last=True, fuse=True), network.card.input
    sampled = mcbn(drawn, random_bank(drawn), plan, spec)
    single = deterministic(drawn, plan=plan, spec=spec)
    return {
        "mcbn": ReadOut(method=sampled, measures=MEASURES),
        "cooler": ReadOut(method=sampled, measures=MEASURES, temperature=0.5, draws=2),
        "deterministic": ReadOut(method=single, measures=MEASURES[1:2]),
    }


def tight(estimator: Estimator) -> EstimatePlan:
    """Less than the image takes in one piece, by more than half of its passes."""
    bytes_ = FIRST_PASS_BYTES + int(
        SIZE[0] * SIZE[1] * (BYTES_BESIDE_PASSES + SCORING + estimator.kept + 0.8 * estimator.pixel)
    )
    return EstimatePlan(budget=MemoryBudget(bytes_), beside=SCORING)


def test_read_outs_in_tiles_are_those_of_the_whole_image() -> None:
    network = network_of()
    images = noise(1, 3, *SIZE, seed=5)
    whole = Estimator(network, read_outs_of(network))(images)
    cut = Estimator(network, read_outs_of(network))
    cut.plan = tight(cut)
    side = cut.side_for(*SIZE)
    assert side is not None
    assert side < min(SIZE)
    for name, made in cut(images).items():
        expected = whole[name]
        torch.testing.assert_close(made.probability, expected.probability, rtol=0, atol=1e-5)
        assert list(made.maps) == list(expected.maps)
        for measure, values in expected.maps.items():
            torch.testing.assert_close(made.maps[measure], values, rtol=0, atol=1e-5)
        assert float((made.prediction == expected.prediction).float().mean()) > 0.999
        assert made.seconds > 0


def test_a_view_that_a_tile_would_change_is_not_cut_but_named_with_the_number_needed() -> None:
    network = network_of()
    single = deterministic(bn_network_of(network), spec=network.card.input)
    mirrored = augmented(single, (View(), View(flip=True)))
    read_outs = {"tta": ReadOut(method=mirrored, measures=MEASURES[:1])}
    estimator = Estimator(network, read_outs, EstimatePlan(budget=MemoryBudget(FIRST_PASS_BYTES)))
    with pytest.raises(OutOfMemory, match=r"needs \d+ MiB .* cannot be tiled: tta"):
        estimator(noise(1, 3, *SIZE))


@pytest.mark.parametrize("mode", TILE_MODES)
def test_tiles_of_a_size_are_refused_to_methods_that_a_tile_would_change(mode: TileMode) -> None:
    network = network_of()
    drawn, images = bn_network_of(network), noise(1, 3, *SIZE)
    bank, spec = random_bank(drawn), network.card.input
    mirrored = mcbn_augmented(drawn, bank, (View(), View(flip=True)), spec=spec)
    scaled = mcbn_augmented(drawn, bank, (View(), View(scale=0.75)), spec=spec)
    plan = EstimatePlan(tile=max(SIZE) // 2, mode=mode)
    for method in (mirrored, scaled):
        estimator = Estimator(network, {"": ReadOut(method=method, measures=MEASURES[:1])}, plan)
        with pytest.raises(WrongUse, match=r"--tile \d+ would change the maps of mcbn\+tta, .* Leave --tile out"):
            estimator(images)
        with pytest.raises(WrongUse, match=r"mcbn\+tta"):
            estimator.cost([SIZE], lambda height, width: False)
    estimator.plan = EstimatePlan(tile=2 * max(SIZE), mode=mode)  # an image that needs no tile is whole
    (made,) = estimator(images).values()
    expected = estimate(scaled, images, head="softmax", measures=MEASURES[:1])
    torch.testing.assert_close(made.maps[MEASURES[0]], expected.maps[MEASURES[0]][0], rtol=0, atol=1e-6)
    plain = ReadOut(method=mcbn_augmented(drawn, bank, (View(),), spec=spec), measures=MEASURES[:1])
    assert Estimator(network, {"": plain}, plan).side_for(*SIZE) is not None


def test_a_network_that_depends_on_the_whole_image_is_not_tiled_under_a_score() -> None:
    network = network_of(Pooling)
    estimator = Estimator(network, read_outs_of(network))
    estimator.plan = tight(estimator)
    with pytest.raises(OutOfMemory, match="depends on the whole image"):
        estimator(noise(1, 3, *SIZE))


def labelled_noise(folder: Path, count: int) -> Labels:
    """Noise of several sizes with random labels of four classes."""
    rng = np.random.default_rng(3)
    for number in range(count):
        size = (SIZE[0], SIZE[1] - 16 * number)
        write_png(folder / "images" / f"{number}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        write_png(folder / "labels" / f"{number}.png", rng.integers(0, 4, size, dtype=np.uint8))
    return Labels(folder / "images", folder / "labels")


def test_an_evaluation_in_tiles_has_the_scores_of_one_of_whole_images(tmp_path: Path) -> None:
    network = network_of()
    drawn = bn_network_of(network)
    bank = identified(network, drawn, random_bank(drawn))
    data = labelled_noise(tmp_path, 2)
    plan = EvaluatePlan(
        methods=MethodPlan(
            methods=("mcbn", "deterministic"), measures=("predictive_entropy", "variance"), precision="fp32"
        ),
    )
    whole = evaluate_into(network, data, tmp_path / "whole", banks=[bank], plan=plan, memory=MemoryBudget(2**40))
    read_outs = {name: read_out for name, read_out in read_outs_of(network).items() if name != "cooler"}
    little = tight(Estimator(network, read_outs, EstimatePlan(beside=SCORING)))
    assert Estimator(network, read_outs, little).side_for(*SIZE) is not None
    cut = evaluate_into(network, data, tmp_path / "cut", banks=[bank], plan=plan, memory=little.budget)
    for key in ("images", "pixels"):
        assert cut.scores[key] == whole.scores[key]
    compared = 0
    for name, method in cut.scores["methods"].items():
        other = whole.scores["methods"][name]["scores"]
        for score, entry in method["scores"].items():
            if entry["value"] is not None:
                assert entry["value"] == pytest.approx(other[score]["value"], abs=2e-5), (name, score)
                compared += 1
    assert compared > 20


def test_an_evaluation_that_does_not_fit_is_refused_with_the_number_needed(tmp_path: Path) -> None:
    network = load_network("scenes")
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN[:4]], batch=4, draws=2)
    with pytest.raises(OutOfMemory, match=r"smallest plan needs \d+ MiB"):
        evaluate_into(
            network, written(tmp_path, TEST[:2]), tmp_path / "run", banks=[bank], memory=MemoryBudget(FIRST_PASS_BYTES)
        )


@pytest.mark.parametrize("number", [1, 2])
def test_a_program_s_estimate_within_a_budget_is_the_estimate(number: int) -> None:
    network = network_of()
    bank: Bank = random_bank(bn_network_of(network))
    images = noise(number, 3, *SIZE, seed=6)
    expected = MCBN(network, bank, precision="fp32")(images, MEASURES)
    model = MCBN(network, bank, precision="fp32", memory=MemoryBudget(FIRST_PASS_BYTES + SIZE[0] * SIZE[1] * 180))
    made = model(images, MEASURES)
    assert model._estimator(MEASURES).side_for(512, 576) is not None
    assert made.draws == expected.draws
    assert made.prediction.dtype == expected.prediction.dtype
    torch.testing.assert_close(made.probability, expected.probability, rtol=0, atol=1e-5)
    for name in MEASURES:
        torch.testing.assert_close(made.maps[name], expected.maps[name], rtol=0, atol=1e-5)
    single = model(images[0], MEASURES)
    np.testing.assert_allclose(single.probability.numpy(), expected.probability[0].numpy(), rtol=0, atol=1e-5)
