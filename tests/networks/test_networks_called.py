"""A loaded network gives the logits its card promises, and leaves the caller's module as it was."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from plain import two_images
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of, calls_of
from segment.draws.probe_passes import probe_side
from segment.errors import ModelRefused, PredictionFailed, WrongUse
from segment.images.specs import InputSpec
from segment.networks.building.builders import build
from segment.networks.cards import Card, default_card
from segment.networks.given import network_of
from segment.networks.load import Network, load_network
from segment.networks.trial_images import trial_sides
from segment.uncertainty.heads import probabilities


class Tiny(nn.Module):
    """One convolution and one BN, whose output is dressed as the caller likes."""

    def __init__(
        self, outputs: int = 3, dress: Callable[[Tensor], Any] = lambda logits: logits, stride: int = 1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.layer = nn.Conv2d(3, outputs, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(0.5)
        self.dress = dress

    def forward(self, x: Tensor) -> Any:
        return self.dress(self.dropout(self.norm(self.layer(x))))


@dataclass
class Output:
    """What a network of the transformers kind gives back."""

    logits: Tensor


def logits(network: Network | nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def carded(module: nn.Module, **settings: Any) -> Network:
    return load_network(module, card=Card(name="made", network="py:made:here", **settings))


def test_one_output_is_never_guessed_to_be_a_sigmoid() -> None:
    with pytest.raises(ModelRefused, match="head=sigmoid in the URI"):
        load_network("smp:Unet?encoder=resnet18&classes=1")(two_images())
    network = load_network("smp:Unet?encoder=resnet18&classes=1&head=sigmoid")
    assert logits(network, two_images()).shape[1] == 1
    assert network.classes == 2


def test_a_module_keeps_its_weights_where_its_card_names_a_file(tmp_path: Path) -> None:
    module, older, file = Tiny().eval(), Tiny().eval(), tmp_path / "old.pt"
    with torch.no_grad():
        module.layer.weight += 1
    torch.save(older.state_dict(), file)
    card = Card(name="made", network="py:made:here", weights=file, sha256="0" * 64)
    network, x = load_network(module, card=card), two_images()
    assert torch.equal(logits(network, x), logits(module, x))
    assert network.card.weights is None
    replaced = load_network(module, card=replace(card, sha256=None), weights=file)
    assert torch.equal(logits(replaced, x), logits(older, x))


class Merging(Tiny):
    """As a network that merges branches where its training ends: the output depends on it."""

    merged = False

    def train(self, mode: bool = True) -> Merging:  # noqa: FBT001, FBT002
        self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * (1 if self.merged else 2)


def test_what_a_network_does_in_its_own_train_is_done_in_the_copy_alone() -> None:
    module, wanted, x = Merging().train(), Merging().eval(), two_images()
    wanted.load_state_dict(module.state_dict())
    assert torch.equal(logits(load_network(module), x), logits(wanted, x))
    assert module.training
    assert not module.merged


def test_a_network_whose_own_train_fails_is_set_to_eval_mode_part_by_part(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Tiny):
        def train(self, mode: bool = True) -> Failing:  # noqa: FBT001, FBT002
            raise ValueError("an optimiser is needed")

    network = load_network(Failing())
    assert not any(part.training for part in network.module.modules())
    assert "eval() of Failing fails (ValueError: an optimiser is needed)" in caplog.text


SEVERAL: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "an auxiliary map first": (lambda x: [x, 2 * x], True),
    "supervised at three depths": (lambda x: (x, x, x[..., ::2, ::2]), True),
    "features and a map": (lambda x: (x, x[:, :1]), True),
    "a map and features of half its size": (lambda x: (x, x[:, :1, ::2, ::2]), False),
    "a map and a label": (lambda x: (x, x.mean(dim=(2, 3))), False),
}


@pytest.mark.parametrize("dress", SEVERAL)
def test_of_several_maps_the_first_is_taken_with_a_warning(dress: str, caplog: pytest.LogCaptureFixture) -> None:
    module = Tiny(3, SEVERAL[dress][0]).eval()
    network = load_network(module, card=Card(name=dress, network="py:made:here"))
    with torch.no_grad():
        assert torch.equal(logits(network, two_images()), module(two_images())[0])
    assert (f"{dress} gives" in caplog.text and "and the first is taken" in caplog.text) == SEVERAL[dress][1]


@pytest.mark.filterwarnings("ignore")  # torch's own, of a trace
def test_the_warning_of_several_maps_counts_them_in_a_trace_too(caplog: pytest.LogCaptureFixture) -> None:
    network = load_network(Tiny(3, lambda x: (x, x)), card=Card(name="traced", network="py:made:here"))
    network.module.requires_grad_(False)
    trace: Any = torch.jit.trace  # untyped
    trace(lambda x: network(x), two_images())
    assert "traced gives maps of 3, 3 channels" in caplog.text
    assert "tensor(" not in caplog.text


@pytest.mark.parametrize("size", [None, (32, 32)])
def test_of_several_maps_the_only_one_of_the_cards_classes_is_taken(
    size: tuple[int, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    module = Tiny(4, lambda x: (torch.cat([x, x], dim=1), x, x[:, :1])).eval()
    network = carded(module, classes=("a", "b", "c"), drop_outputs=(3,), input=InputSpec(size=size))
    x = two_images(32)[..., :32]
    with torch.no_grad():
        assert torch.equal(logits(network, x), module(x)[1][:, :3])
        assert torch.equal(logits(carded(module, head="sigmoid"), x), module(x)[2])
    assert "is taken" not in caplog.text


def upsampled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear")


class Attending(nn.Module):
    """Logits, after weights that a softmax and a sigmoid have made."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.softmax(dim=1) * x.sigmoid()


