"""What holds whatever the network: eval mode reproduced, everything borrowed given back, the same bits again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from plain import (
    Floats,
    Toy,
    assert_same_state,
    calibrated,
    in_eval_mode,
    noise,
    passes,
    plain_loop,
    plain_measures,
    probabilities_of,
    random_bank,
    seeded,
    state_of,
    surveyed,
)
from scipy.special import rel_entr
from torch import Tensor, nn
from torch.nn import functional

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.recording import record
from segment.estimation.estimate import estimate, moments_of
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn, mean_statistics
from segment.networks.load import load_network
from segment.passes.passes import Passes, PassPlan
from segment.uncertainty.measures import MEASURES

PLANS = [PassPlan(fold=fold, share=share) for fold in (1, 3) for share in (False, True)]


# --- law 2: the trained statistics are eval mode ---


@pytest.mark.parametrize("plan", PLANS[:2], ids=str)
def test_a_bank_of_the_trained_statistics_reproduces_eval_mode_bit_for_bit(
    toy: Toy, image: Tensor, plan: PassPlan
) -> None:
    network = surveyed(toy)
    (replayed,) = passes(network, Bank.of_trained(network), image, plan)
    assert torch.equal(replayed, in_eval_mode(toy, image))
    ((weight, again),) = deterministic(network, plan=plan)(image)
    assert weight == 1
    assert torch.equal(again, replayed)


@pytest.mark.parametrize("uri", ["segment:enet?classes=4", "torchvision:lraspp_mobilenet_v3_large?num_classes=4"])
def test_a_real_networks_trained_statistics_reproduce_its_eval_mode_bit_for_bit(uri: str) -> None:
    network = load_network(uri)
    calibrated(seeded(lambda: network.module))
    drawn, image = bn_network_of(network), noise(1, 3, 64, 96)
    with torch.no_grad():
        wanted = network(image)
    for share in (False, True):
        (replayed,) = passes(drawn, Bank.of_trained(drawn), image, PassPlan(share=share))
        assert torch.equal(replayed, wanted)


def test_the_trained_statistics_folded_beside_others_reproduce_eval_mode(toy: Toy, image: Tensor) -> None:
    network = surveyed(toy)
    draws = [*random_bank(network, draws=2), *Bank.of_trained(network)]
    *_, replayed = passes(network, Bank.of_draws(draws), image, PassPlan(fold=3))
    torch.testing.assert_close(replayed.softmax(dim=1), in_eval_mode(toy, image).softmax(dim=1), rtol=0, atol=1e-5)


def test_the_banks_mean_statistics_are_one_pass_under_its_average(toy: Toy, image: Tensor) -> None:
    network = surveyed(toy)
    bank = random_bank(network)
    ((weight, estimated),) = mean_statistics(network, bank)(image)
    assert weight == 1
    torch.testing.assert_close(estimated, plain_loop(toy, bank.average(), image)[0], rtol=1e-5, atol=1e-5)


# --- law 3: without a spread there is none ---


def test_one_draw_gives_exactly_no_variance_and_no_mutual_information(toy: Toy, image: Tensor) -> None:
    estimated = estimate(mcbn(surveyed(toy), random_bank(surveyed(toy), draws=1)), image, head="softmax")
    assert not estimated.variance.any()
    assert not estimated.mutual_information.any()
    assert estimated.predictive_entropy.min() > 0


@pytest.mark.parametrize("plan", PLANS[:2], ids=str)
def test_equal_draws_give_exactly_no_variance_and_no_mutual_information(
    toy: Toy, image: Tensor, plan: PassPlan
) -> None:
    network = surveyed(toy)
    (draw,) = record(network, [noise(4, 3, 32, 32)])
    estimated = estimate(mcbn(network, Bank.of_draws([draw] * 5), plan), image, head="softmax")
    assert not estimated.variance.any()
    assert not estimated.mutual_information.any()


@pytest.mark.parametrize("head", ["softmax", "multilabel", "sigmoid"])
def test_entropy_information_and_variance_are_those_of_a_plain_loop_in_float64(head: Head) -> None:
    """Mutual information as the mean divergence of the draws from their mean, not as a difference of entropies."""
    module = calibrated(seeded(lambda: Toy(1 if head == "sigmoid" else 4)), (32, 32))
    network, images = surveyed(module), noise(2, 3, 32, 32)
    bank = random_bank(network, draws=4)
    estimated = estimate(mcbn(network, bank), images, head=head)
    p = probabilities_of(plain_loop(module, bank, images, dtype=torch.float64).numpy(), head)  # T N K H W
    weights = bank.weights.double().numpy()
    wanted = plain_measures(p, weights.tolist(), head)
    for name, highest in (("predictive_entropy", 0.3), ("expected_entropy", 0.2), ("variance", 1e-3)):
        assert wanted[name].max() > highest, "the law would hold for anything"
        np.testing.assert_allclose(estimated.maps[name].numpy(), wanted[name], rtol=1e-3, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(estimated.mutual_information.numpy(), divergence(p, weights, head), rtol=1e-3, atol=2e-5)


def divergence(p: Floats, weights: Floats, head: str) -> Floats:  # T N K ... -> N ...
    """mean_t KL(p_t || mean p) in nats; of a multi-label head the mean over its labels."""
    if head == "multilabel":
        labels = [np.stack([1 - p[:, :, k], p[:, :, k]], axis=2) for k in range(p.shape[2])]
        return np.mean([divergence(label, weights, "softmax") for label in labels], axis=0)
    w = (weights / weights.sum()).reshape(-1, *[1] * (p.ndim - 1))
    return np.asarray((w * rel_entr(p, (w * p).sum(axis=0))).sum(axis=(0, 2)))


# --- law 5: what is borrowed is given back ---


class Awkward(Toy):
    """Overrides train, counts in a buffer, replaces another, draws random numbers, has hooks and frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor
        self.last: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(3), persistent=False)
        self.conv1.weight.requires_grad_(False)
        self.conv2.register_forward_hook(lambda _m, _a, output: output + 0)

    def train(self, mode: bool = True) -> Awkward:  # noqa: FBT001, FBT002 - torch's own signature
        super().train(mode)
        self.bn1.training = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.last = x.mean(dim=(0, 2, 3))
        functional.dropout(torch.rand(3), 0.5, training=True)
        return super().forward(x)


