"""What changes where torch does not show it: aliases, unseen writes, caught exceptions, buffers given as outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from types import MethodType
from typing import Any

import pytest
import torch
from plain import Toy, calibrated, noise, plain_loop, random_bank, seeded, surveyed
from torch import Tensor, nn
from torch.nn import functional

from segment import MCBN, fit_bank, load_network
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts, why_whole
from segment.draws.recording import record
from segment.errors import FastPathDiffers, ModelRefused
from segment.passes.openvino_passes import CompiledNetwork
from segment.passes.passes import Passes, PassPlan

FAST = PassPlan(channels_last=True, fuse=True)
WAYS = ("plain", "shared", "fused", "openvino")
FOLDED = PassPlan(fold=2)


def assert_equals_plain(module: nn.Module, images: list[Tensor], plan: PassPlan) -> None:
    network = surveyed(module)
    bank = random_bank(network, 4)
    engine = Passes(network, bank, plan)
    for image in images:
        outputs = torch.stack(list(engine(image)))
        torch.testing.assert_close(outputs, plain_loop(module, bank, image), rtol=1e-4, atol=1e-4)


def assert_parts_equal_whole(module: nn.Module) -> None:
    network = surveyed(module)
    batch = noise(4, 3, 32, 32, seed=3) * torch.tensor([0.1, 1, 2, 3])[:, None, None, None]
    (whole,) = record(network, [batch])
    for keep_bytes in (0, float("inf")):
        (parts,) = record_in_parts(network, [batch], at_once=1, keep_bytes=keep_bytes, whole_fits=True)
        for name, (mean, var) in whole.items():
            torch.testing.assert_close(parts[name][0], mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(parts[name][1], var, rtol=1e-3, atol=1e-4)


class Aliased(Toy):
    """A tensor in the same memory that no torch call made."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.Parameter(self.conv1(x), requires_grad=False)
        return self.head(self.bn2(self.conv2(self.bn1(y).relu())).relu())


class CatchesEverything(Toy):
    """Another way at one size, inside a try."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        try:
            y = y.relu() if x.shape[-1] == 32 else functional.silu(y.flip(-1))
        except Exception:
            y = y * 0
        return self.head(self.bn2(self.conv2(y)).relu())


class GivesItsBuffer(Toy):
    """The output is a buffer that the pass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 4, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        kept = self.get_buffer("kept")
        kept.copy_(super().forward(x))
        return kept


class TilesLargeImages(Toy):
    """Two halves side by side along the batch, above a size."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= 32:
            return super().forward(x)
        y = torch.cat(x.chunk(2, dim=-1))
        return torch.cat(super().forward(y - y.mean(dim=0, keepdim=True)).chunk(2), dim=-1)


class CountsByExpanding(Toy):
    """The number of images enters through a mask."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(1, 1).expand(len(x), 1).sum()
        return super().forward(x / mask)


class PicksChannels(Toy):
    """Channels in the order of the first image."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = y.index_select(1, y[0].mean((1, 2)).argsort())
        return self.head(self.bn2(self.conv2(self.bn1(y).relu())).relu())


class WritesItsGain(Toy):
    """A buffer that each pass multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.get_buffer("gain").mul_(1.1))


