"""Every batch normalisation is listed by its call, and is stochastic, fixed with a reason, or refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
from plain import (
    Toy,
    assert_same_state,
    calibrated,
    in_eval_mode,
    noise,
    passes,
    plain_loop,
    random_bank,
    seeded,
    state_of,
    surveyed,
)
from small_networks import Backwards
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from segment.batch_norm.layers import survey
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts
from segment.draws.recording import record
from segment.errors import BankRefused, ModelRefused, NoBatchNorm, WrongUse
from segment.methods.deterministic import deterministic
from segment.networks.load import load_network
from segment.passes.passes import PassPlan

PLANS = [PassPlan(fold=fold, share=share) for fold in (1, 3) for share in (False, True)]


def statuses(module: nn.Module, *size: int) -> dict[str, str]:
    return {layer.name: layer.status for layer in surveyed(module, size or (32, 32)).layers}  # type: ignore[arg-type]


def assert_passes_equal(module: nn.Module, bank: Bank, image: Tensor, wanted: Tensor) -> None:
    """Under every plan, against what the test computed itself (T N K ...)."""
    network = survey(module, module, image)
    for plan in PLANS:
        outputs = torch.stack(list(passes(network.select(bank.layers), bank, image, plan)))
        torch.testing.assert_close(outputs, wanted, rtol=1e-4, atol=1e-4, msg=(f"under {plan}: {{}}").format)


def normalised(x: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean.view(shape)) / (var.view(shape) + eps).sqrt()


def test_layers_are_listed_in_the_order_in_which_data_reaches_them() -> None:
    assert [layer.name for layer in surveyed(calibrated(seeded(Backwards))).layers] == ["bn2", "bn1"]


def test_the_list_says_kind_channels_and_values_of_a_layer(toy: Toy) -> None:
    first, second = surveyed(toy, (16, 24)).layers
    assert (first.name, first.kind, first.channels, first.values) == ("bn1", "BatchNorm2d", 8, 16 * 24)
    assert (second.name, second.status, second.reason) == ("bn2", "stochastic", "")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_bn_over_one_two_and_three_axes_replays_its_draws(axes: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    bn: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
    module = seeded(lambda: nn.Sequential(conv(2, 5, 3), bn(5), nn.ReLU(), conv(5, 3, 1))).eval()
    image = noise(2, 2, *(8,) * axes)
    bank = random_bank(survey(module, module, image))
    assert_passes_equal(module, bank, image, plain_loop(module, bank, image))


def test_bn_over_features_without_any_map_replays_its_draws() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))).eval()
    rows = noise(5, 6)
    bank = random_bank(survey(module, module, rows))
    assert_passes_equal(module, bank, rows, plain_loop(module, bank, rows))


class Twice(nn.Module):
    """One BN layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.bn(self.conv(x)).relu()))


def test_a_layer_used_twice_draws_its_own_statistics_each_time() -> None:
    module = calibrated(seeded(Twice))
    network = surveyed(module)
    assert [layer.name for layer in network.layers] == ["bn", "bn#2"]
    batch = noise(4, 3, 16, 16, seed=3)
    (draw,) = record(network, [batch])
    with torch.no_grad():
        first = module.conv(batch)
        two = module.conv(functional.batch_norm(first, None, None, module.bn.weight, module.bn.bias, True).relu())
    for name, x in (("bn", first), ("bn#2", two)):
        torch.testing.assert_close(draw[name][0], x.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(draw[name][1], x.var(dim=(0, 2, 3), correction=0))

    bank, image = random_bank(network), noise(1, 3, 32, 32)
    wanted = []
    with torch.no_grad():
        for t in range(len(bank)):
            x = image
            for name in ("bn", "bn#2"):
                x = normalised(module.conv(x), bank.mean[name][t], bank.var[name][t])
                x = x * module.bn.weight.view(1, -1, 1, 1) + module.bn.bias.view(1, -1, 1, 1)
                x = x.relu() if name == "bn" else x
            wanted.append(x)
    assert_passes_equal(module, bank, image, torch.stack(wanted))


def test_the_second_use_alone_can_be_drawn() -> None:
    module = calibrated(seeded(Twice))
    network = surveyed(module).select("bn#2")
    assert [layer.status for layer in network.layers] == ["fixed", "stochastic"]
    assert list(next(record(network, [noise(2, 3, 16, 16)]))) == ["bn#2"]


def test_a_layer_without_scale_and_shift_replays_its_draws() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 3, 1))

    module, image = calibrated(seeded(build)), noise(1, 3, 32, 32)
    bank = random_bank(surveyed(module))
    assert_passes_equal(module, bank, image, plain_loop(module, bank, image))


