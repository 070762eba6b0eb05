"""A distilled bank: K weighted draws that stand for T, chosen, refined, and used as any bank is."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from console import segment as command
from numpy.typing import NDArray
from PIL import Image
from plain import (
    Toy,
    assert_same_state,
    calibrated,
    noise,
    plain_loop,
    plain_measures,
    probabilities_of,
    random_bank,
    seeded,
    state_of,
    surveyed,
)
from safetensors.torch import save_file
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor, nn

import segment
from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.distilling.choose import Chosen, Moments, choose, simplex_weights
from segment.distilling.distill import Distilled, DistillPlan, Observed, distill, observe, observe_views
from segment.distilling.refine import DrawParameters, RefinePlan, Student, Target, variance_error
from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.image_pool import ImagePool
from segment.errors import BankRefused, ImageUnreadable, WrongUse
from segment.images.specs import TrainingSpec
from segment.jobs.distill import _images_of_views, cut_views, distill_bank
from segment.jobs.mcbn import MCBN
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST, Passes


def toy_network() -> BatchNormNetwork:
    return surveyed(calibrated(seeded(Toy), (32, 32)))


def toy_bank(network: BatchNormNetwork, draws: int, seed: int = 0) -> Bank:
    bank = random_bank(network, draws=draws, seed=seed)
    return replace(bank, weights=torch.full((draws,), 1.0 / draws))


def views(count: int, seed: int) -> list[Tensor]:  # each 1 3 24 24, some much brighter than others
    return [noise(1, 3, 24, 24, seed=seed + at) * (0.5 + at % 3) for at in range(count)]


SMALL = DistillPlan(draws=4, refine=RefinePlan(steps=30, every=10, rate=0.6))


def distilled(network: BatchNormNetwork, bank: Bank, plan: DistillPlan = SMALL) -> Distilled:
    seen = observe_views(Passes(network, bank, FAST), views(12, seed=10), "softmax", seed=plan.seed)
    others = observe_views(Passes(network, bank, FAST), views(4, seed=50), "softmax", pixels=0)
    return distill(network, bank, seen, others.targets, "softmax", plan)


def observed(network: BatchNormNetwork, bank: Bank, seen: list[Tensor]) -> list[Target]:
    passes, generator = Passes(network, bank, FAST), torch.Generator().manual_seed(0)
    return observe(passes, bank.weights, torch.cat(seen), "softmax", 1, generator)[0]


# the choice


def quadratic(products: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(weights @ products @ weights)


def test_weights_are_those_that_a_general_optimiser_finds() -> None:
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(5, 4)) + (0.5 if seed % 2 else 0)
        products = rows @ rows.T
        result, left = simplex_weights(torch.from_numpy(products)[None])
        best = minimize(
            partial(quadratic, products),
            np.full(5, 0.2),
            bounds=[(0.0, 1.0)] * 5,
            method="SLSQP",
            constraints=LinearConstraint(np.ones((1, 5)), 1.0, 1.0),
            options={"ftol": 1e-12},
        )
        assert float(result.min()) >= 0
        assert float(result.sum()) == pytest.approx(1, abs=1e-9)
        scale = np.trace(products)
        assert float(left[0]) == pytest.approx(best.fun, abs=1e-6 * scale)


def test_the_choice_is_as_good_as_the_best_of_all_choices() -> None:
    seen = noise(9, 40, seed=3)
    centred = (seen - seen.mean(dim=0)).double()
    products = centred @ centred.T / centred.square().sum(dim=1).mean()
    every = torch.tensor(list(itertools.combinations(range(9), 3)))
    _, left = simplex_weights(products[every[:, :, None], every[:, None, :]])
    chosen = choose(products, 3, torch.Generator().manual_seed(0))
    assert chosen.distance == pytest.approx(float(left.min()), rel=1e-6)
    assert len(set(chosen.draws)) == 3
    assert float(chosen.weights.sum()) == pytest.approx(1, abs=1e-6)


EQUAL, UNEQUAL = torch.full((6,), 1 / 6), torch.tensor([0.4, 0.05, 0.05, 0.4, 0.05, 0.05])


@pytest.mark.parametrize("of_bank", [EQUAL, UNEQUAL])
def test_products_are_those_of_the_moments_that_draws_add(of_bank: Tensor) -> None:
    views, moments = [noise(6, 20, seed=seed).double() * (1 + seed) for seed in range(3)], Moments(6)
    for view in views:
        moments.add(view.float(), of_bank)
    p = torch.cat(views, dim=1)
    first = p - of_bank.double() @ p
    second = first**2 - of_bank.double() @ first**2
    features = torch.cat(
        [first / (3 * first.square().sum(dim=1).mean().sqrt()), second / second.square().sum(dim=1).mean().sqrt()],
        dim=1,
    )
    torch.testing.assert_close(moments.products(), features @ features.T, rtol=1e-5, atol=1e-5)
    two, one = Moments(6), Moments(6)
    for part, view in zip((two, two, one), views, strict=True):
        part.add(view.float(), of_bank)
    torch.testing.assert_close((two + one).products(), moments.products())
    weights = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0], dtype=torch.float64)
    left = weights @ features - of_bank.double() @ features
    torch.testing.assert_close(weights @ moments.products() @ weights, left @ left, rtol=1e-4, atol=1e-6)


def test_draws_that_hold_nearly_all_of_the_banks_weight_are_chosen() -> None:
    network = toy_network()
    weights = torch.tensor([0.01, 0.01, 0.46, 0.01, 0.01, 0.48, 0.01, 0.01])
    bank = replace(random_bank(network, draws=8), weights=weights)
    small = distilled(network, bank, DistillPlan(draws=2, refine=RefinePlan(steps=0)))
    assert small.chosen.draws == (2, 5)
    assert float(small.chosen.weights[1]) == pytest.approx(0.5, abs=0.1)


def test_a_bank_that_repeats_four_draws_is_distilled_to_these_without_error() -> None:
    network = toy_network()
    four = toy_bank(network, 4)
    often = torch.tensor([0, 1, 2, 3, 0, 1, 1, 2, 0, 1])
    bank = Bank(
        torch.full((10,), 0.1),
        {name: value[often] for name, value in four.mean.items()},
        {name: value[often] for name, value in four.var.items()},
    )
    distillation = distilled(network, bank, replace(SMALL, refine=RefinePlan(steps=0)))
    which = often[list(distillation.chosen.draws)]
    assert sorted(which.tolist()) == [0, 1, 2, 3]
    expected = torch.tensor([0.3, 0.4, 0.2, 0.1])[which]
    torch.testing.assert_close(distillation.bank.weights, expected, atol=2e-3, rtol=0)
    assert distillation.error < 0.01


def test_choosing_beats_the_first_draws_on_other_images() -> None:
    network = toy_network()
    bank = toy_bank(network, 60)
    others = observed(network, bank, views(6, seed=90))
    student = Student(network, "softmax")
    first = [
        student.error(
            DrawParameters(bank, Chosen(tuple(range(at, at + 4)), torch.full((4,), 0.25), 0.0), network.device), others
        )
        for at in range(0, 40, 4)
    ]
    distillation = distilled(network, bank, replace(SMALL, refine=RefinePlan(steps=0)))
    chosen = student.error(DrawParameters(bank, distillation.chosen, network.device), others)
    assert chosen < 0.8 * float(np.mean(first))


# what is matched


def test_observed_moments_are_those_of_a_plain_loop() -> None:
    module = calibrated(seeded(Toy), (32, 32))
    network = surveyed(module)
    bank = random_bank(network, draws=5)
    two = views(2, seed=4)
    passes = Passes(network, bank, FAST)
    targets, seen = observe(passes, bank.weights, torch.cat(two), "softmax", 7, torch.Generator().manual_seed(1))
    taken = torch.randint(24 * 24, (2, 1, 7), generator=torch.Generator().manual_seed(1))[:, 0].numpy()
    wanted = []
    for view, target, pixels in zip(two, targets, taken, strict=True):
        p = probabilities_of(plain_loop(module, bank, view).numpy())
        plain = plain_measures(p, bank.weights.tolist())
        np.testing.assert_allclose(target.variance.mean(dim=1).numpy(), plain["variance"], atol=1e-6)
        assert torch.equal(target.views, view)
        wanted.append(p[:, 0].reshape(5, 4, -1)[:, :, pixels].transpose(0, 2, 1).reshape(5, -1))
    np.testing.assert_allclose(seen.numpy(), np.concatenate(wanted, axis=1), atol=1e-5)


class Mixing(Toy):
    """An image's output has a share of the batch's mean in it."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + logits.mean(dim=0, keepdim=True)


