"""A URI, a card or a module becomes one thing: a network that gives logits of its input's size."""

from __future__ import annotations

import json
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
from torch import Tensor, nn

from segment.errors import ModelRefused, PredictionFailed, UnknownNetwork, WrongUse
from segment.networks.builders import build
from segment.networks.cards import Card, default_card
from segment.networks.catalogue import Network, load_network
from segment.networks.uris import parse_uri

SMP_WITH_BN = sorted(a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values() if a.__name__ != "DPT")
TORCHVISION_SMALL = ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
TORCHVISION_LARGE = ("deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101")


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


def image(side: int = 64, channels: int = 3) -> Tensor:  # N C H W
    return torch.rand(2, channels, side, side + 32, generator=torch.Generator().manual_seed(1))


def logits(network: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def carded(module: nn.Module, **said: Any) -> Network:
    return load_network(module, card=Card(name="made", network="py:made:here", **said))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
@pytest.mark.parametrize("architecture", SMP_WITH_BN)
def test_every_smp_architecture_with_bn_gives_logits_of_its_input(architecture: str, encoder: str) -> None:
    network = load_network(f"smp:{architecture}?encoder={encoder}&classes=5")
    x = image(128 if architecture == "PAN" else 64)  # PAN pools 1/16 of the image three times more
    assert logits(network, x).shape == (2, 5, *x.shape[-2:])
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.module.modules())
    assert network.classes == 5


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-tf_efficientnet_lite0", "efficientnet-b0", "resnet50"])
@pytest.mark.parametrize("architecture", SMP_WITH_BN)
def test_other_encoders_fit_every_smp_architecture(architecture: str, encoder: str) -> None:
    assert logits(load_network(f"smp:{architecture}?encoder={encoder}&classes=2"), image(128)).shape[1] == 2


@pytest.mark.parametrize("name", TORCHVISION_SMALL)
def test_a_torchvision_networks_map_is_taken_out_of_its_dictionary(name: str) -> None:
    network = load_network(f"torchvision:{name}?num_classes=4")
    x = image()
    assert logits(network, x).shape == (2, 4, *x.shape[-2:])
    with torch.no_grad():
        assert torch.equal(logits(network, x), network.module(x)["out"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_LARGE)
def test_the_large_torchvision_networks_give_logits_too(name: str) -> None:
    assert logits(load_network(f"torchvision:{name}?num_classes=4"), image()).shape[1] == 4


def test_torchvision_weights_with_an_auxiliary_head_fit_with_and_without_it(tmp_path: Path) -> None:
    from torchvision.models import get_model

    name = TORCHVISION_SMALL[0]
    with torch.random.fork_rng(devices=[]):
        trained = get_model(name, weights_backbone=None, num_classes=4, aux_loss=True).eval()
    assert any(key.startswith("aux_classifier.") for key in trained.state_dict())
    torch.save({"model": trained.state_dict()}, tmp_path / "w.pth")
    x = image()
    with torch.no_grad():
        wanted = trained(x)["out"]
    for aux in ("", "&aux_loss=True"):
        network = load_network(f"torchvision:{name}?num_classes=4{aux}", weights=tmp_path / "w.pth")
        assert torch.equal(logits(network, x), wanted)
        assert not any("aux" in key for key in network.module.state_dict())


def test_a_folder_that_smp_saved_comes_back_value_for_value(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        saved = smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(64, 32, 16, 8, 8)).eval()
    saved.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    config["encoder_weights"] = "imagenet"  # what most people trained from; nothing may be downloaded for it
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    network = load_network(f"smp-dir:{tmp_path / 'saved'}")
    with torch.no_grad():
        assert torch.equal(logits(network, image()), saved(image()))
    assert network.card.input.stride == 32


def test_a_folder_that_smp_did_not_save_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNetwork, match=r"config\.json"):
        load_network(f"smp-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"_model_class": "Unet", "encoder_name": "resnet18"}', encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"model\.safetensors.* not there"):
        load_network(f"smp-dir:{tmp_path}")


def test_a_last_activation_is_left_out_for_logits_are_needed() -> None:
    network = load_network("smp:Unet?encoder=resnet18&classes=3&activation=softmax2d")
    assert not torch.allclose(logits(network, image()).sum(dim=1), torch.ones(2, 64, 96))


FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 1), torch.nn.BatchNorm2d(width), torch.nn.Conv2d(width, classes, 1))

    def forward(self, x):
        return self.layers(x)

