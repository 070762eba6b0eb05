"""Networks of transformers from a folder, factories beside their card, and networks that see one size."""

from __future__ import annotations

import importlib
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from torch.nn import functional

import segment
from segment.batch_norm.network import bn_network_of
from segment.errors import ModelRefused, WrongUse
from segment.images.prepare import prepare
from segment.jobs.inspect import inspect_network
from segment.methods.dropout import inserted
from segment.networks.cards import default_card, read_card
from segment.networks.load import load_network
from segment.networks.modules import named_modules
from segment.networks.resized import Resized

FACTORY = """
import torch
from torch import nn

def make(classes=3):
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, classes, 1))
"""


@pytest.fixture
def segformer(tmp_path: Path) -> Path:
    config_class: Any = transformers.SegformerConfig
    config = config_class(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(1)
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "saved")
    numbers = {"do_normalize": True, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "saved" / "preprocessor_config.json").write_text(json.dumps(numbers))
    return tmp_path / "saved"


def test_a_folder_of_transformers_gives_its_logits_at_the_images_size(segformer: Path) -> None:
    network = load_network(f"hf:{segformer}")
    assert (network.card.input.mean, network.card.input.stride) == ((0.4, 0.4, 0.4), 32)
    image = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    kind: Any = transformers.SegformerForSemanticSegmentation
    own = kind.from_pretrained(segformer).eval()
    with torch.no_grad():
        small = own(pixel_values=image).logits
        expected = functional.interpolate(small, (64, 96), mode="bilinear", align_corners=False)
        assert small.shape[-2:] == (16, 24)
        torch.testing.assert_close(network(image), expected, rtol=0, atol=0)


def test_a_network_of_transformers_has_the_class_names_of_its_config(segformer: Path, tmp_path: Path) -> None:
    def names(named: dict[int, str], **more: Any) -> tuple[str, ...]:
        config = json.loads((segformer / "config.json").read_text())
        config["id2label"] = {str(index): name for index, name in named.items()}
        (segformer / "config.json").write_text(json.dumps(config))
        return load_network(f"hf:{segformer}", **more).class_names

    counted = ("class 0", "class 1", "class 2")
    assert names({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}) == counted
    assert names({0: "wall", 2: "tree", 1: "sky"}) == ("wall", "sky", "tree")
    assert names({0: "wall", 1: "sky", 2: "tree"}, classes=["a", "b", "c"]) == ("a", "b", "c")
    assert names({0: "wall", 1: "wall", 2: "tree"}) == counted
    assert names({0: "wall", 1: " ", 2: "tree"}) == counted
    (tmp_path / "own.yaml").write_text(f"network: hf:{segformer}\nclasses: [one, two, three]\n")
    names({0: "wall", 1: "sky", 2: "tree"})
    assert load_network(tmp_path / "own.yaml").class_names == ("one", "two", "three")
    (tmp_path / "own.yaml").write_text(f"network: hf:{segformer}\n")
    assert load_network(tmp_path / "own.yaml").class_names == ("wall", "sky", "tree")


