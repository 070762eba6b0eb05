"""Networks that a fast path could be wrong on without a word: right, or refused by a sentence that is true."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from plain import Toy, calibrated, noise, plain_loop, random_bank, seeded, surveyed
from random_networks import OneWeight, scripted
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.layers import survey
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts
from segment.draws.recording import in_precision, record
from segment.errors import FastPathDiffers
from segment.passes.passes import Passes, PassPlan

FAST = PassPlan(channels_last=True, fuse=True)


def assert_equals_plain(
    module: nn.Module, images: list[Tensor], plan: PassPlan = FAST, reference: nn.Module | None = None
) -> Passes:
    network = surveyed(module)
    bank = random_bank(network)
    engine = Passes(network, bank, plan)
    for number, image in enumerate(images):
        outputs = torch.stack(list(engine(image)))
        plain = plain_loop(reference or module, bank, image)
        scale = float(plain[plain.isfinite()].abs().max())
        torch.testing.assert_close(
            outputs, plain, rtol=1e-4, atol=1e-4 * min(scale, 100), msg=f"image {number}: {{}}".format
        )
    return engine


def different_images(*, channels: int = 3) -> list[Tensor]:
    return [
        noise(1, channels, 32, 32, seed=0),
        noise(1, channels, 32, 32, seed=1) * 0.2 + 3,
        noise(1, channels, 48, 32) - 2,
    ]


def test_weights_computed_from_the_image_are_those_of_each_image() -> None:
    module = calibrated(
        seeded(lambda: nn.Sequential(Toy(8), OneWeight(8), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))), (32, 32)
    )
    assert_equals_plain(module, different_images())


@pytest.mark.slow
def test_conditional_convolutions_of_timm_have_each_images_weights() -> None:
    module = smp.Unet("tu-tf_efficientnet_cc_b0_4e", encoder_weights=None, classes=3)
    module = calibrated(seeded(lambda: module), (64, 64))
    network = survey(module, module, noise(1, 3, 64, 64))
    bank = Bank.of_draws(list(record(network, [noise(4, 3, 64, 64, seed=draw) for draw in (2, 3)])))
    engine = Passes(network, bank, FAST)  # under random statistics an image off by 1e-7 has outputs off by 2e-3
    for image in (noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1) * 0.3 + 0.5):
        plain = plain_loop(module, bank, image)
        found = torch.stack(list(engine(image)))
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


class Routed(Toy):
    """Another way for a dark image, before any BN."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = self.bn1(y) if x.mean() < 0 else self.bn1(self.conv2(y).relu())
        return self.head(self.bn2(self.conv2(y)).relu())


def test_an_image_with_other_calls_shares_results_by_its_own_trace() -> None:
    module = calibrated(seeded(Routed), (32, 32))
    bright, dark = noise(1, 3, 32, 32).abs(), -noise(1, 3, 32, 32).abs()
    assert_equals_plain(module, [bright, dark, bright, dark])


class MixesByMask(Toy):
    """An index of booleans over the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(y - y[y > 0.5].mean())).relu())


class WeighsByTheBatch(Toy):
    """Weights from the mean image of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        weight = self.conv2.weight * (1 + y.mean((0, 2, 3)))[None, :, None, None]
        return self.head(self.bn2(functional.conv2d(y, weight, padding=1)).relu())


class PicksFromTheBatch(Toy):
    """The channel that is largest over all images of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(y + y.mean((0, 2, 3)).argmax())).relu())


@pytest.mark.parametrize("build", [MixesByMask, WeighsByTheBatch, PicksFromTheBatch])
def test_draws_are_not_folded_and_images_not_recorded_alone_where_a_call_mixes_the_batch(build: type[Toy]) -> None:
    module = calibrated(seeded(build), (32, 32))
    assert_equals_plain(module, different_images(), PassPlan(fold=3, channels_last=True))
    network = surveyed(module)
    batch = noise(4, 3, 32, 32, seed=3) * torch.tensor([0.1, 1, 2, 3])[:, None, None, None]
    (whole,), (parts,) = (
        list(record(network, [batch])),
        list(record_in_parts(network, [batch], at_once=1, keep_bytes=float("inf"), whole_fits=True)),
    )
    for name, (mean, var) in whole.items():
        assert torch.equal(parts[name][0], mean)
        assert torch.equal(parts[name][1], var)


class NamedResults(Toy):
    """Results that torch gives by name, of a draw."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        low, high = torch.aminmax(y, dim=1, keepdim=True)
        y = (y - low) / (1 + high) + y.max(dim=1, keepdim=True).values + torch.topk(y, 2, dim=1)[0][:, :1]
        return self.head(self.bn2(self.conv2(y)).relu())