def by_hand(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(dim=1, keepdim=True)


ENDINGS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "softmax": (nn.Softmax(dim=1), "sum to 1 at every pixel.*torch.log of its outputs"),
    "softmax by hand": (by_hand, "sum to 1 at every pixel"),
    "softmax upsampled in a dictionary": (lambda x: {"out": upsampled(x.softmax(1))}, "sum to 1 at every pixel"),
    "sigmoid": (torch.sigmoid, "its last call is a sigmoid.*torch.logit of its outputs"),
    "sigmoid upsampled": (lambda x: upsampled(x.sigmoid_()), "its last call is a sigmoid"),
    "smp": (smp.base.modules.Activation("sigmoid"), "its last call is a sigmoid"),
    "logits": (nn.Identity(), ""),
    "log of softmax": (nn.LogSoftmax(dim=1), ""),
    "attention": (Attending(), ""),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_outputs_that_are_probabilities_already_are_warned_of(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    dress, message = ENDINGS[ending]
    stride = 2 if "upsampled" in ending else 1
    bn_network_of(load_network(Tiny(3, dress, stride), card=Card(name=f"ends in {ending}", network="py:made:here")))
    if message:
        assert re.search(f"outputs of ends in {ending} are probabilities already: .*{message}", caplog.text)
    else:
        assert "probabilities already" not in caplog.text


def test_a_network_without_bn_is_warned_of_too(caplog: pytest.LogCaptureFixture) -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Softmax2d())
    calls_of(load_network(module, card=Card(name="without BN", network="py:made:here")))
    assert "The outputs of without BN are probabilities already" in caplog.text


def test_a_sigmoid_head_with_several_outputs_is_refused() -> None:
    with pytest.raises(ModelRefused, match=r"3 outputs; a sigmoid head has one\. Keep .* the card's `drop_outputs:`"):
        carded(Tiny(3), head="sigmoid")(two_images())


def test_of_two_sigmoid_outputs_the_foreground_is_kept_by_drop_outputs() -> None:
    module, x = Tiny(2), two_images()
    network = carded(module, head="sigmoid", drop_outputs=(0,))
    with torch.no_grad():
        foreground = module.eval()(x)[:, 1].sigmoid()
    expected = torch.stack([1 - foreground, foreground], dim=1)
    torch.testing.assert_close(probabilities(logits(network, x), "sigmoid"), expected)
    assert network.classes == 2


def test_a_multilabel_head_has_as_many_classes_as_outputs() -> None:
    assert carded(Tiny(1), head="multilabel").classes == 1
    assert carded(Tiny(4), head="multilabel").classes == 4


def test_dropped_outputs_are_gone_and_the_others_keep_their_order() -> None:
    module = Tiny(5).eval()
    x = two_images()
    network = carded(module, drop_outputs=(0, 3), classes=("a", "b", "c"))
    with torch.no_grad():
        assert torch.equal(logits(network, x), module(x)[:, [1, 2, 4]])
    assert network.classes == 3


def test_too_few_outputs_for_the_card_are_refused() -> None:
    with pytest.raises(ModelRefused, match=r"has 3 outputs, 0 to 2; drop_outputs asks for 11"):
        carded(Tiny(3), drop_outputs=(11,))(two_images())
    with pytest.raises(ModelRefused, match=r"drops all 3 outputs"):
        carded(Tiny(3), drop_outputs=(0, 1, 2))(two_images())
    with pytest.raises(ModelRefused, match=r"gives 3 outputs for the 4 classes of its card"):
        carded(Tiny(3), classes=("a", "b", "c", "d"))(two_images())


@pytest.mark.parametrize(
    "dress",
    [
        lambda y: {"out": y, "aux": y * 2},
        lambda y: OrderedDict(logits=y),
        lambda y: (y, y.mean(dim=(2, 3))),
        lambda y: [y],
        Output,
    ],
)
def test_the_map_is_found_in_what_networks_wrap_around_it(dress: Callable[[Tensor], Any]) -> None:
    plain = Tiny(3).eval()
    wrapped = Tiny(3, dress).eval()
    wrapped.load_state_dict(plain.state_dict())
    assert torch.equal(logits(load_network(wrapped), two_images()), logits(load_network(plain), two_images()))


@pytest.mark.parametrize("dress", [lambda y: {"boxes": y}, lambda y: y.mean(dim=(2, 3)), lambda y: (), lambda y: "map"])
def test_an_output_without_a_map_is_refused(dress: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ModelRefused, match="let a py: factory wrap it"):
        load_network(Tiny(3, dress))(two_images())


def test_smps_second_head_does_not_hide_the_mask() -> None:
    network = load_network("smp:Unet?encoder=resnet18&classes=3&aux_params={'classes':2}")
    assert logits(network, two_images()).shape == (2, 3, 64, 96)


def test_a_map_of_another_size_than_the_image_is_refused_with_what_to_do() -> None:
    with pytest.raises(PredictionFailed, match=r"gave 2x3x32x48 for an input of 2x3x64x96; .*resize"):
        load_network(Tiny(3, stride=2))(two_images())


def test_every_part_of_a_loaded_network_is_in_eval_mode_even_behind_a_frozen_encoder() -> None:
    module = smp.Unet("resnet18", encoder_weights=None, classes=2)
    module.freeze_encoder()
    for layer in module.encoder.modules():
        layer.training = True
    assert not any(part.training for part in load_network(module).module.modules())


def test_the_callers_module_stays_as_it_was() -> None:
    module = Tiny(3).train()
    module.get_buffer("norm.running_mean").add_(1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = load_network(module, card=Card(name="made", network="py:a:b", batchnorm_eps={"norm": 0.5}))
    logits(network, two_images())
    assert all(part.training for part in module.modules())
    assert module.norm.eps == 1e-5
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert network.fingerprint == load_network(module).fingerprint


def test_a_module_that_cannot_be_copied_is_refused_with_the_way_out() -> None:
    module = Tiny(3)
    module.kept = module.layer.weight * 2  # a tensor with a history
    with pytest.raises(ModelRefused, match=r"Tiny cannot be copied .*py:package\.module:factory"):
        load_network(module)


def test_building_leaves_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    for uri in ("segment:enet", "smp:Unet?encoder=resnet18", "torchvision:lraspp_mobilenet_v3_large"):
        build(uri)
        assert torch.equal(torch.random.get_rng_state(), before), uri


def test_an_epsilon_goes_to_the_layers_its_glob_names_and_to_no_other() -> None:
    card = replace(default_card("smp:Unet?encoder=resnet18&classes=2"), batchnorm_eps={"encoder.layer1.*": 0.25})
    module = load_network(card.network, card=card).module
    layers = {name: layer.eps for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert {name for name, eps in layers.items() if eps == 0.25} == {
        n for n in layers if n.startswith("encoder.layer1.")
    }
    assert set(layers.values()) == {0.25, 1e-5}
    with pytest.raises(ModelRefused, match=r"'encodr\.\*' matches no BN layer"):
        load_network(card.network, card=replace(card, batchnorm_eps={"encodr.*": 0.1}))


def test_a_fingerprint_changes_with_the_weights_and_with_nothing_else() -> None:
    module = Tiny(3)
    prints = {load_network(module).fingerprint, load_network(Tiny(4)).fingerprint}
    assert load_network(module).fingerprint in prints
    for change in (module.layer.weight, module.get_buffer("norm.running_var")):
        with torch.no_grad():
            change.view(-1)[0] += 1e-6
        prints.add(load_network(module).fingerprint)
    prints.add(load_network(module.double()).fingerprint)
    assert len(prints) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in prints)


def test_the_number_of_classes_is_measured_where_no_card_names_them() -> None:
    assert load_network("smp:PAN?encoder=resnet18&classes=9").classes == 9

    with pytest.raises(ModelRefused, match=r"128x128, 256x256, 512x512: .*224 only.*Name the `classes:` in a card"):
        assert load_network(Tiny(3, of_one_size(224))).classes
    assert carded(Tiny(3, of_one_size(224)), classes=("a", "b", "c")).classes == 3


def of_one_size(side: int) -> Callable[[Tensor], Tensor]:
    """What fails for an output of another size."""

    def checked(y: Tensor) -> Tensor:
        if y.shape[-1] != side:
            raise ValueError(f"{side} only")
        return y

    return checked


@pytest.mark.parametrize("side", trial_sides(1))
def test_a_network_of_one_size_is_tried_at_that_size_whatever_is_asked_of_it(side: int) -> None:
    network = load_network(Tiny(3, of_one_size(side)))
    assert (network.classes, network.channels) == (3, 3)
    assert "batch_norm in 'norm'" in {call.name for call in calls_of(network)}
    assert len(bn_network_of(network).layers) == 1
    assert probe_side(network) == side


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(WrongUse, match="'cudaa'"):
        load_network(Tiny(3), device="cudaa")


def test_random_weights_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    load_network("segment:enet")
    assert "random weights" in caplog.text


def test_weights_that_are_no_file_are_refused() -> None:
    module = Tiny()
    wrong: list[Any] = [module.state_dict(), b"weights.pt"]
    for given in wrong:
        with pytest.raises(WrongUse, match=f"weights= is a file of weights, not a {type(given).__name__}.*the module"):
            load_network(module, weights=given)


def test_a_second_card_beside_a_card_is_refused() -> None:
    with pytest.raises(WrongUse, match="is a card already"):
        load_network("enet_camvid", card=default_card("segment:enet"))
    with pytest.raises(WrongUse, match="what card=, head= and classes= say is written there"):
        load_network("enet_camvid", head="sigmoid")


def test_the_head_and_the_classes_of_a_module_are_said_where_it_is_loaded() -> None:
    module, x = Tiny(1), two_images()
    with pytest.raises(ModelRefused, match=r'or from Python load_network\(\.\.\., head="sigmoid"\)'):
        load_network(module)(x)
    network = load_network(module, head="sigmoid", classes=["sky", "road"])
    assert logits(network, x).shape[1] == 1
    assert (network.name, network.classes, network.class_names) == ("Tiny", 2, ("sky", "road"))
    stated = network_of(network, mean=(0.5,) * 3, std=(0.5,) * 3)  # its preprocessing is still to be said
    assert stated.input.mean == (0.5,) * 3
    assert network_of(carded(module, head="sigmoid"), mean=(0.5,) * 3).card.head == "sigmoid"
    with pytest.raises(WrongUse, match="the card of 'made' says"):
        network_of(carded(module, head="sigmoid", input=InputSpec()), mean=(0.5,) * 3)
    with pytest.raises(WrongUse, match="a network without a card; write them in 'made'"):
        load_network(module, card=carded(module).card, head="sigmoid")
    with pytest.raises(WrongUse, match="head: it is 'softmax', 'sigmoid' or 'multilabel', not 'binary'"):
        load_network(module, head="binary")  # type: ignore[arg-type]


def test_a_uri_takes_head_and_classes_beside_it() -> None:
    network = load_network("smp:Unet?encoder=resnet18&classes=1", head="sigmoid", classes=("sky", "road"))
    plain = default_card("smp:Unet?encoder=resnet18&classes=1&head=sigmoid")
    assert network.card == replace(plain, name=network.name, network=network.name, classes=("sky", "road"))
    with pytest.raises(WrongUse, match="and sigmoid by 'smp:"):
        load_network("smp:Unet?classes=1&head=sigmoid", head="multilabel")


def test_loading_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_network("smp:Unet?encoder=tu-tf_efficientnet_lite0&classes=2")