def no_network():
    return 7

def broken():
    raise ValueError("the width is wrong\\nand so is this")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_nets.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_factory_in_the_working_folder_builds_the_network(here: Path) -> None:
    network = load_network("py:their_nets:Net?classes=7&width=6")
    assert logits(network, image()).shape[1] == network.classes == 7
    assert network.card.input.mean == ()


def test_a_factory_that_gives_no_network_is_refused_in_one_line(here: Path) -> None:
    for uri, said in {
        "py:their_nets:no_network": "gave int; a torch.nn.Module is needed",
        "py:their_nets:broken": "ValueError: the width is wrong and so is this",
        "py:their_nets:absent": "has no attribute 'absent'",
        "py:their_net:Net": "No module named 'their_net'",
        "py:their_nets": "names no factory",
        "py:their_nets:Net?klasses=3": "unexpected keyword argument 'klasses'",
    }.items():
        with pytest.raises(ModelRefused, match=re.escape(said)) as refused:
            load_network(uri)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("unet", r"'unet'.* Known: .*enet_camvid.*smp:Unet"),
        ("unet_lite0_camvit", r"Near: 'unet_lite0_camvid'"),
        ("smpp:Unet", r"scheme is unknown\. Near: 'smp'"),
        ("smp:", r"nothing follows the scheme"),
        ("smp:Unett", r"Near: 'Unet'\. Known: .*DeepLabV3Plus"),
        ("smp:Unet?encoder=resnet43", r"Near: 'resnet34'\. Known: .*mobilenet_v2.*tu-"),
        ("smp:Unet?encoder=tu-resnet118", r"Near: 'tu-resnet"),
        ("torchvision:deeplabv3_resnet5", r"Near: 'deeplabv3_resnet50'"),
        ("torchvision:resnet50", r"Known: deeplabv3_mobilenet_v3_large"),
        ("segment:tinny", r"Near: 'tiny'\. Known: enet, tiny"),
    ],
)
def test_an_unknown_network_is_told_with_what_is_near_and_known(uri: str, said: str) -> None:
    with pytest.raises(UnknownNetwork, match=said):
        load_network(uri)