class ScriptedInside(Toy):
    """BN behind a function that torch's modes do not see."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn2(scripted(self.conv2(self.bn1(scripted(self.conv1(x)))))))


class VmapInside(Toy):
    """A function over each image."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.vmap(lambda image: image * 2 + image.mean())(self.bn1(self.conv1(x)).relu())
        return self.head(self.bn2(self.conv2(y)).relu())


class RulesOut(Toy):
    """A class that is never given, by a logit of -1e4 or minus infinity."""

    low = -1e4

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return torch.cat([z[:, :1] * 0 + self.low, z[:, 1:]], dim=1)


class RulesOutEntirely(RulesOut):
    """By minus infinity."""

    low = -float("inf")


class OnlyAt64(Toy):
    """Another way at one size exactly."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(y + y.flip(-1) if x.shape[-1] == 64 else y)).relu())


class SwitchesAt64(Toy):
    """The same calls at every size, but at one size on a tensor that a draw changes."""

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv1(x)
        drawn = self.bn1(shared)
        y = (drawn if x.shape[-1] == 64 else shared).relu()
        return self.head(self.bn2(self.conv2(y)).relu() + drawn)


class GivesWhatBatchNormReads(Toy):
    """The output is what the last BN reads, not what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.bn1(self.conv1(x)).relu())
        self.bn2(y).relu()
        return y


class ContiguousOnly(Toy):
    """A view that merges channels and rows."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.conv1(x).view(n, 8 * h, w).flip(-1).view(n, 8, h, w)
        return self.head(self.bn2(self.conv2(self.bn1(y).relu())).relu())


@pytest.mark.parametrize(
    "build",
    [
        NamedResults,
        ScriptedInside,
        VmapInside,
        RulesOut,
        RulesOutEntirely,
        OnlyAt64,
        SwitchesAt64,
        GivesWhatBatchNormReads,
        ContiguousOnly,
    ],
)
@pytest.mark.usefixtures("no_fast_path_given_up")
def test_a_network_of_odd_parts_gives_the_plain_loops_numbers(build: type[Toy]) -> None:
    module = seeded(Toy)
    odd = build()
    odd.load_state_dict(calibrated(module, (32, 32)).state_dict())
    for part in (odd.bn1, odd.bn2, odd.dropout):
        part.training = False
    odd.training = False
    assert_equals_plain(odd, [*different_images(), noise(1, 3, 64, 64), noise(1, 3, 32, 32)])


def test_a_network_that_shadows_torchs_own_methods_gives_the_plain_loops_numbers() -> None:
    module = calibrated(seeded(Toy), (32, 32))
    shadowing = copy.deepcopy(module)
    for name in ("modules", "named_modules", "parameters", "named_parameters", "buffers", "named_buffers", "train"):
        object.__setattr__(shadowing, name, [1, 2])
    assert_equals_plain(shadowing, different_images(), reference=module)


def test_a_convolution_whose_result_is_also_the_output_is_not_fused_with_the_bn_behind_it() -> None:
    engine = assert_equals_plain(calibrated(seeded(GivesWhatBatchNormReads), (32, 32)), different_images())
    assert engine.way == "fused", "its other convolutions are"


def test_weights_that_change_between_images_are_the_ones_used() -> None:
    module = calibrated(seeded(Toy), (32, 32))
    network = surveyed(module)
    bank, image = random_bank(network), noise(1, 3, 32, 32)
    engine = Passes(network, bank, FAST)
    list(engine(image))
    for name in ("conv2.weight", "bn2.weight", "bn1.bias"):
        with torch.no_grad():
            module.get_parameter(name).mul_(1.5).add_(0.1)
        outputs = torch.stack(list(engine(image)))
        torch.testing.assert_close(outputs, plain_loop(module, bank, image), rtol=1e-4, atol=1e-4, msg=name)


def test_bn_behind_calls_that_are_not_traced_is_stochastic_never_of_weights() -> None:
    network = surveyed(calibrated(seeded(ScriptedInside), (32, 32)))
    assert [(layer.name, layer.status) for layer in network.layers] == [("bn1", "stochastic"), ("bn2", "stochastic")]


class Dropping(Toy):
    """Dropout that is always on, by the function."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.dropout(self.bn1(self.conv1(x)).relu(), 0.5, training=True)
        return self.head(self.bn2(self.conv2(y)).relu())