class UnderAutocast(Toy):
    """A part in the network's own half precision."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.conv1(x)
        return self.head(self.bn2(self.conv2(self.bn1(y.float()).relu())).relu())


@pytest.mark.parametrize("plan", [FAST, PassPlan(), FOLDED], ids=["fast", "shared", "folded"])
@pytest.mark.parametrize("build", [Aliased, CatchesEverything, TilesLargeImages, CountsByExpanding, PicksChannels])
def test_what_torch_does_not_show_changes_no_numbers(build: type[Toy], plan: PassPlan) -> None:
    module = calibrated(seeded(build), (32, 32))
    assert_equals_plain(module, [noise(1, 3, 32, 32), noise(1, 3, 32, 64, seed=1), noise(1, 3, 32, 32, seed=2)], plan)


@pytest.mark.parametrize("build", [Aliased, CountsByExpanding, PicksChannels, WritesItsGain, UnderAutocast])
def test_what_torch_does_not_show_changes_no_statistics(build: type[Toy]) -> None:
    module = calibrated(seeded(build), (32, 32))
    before = [buffer.clone() for buffer in module.buffers()]
    assert_parts_equal_whole(module)
    assert all(torch.equal(buffer, value) for buffer, value in zip(module.buffers(), before, strict=True))


@pytest.mark.parametrize("plan", [FAST, PassPlan(share=False)])
def test_an_output_that_is_a_buffer_is_that_of_its_pass(plan: PassPlan) -> None:
    module = seeded(GivesItsBuffer).eval()
    network = surveyed(module)
    bank, image = random_bank(network, 3), noise(1, 3, 32, 32)
    outputs = torch.stack(list(Passes(network, bank, plan)(image)))
    reference = seeded(Toy)
    reference.load_state_dict({name: value for name, value in module.state_dict().items() if name != "kept"})
    torch.testing.assert_close(outputs, plain_loop(reference.eval(), bank, image), rtol=1e-4, atol=1e-4)
    assert not module.get_buffer("kept").any(), "the network has its buffer back"


def through_data(weight: Tensor) -> None:
    weight.data.mul_(1.5)


def through_numpy(weight: Tensor) -> None:
    weight.detach().numpy()[:] *= 1.5


@pytest.mark.parametrize("write", [through_data, through_numpy])
def test_weights_written_without_a_new_version_are_the_ones_used(write: Callable[[Tensor], None]) -> None:
    module = calibrated(seeded(Toy), (32, 32))
    network = surveyed(module)
    bank, image = random_bank(network, 3), noise(1, 3, 32, 32)
    engine = Passes(network, bank, FAST)
    list(engine(image))
    write(module.conv2.weight)
    torch.testing.assert_close(torch.stack(list(engine(image))), plain_loop(module, bank, image), rtol=1e-4, atol=1e-4)


class FoldsItsStatistics(Toy):
    """The running statistics of a BN scale a convolution; the BN itself never runs."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bn2.running_var is not None
        weight = self.conv2.weight / self.bn2.running_var.sqrt()[:, None, None, None]
        return self.head(functional.conv2d(self.bn1(self.conv1(x)).relu(), weight, padding=1))


def test_a_bn_whose_statistics_another_call_reads_is_refused_not_called_unreached() -> None:
    network = surveyed(calibrated(seeded(Toy), (32, 32)))
    assert {layer.status for layer in network.layers} == {"stochastic"}
    module = FoldsItsStatistics()
    network = surveyed(module.eval())
    assert [(layer.name, layer.status) for layer in network.layers] == [("bn1", "stochastic"), ("bn2", "refused")]
    with pytest.raises(ModelRefused, match="bn2"):
        network.select("all")