class Untracked(Toy):
    """Its second BN keeps no running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8, track_running_stats=False)


def test_a_layer_without_running_statistics_is_always_stochastic() -> None:
    network = surveyed(seeded(Untracked).eval())
    assert [layer.trained is None for layer in network.layers] == [False, True]
    assert [layer.status for layer in network.select("bn2").layers] == ["fixed", "stochastic"]
    with pytest.raises(ModelRefused, match=r"'bn2' has no running statistics.*always stochastic.*add it"):
        network.select("bn1")


def test_a_layer_without_running_statistics_has_the_banks_and_never_the_test_images() -> None:
    module = seeded(Untracked).eval()
    bank = random_bank(surveyed(module))
    tracked = seeded(Toy)
    tracked.load_state_dict(module.state_dict(), strict=False)
    image = noise(2, 3, 32, 32)
    assert_passes_equal(module, bank, image, plain_loop(tracked, bank, image))


def test_the_deterministic_method_gives_an_untracked_layer_the_banks_mean_and_says_so() -> None:
    module = seeded(Untracked).eval()
    network, image = surveyed(module), noise(1, 3, 32, 32)
    with pytest.raises(BankRefused, match=r"'bn2' keeps no running statistics; give a bank"):
        deterministic(network)
    bank = random_bank(network)
    method = deterministic(network, bank)
    assert "bn2" in method.note
    tracked = seeded(Toy)
    tracked.load_state_dict(module.state_dict(), strict=False)
    tracked.bn2.running_mean = (bank.weights[:, None] * bank.mean["bn2"]).sum(dim=0)
    tracked.bn2.running_var = (bank.weights[:, None] * bank.var["bn2"]).sum(dim=0)
    ((weight, output),) = method(image)
    assert weight == 1
    torch.testing.assert_close(output, in_eval_mode(tracked, image), rtol=1e-5, atol=1e-5)


def test_the_activation_inside_a_subclass_stays() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6), nn.Conv2d(6, 4, 1))

    module, image = calibrated(seeded(build)), noise(1, 3, 32, 32)
    bank = random_bank(surveyed(module))
    weight, bias = module[1].parameters()
    with torch.no_grad():
        x = module[0](image)
        wanted = []
        for t in range(len(bank)):
            y = normalised(x, bank.mean["1"][t], bank.var["1"][t])
            y = (y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)).relu()
            wanted.append(module[2](y))
    assert_passes_equal(module, bank, image, torch.stack(wanted))


def test_a_converted_synchronised_bn_is_a_layer_like_any_other(toy: Toy) -> None:
    module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(toy))  # type: ignore[no-untyped-call]
    network = surveyed(module)
    assert [(layer.kind, layer.status) for layer in network.layers] == [("SyncBatchNorm", "stochastic")] * 2
    bank, image, batch = random_bank(network), noise(1, 3, 32, 32), noise(4, 3, 32, 32)
    assert_passes_equal(module, bank, image, plain_loop(toy, bank, image))
    ((first,), (two,)) = record(network, [batch]), record(surveyed(toy), [batch])
    for name in first:
        assert torch.equal(first[name][0], two[name][0])
        assert torch.equal(first[name][1], two[name][1])


class Frozen(Toy):
    """Its second BN is torchvision's frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2 = FrozenBatchNorm2d(8)


def test_a_frozen_bn_is_kept_fixed_with_its_reason() -> None:
    module = seeded(Frozen).eval()
    first, two = surveyed(module).layers
    assert (first.status, two.status, two.kind, two.channels) == ("stochastic", "fixed", "FrozenBatchNorm2d", 8)
    assert two.reason.startswith("frozen")