@pytest.mark.parametrize("plan", [FAST, PassPlan(), PassPlan(share=False)])
def test_a_random_call_has_a_stream_of_its_own_for_each_draw_and_the_same_each_time(plan: PassPlan) -> None:
    network = surveyed(calibrated(seeded(Dropping), (32, 32)))
    bank = random_bank(network, 1)
    same = replace(
        bank,
        weights=torch.full((3,), 1 / 3),
        mean={name: value.expand(3, -1) for name, value in bank.mean.items()},
        var={name: value.expand(3, -1) for name, value in bank.var.items()},
    )
    image = noise(1, 3, 32, 32)
    before = torch.get_rng_state()
    first = torch.stack(list(Passes(network, same, plan)(image)))
    torch.rand(7)
    again = torch.stack(list(Passes(network, same, plan)(image)))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    in_full = PassPlan(share=False, channels_last=plan.channels_last)
    reference = torch.stack(list(Passes(network, same, in_full)(image)))
    torch.testing.assert_close(first, reference, rtol=1e-4, atol=1e-4)
    torch.set_rng_state(before)


def test_dynamic_quantisation_inside_gives_what_passes_in_full_give() -> None:
    class Head(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(super().forward(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    module = calibrated(seeded(Head), (32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantise: Any = torch.ao.quantization.quantize_dynamic
        quantised = quantise(module, {nn.Linear})
    network = surveyed(quantised)
    bank = random_bank(network)
    shared, plain = (
        torch.stack(list(Passes(network, bank, plan)(noise(1, 3, 32, 32)))) for plan in (FAST, PassPlan(share=False))
    )
    torch.testing.assert_close(shared, plain, rtol=1e-3, atol=0.1 * float(plain.std()))


def test_a_fast_path_that_goes_wrong_later_is_detected_stopped_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = calibrated(seeded(Toy), (32, 32))
    network = surveyed(module)
    engine = Passes(network, random_bank(network, 8), FAST)
    image = noise(1, 3, 32, 32)
    assert len(list(engine(image))) == 8
    from segment.passes.fused import convolutions

    run = convolutions.FusedConvolutions.run

    def wrong(self: Any, *args: Any, **named: Any) -> Any:
        result, through = run(self, *args, **named)
        return result + 0.5, through

    monkeypatch.setattr(convolutions.FusedConvolutions, "run", wrong)
    while engine.unverified < engine._every():
        assert len(list(engine(image))) == 8
    with pytest.raises(FastPathDiffers, match="largest difference of an output"):
        list(engine(image))
    assert engine.unverified == engine._every()
    assert "largest difference" in engine.given_up[0]
    plain = torch.stack(list(engine(image)))
    torch.testing.assert_close(plain, plain_loop(module, engine.bank, image), rtol=1e-5, atol=1e-5)


def test_a_fast_path_that_is_wrong_at_once_is_never_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from segment.passes.fused import convolutions

    run = convolutions.FusedConvolutions.run

    def wrong(self: Any, *args: Any, **named: Any) -> Any:
        result, through = run(self, *args, **named)
        return result * 1.1, through

    monkeypatch.setattr(convolutions.FusedConvolutions, "run", wrong)
    with caplog.at_level(logging.WARNING):
        engine = assert_equals_plain(calibrated(seeded(RulesOutEntirely), (32, 32)), different_images()[:2])
    assert not engine.plan.fuse
    assert "convolutions are not fused: other numbers than a plain pass" in caplog.text


class ByLayout(Toy):
    """A decision that the memory layout turns, as a max pool's between two values that rounding makes equal."""

    def forward(self, x: Tensor) -> Tensor:
        innermost = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return super().forward(x) + (torch.arange(4.0)[:, None, None] if innermost else 0)


def test_a_fast_pass_is_kept_where_a_plain_one_in_its_layout_gives_its_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = calibrated(seeded(ByLayout), (32, 32))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    bank = random_bank(network)
    with caplog.at_level(logging.WARNING):
        engine = Passes(network, bank, FAST)
        fast = torch.stack(list(engine(image)))
    assert caplog.text == ""
    assert engine.plan == FAST
    plain = torch.stack(list(Passes(network, bank, replace(FAST, share=False))(image)))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_a_compiled_function_inside_gives_the_plain_loops_numbers() -> None:
    class Compiled(Toy):
        compiled: Any

        def forward(self, x: Tensor) -> Tensor:
            y = self.compiled(self.bn1(self.conv1(x)))
            return self.head(self.bn2(self.conv2(y)).relu())

    def doubled(x: Tensor) -> Tensor:
        return x.relu() * 2

    module = seeded(Compiled)
    object.__setattr__(module, "compiled", torch.compile(doubled, backend="eager"))
    module.eval()
    network = surveyed(module)
    bank = random_bank(network)
    reference = copy.copy(module)
    object.__setattr__(reference, "compiled", doubled)
    outputs = torch.stack(list(Passes(network, bank, FAST)(noise(1, 3, 32, 32))))
    plain = plain_loop(reference, bank, noise(1, 3, 32, 32))
    torch.testing.assert_close(outputs, plain, rtol=1e-4, atol=1e-4)


def test_a_comparison_that_is_due_is_not_put_off_by_a_caller_that_leaves_early() -> None:
    network = surveyed(calibrated(seeded(Toy), (32, 32)))
    engine, image = Passes(network, random_bank(network, 8), FAST), noise(1, 3, 32, 32)
    assert len(list(engine(image))) == 8
    for _ in range(4 * engine._every()):
        for number, _ in enumerate(engine(image)):
            if number == 1:
                break
    assert engine.unverified <= 3 * engine._every(), "the first two draws are compared in their turn"


class Watched(Toy):
    """It keeps how it was allowed to round, and under which autocast it ran."""

    def forward(self, x: Tensor) -> Tensor:
        rounded = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul)
        SEEN.append((torch.is_autocast_enabled("cpu"), *(of.fp32_precision for of in rounded)))
        return super().forward(x)


SEEN: list[tuple[bool, str, str, str]] = []
backends: Any = torch.backends


@contextmanager
def rounding(**wanted: str) -> Iterator[None]:
    """Torch's settings of how float32 products are rounded; "none": what is not said follows the generic one."""
    places = {"generic": backends, "matmul": backends.cuda.matmul, "conv": backends.cudnn.conv}
    before = {name: places[name].fp32_precision for name in wanted}
    try:
        for name, value in wanted.items():
            places[name].fp32_precision = value
        yield
    finally:
        for name, value in before.items():
            places[name].fp32_precision = value


@pytest.mark.parametrize("plan", [PassPlan(share=False), PassPlan(), FAST])
def test_fp32_is_float32_whatever_the_caller_allows(plan: PassPlan) -> None:
    module = calibrated(seeded(Watched), (32, 32))
    network, image, batch = surveyed(module), noise(1, 3, 32, 32), noise(4, 3, 32, 32, seed=2)
    bank, wanted = random_bank(network), next(record(network, [batch]))
    expected = torch.stack(list(Passes(network, bank, plan)(image)))
    SEEN.clear()
    with rounding(matmul="tf32", conv="none"), torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.stack(list(Passes(network, bank, plan)(image)))
        drawn = next(record(network, [batch]))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        with rounding(generic="ieee"):  # what followed it before the passes follows it after them
            assert backends.cudnn.conv.fp32_precision == "ieee"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, (mean, var) in wanted.items():
        torch.testing.assert_close(drawn[name], (mean, var), rtol=0, atol=0)
    assert (False, "ieee", "ieee", "ieee") in SEEN


def test_a_pass_that_ends_leaves_that_of_another_thread_in_float32() -> None:
    device = torch.device("cpu")
    with rounding(matmul="tf32"):
        first, second = in_precision("fp32", device), in_precision("fp32", device)
        first.__enter__()
        with ThreadPoolExecutor(1) as other:
            other.submit(second.__enter__).result()
            first.__exit__(None, None, None)
            assert backends.cuda.matmul.fp32_precision == "ieee"
            other.submit(second.__exit__, None, None, None).result()
        assert backends.cuda.matmul.fp32_precision == "tf32"