def test_weights_and_layers_of_transformers_have_the_names_that_they_have_there(
    segformer: Path, tmp_path: Path
) -> None:
    kind: Any = transformers.SegformerForSemanticSegmentation
    trained = kind.from_pretrained(segformer)
    with torch.no_grad():
        trained.decode_head.classifier.bias += 1
    state = {f"model.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    image = torch.zeros(1, 3, 64, 96)
    before = load_network(f"hf:{segformer}")
    after = load_network(f"hf:{segformer}", weights=tmp_path / "w.ckpt")
    with torch.no_grad():
        torch.testing.assert_close(after(image), before(image) + 1)
    assert [layer.name for layer in bn_network_of(after).layers] == ["decode_head.batch_norm"]


def test_weights_that_a_folder_of_transformers_lacks_are_warned_of(
    segformer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_network(f"hf:{segformer}")
    assert "lacks" not in caplog.text
    file = segformer / "model.safetensors"
    state = safetensors.torch.load_file(file)
    of_head = [key for key in state if key.startswith("decode_head.classifier")]
    kept = {key: value for key, value in state.items() if key not in of_head}
    safetensors.torch.save_file(kept, file, metadata={"format": "pt"})
    load_network(f"hf:{segformer}")
    assert "lacks 2 weights of SegformerForSemanticSegmentation, decode_head.classifier.bias" in caplog.text
    caplog.clear()
    load_network(f"hf:{segformer}?num_labels=5&ignore_mismatched_sizes=True")
    assert "lacks 2 weights" in caplog.text


PREPROCESSORS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "flipped": (
        {"image_processor_type": "MobileViTImageProcessor", "do_rescale": True, "do_flip_channel_order": True},
        {"scale": 255, "channels": "BGR", "mean": ()},
    ),
    "another factor": (
        {"do_normalize": True, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"scale": 127.5, "mean": (1, 1, 1)},
    ),
    "not rescaled": (
        {"do_normalize": True, "do_rescale": False, "image_mean": [123, 116, 103], "image_std": [58, 57, 57]},
        {"scale": 1, "mean": (123, 116, 103), "std": (58, 57, 57)},
    ),
    "one number": ({"do_normalize": True, "image_mean": 0.5, "image_std": 0.25}, {"mean": (0.5,) * 3}),
    "not normalised": ({"do_normalize": False, "image_mean": [0.5] * 3}, {"scale": 255, "mean": (), "std": ()}),
    "nothing said of mean and std": ({"do_rescale": True}, {"scale": 255, "mean": ()}),
    "flipped and normalised": (
        {"do_flip_channel_order": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]},
        None,
    ),
    "grey": ({"do_grayscale": True}, None),
    "two means": ({"image_mean": [0.1, 0.2], "image_std": [1, 1]}, None),
    "no factor": ({"rescale_factor": 0}, None),
}


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_the_preprocessing_of_transformers_is_taken_or_said_to_be_assumed(tmp_path: Path, name: str) -> None:
    config, wanted = PREPROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    card = default_card(f"hf:{tmp_path}")
    assert card.assumed == (wanted is None)
    for key, value in ({"mean": (0.485, 0.456, 0.406), "scale": 255} if wanted is None else wanted).items():
        assert getattr(card.input, key) == value, key