@pytest.mark.parametrize("module", [Toy, Mixing])
def test_views_of_every_size_are_observed_as_each_alone(module: type[nn.Module]) -> None:
    network = surveyed(calibrated(seeded(module), (32, 32)))
    bank = random_bank(network, draws=5)
    seen = [*views(6, seed=1), noise(1, 3, 16, 24, seed=3), *views(1, seed=9)]
    together = observe_views(Passes(network, bank, FAST), seen, "softmax")
    passes, generator = Passes(network, bank, FAST), torch.Generator().manual_seed(0)
    for view, target in zip(seen, together.targets, strict=True):
        (alone,), _ = observe(passes, bank.weights, view, "softmax", 1, generator)
        torch.testing.assert_close(target.views, view, rtol=0, atol=0)
        torch.testing.assert_close(target.mean, alone.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(target.variance, alone.variance, rtol=1e-4, atol=1e-7)
    again = Observed.of(seen, together.tensors(), torch.device("cpu"))
    assert again.seconds == together.seconds > 0
    for target, other in zip(again.targets, together.targets, strict=True):
        torch.testing.assert_close((target.mean, target.variance), (other.mean, other.variance), rtol=0, atol=0)
    double = (again + together).moments.products()
    torch.testing.assert_close(double, together.moments.products())  # in units of their own spread


def test_the_error_is_the_relative_l1_error_of_the_variance_map() -> None:
    a, b = noise(2, 3, 4, 4, seed=1).abs(), noise(2, 3, 4, 4, seed=2).abs()
    v, reference = a.numpy().mean(axis=1), b.numpy().mean(axis=1)
    assert variance_error([a], [b]) == pytest.approx(np.abs(v - reference).sum() / reference.sum(), rel=1e-5)
    assert variance_error([a[:1], a[1:]], [b[:1], b[1:]]) == pytest.approx(variance_error([a], [b]), rel=1e-6)


# the refinement


class Twice(nn.Module):
    """A BN layer used twice, one without affine weights, and one kept fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.shared = nn.BatchNorm2d(6, eps=1e-3)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.last = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.shared(self.first(x)), inplace=True)
        x = self.shared(self.middle(x)).relu_()
        return self.head(self.last(self.plain(x)))


def test_passes_that_gradients_reach_are_the_plain_passes() -> None:
    for module in (calibrated(seeded(Toy)), calibrated(seeded(Twice))):
        network = surveyed(module)
        if isinstance(module, Twice):
            network = network.select("shared*,plain")
        bank = random_bank(network, draws=3, seed=5)
        (view,) = views(1, seed=6)
        (target,) = observed(network, bank, [view])
        draws = DrawParameters(bank, Chosen((0, 1, 2), bank.weights, 0.0), network.device)
        mean, variance = Student(network, "softmax").moments(draws, view)
        torch.testing.assert_close(mean.detach(), target.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(variance.detach(), target.variance, atol=1e-5, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    module = calibrated(seeded(Twice)).double()
    network = survey(module, module, noise(1, 3, 32, 32, seed=7).double())
    bank = random_bank(network, draws=3, seed=5)
    view = noise(1, 3, 8, 8, seed=6).double()
    target = Target(view, torch.full((1, 3, 8, 8), 1 / 3).double(), torch.full((1, 3, 8, 8), 0.02).double())
    draws = DrawParameters(bank, Chosen((0, 2), torch.tensor([0.3, 0.7]), 0.0), network.device).double()
    student = Student(network, "softmax")
    student.loss(draws, target).backward()  # type: ignore[no-untyped-call]
    picked = torch.randperm(draws.moved.numel(), generator=torch.Generator().manual_seed(0))[:12]
    for parameter, places in ((draws.moved, picked.tolist()), (draws.logits, [0, 1])):
        assert parameter.grad is not None
        for at in places:
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[at] += step
                    sides.append(float(student.loss(draws, target)))
                    parameter.view(-1)[at] -= step
            numeric = (sides[0] - sides[1]) / 2e-5
            assert float(parameter.grad.view(-1)[at]) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_refining_comes_nearer_to_the_bank_on_images_it_never_saw() -> None:
    network = toy_network()
    bank = toy_bank(network, 60)
    others = observed(network, bank, views(6, seed=90))
    distillation = distilled(network, bank)
    student = Student(network, "softmax")
    kept = DrawParameters(distillation.bank, Chosen((0, 1, 2, 3), distillation.bank.weights, 0.0), network.device)
    chosen = DrawParameters(bank, distillation.chosen, network.device)
    assert distillation.step > 0
    assert distillation.error < distillation.chosen_error
    assert student.error(kept, others) < 0.9 * student.error(chosen, others)


def test_steps_that_make_it_worse_are_not_kept() -> None:
    network = toy_network()
    wild = replace(SMALL, refine=RefinePlan(steps=6, every=2, rate=2000.0, patience=2))
    distillation = distilled(network, toy_bank(network, 20), wild)
    assert distillation.step == 0
    assert distillation.error == distillation.chosen_error


def test_the_same_seed_distils_the_same_bits_and_another_seed_other_ones() -> None:
    network = toy_network()
    bank = toy_bank(network, 20)
    quick = replace(SMALL, refine=RefinePlan(steps=4, every=2))
    first, two = distilled(network, bank, quick), distilled(network, bank, quick)
    assert bank_fingerprint(first.bank) == bank_fingerprint(two.bank)
    assert bank_fingerprint(distilled(network, bank, replace(quick, seed=1)).bank) != bank_fingerprint(first.bank)


def test_the_network_is_restored_also_after_an_interrupt() -> None:
    module = calibrated(seeded(Toy), (32, 32))
    network = surveyed(module)
    module.conv1.weight.requires_grad_(False)
    module.bn1.training = True  # an odd state, which must come back
    before = state_of(module)
    bank = toy_bank(network, 20)
    distilled(network, bank, replace(SMALL, refine=RefinePlan(steps=4, every=2)))
    assert_same_state(before, state_of(module))

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "refining":
            raise KeyboardInterrupt

    seen, others = (observe_views(Passes(network, bank, FAST), views(count, seed=count), "softmax") for count in (6, 2))
    with pytest.raises(KeyboardInterrupt):
        distill(network, bank, seen, others.targets, "softmax", SMALL, interrupt)
    assert_same_state(before, state_of(module))


def test_wrong_use_is_refused_in_words() -> None:
    network = toy_network()
    bank = toy_bank(network, 8)
    with pytest.raises(WrongUse, match="distilling leaves fewer"):
        distilled(network, bank, replace(SMALL, draws=8))
    with pytest.raises(WrongUse, match="distilled already"):
        distilled(network, replace(bank, provenance={"distilled": True}))
    with pytest.raises(WrongUse, match="draws = 0"):
        DistillPlan(draws=0)
    with pytest.raises(WrongUse, match="steps = -1"):
        RefinePlan(steps=-1)


# a distilled bank in use


def photographs(count: int) -> list[NDArray[np.uint8]]:  # each 40 48 3
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    return [image.repeat(8, axis=0).repeat(8, axis=1) for image in coarse]


def toy_model() -> Network:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    flip = ({"name": "HorizontalFlip", "p": 0.5},)
    return replace(network, card=replace(network.card, training=TrainingSpec(batch=2, transforms=flip)))


def fitted_pair() -> tuple[Network, Bank, Bank]:
    network = toy_model()
    whole = segment.fit_bank(network, photographs(9), draws=24)
    return network, whole, distill_bank(network, whole, photographs(9), draws=4, views=8, held_out=2, steps=10)


@pytest.fixture(scope="module")
def pair() -> tuple[Network, Bank, Bank]:
    return fitted_pair()


def test_its_provenance_says_what_it_was_made_from(pair: tuple[Network, Bank, Bank]) -> None:
    network, whole, small = pair
    output = small.provenance
    assert output["distilled"] is True
    assert output["draws"] == len(small) == 4
    assert output["fingerprint"] == network.fingerprint
    made = output["distillation"]
    assert made["bank"] == bank_fingerprint(whole)
    assert made["bank_draws"] == 24
    assert len(set(made["chosen"])) == 4
    assert (made["views"], made["held_out"]) == (8, 2)
    assert made["plan"]["refine"]["steps"] == 10
    assert 0 < made["error"] <= made["error_chosen"]
    json.dumps(dict(output), allow_nan=False)


def test_it_loads_and_predicts_as_the_weighted_passes_say(pair: tuple[Network, Bank, Bank], tmp_path: Path) -> None:
    network, _, small = pair
    segment.save_bank(small, tmp_path / "small.safetensors")
    loaded = segment.load_bank(tmp_path / "small.safetensors")
    assert bank_fingerprint(loaded) == bank_fingerprint(small)
    image = noise(1, 3, 32, 32, seed=3)
    estimated = MCBN(network, loaded, precision="fp32")(image)
    p = probabilities_of(plain_loop(network.module, small, image).numpy())
    plain = plain_measures(p, small.weights.tolist())
    np.testing.assert_allclose(estimated.variance.numpy(), plain["variance"], atol=1e-5)
    np.testing.assert_allclose(estimated.mutual_information.numpy(), plain["mutual_information"], atol=1e-4)


def test_it_has_no_standard_error_and_says_why(pair: tuple[Network, Bank, Bank]) -> None:
    network, _, small = pair
    estimated = MCBN(network, small, precision="fp32")(noise(3, 32, 32, seed=3))
    assert "standard_error" not in estimated.maps
    assert "chosen, not drawn at random" in estimated.withheld["standard_error"]
    with pytest.raises(AttributeError, match="No Monte Carlo standard error"):
        _ = estimated.standard_error


def test_it_is_used_whole(pair: tuple[Network, Bank, Bank]) -> None:
    network, _, small = pair
    assert small.first(4) is small
    with pytest.raises(WrongUse, match="used whole"):
        small.first(2)
    with pytest.raises(WrongUse):
        MCBN(network, small, draws=8)


def test_held_out_views_are_of_other_images_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    network, whole, _ = fitted_pair()
    for number, image in enumerate(photographs(4)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    with pytest.raises(ImageUnreadable, match=r"2\.png"):
        distill_bank(network, whole, str(tmp_path), views=4, held_out=4)
    with pytest.raises(WrongUse, match="too few"):
        distill_bank(network, whole, photographs(1))
    with pytest.raises(BankRefused):
        distill_bank(load_network(calibrated(seeded(Toy, seed=1))), whole, photographs(4))


def test_views_of_a_file_are_held_out_with_all_of_its_copies_and_frames(tmp_path: Path) -> None:
    """A list may name a file more than once, and the frames of a video or slices of a volume are alike."""
    network, _, _ = fitted_pair()
    for number, image in enumerate(photographs(5)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.iterdir())

    def sides(*sources: tuple[Path, int | None]) -> tuple[list[int], list[int]]:
        pool = ImagePool(network, files)
        pool.sources = tuple(replace(pool.sources[0], path=path, part=part) for path, part in sources)
        own, held_out, _ = _images_of_views(pool, len(sources), len(sources), 0)
        assert set(own) | set(held_out) == set(range(len(sources)))
        return own, held_out

    thrice = [(path, None) for path in files for _ in range(3)]
    video = [(files[0], frame) for frame in range(8)]
    for given in (thrice, [*video, (files[1], None)], [*video, *((files[1], frame) for frame in range(3))]):
        own, held_out = sides(*given)
        assert not {given[index][0] for index in own} & {given[index][0] for index in held_out}
        assert len(set(held_out)) <= 3  # not the video, where something smaller is there
    own, held_out = sides(*video, *video)  # of one file alone, other frames are held out
    assert not {video[index % 8] for index in own} & {video[index % 8] for index in held_out}
    with pytest.raises(WrongUse, match="held against others; 1 is too few"):
        sides(*thrice[:3])


def test_the_command_writes_a_bank_that_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(photographs(6)):
        Image.fromarray(image).save(photos / f"{number}.png")
    big, small, again = tmp_path / "big.safetensors", tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    network = seeded(lambda: load_network("segment:tiny?classes=3").module)  # untrained, its head is 0
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    model = ("segment:tiny?classes=3", "--weights", tmp_path / "tiny.safetensors")

    assert command("fit", *model, "--images", photos, "--batch", 2, "--draws", 6, "-o", big).code == 0
    asked = ("--images", photos, "--draws", 2, "--views", 3, "--held-out", 1, "--steps", 2)
    ended = command("distill", big, *model, *asked, "-o", small, "--json")
    assert ended.code == 0
    assert ended.json["draws"] == 2
    assert segment.load_bank(small).distilled
    predict = ("predict", *model, photos, "--bank", small, "-o", tmp_path / "run")
    ended = command(*predict, "--draws", 1)
    assert ended.code == 2
    assert "used whole" in ended.err
    assert command(*predict, "--maps", "standard_error").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(line["draws"] == 2 for line in lines)
    assert all("chosen, not drawn at random" in line["notes"]["standard_error"] for line in lines)
    as_one = ("fit", *model, "--images", photos, "--batch", 2, "--draws", 6, "-o", again)
    ended = command(*as_one, "--distill", 6)
    assert ended.code == 2
    assert "distilling leaves fewer" in ended.err
    monkeypatch.setattr("segment.jobs.distill.RefinePlan", lambda steps: RefinePlan(steps=1, every=1))
    ended = command(*as_one, "--distill", 2, "--json")
    assert ended.code == 0
    assert ended.json["distilled"]["of"] == 6
    assert len(segment.load_bank(again)) == 2
    whole = segment.load_bank(tmp_path / "again.all.safetensors")
    assert bank_fingerprint(whole) == bank_fingerprint(segment.load_bank(big))
    again.unlink()
    ended = command("distill", small, *model, *asked, "-o", again)
    assert ended.code == 2
    assert "distilled already" in ended.err
    assert not again.exists()


@pytest.mark.parametrize("images", [1, 2])
def test_a_bank_whose_draws_have_no_spread_is_refused(images: int, tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    own = [np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8) for seed in range(images)]
    given = own * (4 // images)
    bank = segment.fit_bank(network, given if images == 1 else own, batch=2, draws=5)  # equal images, or all of them
    with pytest.raises(WrongUse, match="5 draws of this bank have the same outputs on all 8 training views"):
        distill_bank(network, bank, given, draws=2, views=8, held_out=2, steps=2, output=tmp_path / "small.safetensors")
    assert not (tmp_path / "small.safetensors").exists()


def test_held_out_views_under_which_all_draws_are_equal_measure_no_error() -> None:
    network = toy_network()
    bank = toy_bank(network, 6)
    seen = observe_views(Passes(network, bank, FAST), views(2, seed=1), "softmax")
    (target, *_) = seen.targets
    equal = replace(target, variance=torch.zeros_like(target.variance))
    with pytest.raises(WrongUse, match="on all 1 held-out views"):
        distill(network, bank, seen, [equal], "softmax", SMALL)
    assert distill(network, bank, seen, [equal, target], "softmax", SMALL).error < 10


def test_a_view_under_which_all_draws_are_equal_does_not_end_the_refinement() -> None:
    network = toy_network()
    bank = toy_bank(network, 6)
    seen = observe_views(Passes(network, bank, FAST), views(2, seed=1), "softmax")
    target = seen.targets[0]
    equal = replace(target, variance=torch.zeros_like(target.variance))
    draws = DrawParameters(bank, Chosen((0, 1), torch.tensor([0.5, 0.5]), 0.0), network.device)
    loss = Student(network, "softmax").loss(draws, equal)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert draws.moved.grad is not None
    assert torch.isfinite(draws.moved.grad).all()


def test_views_of_images_that_the_card_resizes_are_whole() -> None:
    network = toy_model()
    sized = replace(network, card=replace(network.card, input=replace(network.card.input, size=(224, 256))))
    for given, expected in ((sized, (224, 256)), (network, (192, 192))):
        large = [image.repeat(8, axis=0).repeat(8, axis=1) for image in photographs(9)]
        views, held_out = cut_views(ImagePool(given, large), 3, 1, 0)
        assert {tuple(view.shape[-2:]) for view in (*views, *held_out)} == {expected}