class FrozenCalling(FrozenBatchNorm2d):  # type: ignore[misc]
    """As Detectron2's: without gradients it calls torch's batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def test_a_frozen_bn_that_calls_torchs_function_is_fixed_and_keeps_its_statistics_while_draws_are_recorded() -> None:
    networks = []
    for kind in (FrozenBatchNorm2d, FrozenCalling):
        module: Any = seeded(Toy)
        module.bn1 = kind(8)
        module.bn1.running_mean += 0.2
        module.bn1.running_var *= 3
        networks.append(surveyed(calibrated(module, (32, 32))))
    layer = networks[1].layers[0]
    assert (layer.name, layer.kind, layer.status) == ("bn1", "FrozenCalling", "fixed")
    assert layer.reason.startswith("frozen")
    batches = [noise(6, 3, 32, 32, seed=3)]
    (wanted,) = record(networks[0], batches)
    for draws in (record(networks[1], batches), record_in_parts(networks[1], batches, at_once=2)):
        (draw,) = draws
        assert list(draw) == ["bn2"]
        torch.testing.assert_close(draw["bn2"], wanted["bn2"], rtol=1e-4, atol=1e-4)
    with pytest.raises(NoBatchNorm, match="bn1: frozen"):
        networks[1].select("bn1")


def test_a_network_with_only_frozen_bn_is_refused_with_its_reason() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4))
    with pytest.raises(NoBatchNorm, match=r"None of the 1 BN layers can be drawn \(1: frozen.*MC dropout"):
        surveyed(module)


def test_a_network_without_bn_is_refused_with_what_to_use_instead() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU())
    with pytest.raises(NoBatchNorm, match=r"no batch normalisation.*MC dropout or test-time augmentation"):
        surveyed(module)


class Functional(nn.Module):
    """Calls F.batch_norm itself, on buffers with names of its own."""

    average: Tensor | None
    spread: Tensor | None

    def __init__(self, *, buffers: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Conv2d(6, 4, 1)
        self.register_buffer("average", noise(6, seed=1) if buffers else None)
        self.register_buffer("spread", noise(6, seed=2).exp() if buffers else None)

    def forward(self, x: Tensor) -> Tensor:
        untracked = self.average is None
        return self.head(functional.batch_norm(self.conv(x), self.average, self.spread, training=untracked).relu())


@pytest.mark.parametrize("buffers", [True, False])
def test_a_functional_call_has_its_enclosing_modules_name(*, buffers: bool) -> None:
    inner = seeded(lambda: Functional(buffers=buffers)).eval()
    module = nn.Sequential(nn.Identity(), inner)
    network = surveyed(module)
    (layer,) = network.layers
    assert (layer.name, layer.kind, layer.status) == ("1", "Functional", "stochastic")
    assert (layer.trained is not None) is buffers
    bank, image = random_bank(network), noise(1, 3, 32, 32)
    with torch.no_grad():
        x = inner.conv(image)
        wanted = [inner.head(normalised(x, bank.mean["1"][t], bank.var["1"][t]).relu()) for t in range(len(bank))]
    assert_passes_equal(module, bank, image, torch.stack(wanted))


def test_a_functional_call_of_the_outermost_module_has_a_name_too() -> None:
    (layer,) = surveyed(seeded(Functional).eval()).layers
    assert layer.name == "(root)"


@pytest.mark.parametrize("standardised", [StdConv2d, ScaledStdConv2d])
def test_batch_norm_of_weights_is_fixed_and_is_left_alone(standardised: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = standardised(3, 8, 3)
            self.bn = nn.BatchNorm2d(8)
            self.conv2 = standardised(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv2(self.bn(self.conv1(x)).relu())

    module = calibrated(seeded(Net))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    statuses = {layer.name: (layer.status, layer.reason) for layer in network.layers}
    reason = "it normalises weights, not data"
    assert statuses == {"conv1": ("fixed", reason), "bn": ("stochastic", ""), "conv2": ("fixed", reason)}
    bank = random_bank(network)
    assert_passes_equal(module, bank, image, plain_loop(module, bank, image))
    batch = noise(3, 3, 20, 20)
    (draw,) = record(network, [batch])
    with torch.no_grad():
        x = module.conv1(batch)
    torch.testing.assert_close(draw["bn"][1], x.var(dim=(0, 2, 3), correction=0))


def test_a_whole_timm_network_with_standardised_weights_draws_only_its_data_layers() -> None:
    module = seeded(lambda: timm.create_model("nf_resnet26", num_classes=4)).eval()
    with pytest.raises(NoBatchNorm, match="it normalises weights"):
        surveyed(module, (64, 64))


class Pooling(Toy):
    """BN after global pooling, as in ASPP: one value a channel and image."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(x)).relu() + self.pooled(x))