@pytest.fixture
def awkward() -> Awkward:
    module = calibrated(seeded(Awkward), (32, 32))
    module.train()
    return module


Use = Callable[[BatchNormNetwork, Bank, Tensor], Iterator[object]]

USES: dict[str, Use] = {
    "record": lambda network, _, image: record(network, [image.repeat(2, 1, 1, 1)] * 3),
    **{
        f"fold {plan.fold}, share {plan.share}": (
            lambda network, bank, image, plan=plan: Passes(network, bank, plan)(image)  # type: ignore[misc]
        )
        for plan in PLANS
    },
    "bf16": lambda network, bank, image: Passes(network, bank, PassPlan(precision="bf16"))(image),
}


@pytest.mark.parametrize("use", USES)
def test_the_network_is_restored_between_and_after_the_outputs(awkward: Awkward, image: Tensor, use: str) -> None:
    network = surveyed(awkward)
    bank = random_bank(network)
    before = state_of(awkward)
    for _ in USES[use](network, bank, image):
        assert_same_state(before, state_of(awkward))
    assert_same_state(before, state_of(awkward))


@pytest.mark.parametrize("use", USES)
def test_an_iterator_left_halfway_leaves_the_network_as_it_was(awkward: Awkward, image: Tensor, use: str) -> None:
    network = surveyed(awkward)
    before = state_of(awkward)
    iterator = USES[use](network, random_bank(network), image)
    next(iterator)
    del iterator
    assert_same_state(before, state_of(awkward))


