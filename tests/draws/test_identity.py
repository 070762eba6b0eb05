"""A bank knows its network by what it computes: whatever changes the output is refused, and what does not is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Toy, assert_same_state, calibrated, plain_loop, probabilities_of, random_bank, seeded, state_of
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of
from segment.draws import identity
from segment.draws.bank import Bank
from segment.draws.identity import computes_the_same, identified, network_of_bank, preprocessing_of
from segment.draws.probe import Probe, largest_difference
from segment.draws.probe_passes import probabilities_under, probe_inputs
from segment.errors import BankRefused, ModelRefused
from segment.images.prepare import crop
from segment.images.specs import InputSpec
from segment.jobs.mcbn import MCBN
from segment.networks.load import Network, load_network


class Doubling(Toy):
    """A network whose forward pass takes what its weights do not hold."""

    def __init__(self, mode: str = "nearest", slope: float = 0.0, edge: str = "constant") -> None:
        super().__init__()
        self.mode, self.slope, self.edge = mode, slope, edge

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.bn1(self.conv1(functional.pad(x, (1, 1, 1, 1), self.edge)[..., 1:-1, 1:-1])))
        x = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode=self.mode)
        return self.head(functional.leaky_relu(self.bn2(self.conv2(x)), self.slope))


def network_of(module: nn.Module, **card: Any) -> Network:
    network = load_network(module)
    return replace(network, card=replace(network.card, **card))


STATE = calibrated(seeded(Doubling), (32, 32)).state_dict()


def weighted(build: Callable[..., nn.Module] = Doubling, **arguments: Any) -> nn.Module:
    """The same weights, whatever the network does with them."""
    module = build(**arguments)
    module.load_state_dict(STATE)
    return module.eval()


def owned(network: Network, draws: int = 2) -> Bank:
    drawn = bn_network_of(network)
    return identified(network, drawn, random_bank(drawn, draws=draws))


CARD: dict[str, Any] = {"input": InputSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3), stride=8, white=65535.0)}


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(weighted(), **CARD)


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return owned(network)


def with_eps(module: nn.Module, eps: float) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = eps
    return module


def with_other_weights(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(module.parameters())[0, 0, 0, 0] += 1e-6
    return module


def edited(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    real = functional.avg_pool2d
    monkeypatch.setattr(functional, "avg_pool2d", lambda x, size: real(x, size) * 1.01)  # a helper in another file
    return weighted()


def card_with(**changes: Any) -> dict[str, Any]:
    return {"input": replace(CARD["input"], **changes)}


CHANGED: dict[str, tuple[Callable[[pytest.MonkeyPatch], Network], str]] = {
    "interpolation": (lambda _: network_of(weighted(mode="bilinear"), **CARD), "another interpolation"),
    "factory argument": (lambda _: network_of(weighted(slope=0.01), **CARD), "eps, argument or edited code"),
    "eps": (lambda _: network_of(with_eps(weighted(), 1e-3), **CARD), "the same weights, but another output"),
    "helper function": (lambda patch: network_of(edited(patch), **CARD), "edited code"),
    "weights": (lambda _: network_of(with_other_weights(weighted()), **CARD), "other weights or layers"),
    "white": (lambda _: network_of(weighted(), **card_with(white=4095.0)), "white: 65535.0 in the bank, 4095.0 now"),
    "scale": (lambda _: network_of(weighted(), **card_with(scale=1.0)), "scale: 255.0 in the bank, 1.0 now"),
    "mean": (lambda _: network_of(weighted(), **card_with(mean=(0.4, 0.5, 0.5))), r"mean: \[0.4, 0.5, 0.6\]"),
    "std": (lambda _: network_of(weighted(), **card_with(std=())), r"std: \[0.2, 0.2, 0.3\] in the bank, \[\] now"),
    "channels": (lambda _: network_of(weighted(), **card_with(channels="BGR")), "channels: RGB in the bank, BGR now"),
    "stride": (lambda _: network_of(weighted(), **card_with(stride=16)), "stride: 8 in the bank, 16 now"),
    "pad": (lambda _: network_of(weighted(), **card_with(pad="zero")), "pad: reflect in the bank, zero now"),
    "drop_outputs": (lambda _: network_of(weighted(), **CARD, drop_outputs=(3,)), r"drop_outputs: \[\] .*, \[3\] now"),
    "head": (lambda _: network_of(weighted(), **CARD, head="multilabel"), "head: softmax in the bank, multilabel now"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_whatever_changes_what_is_computed_is_refused_with_what_differs(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    change, message = CHANGED[what]
    with pytest.raises(BankRefused, match=message) as refusal:
        MCBN(change(monkeypatch), bank)
    assert "\n" not in str(refusal.value)


def test_the_network_of_a_bank_is_taken_and_comes_back_as_it_was(network: Network, bank: Bank) -> None:
    same = network_of(weighted(), **CARD)
    before = state_of(network.module)
    assert network_of_bank(network, bank).module is network.module
    network_of_bank(same, bank.first(1))
    identified(network, bn_network_of(network), bank)
    assert_same_state(before, state_of(network.module))


def test_the_refusal_states_the_largest_difference_on_the_probe(network: Network, bank: Bank) -> None:
    other = network_of(weighted(mode="bilinear"), **CARD)
    assert bank.probe is not None
    outputs = probabilities_under(other, probe_inputs(other, bank.probe.side, bank.probe.seed))
    largest = float((outputs.flatten()[bank.probe.places] - bank.probe.trained).abs().max())
    with pytest.raises(BankRefused, match=rf"up to {largest:.2g} in probability on the probe"):
        network_of_bank(other, bank)


class Capped(Doubling):
    """Activations of the first layer above a limit are cut off."""

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()
        self.bn1.register_forward_hook(lambda layer, given, result: result.clamp(max=limit))


def test_a_network_that_differs_only_under_a_draw_is_refused(network: Network, bank: Bank) -> None:
    probe = bank.probe
    assert probe is not None
    largest: list[Tensor] = []
    watched = network_of(weighted(), **CARD)
    watched.module.get_submodule("bn1").register_forward_hook(
        lambda layer, given, result: largest.append(result.amax())
    )
    probabilities_under(watched, probe_inputs(network, probe.side, probe.seed))
    narrow = bank.with_draws(bank.weights, bank.mean, {name: value / 9 for name, value in bank.var.items()})
    narrow = identified(network, bn_network_of(network), narrow)
    capped = network_of(weighted(lambda: Capped(float(torch.stack(largest).amax()) + 1e-3)), **CARD)
    assert computes_the_same(capped, probe)
    with pytest.raises(BankRefused, match="under the bank's first draw"):
        network_of_bank(capped, narrow)


def test_the_probe_is_what_a_plain_loop_computes(network: Network, bank: Bank) -> None:
    probe = bank.probe
    assert probe is not None
    assert probe.drawn is not None
    inputs = probe_inputs(network, probe.side, probe.seed)
    assert len(inputs) == 3, "two of 8 bits and one of 16"
    length = probe.side - 4
    images = torch.cat(inputs)
    for statistics, values in ((Bank.of_trained(bn_network_of(network)), probe.trained), (bank.first(1), probe.drawn)):
        (logits,) = plain_loop(network.module, statistics, images)
        p = probabilities_of(crop(logits, length, length)[None].numpy())[0]
        expected = torch.from_numpy(p).float().flatten()[probe.places]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


def test_a_probe_is_a_few_hundred_numbers_and_the_same_each_time(network: Network, bank: Bank) -> None:
    again = owned(network).probe
    assert again is not None
    assert bank.probe is not None
    assert torch.equal(again.trained, bank.probe.trained)
    assert 200 <= len(again.places) <= 1000
    assert again.noise < 1e-5
    assert again.tolerance >= 1e-5


def test_every_class_has_its_turn_in_the_probe() -> None:
    network = network_of(calibrated(seeded(lambda: Toy(classes=40))))
    probe = owned(network).probe
    assert probe is not None
    _, outputs, height, width = probe.shape
    assert set((probe.places // (height * width) % outputs).tolist()) == set(range(40))


class WithFloat32Constant(Toy):
    """It multiplies its image by a float32 tensor, which no cast of its weights changes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.conv2d(x, torch.ones(3, 1, 1, 1), groups=3))


