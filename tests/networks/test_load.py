"""Every kind of URI becomes a network that gives logits of its input's size, or one line that says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from plain import two_images
from torch import Tensor, nn

from segment.errors import ModelRefused, UnknownNetwork, WrongUse
from segment.networks.building.uris import parse_uri
from segment.networks.cards import default_card, read_card
from segment.networks.load import Network, load_network

SMP_WITH_BN = sorted(a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values() if a.__name__ != "DPT")
TORCHVISION_QUICK = ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50")
TORCHVISION_LARGE = ("deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet101")


def logits(network: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
@pytest.mark.parametrize("architecture", SMP_WITH_BN)
def test_every_smp_architecture_with_bn_gives_logits_of_its_input(architecture: str, encoder: str) -> None:
    network = load_network(f"smp:{architecture}?encoder={encoder}&classes=5")
    x = two_images(128 if architecture == "PAN" else 64)  # PAN pools 1/16 of the image three times more
    assert logits(network, x).shape == (2, 5, *x.shape[-2:])
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.module.modules())
    assert network.classes == 5


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-tf_efficientnet_lite0", "efficientnet-b0", "resnet50"])
@pytest.mark.parametrize("architecture", SMP_WITH_BN)
def test_other_encoders_fit_every_smp_architecture(architecture: str, encoder: str) -> None:
    assert logits(load_network(f"smp:{architecture}?encoder={encoder}&classes=2"), two_images(128)).shape[1] == 2


@pytest.mark.parametrize("name", TORCHVISION_QUICK)
def test_a_torchvision_networks_map_is_taken_out_of_its_dictionary(name: str) -> None:
    network = load_network(f"torchvision:{name}?num_classes=4")
    x = two_images()
    assert logits(network, x).shape == (2, 4, *x.shape[-2:])
    with torch.no_grad():
        assert torch.equal(logits(network, x), network.module(x)["out"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_LARGE)
def test_the_large_torchvision_networks_give_logits_too(name: str) -> None:
    assert logits(load_network(f"torchvision:{name}?num_classes=4"), two_images()).shape[1] == 4


def test_torchvision_weights_with_an_auxiliary_head_fit_with_and_without_it(tmp_path: Path) -> None:
    from torchvision.models import get_model

    name = TORCHVISION_QUICK[0]
    with torch.random.fork_rng(devices=[]):
        trained = get_model(name, weights_backbone=None, num_classes=4, aux_loss=True).eval()
    assert any(key.startswith("aux_classifier.") for key in trained.state_dict())
    torch.save({"model": trained.state_dict()}, tmp_path / "w.pth")
    x = two_images()
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
        assert torch.equal(logits(network, two_images()), saved(two_images()))
    assert network.card.input.stride == 32


@pytest.mark.parametrize(
    ("activation", "classes", "head"),
    [(None, 3, "softmax"), ("sigmoid", 3, "multilabel"), ("sigmoid", 1, "sigmoid"), ("softmax2d", 3, "softmax")],
)
def test_the_activation_that_smp_was_made_with_says_the_head(
    tmp_path: Path, activation: str | None, classes: int, head: str
) -> None:
    sizes = {"decoder_channels": (8, 8, 4, 4, 4), "classes": classes, "activation": activation}
    with torch.random.fork_rng(devices=[]):
        saved = smp.Unet("resnet18", encoder_weights=None, **sizes)
    saved.save_pretrained(tmp_path / "saved")
    uri = f"smp-dir:{tmp_path / 'saved'}"
    assert load_network(uri).card.head == head
    assert default_card(f"smp:Unet?classes={classes}&activation={activation}").head == head
    assert default_card(f"{uri}?head=softmax").head == "softmax"
    (tmp_path / "own.yaml").write_text("network: smp-dir:saved\nhead: multilabel\n", encoding="utf-8")
    if head == "sigmoid":
        with pytest.raises(WrongUse, match="and sigmoid by the activation that the network is made with"):
            read_card(tmp_path / "own.yaml")


def test_an_activation_that_is_no_head_is_refused() -> None:
    with pytest.raises(ModelRefused, match="activation=tanh, whose outputs are neither those of a softmax"):
        load_network("smp:Unet?encoder=resnet18&activation=tanh")


def test_a_folder_that_smp_did_not_save_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNetwork, match=r"config\.json"):
        load_network(f"smp-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"_model_class": "Unet", "encoder_name": "resnet18"}', encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"model\.safetensors.* not there"):
        load_network(f"smp-dir:{tmp_path}")


def test_a_last_activation_is_left_out_for_logits_are_needed() -> None:
    network = load_network("smp:Unet?encoder=resnet18&classes=3&activation=softmax2d")
    assert not torch.allclose(logits(network, two_images()).sum(dim=1), torch.ones(2, 64, 96))


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

made = Net(2)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_nets.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_factory_in_the_working_folder_builds_the_network(here: Path) -> None:
    network = load_network("py:their_nets:Net?classes=7&width=6")
    assert logits(network, two_images()).shape[1] == network.classes == 7
    assert network.card.input.mean == ()


def test_a_factory_that_gives_no_network_is_refused_in_one_line(here: Path) -> None:
    for uri, message in {
        "py:their_nets:no_network": "gave int; a torch.nn.Module is needed",
        "py:their_nets:broken": "ValueError: the width is wrong and so is this",
        "py:their_nets:absent": "has no attribute 'absent'",
        "py:their_nets:made": "is a Net that is made already; name a function or a class that makes one",
        "py:their_net:Net": "No module named 'their_net'",
        "py:their_nets": "names no factory",
        "py:their_nets:Net?klasses=3": "unexpected keyword argument 'klasses'",
    }.items():
        with pytest.raises(ModelRefused, match=re.escape(message)) as refused:
            load_network(uri)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "message"),
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
def test_an_unknown_network_is_reported_with_what_is_near_and_known(uri: str, message: str) -> None:
    with pytest.raises(UnknownNetwork, match=message):
        load_network(uri)


def test_weights_or_a_folder_in_the_place_of_a_network_are_refused_with_how_to_name_them(here: Path) -> None:
    (here / "net.pth").write_bytes(b"weights")
    (here / "saved").mkdir()
    for asked, message in {"net.pth": "MODEL --weights net.pth", "saved": "'smp-dir:saved'"}.items():
        with pytest.raises(UnknownNetwork, match=message):
            load_network(asked)


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        (
            "smp:Unet?encodr=resnet18",
            ModelRefused,
            r"no argument 'encodr'\. Near: 'encoder'\. .*, encoder, enc",
        ),
        ("smp:Unet?clases=3", ModelRefused, r"no argument 'clases'\. Near: 'classes'"),
        ("smp:Unet?encoder=tu-resnet18&foo=1", ModelRefused, r"'foo'"),
        ("smp:Unet?encoder_depth=9", ModelRefused, r"cannot be built"),
        ("smp:Unet?classes=3&classes=4", WrongUse, r"'classes=4' is not key=value, or its key was there before"),
        ("smp:Unet?classes", WrongUse, r"'classes' is not key=value"),
        ("smp:Unet?head=sigmoids", WrongUse, r"Near: 'sigmoid'"),
        ("torchvision:lraspp_mobilenet_v3_large?nclasses=3", ModelRefused, r"nclasses"),
        ("segment:tiny?clases=3", ModelRefused, r"segment:tiny has no argument 'clases'\. Near: 'classes'"),
    ],
)
def test_a_uri_that_cannot_be_is_refused_in_one_line(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        load_network(uri)
    assert "\n" not in str(refused.value)


def test_the_values_of_a_uri_are_literals_where_they_can_be() -> None:
    asked = parse_uri(
        "smp:Unet?a=1&b=1e-3&c=(64,32)&d=None&e=resnet34&f=True&g={'type':'batchnorm'}&h=a%26b&i=&head=sigmoid"
    )
    values = {"a": 1, "b": 0.001, "c": (64, 32), "d": None, "e": "resnet34", "f": True, "g": {"type": "batchnorm"}}
    assert asked.arguments == values | {"h": "a&b", "i": ""}
    assert asked.head == "sigmoid"


@pytest.mark.parametrize("write", [str, str.lower, str.upper])
def test_the_words_for_true_false_and_none_are_read_in_any_case(write: Callable[[str], str]) -> None:
    words = "&".join(f"{key}={write(word)}" for key, word in {"a": "True", "b": "False", "c": "None"}.items())
    asked = parse_uri(f"py:nets:make?{words}&d={write('null')}")
    assert asked.arguments == {"a": True, "b": False, "c": None, "d": None}


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


@pytest.mark.parametrize(("uri", "classes"), [("segment:enet?classes=4", 4), ("segment:tiny?classes=6", 6)])
def test_the_networks_kept_here_go_by_uri_too(uri: str, classes: int) -> None:
    network = load_network(uri)
    assert logits(network, two_images()).shape == (2, classes, 64, 96)
    assert network.card.input.mean == ()


class Hooked(nn.Module):
    """Keeps a feature by a hook whose closure holds the module, or by one that is called with it."""

    def __init__(self, *, held: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.Conv2d(4, 2, 1)
        self.kept: dict[str, Tensor] = {}
        if held:
            self.stem.register_forward_hook(lambda _module, _inputs, output: self.kept.update(stem=output))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        made: Tensor = self.head(self.kept.get("stem", y))
        return made


def test_a_hook_that_holds_the_module_that_was_given_is_told(caplog: pytest.LogCaptureFixture) -> None:
    load_network(Hooked(held=False))
    assert "holds the Hooked" not in caplog.text
    load_network(Hooked(held=True))
    assert "A hook of 'stem' holds the Hooked that you gave, and not the copy that is used" in caplog.text