def test_bn_after_a_1x1_map_is_refused_at_m_1_with_what_to_do() -> None:
    network = surveyed(calibrated(seeded(Pooling)))
    assert network.layers[-1].values == 1
    with pytest.raises(WrongUse, match=r"'pooled.2' sees one value a channel at M = 1.*--batch 2 or more.*--layers"):
        list(record(network, [noise(1, 3, 32, 32)]))


def test_bn_after_a_1x1_map_works_at_m_2_and_when_it_is_left_out_at_m_1() -> None:
    module = calibrated(seeded(Pooling))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    (draw,) = record(network, [noise(2, 3, 32, 32)])
    assert list(draw) == ["bn1", "bn2", "pooled.2"]
    bank = Bank.of_draws([draw])
    assert_passes_equal(module, bank, image, plain_loop(module, bank, image))
    (alone,) = record(network.select("bn*"), [noise(1, 3, 32, 32)])
    assert list(alone) == ["bn1", "bn2"]


def test_a_bn_that_no_image_reaches_is_listed_with_its_reason() -> None:
    class Aside(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.BatchNorm2d(5)

    layer = surveyed(seeded(Aside).eval()).layers[-1]
    assert (layer.name, layer.status, layer.channels) == ("auxiliary", "fixed", 5)
    assert "does not reach it" in layer.reason


class OwnBatchNorm(nn.Module):
    """Arithmetic of its own."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x, self.running_mean, self.running_var)


def test_a_bn_with_its_own_arithmetic_is_refused_by_name() -> None:
    class Mixed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.bn2 = OwnBatchNorm(8)  # type: ignore[assignment]

    network = surveyed(seeded(Mixed).eval())
    assert {layer.name: layer.status for layer in network.layers} == {"bn1": "stochastic", "bn2": "refused"}
    with pytest.raises(ModelRefused, match=r"'bn2' \(OwnBatchNorm\) cannot be drawn: .*torch.nn.BatchNorm2d"):
        network.select("all")
    assert [layer.name for layer in network.select("bn1").stochastic] == ["bn1"]


def test_a_bn_with_the_names_of_keras_is_refused_by_name() -> None:
    class BatchNormalization(nn.Module):
        moving_mean: Tensor
        moving_variance: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("moving_mean", torch.zeros(8))
            self.register_buffer("moving_variance", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return normalised(x, self.moving_mean, self.moving_variance, 1e-3)

    module: Any = Toy()
    module.bn1 = BatchNormalization()
    network = surveyed(module.eval())
    layer = next(layer for layer in network.layers if layer.name == "bn1")
    assert (layer.kind, layer.channels, layer.status) == ("BatchNormalization", 8, "refused")
    with pytest.raises(ModelRefused, match=r"'bn1' \(BatchNormalization\) cannot be drawn"):
        network.select("all")


def test_instance_normalisation_by_torchs_batch_norm_is_refused() -> None:
    class ByBatchNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            as_channels = x.reshape(1, -1, *x.shape[2:])
            return functional.batch_norm(as_channels, None, None, training=True).reshape(x.shape)

    module: Any = Toy()
    module.dropout = ByBatchNorm()
    network = surveyed(module.eval())
    layer = next(layer for layer in network.layers if layer.name == "dropout")
    assert layer.status == "refused"
    with pytest.raises(ModelRefused, match=r"'dropout' .*normalises each image by its own.*InstanceNorm2d"):
        network.select("all")


def test_a_subclass_of_torchs_bn_with_its_own_arithmetic_is_refused_not_called_unreached() -> None:
    class Unfused(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:  # torch's own argument name
            assert self.running_mean is not None
            assert self.running_var is not None
            return normalised(input, self.running_mean, self.running_var)

    class Mixed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.bn2 = Unfused(8)

    network = surveyed(seeded(Mixed).eval())
    assert {layer.name: layer.status for layer in network.layers} == {"bn1": "stochastic", "bn2": "refused"}


def test_a_bn_that_calls_torchs_lower_function_is_refused() -> None:
    class Lower(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:  # torch's own argument name
            return torch.batch_norm(
                input, self.weight, self.bias, self.running_mean, self.running_var, False, 0.1, self.eps, False
            )

    class Mixed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.bn2 = Lower(8)

    network = surveyed(seeded(Mixed).eval())
    assert {layer.name: layer.status for layer in network.layers} == {"bn1": "stochastic", "bn2": "refused"}


def test_a_lazy_bn_is_refused_until_it_is_run() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d())

    module = build()
    with pytest.raises(ModelRefused, match=r"'1' \(LazyBatchNorm2d\) was never initialised"):
        surveyed(module)
    module(noise(2, 3, 16, 16))
    assert statuses(module.eval()) == {"1": "stochastic"}


def test_a_data_parallel_wrapper_shows_the_layers_of_what_it_wraps(toy: Toy) -> None:
    module = nn.DataParallel(toy)
    network = surveyed(module)
    if torch.cuda.is_available():
        pytest.skip("with a GPU the wrapper sends the network there")
    assert [layer.name for layer in network.layers] == ["module.bn1", "module.bn2"]
    bank, image = random_bank(network), noise(1, 3, 32, 32)
    assert_passes_equal(module, bank, image, plain_loop(module, bank, image))


def test_a_compiled_module_is_refused_with_what_to_do(toy: Toy) -> None:
    module = torch.compile(toy, backend="eager")
    with pytest.raises(ModelRefused, match=r"compiled.*_orig_mod"):
        surveyed(module)  # type: ignore[arg-type]


def test_a_module_compiled_in_place_is_refused_with_what_to_do(toy: Toy) -> None:
    toy.compile(backend="eager")
    with pytest.raises(ModelRefused, match="compiled"):
        surveyed(toy)


def test_a_scripted_module_is_refused_with_what_to_do(toy: Toy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's word on TorchScript: a DeprecationWarning, later a FutureWarning
        module = torch.jit.trace(toy, noise(1, 3, 32, 32))  # type: ignore[no-untyped-call]
    with pytest.raises(ModelRefused, match="TorchScript"):
        surveyed(module)


def test_an_exported_graph_is_refused_not_reported_to_have_no_batch_normalisation(toy: Toy) -> None:
    module = torch.export.export(toy, (noise(1, 3, 32, 32),)).module()
    with pytest.raises(
        NoBatchNorm, match=r"None of the \d BN layers can be drawn \(.*does not call torch.nn.functional"
    ):
        surveyed(module)


def test_no_bn_like_module_is_left_out_of_the_list() -> None:
    for uri in (
        "smp:Unet?encoder=tu-efficientnet_lite0&classes=4",
        "torchvision:lraspp_mobilenet_v3_large?num_classes=4",
    ):
        network = load_network(uri)
        listed = {layer.name for layer in bn_network_of(network).layers}
        like = {name for name, part in network.module.named_modules() if "batchnorm" in type(part).__name__.lower()}
        assert listed == like
        assert len(listed) > 30


def test_globs_choose_layers_and_the_others_stay_fixed_with_their_reason(toy: Toy) -> None:
    network = surveyed(toy)
    chosen = network.select(" bn2 ")
    assert [layer.name for layer in chosen.stochastic] == ["bn2"]
    assert chosen.layers[0].reason == "not among the layers asked for"
    assert [layer.name for layer in network.select(["bn1", "bn2"]).stochastic] == ["bn1", "bn2"]
    with pytest.raises(WrongUse, match=r"No BN layer matches 'bn3'.*Near: 'bn[12]'.*lists all 2"):
        network.select("bn1,bn3")


def test_layers_kept_fixed_use_their_trained_statistics(toy: Toy, image: Tensor) -> None:
    bank = random_bank(surveyed(toy).select("bn2"))
    assert_passes_equal(toy, bank, image, plain_loop(toy, bank, image))


def test_listing_the_layers_leaves_the_network_as_it_was(toy: Toy, image: Tensor) -> None:
    toy.train()
    toy.bn1.eval()
    before, shown = state_of(toy), image.clone()
    survey(toy, toy, image)
    assert_same_state(before, state_of(toy))
    assert torch.equal(image, shown)


def test_a_failed_listing_leaves_the_network_as_it_was(toy: Toy) -> None:
    before = state_of(toy)
    with pytest.raises(RuntimeError):
        survey(toy, toy, noise(1, 5, 32, 32))
    assert_same_state(before, state_of(toy))