@pytest.mark.parametrize("kind", ["SegformerImageProcessor", "MobileViTImageProcessor"])
def test_the_input_is_that_of_the_image_processor_beside_the_network(tmp_path: Path, kind: str) -> None:
    sizes = {"do_resize": False, "do_center_crop": False}
    processor = getattr(transformers, kind)(**sizes)
    processor.save_pretrained(tmp_path)
    spec = default_card(f"hf:{tmp_path}").input
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    wanted = processor(pixels, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(prepare(pixels, spec), wanted, rtol=0, atol=1e-6)


def test_a_network_of_the_hub_is_prepared_as_its_image_processor_there_says(
    segformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    asked: list[Any] = []
    load: Any = transformers.AutoModelForSemanticSegmentation.from_pretrained

    def network(_: str, **arguments: Any) -> Any:
        return load(str(segformer), **arguments | {"local_files_only": True, "revision": None})

    def processor(target: str, **arguments: Any) -> Any:
        asked.append((target, arguments["trust_remote_code"], arguments["revision"]))
        if arguments["local_files_only"] and not kept:
            raise OSError("it is not in the cache")
        kept.append(target)
        return SimpleNamespace(do_rescale=True, rescale_factor=1 / 255, do_normalize=None, do_flip_channel_order=True)

    monkeypatch.setattr(transformers.AutoModelForSemanticSegmentation, "from_pretrained", network)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", processor)
    uri = "hf:someone/net?revision=v1"
    assert default_card(uri).assumed, "nothing is downloaded to read a card"
    (tmp_path / "own.yaml").write_text(f"network: {uri}\nclasses: [a, b, c]\n")
    for model in (uri, tmp_path / "own.yaml"):
        kept.clear()
        card = load_network(model).card
        assert (card.input.channels, card.input.mean, card.assumed) == ("BGR", (), False)
    assert set(asked) == {("someone/net", False, "v1")}


def test_a_network_with_little_batch_norm_is_fitted_and_says_so(
    segformer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network(f"hf:{segformer}")
    images = torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    bank = segment.fit_bank(network, images, batch=2, draws=2)
    assert len(bank.layers) == 1
    assert "Only 1 BN layer is drawn, beside" in caplog.text
    assert "LayerNorm" in inspect_network(network, size=(64, 64)).few
    assert segment.MCBN(network, bank, precision="fp32")(images[0]).variance.max() > 0


def test_what_is_no_network_of_transformers_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelRefused, match=r"is not a folder that save_pretrained wrote|cannot be built") as refused:
        load_network(f"hf:{tmp_path}")
    assert "\n" not in str(refused.value)


def test_a_factory_is_found_beside_its_card_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "own_factory_beside.py").write_text(FACTORY)
    card = tmp_path / "cards" / "own.yaml"
    card.write_text("network: py:own_factory_beside:make?classes=2\ninput: {mean: [0.5, 0.5, 0.5]}\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_network(card, trust=True).classes == 2
    assert sys.path == before


NAMESAKE = """
import torch
from torch import nn
from own_activation import activated

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        for value in self.first.parameters():
            nn.init.constant_(value, 0.5)

    def forward(self, x):
        return activated(self.norm(self.first(x))) * FACTOR
"""
ACTIVATION = "import torch\n\ndef activated(x):\n    return torch.{}(x)\n"


def namesake(folder: Path, function: str = "tanh", factor: int = 1) -> Path:
    """A card with its factory, whose file has the same name in every folder, and so has the file that it imports."""
    folder.mkdir(exist_ok=True)
    (folder / "own_namesake.py").write_text(NAMESAKE.replace("FACTOR", str(factor)))
    (folder / "own_activation.py").write_text(ACTIVATION.format(function))
    (folder / "own.yaml").write_text("network: py:own_namesake:Net\nclasses: [a, b, c]\n")
    return folder / "own.yaml"


def of_ones(card: Path) -> float:
    with torch.no_grad():
        return float(load_network(card, trust=True)(torch.ones(1, 3, 8, 8))[0, 0, 0, 0])


@pytest.mark.parametrize("change", [{"factor": 2}, {"function": "sigmoid"}])
def test_two_cards_whose_files_have_the_same_names_run_their_own_code(tmp_path: Path, change: dict[str, Any]) -> None:
    one, other = namesake(tmp_path / "one"), namesake(tmp_path / "other", **change)
    first, second = of_ones(one), of_ones(other)
    assert abs(first - second) > 0.01
    assert (of_ones(one), of_ones(other)) == (first, second)
    assert "own_namesake" not in sys.modules


@pytest.mark.parametrize("change", [{"factor": 20}, {"function": "sigmoid"}])
def test_an_edited_file_is_loaded_again(tmp_path: Path, change: dict[str, Any]) -> None:
    before = of_ones(namesake(tmp_path))
    edited = of_ones(namesake(tmp_path, **change))
    assert abs(edited - before) > 0.01
    assert of_ones(namesake(tmp_path, **change)) == edited


def test_a_module_of_the_callers_own_is_neither_run_nor_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = namesake(tmp_path / "mine", function="sigmoid").parent
    monkeypatch.delitem(sys.modules, "own_activation", raising=False)
    monkeypatch.syspath_prepend(mine)
    own = importlib.import_module("own_activation")
    alone = of_ones(namesake(tmp_path / "other"))
    assert sys.modules["own_activation"] is own
    assert alone == pytest.approx(math.tanh(2.0), abs=1e-4)


def test_a_network_of_a_file_is_unpickled_in_another_process(tmp_path: Path) -> None:
    card = namesake(tmp_path / "there", factor=3)
    network = load_network(card, trust=True)
    assert load_network(card, trust=True).module.__class__ is network.module.__class__
    (tmp_path / "pickled").write_bytes(pickle.dumps(network))
    code = (
        "import pickle, sys, torch\nnetwork = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(float(network(torch.ones(1, 3, 8, 8))[0, 0, 0, 0]))"
    )

    def elsewhere() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert float(elsewhere().stdout) == pytest.approx(of_ones(card), abs=1e-5)
    namesake(tmp_path / "there", factor=4)
    assert "edited after the network was made" in elsewhere().stderr


@pytest.fixture
def resizing(tmp_path: Path) -> Path:
    (tmp_path / "own_factory_sized.py").write_text(FACTORY)
    (tmp_path / "own.yaml").write_text("network: py:own_factory_sized:make\ninput: {size: 32x48}\n")
    return tmp_path / "own.yaml"


def test_a_network_of_one_size_sees_every_image_at_it_and_gives_maps_at_the_images(resizing: Path) -> None:
    network = load_network(resizing, trust=True)
    assert network.card.input.size == (32, 48)
    assert "resized to 32x48 and its maps back" in network.input.sentence
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    bank = segment.fit_bank(network, [pixels, pixels[::-1], pixels[:40]], batch=2, draws=2)
    estimate = segment.MCBN(network, bank, precision="fp32")(pixels)
    assert estimate.prediction.shape == (50, 60)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    small = functional.interpolate(image, (32, 48), mode="bilinear", align_corners=False, antialias=True)
    seen: list[torch.Tensor] = []
    inner: Any = network.module.network
    hook = inner.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        logits = network(image)
        hook.remove()
        expected = functional.interpolate(inner(small), (50, 60), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0], small)
    torch.testing.assert_close(logits, expected)


def test_a_run_of_a_network_of_one_size_says_so(resizing: Path, tmp_path: Path) -> None:
    network = load_network(resizing, trust=True)
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(40, 40), (64, 30)]):
        Image.fromarray(np.full((*size, 3), 100, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    bank = segment.fit_bank(network, tmp_path / "images", batch=1, draws=2)
    summary = segment.predict(network, tmp_path / "images", bank, tmp_path / "run")
    assert (summary.done, len(summary.failed)) == (2, 0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "resized to 32x48" in record["preprocessing"]
    assert record["settings"]["card"]["input"]["size"] == [32, 48]


def test_a_resized_network_s_parts_keep_their_names_and_its_dropout_its_places(tmp_path: Path) -> None:
    uri = "smp:Unet?encoder=resnet18&encoder_weights=none&classes=3"
    (tmp_path / "plain.yaml").write_text(f"network: {uri}\n")
    (tmp_path / "sized.yaml").write_text(f"network: {uri}\ninput: {{size: 64x96}}\n")
    networks = [load_network(tmp_path / f"{name}.yaml") for name in ("plain", "sized")]
    assert isinstance(networks[1].module, Resized)
    plain, sized = (bn_network_of(network) for network in networks)
    assert [layer.name for layer in sized.stochastic] == [layer.name for layer in plain.stochastic]
    places = [inserted(found.trace.calls, found.module, 0.5).after for found in (plain, sized)]
    assert places[0] == places[1] == tuple(f"decoder.blocks.{stage}" for stage in range(5))


def test_a_resized_network_takes_the_layers_and_the_dropout_of_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "own_factory_sized.py").write_text(FACTORY)
    (tmp_path / "own.yaml").write_text("network: py:own_factory_sized:make\ninput: {size: 32x48}\n")
    network = load_network(tmp_path / "own.yaml", trust=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
    bank = segment.fit_bank(network, list(pixels), batch=2, draws=2, layers="1")
    assert list(bank.mean) == ["1"]
    found = bn_network_of(network)
    with inserted(found.trace.calls, found.module, 0.5).active():
        assert len(dict(named_modules(found.module))["3"]._forward_pre_hooks) == 1


def test_a_size_that_is_no_multiple_of_the_stride_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "c.yaml"
    card.write_text("network: smp:Unet\ninput: {size: 100x128}\n")
    with pytest.raises(WrongUse, match=r"size 100x128 is no multiple of the stride, 32"):
        read_card(card)
    card.write_text("network: py:x:Y\ninput: {size: 100x128, stride: 8}\n")
    with pytest.raises(WrongUse, match=r"input: size 100x128 is no multiple of the stride, 8"):
        read_card(card)
    card.write_text("network: smp:Unet\ninput: {size: big}\n")
    with pytest.raises(WrongUse, match=r"input\.size: it is HxW"):
        read_card(card)