def test_a_network_that_cannot_run_in_float64_has_a_probe_too() -> None:
    network = network_of(calibrated(seeded(WithFloat32Constant)))
    bank = owned(network)
    network_of_bank(network, bank)
    with_eps(network.module, 1e-2)
    with pytest.raises(BankRefused, match="another output"):
        network_of_bank(network, bank)


class Noisy(Toy):
    """It adds random numbers in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), 1, 1, 1) * torch.arange(4.0)[:, None, None]


def test_a_network_with_an_operation_at_random_gives_the_same_probe_twice() -> None:
    network = network_of(calibrated(seeded(Noisy)))
    bank = owned(network)
    torch.randn(7)
    network_of_bank(network, bank)


class NanWhereDark(Toy):
    """Its output is NaN where the image is dark."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x[:, :1] - 0.1).sqrt() * 0


def test_values_that_are_not_finite_are_compared_too() -> None:
    network = network_of(calibrated(seeded(NanWhereDark)))
    bank = owned(network)
    assert bank.probe is not None
    assert bank.probe.trained.isnan().any()
    network_of_bank(network, bank)
    without = network_of(calibrated(seeded(Toy)))
    without.module.load_state_dict(network.module.state_dict())
    with pytest.raises(BankRefused, match="up to inf in probability"):
        network_of_bank(without, bank)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=6), st.data())