@pytest.mark.parametrize("fails_at", [1, 2, 4])
@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("use", USES)
def test_a_pass_that_fails_in_the_middle_leaves_the_network_as_it_was(
    awkward: Awkward, image: Tensor, use: str, raised: type[BaseException], fails_at: int
) -> None:
    calls = 0

    def failing(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        y = awkward.bn1(awkward.conv1(x))
        if calls >= fails_at:
            awkward.seen += 5
            raise raised("in the middle")
        return awkward.head(awkward.bn2(awkward.conv2(y.relu())).relu())

    network = surveyed(awkward)
    bank = random_bank(network, draws=9)
    broken = replace(network, forward=failing)
    before = state_of(awkward)
    images = image if use != "record" else image.repeat(2, 1, 1, 1)
    twice = chain.from_iterable(USES[use](broken, bank, images) for _ in range(2))  # recording makes three draws
    with pytest.raises(raised, match="in the middle"):
        deque(twice, maxlen=0)
    assert_same_state(before, state_of(awkward))


def test_the_callers_random_numbers_go_on_as_if_nothing_had_run(awkward: Awkward, image: Tensor) -> None:
    network = surveyed(awkward)
    bank = random_bank(network)
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        wanted = torch.rand(4)
        torch.set_rng_state(state)
        estimate(mcbn(network, bank), image, head="softmax")
        list(record(network, [image.repeat(2, 1, 1, 1)]))
        assert torch.equal(torch.rand(4), wanted)


def test_a_network_can_still_be_trained_after_passes(toy: Toy, image: Tensor) -> None:
    network = surveyed(toy)
    list(passes(network, random_bank(network), image))
    toy.train()
    before = toy.bn1.get_buffer("running_mean").clone()
    toy(noise(2, 3, 32, 32)).sum().backward()
    assert all(value.grad is not None for value in toy.parameters())
    assert not torch.equal(toy.bn1.get_buffer("running_mean"), before)


# --- law 6: the same bits again ---


@pytest.mark.parametrize("plan", [*PLANS, PassPlan(precision="bf16"), PassPlan(channels_last=True)], ids=str)
def test_the_same_plan_gives_the_same_bits_again(toy: Toy, plan: PassPlan) -> None:
    network = surveyed(toy)
    bank, images = random_bank(network), noise(2, 3, 32, 32)
    single, two = (estimate(mcbn(network, bank, plan), images, head="softmax") for _ in range(2))
    assert torch.equal(single.probability, two.probability)
    for name in MEASURES:
        assert torch.equal(single.maps[name], two.maps[name]), name


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_another_order_of_images_gives_each_the_same_bits(toy: Toy, plan: PassPlan) -> None:
    network = surveyed(toy)
    bank = random_bank(network)
    images = [noise(1, 3, 24 + 8 * (seed % 2), 32, seed=seed) for seed in range(4)]
    forward, backward = mcbn(network, bank, plan), mcbn(network, bank, plan)
    single = [estimate(forward, image, head="softmax") for image in images]
    two = [estimate(backward, image, head="softmax") for image in reversed(images)]
    for a, b in zip(single, reversed(two), strict=True):
        assert torch.equal(a.probability, b.probability)
        for name in MEASURES:
            assert torch.equal(a.maps[name], b.maps[name]), name


def test_plans_agree_to_rounding(toy: Toy) -> None:
    network = surveyed(toy)
    bank, images = random_bank(network, draws=5), noise(3, 3, 32, 40)
    wanted = estimate(mcbn(network, bank, PLANS[0]), images, head="softmax")
    for plan in [*PLANS[1:], PassPlan(fold=5, channels_last=True)]:
        estimated = estimate(mcbn(network, bank, plan), images, head="softmax")
        torch.testing.assert_close(estimated.probability, wanted.probability, rtol=0, atol=1e-5)
        torch.testing.assert_close(estimated.variance, wanted.variance, rtol=0, atol=1e-5)


# --- law 8: half precision stays inside the passes ---


def test_sums_of_half_precision_passes_are_float32(toy: Toy, image: Tensor) -> None:
    network = surveyed(toy)
    method = mcbn(network, random_bank(network), PassPlan(precision="bf16"))
    moments = moments_of(method, image, head="softmax", keep=("square", "expected_entropy", "votes"))
    for value in (moments.mean, moments.variance, moments.expected_entropy, moments.votes):
        assert value.dtype == torch.float32
    halved = replace(network, forward=lambda x: toy(x).half())
    estimated = estimate(mcbn(halved, random_bank(network)), image, head="softmax")
    assert {value.dtype for value in (estimated.probability, *estimated.maps.values())} == {torch.float32}


def test_a_spread_of_a_thousandth_survives_float32_passes(toy: Toy, image: Tensor) -> None:
    """Draws that differ by 1e-3 of a deviation: variances around 1e-8 agree with float64 to 1 %."""
    network = surveyed(toy)
    bank = random_bank(network, draws=8, spread=1e-3)
    estimated = estimate(mcbn(network, bank), image, head="softmax").variance.double()
    p = plain_loop(toy, bank, image, dtype=torch.float64).softmax(dim=2)
    w = bank.weights.double().view(-1, 1, 1, 1, 1)
    exact = (w * (p - (w * p).sum(dim=0)) ** 2).sum(dim=0).mean(dim=1)
    assert 1e-10 < float(exact.mean()) < 1e-6
    assert float((estimated - exact).abs().mean() / exact.mean()) < 0.01


def test_modules_of_one_class_twice_in_a_network_are_distinguished() -> None:
    module = calibrated(seeded(lambda: nn.Sequential(Toy(3), Toy())), (32, 32))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    assert [layer.name for layer in network.layers] == ["0.bn1", "0.bn2", "1.bn1", "1.bn2"]
    bank = random_bank(network)
    outputs = torch.stack(list(passes(network, bank, image)))
    torch.testing.assert_close(outputs, plain_loop(module, bank, image), rtol=1e-5, atol=1e-5)