class Changed(nn.Module):
    """Everything here can be exchanged while its passes are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.bn2, self.leaky = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1)
        self.head, self.scale = nn.Conv2d(8, 4, 1), {"by": [1.0]}
        self.held, self.listed = torch.zeros(4, 1, 1), [torch.zeros(4, 1, 1)]
        self.allowed: Tensor
        self.register_buffer("allowed", torch.tensor([False, True, True, False])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.head(self.leaky(self.bn2(self.conv2(x)))) * self.scale["by"][0]
        return x + self.held + self.listed[0] + 2.0 * self.allowed


def _eps(module: Changed) -> None:
    module.bn1.eps = 0.1


def _slope(module: Changed) -> None:
    module.leaky.negative_slope = 0.5


def _nested(module: Changed) -> None:
    module.scale["by"][0] = 3.0


def _part(module: Changed) -> None:
    module.act = nn.Sequential(nn.GELU(), nn.Dropout(0.5))  # type: ignore[assignment]  # in train mode, as it comes


def _hook(module: Changed) -> None:
    module.bn2.register_forward_hook(lambda _part, _given, output: output * 2)


def _parameter(module: Changed) -> None:
    module.conv1.weight = nn.Parameter(module.conv1.weight.detach() * 2)


def _buffer(module: Changed) -> None:
    assert module.bn2.running_var is not None
    module.bn2.running_var = module.bn2.running_var * 4


def _held_tensor(module: Changed) -> None:
    module.held.data[0] = 3.0


def _other_tensor(module: Changed) -> None:
    module.listed[0] = torch.tensor([0.0, 3.0, -3.0, 0.0])[:, None, None]


def _as_many_ones(module: Changed) -> None:
    module.allowed.copy_(torch.tensor([True, False, False, True])[:, None, None])


def _method(module: Changed) -> None:
    def twice(module: Changed, x: Tensor) -> Tensor:
        return Changed.forward(module, x) * 2

    module.forward = MethodType(twice, module)  # type: ignore[method-assign]


TENSORS = [_parameter, _buffer, _held_tensor, _other_tensor, _as_many_ones]


@pytest.mark.parametrize("change", [_eps, _slope, _nested, _part, _hook, _method, *TENSORS])
@pytest.mark.parametrize("plan", [PassPlan(share=False), PassPlan(), FAST, replace(FAST, engine="openvino")], ids=WAYS)
def test_passes_follow_a_network_that_is_changed_between_two_images(
    change: Callable[[Changed], None], plan: PassPlan
) -> None:
    module = calibrated(seeded(Changed))
    network = surveyed(module).select("bn1")
    bank = random_bank(network)
    passes = Passes(network, bank, plan)
    image = noise(1, 3, 32, 32)
    before = torch.stack(list(passes(image)))
    way = passes.way
    change(module)
    after = torch.stack(list(passes(image)))
    expected = plain_loop(module.eval(), bank, image)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert (before - after).abs().max() > 0.01
    assert passes.way == way
    torch.testing.assert_close(torch.stack(list(passes(image))), after, rtol=0, atol=0)


class Counts(Toy):
    """Writes to an attribute of its own in each pass."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_graphs_are_kept_for_a_network_that_writes_its_own_attributes() -> None:
    network = surveyed(calibrated(seeded(Counts)))
    compiled = CompiledNetwork(network, random_bank(network))
    assert [compiled.parts((1, 3, 32, 32), "fp32")[1] for _ in range(3)] == [True, False, False]


class Mixes(Toy):
    """Takes the mean over the batch from its images, once it is told to."""

    mixes = False

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + y.mean(dim=0, keepdim=True) if self.mixes else y


def test_draws_in_one_pass_are_compared_again() -> None:
    module = calibrated(seeded(Mixes))
    network = surveyed(module)
    passes = Passes(network, random_bank(network, 4), FOLDED)
    image = noise(1, 3, 32, 32)
    list(passes(image))
    module.mixes = True
    images = (output for _ in range(100) for output in passes(image))
    with pytest.raises(FastPathDiffers, match="Draws in one pass gave"):
        list(images)
    torch.testing.assert_close(
        torch.stack(list(passes(image))), plain_loop(module, passes.bank, image), rtol=1e-4, atol=1e-4
    )