def test_two_probes_are_equal_only_where_every_value_is(values: list[float], data: st.DataObject) -> None:
    first = torch.tensor(values)
    assert largest_difference(first, first.clone()) == 0
    index = data.draw(st.integers(0, len(values) - 1))
    other = first.clone()
    other[index] = data.draw(st.sampled_from([0.25, math.nan, math.inf, -math.inf]))
    same = other[index] == first[index] or bool(other[index].isnan() and first[index].isnan())
    assert (largest_difference(first, other) > 0) == (not same)


def test_a_bank_without_a_probe_is_refused_unless_it_was_made_by_hand(network: Network, bank: Bank) -> None:
    with pytest.raises(BankRefused, match=r"has no probe .* record it again"):
        network_of_bank(network, replace(bank, probe=None))
    network_of_bank(network, Bank(bank.weights, bank.mean, bank.var))


def test_banks_of_other_draws_keep_what_is_known_of_the_network(network: Network, bank: Bank) -> None:
    bilinear = network_of(weighted(mode="bilinear"), **CARD)
    for other in (bank.average(), bank.layers_only(["bn2"]), bank.first(1)):
        network_of_bank(network, other)
        with pytest.raises(BankRefused, match="another output"):
            network_of_bank(bilinear, other)


def test_a_network_trained_further_has_another_fingerprint(network: Network, bank: Bank) -> None:
    mine = network_of(weighted(), **CARD)
    network_of_bank(mine, bank)
    with_other_weights(mine.module)
    with pytest.raises(BankRefused, match="other weights or layers"):
        network_of_bank(mine, bank)


def test_a_network_that_raises_on_the_probe_is_refused_in_one_line(bank: Bank) -> None:
    class Raising(Doubling):
        def forward(self, x: Tensor) -> Tensor:
            assert x.amax() <= 1, "a range\nwas left"
            return super().forward(x)

    module = weighted(Raising)
    with pytest.raises(BankRefused, match=r"does not accept the probe's 128x128 inputs .*a range was left") as refusal:
        network_of_bank(network_of(module, **CARD), bank)
    assert "\n" not in str(refusal.value)


def test_the_preprocessing_is_json_and_names_every_key_of_the_card_that_changes_a_number(network: Network) -> None:
    assert set(preprocessing_of(network)) == {*vars(InputSpec()), "head", "drop_outputs"} - {
        "display",
        "size",
        "max_pixels",
    }


def test_a_grey_network_and_a_sigmoid_head_have_probes() -> None:
    class Grey(Toy):
        def __init__(self) -> None:
            super().__init__(classes=1)
            self.conv1 = nn.Conv2d(1, 8, 3, padding=1)

    module = calibrated(seeded(Grey), (32, 32), channels=1)
    network = network_of(module, head="sigmoid", input=InputSpec(channels="grey"))
    network_of_bank(network, owned(network))


@settings(max_examples=30)
@given(st.floats(1e-4, 0.3), st.sampled_from(["conv1", "conv2", "head"]))
def test_no_change_beyond_the_tolerance_is_missed(share: float, where: str) -> None:
    """A layer's output scaled in the forward pass, its weights as they are."""

    class Scaled(Toy):
        def forward(self, x: Tensor) -> Tensor:
            def by(name: str, value: Tensor) -> Tensor:
                return value * (1 + share) if name == where else value

            x = self.bn1(by("conv1", self.conv1(x))).relu()
            return by("head", self.head(self.bn2(by("conv2", self.conv2(x))).relu()))

    bank = OF_TOY
    module = Scaled()
    module.load_state_dict(TOY.module.state_dict())
    with pytest.raises(BankRefused, match="another output"):
        network_of_bank(network_of(module), bank)


TOY = network_of(calibrated(seeded(Toy)))
OF_TOY = owned(TOY)


def test_a_probe_refuses_what_it_cannot_hold() -> None:
    probe = OF_TOY.probe
    assert isinstance(probe, Probe)
    for changes in (
        {"side": 0},
        {"side": 5000},
        {"seed": -1},
        {"noise": math.nan},
        {"noise": -1.0},
        {"shape": (0, 1, 1, 1)},
        {"shape": (1, 1, 1, 1)},
        {"trained": probe.trained[:3]},
    ):
        with pytest.raises(BankRefused, match="probe of a bank"):
            replace(probe, **changes)


class Remembers(Toy):
    """Mixes the features of the last image of that size into this one's."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y, self.last = (y + self.last if self.last is not None and self.last.shape == y.shape else y), y.detach()
        return self.head(self.bn2(self.conv2(y)).relu())


def test_a_network_that_keeps_something_from_pass_to_pass_is_refused_when_its_bank_is_made() -> None:
    network = network_of(calibrated(seeded(Remembers)))
    with pytest.raises(ModelRefused, match="keeps something from pass to pass"):
        owned(network)


def test_memory_that_runs_out_in_the_second_probe_is_no_fault_of_the_network(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(identity, "probabilities_under", full)
    with pytest.raises(torch.OutOfMemoryError):
        owned(network)