def test_weights_or_a_folder_in_the_place_of_a_network_are_told_how_to_be_named(here: Path) -> None:
    (here / "net.pth").write_bytes(b"weights")
    (here / "saved").mkdir()
    for asked, said in {"net.pth": "MODEL --weights net.pth", "saved": "'smp-dir:saved'"}.items():
        with pytest.raises(UnknownNetwork, match=said):
            load_network(asked)


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("smp:Unet?clases=3", ModelRefused, r"no argument 'clases'\. Near: 'classes'"),
        ("smp:Unet?encoder=tu-resnet18&foo=1", ModelRefused, r"'foo'"),
        ("smp:Unet?encoder_depth=9", ModelRefused, r"cannot be built"),
        ("smp:Unet?classes=3&classes=4", WrongUse, r"'classes=4' is not key=value, or its key was there before"),
        ("smp:Unet?classes", WrongUse, r"'classes' is not key=value"),
        ("smp:Unet?head=sigmoids", WrongUse, r"Near: 'sigmoid'"),
        ("torchvision:lraspp_mobilenet_v3_large?nclasses=3", ModelRefused, r"nclasses"),
    ],
)
def test_a_uri_that_cannot_be_is_refused_in_one_line(uri: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as refused:
        load_network(uri)
    assert "\n" not in str(refused.value)


def test_the_values_of_a_uri_are_literals_where_they_can_be() -> None:
    asked = parse_uri(
        "smp:Unet?a=1&b=1e-3&c=(64,32)&d=None&e=resnet34&f=True&g={'type':'batchnorm'}&h=a%26b&i=&head=sigmoid"
    )
    values = {"a": 1, "b": 0.001, "c": (64, 32), "d": None, "e": "resnet34", "f": True, "g": {"type": "batchnorm"}}
    assert asked.arguments == values | {"h": "a&b", "i": ""}
    assert asked.head == "sigmoid"


def test_without_a_connection_pretrained_weights_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    for uri in (
        "smp:Unet?encoder=resnet18&encoder_weights=imagenet",
        "torchvision:lraspp_mobilenet_v3_large?weights=DEFAULT",
    ):
        with pytest.raises(ModelRefused, match=r"not known\. Pretrained weights .*--weights") as refused:
            load_network(uri)
        assert "\n" not in str(refused.value)


def test_one_output_is_never_guessed_to_be_a_sigmoid() -> None:
    with pytest.raises(ModelRefused, match="head=sigmoid in the URI"):
        load_network("smp:Unet?encoder=resnet18&classes=1")(image())
    network = load_network("smp:Unet?encoder=resnet18&classes=1&head=sigmoid")
    assert logits(network, image()).shape[1] == 1
    assert network.classes == 2


def test_a_sigmoid_head_with_several_outputs_is_refused() -> None:
    with pytest.raises(ModelRefused, match="3 outputs; a sigmoid head has one"):
        carded(Tiny(3), head="sigmoid")(image())


def test_a_multilabel_head_has_as_many_classes_as_outputs() -> None:
    assert carded(Tiny(1), head="multilabel").classes == 1
    assert carded(Tiny(4), head="multilabel").classes == 4


def test_dropped_outputs_are_gone_and_the_others_keep_their_order() -> None:
    module = Tiny(5).eval()
    x = image()
    network = carded(module, drop_outputs=(0, 3), classes=("a", "b", "c"))
    with torch.no_grad():
        assert torch.equal(logits(network, x), module(x)[:, [1, 2, 4]])
    assert network.classes == 3


def test_too_few_outputs_for_the_card_are_refused() -> None:
    with pytest.raises(ModelRefused, match=r"has 3 outputs, 0 to 2; drop_outputs asks for 11"):
        carded(Tiny(3), drop_outputs=(11,))(image())
    with pytest.raises(ModelRefused, match=r"gives 3 outputs for the 4 classes of its card"):
        carded(Tiny(3), classes=("a", "b", "c", "d"))(image())


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
    assert torch.equal(logits(load_network(wrapped), image()), logits(load_network(plain), image()))


@pytest.mark.parametrize("dress", [lambda y: {"boxes": y}, lambda y: y.mean(dim=(2, 3)), lambda y: (), lambda y: "map"])
def test_an_output_without_a_map_is_refused(dress: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ModelRefused, match="let a py: factory wrap it"):
        load_network(Tiny(3, dress))(image())


def test_smps_second_head_does_not_hide_the_mask() -> None:
    network = load_network("smp:Unet?encoder=resnet18&classes=3&aux_params={'classes':2}")
    assert logits(network, image()).shape == (2, 3, 64, 96)


def test_a_map_of_another_size_than_the_image_is_refused_with_what_to_do() -> None:
    with pytest.raises(PredictionFailed, match=r"gave 2x3x32x48 for an input of 2x3x64x96; .*resize"):
        load_network(Tiny(3, stride=2))(image())


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
    logits(network, image())
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


def test_a_fingerprint_tells_any_change_of_the_weights_and_nothing_else() -> None:
    module = Tiny(3)
    prints = {load_network(module).fingerprint, load_network(Tiny(4)).fingerprint}
    assert load_network(module).fingerprint in prints
    for change in (module.layer.weight, module.get_buffer("norm.running_var")):
        with torch.no_grad():
            change.view(-1)[0] += 1e-6
        prints.add(load_network(module).fingerprint)
    prints.add(load_network(module.double()).fingerprint)
    assert len(prints) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", found) for found in prints)


def test_the_number_of_classes_is_measured_where_no_card_names_them() -> None:
    assert load_network("smp:PAN?encoder=resnet18&classes=9").classes == 9

    def of_one_size(y: Tensor) -> Tensor:
        if y.shape[-1] != 224:
            raise ValueError("224 only")
        return y

    with pytest.raises(ModelRefused, match=r"224 only.*Name the `classes:` in a card"):
        assert load_network(Tiny(3, of_one_size)).classes
    assert carded(Tiny(3, of_one_size), classes=("a", "b", "c")).classes == 3


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(WrongUse, match="'cudaa'"):
        load_network(Tiny(3), device="cudaa")


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    load_network("segment:enet")
    assert "random weights" in caplog.text


def test_a_second_card_beside_a_card_is_refused() -> None:
    with pytest.raises(WrongUse, match="is a card already"):
        load_network("enet_camvid", card=default_card("segment:enet"))


def test_loading_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_network("smp:Unet?encoder=tu-tf_efficientnet_lite0&classes=2")