def test_a_first_comparison_that_was_interrupted_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = surveyed(calibrated(seeded(Toy)))
    passes = Passes(network, random_bank(network), FAST)
    compared, compare = [], Passes._difference

    def interrupted(*given: Any) -> str:
        compared.append(given)
        if len(compared) == 1:
            raise KeyboardInterrupt
        return compare(*given)

    monkeypatch.setattr(Passes, "_difference", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(passes(noise(1, 3, 32, 32)))
    list(passes(noise(1, 3, 32, 32)))
    assert len(compared) == 3


def test_an_image_that_no_pass_takes_leaves_fast_passes_in_use() -> None:
    class Refuses(Toy):
        def forward(self, x: Tensor) -> Tensor:
            y = self.bn1(self.conv1(x)).relu()
            if x.shape[-1] == 48:
                raise ValueError("no such image")
            return self.head(self.bn2(self.conv2(y)).relu())

    network = surveyed(calibrated(seeded(Refuses)))
    passes = Passes(network, random_bank(network), FAST)
    with pytest.raises(ValueError, match="no such image"):
        list(passes(noise(1, 3, 32, 48)))
    list(passes(noise(1, 3, 32, 32)))
    assert passes.way == "fused"


class WritesUnseen(Toy):
    """Keeps a running mean, written without a trace; refuses an odd width after that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        if x.shape[-1] % 2:
            raise ValueError("odd")
        self.get_buffer("kept").data.add_(y.mean((0, 2, 3)))
        return self.head(self.bn2(self.conv2(self.bn1(y).relu())).relu())


def test_buffers_stay_as_the_caller_left_them_also_after_a_first_pass_that_failed() -> None:
    module = calibrated(seeded(WritesUnseen))
    kept = module.get_buffer("kept")
    network = surveyed(module)
    passes = Passes(network, random_bank(network), PassPlan(share=False))
    with pytest.raises(ValueError, match="odd"):
        list(passes(noise(1, 3, 31, 31)))
    for value in (0.0, 5.0):
        kept.data.fill_(value)
        list(passes(noise(1, 3, 32, 32)))
        assert torch.equal(kept, torch.full((8,), value))


def test_graphs_are_kept_while_images_of_a_network_that_counts_its_calls_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = surveyed(calibrated(seeded(Counts)))
    passes = Passes(network, random_bank(network), replace(FAST, engine="openvino"))
    readings: list[CompiledNetwork] = []
    monkeypatch.setattr(CompiledNetwork, "_read_weights", readings.append)
    for seed in range(4):
        list(passes(noise(1, 3, 32, 32, seed=seed)))
    assert passes.way == "openvino"
    assert not readings


def _by_index(table: Tensor, expert: Tensor) -> Tensor:
    return table[expert]


def _by_slice(table: Tensor, expert: Tensor) -> Tensor:
    return table[expert : expert + 1].view(8, 1, 1)


def _by_select(table: Tensor, expert: Tensor) -> Tensor:
    return torch.select(table, 0, expert)  # type: ignore[arg-type]  # torch takes a tensor as index


def _by_narrow(table: Tensor, expert: Tensor) -> Tensor:
    return torch.narrow(table, 0, expert, 1)[0]


def _by_alias(table: Tensor, expert: Tensor) -> Tensor:
    return nn.Parameter(table[expert], requires_grad=False)


def first_draw_twice(bank: Bank) -> Bank:
    """A bank of which the first comparison, of draws 0 and 1, shows no decision by the draw."""
    order = [0, *range(len(bank))]
    mean, var = ({name: value[order] for name, value in each.items()} for each in (bank.mean, bank.var))
    return Bank(torch.full((len(order),), 1 / len(order)), mean, var)


class Routed(nn.Module):
    """The strongest channel behind a BN layer chooses which part of a parameter, or of an attribute, is used."""

    def __init__(self, chosen: Callable[[Tensor, Tensor], Tensor], *, attribute: bool = False) -> None:
        super().__init__()
        self.conv, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.bn, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        experts = 1 + noise(8, 8, 1, 1, seed=5)
        self.chosen, self.experts = chosen, [experts] if attribute else nn.ParameterList([experts])

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        return self.head(y + self.side(x) * self.chosen(self.experts[0], y.mean((0, 2, 3)).argmax()))


@pytest.mark.parametrize("attribute", [False, True], ids=["parameter", "attribute"])
@pytest.mark.parametrize("chosen", [_by_index, _by_slice, _by_select, _by_narrow, _by_alias])
@pytest.mark.parametrize("plan", [FAST, PassPlan(), FOLDED], ids=["fast", "shared", "folded"])
def test_each_draw_uses_the_part_of_a_constant_that_it_chooses(
    plan: PassPlan,
    chosen: Callable[[Tensor, Tensor], Tensor],
    attribute: bool,  # noqa: FBT001
) -> None:
    module = calibrated(seeded(lambda: Routed(chosen, attribute=attribute)), (32, 32))
    network = surveyed(module)
    bank, image = first_draw_twice(random_bank(network, 8)), noise(1, 3, 32, 32)
    engine = Passes(network, bank, plan)
    outputs = torch.stack(list(engine(image)))
    torch.testing.assert_close(outputs, plain_loop(module, bank, image), rtol=1e-4, atol=1e-4)
    assert (engine.way == "plain") == (chosen is _by_alias)


def script(function: Callable[[Tensor], bool]) -> Callable[[Tensor], bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and networks have it
        scripted: Callable[[Tensor], bool] = torch.jit.script(function)
    return scripted


def _is_bright(x: Tensor) -> bool:
    return bool(x.mean() > 0.5)


is_bright = script(_is_bright)


class Decides(Toy):
    """Scripted code decides by the images, or by what depends on the draw."""

    def __init__(self, *, by_draw: bool) -> None:
        super().__init__()
        self.by_draw = by_draw

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_draw and is_bright(x):
            x = x * 3
        y = self.bn1(self.conv1(x)).relu()
        y = y * (2.0 if self.by_draw and x.shape[-1] == 32 and is_bright(y) else 1.0)
        return self.head(self.bn2(self.conv2(y)).relu())


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("plan", [FAST, PassPlan(), FOLDED], ids=["fast", "shared", "folded"])
def test_scripted_code_decides_in_each_draw_anew(plan: PassPlan, width: int) -> None:
    """width: of the image that the network is listed with; one of 64 is never asked."""
    module = calibrated(seeded(lambda: Decides(by_draw=True)), (32, 32))
    network = surveyed(module, (32, width))
    bank, image = first_draw_twice(random_bank(network, 8, spread=1.0)), noise(1, 3, 32, 32)
    outputs = torch.stack(list(Passes(network, bank, plan)(image)))
    torch.testing.assert_close(outputs, plain_loop(module, bank, image), rtol=1e-4, atol=1e-4)


def test_scripted_code_decides_by_all_images_of_a_mini_batch_and_by_none_of_another_estimate() -> None:
    module = calibrated(seeded(lambda: Decides(by_draw=False)), (32, 32))
    network = surveyed(module)
    batch = noise(4, 3, 32, 32, seed=3) + torch.tensor([0.0, 0, 1, 3])[:, None, None, None]
    assert why_whole(network, batch[:2]) == "ScriptFunction gives values of the images to Python"
    assert_parts_equal_whole(module)
    (whole,) = record(network, [batch])
    (parts,) = record_in_parts(network, [batch], at_once=1, keep_bytes=float("inf"), whole_fits=True)
    for name, (mean, var) in whole.items():
        torch.testing.assert_close(parts[name], (mean, var))
    together = MCBN(load_network(module), fit_bank(module, batch, batch=2, draws=2))
    one_by_one = torch.cat([together(image[None]).probability for image in batch])
    torch.testing.assert_close(together(batch).probability, one_by_one)


class KeepsBright(Toy):
    """Writes to a buffer without a trace, for bright images only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.5:
            kept = self.get_buffer("kept")
            kept.data.mul_(0.9).add_(0.1 * x.mean((0, 2, 3), keepdim=True))
            x = x - kept
        return super().forward(x)


@pytest.mark.parametrize("plan", [FAST, PassPlan(), PassPlan(share=False)], ids=["fast", "shared", "plain"])
def test_a_buffer_written_for_some_images_only_is_restored_after_each_pass(plan: PassPlan) -> None:
    module = seeded(KeepsBright).eval()
    network = surveyed(module)
    bank = random_bank(network, 4)
    engine = Passes(network, bank, plan)
    for offset in (0.0, 2.0, 2.0):
        image = noise(1, 3, 32, 32) + offset
        expected: list[Tensor] = []
        for t in range(len(bank)):
            mean, var = ({name: value[t : t + 1] for name, value in each.items()} for each in (bank.mean, bank.var))
            expected += plain_loop(module, Bank(torch.ones(1), mean, var), image)
        torch.testing.assert_close(torch.stack(list(engine(image))), torch.stack(expected), rtol=1e-4, atol=1e-4)
        assert not module.get_buffer("kept").any()
