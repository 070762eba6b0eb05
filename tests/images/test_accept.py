"""Arrays and tensors enter `fit_bank` and `MCBN` by one rule, whatever number of channels the network takes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain import Toy, calibrated, noise, seeded
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import segment
from segment.draws.bank import Bank
from segment.errors import ImageUnreadable, WrongUse
from segment.images.specs import InputSpec
from segment.networks.cards import Card
from segment.networks.load import Network, load_network

SIZE = (32, 40)


class Channels(Toy):
    """The toy network on images of another number of channels."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)


class TwoStems(Channels):
    """Colours and depth go through convolutions of their own; the first says nothing of the fourth channel."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.conv1(x[:, :3]) + self.depth(x[:, 3:])).relu()
        return self.head(self.bn2(self.conv2(self.bn1(x))))


class Coordinates(Channels):
    """The pixel's place is appended, so the first convolution takes two channels more than the image has."""

    def __init__(self) -> None:
        super().__init__(channels=7)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.ones_like(x[:, :1])
        return super().forward(torch.cat([x, place, place], dim=1))


class Functional(Channels):
    """Its first convolution is a call with a weight, no module."""

    def __init__(self) -> None:
        super().__init__(channels=6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.conv1.weight, padding=1)
        return self.head(self.bn2(self.conv2(self.bn1(x))))


class BatchNormFirst(Channels):
    """The image itself is normalised."""

    def __init__(self) -> None:
        super().__init__(channels=4)
        self.entry = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.entry(x))


class Counting(Channels):
    """Writes a buffer in its own forward, whatever its mode."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__(channels=4)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


class Narrow(Channels):
    """Refuses what is no 512x512 image, as a network of fixed size does."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-2:] == (512, 512)
        return super().forward(x)


def network_of(planes: int = 3, **spec: Any) -> Network:
    network = load_network(calibrated(seeded(lambda: Channels(planes)), SIZE, channels=planes))
    return replace(network, card=replace(network.card, input=InputSpec(**spec)))


def pixels(channels: int, kind: type[np.generic] = np.uint8, seed: int = 0) -> Any:
    top = 256 if kind is np.uint8 else 4096
    return np.random.default_rng(seed).integers(0, top, (*SIZE, channels)).astype(kind)


def bank_of(network: Network, images: Any) -> Bank:
    return segment.fit_bank(network, images, batch=2, draws=3)


def assert_same(first: Bank, second: Bank) -> None:
    for name in first.layers:
        torch.testing.assert_close(first.mean[name], second.mean[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(first.var[name], second.var[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 10, 20])
def test_a_network_takes_the_channels_that_its_first_convolution_has(channels: int) -> None:
    assert load_network(Channels(channels)).channels == channels


@pytest.mark.parametrize(
    ("build", "channels"),
    [(TwoStems, 4), (Coordinates, 5), (Functional, 6), (BatchNormFirst, 4), (Narrow, 3), (lambda: Narrow(4), 4)],
)
def test_the_number_of_channels_is_measured_not_read_off_the_first_layer(build: Any, channels: int) -> None:
    assert load_network(build()).channels == channels


def test_asking_for_the_channels_leaves_the_network_as_it_was() -> None:
    module = seeded(Counting).train()
    network = Network(module=module, card=load_network(Channels(4)).card)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kept, random = dict(module.bn1._buffers), torch.get_rng_state()
    assert network.channels == 4
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(module.bn1._buffers[name] is value for name, value in kept.items())
    assert module.training
    assert module.bn1.training
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("channels", [1, 2, 4, 10])
def test_normalised_tensors_of_any_number_of_channels_are_fitted_and_estimated_as_a_plain_loop_does(
    channels: int,
) -> None:
    module = calibrated(seeded(lambda: Channels(channels)), SIZE, channels=channels)
    images = noise(5, channels, *SIZE)
    bank = segment.fit_bank(module, images, batch=2, draws=3)
    estimate = segment.MCBN(module, bank, precision="fp32")(images[0])
    mean = torch.stack([_softmax_under(module, bank, draw, images[:1]) for draw in range(3)]).mean(dim=0)
    torch.testing.assert_close(estimate.probability, mean[0], rtol=0, atol=1e-5)


def _softmax_under(module: nn.Module, bank: Bank, draw: int, images: Tensor) -> Tensor:
    for name in ("bn1", "bn2"):
        layer = module.get_submodule(name)
        layer.running_mean, layer.running_var = bank.mean[name][draw].clone(), bank.var[name][draw].clone()
    with torch.no_grad():
        logits: Tensor = module(images)
    return logits.softmax(dim=1)


@pytest.mark.parametrize("channels", [1, 3, 4, 10])
def test_pixels_of_the_networks_channels_are_the_tensor_that_the_card_makes_of_them(channels: int) -> None:
    mean, std = tuple(0.1 + 0.01 * k for k in range(channels)), tuple(0.5 + 0.1 * k for k in range(channels))
    network = network_of(channels, mean=mean, std=std, channels=channels)
    arrays = [pixels(channels, seed=seed) for seed in range(4)]
    tensors = [torch.from_numpy(((array / 255 - mean) / std).transpose(2, 0, 1)).float() for array in arrays]
    bank = bank_of(network, arrays)
    assert_same(bank, bank_of(network, torch.stack(tensors)))
    assert_same(bank, bank_of(network, tensors))
    assert_same(bank, bank_of(network, np.stack(arrays)))
    mcbn = segment.MCBN(network, bank, precision="fp32")
    wanted = mcbn(tensors[0]).probability
    torch.testing.assert_close(mcbn(arrays[0]).probability, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(mcbn(np.stack(arrays)).probability[0], wanted, rtol=0, atol=1e-5)
    if channels == 1:
        torch.testing.assert_close(mcbn(arrays[0][..., 0]).probability, wanted, rtol=0, atol=1e-5)
        assert_same(bank, bank_of(network, [array[..., 0] for array in arrays]))
        assert_same(bank, bank_of(network, np.stack(arrays)[..., 0]))


def test_sixteen_bits_of_an_array_are_those_of_a_file() -> None:
    network = network_of(white=4095)
    arrays = [pixels(3, np.uint16, seed) for seed in range(3)]
    tensors = torch.stack([torch.from_numpy(array.transpose(2, 0, 1) / 4095).float() for array in arrays])
    bank = bank_of(network, arrays)
    assert_same(bank, bank_of(network, tensors))
    mcbn = segment.MCBN(network, bank, precision="fp32")
    torch.testing.assert_close(mcbn(arrays[0]).probability, mcbn(tensors[0]).probability, rtol=0, atol=1e-5)


def test_pixels_that_a_masked_array_hides_in_every_band_are_0() -> None:
    network = network_of()
    array = pixels(3)
    mask = np.zeros(array.shape, bool)
    mask[:16] = mask[20, 20, 0] = True
    expected = np.where(mask.all(axis=2, keepdims=True), 0, array)
    masked: Any = np.ma.masked_array(array, mask)
    for given in (masked, np.ma.stack([masked] * 2)[0]):
        assert np.array_equal(network.accept.image(given), expected)
        assert not np.ma.isMaskedArray(network.accept.image(given))
    grey = network_of(1, channels="grey").accept.image(masked[..., 1])
    assert np.array_equal(grey, np.repeat(expected[..., 1:2] * ~mask[..., 1:2], 3, axis=2))
    assert np.array_equal(network.accept.image(np.ma.masked_array(array)), array)


def test_a_pillow_image_is_its_pixels_and_rgb_becomes_the_cards_grey() -> None:
    network = network_of(1, channels="grey")
    colours = [pixels(3, seed=seed) for seed in range(3)]
    luma = [(colour @ np.array([0.299, 0.587, 0.114]) / 255)[None] for colour in colours]
    bank = bank_of(network, colours)
    assert_same(bank, bank_of(network, torch.from_numpy(np.stack(luma)).float()))
    assert_same(bank, bank_of(network, [Image.fromarray(colour) for colour in colours]))


@pytest.mark.parametrize("white", [None, 4095])
def test_grey_arrays_are_the_grey_pictures_of_a_card_that_says_grey(white: int | None) -> None:
    network = network_of(1, channels="grey", mean=(0.5,), std=(0.5,), white=white)
    kind: Any = np.uint8 if white is None else np.uint16
    planes = [pixels(1, kind, seed)[..., 0] for seed in range(3)]
    normalised = torch.from_numpy(np.stack(planes)[:, None] / (white or 255) * 2 - 1).float()
    bank = bank_of(network, normalised)
    forms: list[Any] = [planes, np.stack(planes), [plane[..., None] for plane in planes]]
    if white is None:
        forms += [[Image.fromarray(plane) for plane in planes], torch.from_numpy(np.stack(planes))[:, None]]
        forms += [DataLoader([(plane, plane) for plane in planes], batch_size=2)]  # type: ignore[arg-type]
    for form in forms:
        assert_same(bank, bank_of(network, form))
    mcbn = segment.MCBN(network, bank, precision="fp32")
    for form in (planes[0], planes[0][..., None]):
        torch.testing.assert_close(mcbn(form).probability, mcbn(normalised[0]).probability, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_a_pillow_image_of_any_mode_is_the_file_it_would_be_saved_as(mode: str, tmp_path: Path) -> None:
    network = network_of()
    given = Image.fromarray(pixels(3)).convert(mode)
    given.save(tmp_path / "a.tif")
    bank = bank_of(network, noise(3, 3, *SIZE))
    mcbn = segment.MCBN(network, bank, precision="fp32")
    assert torch.equal(mcbn(given).probability, mcbn(tmp_path / "a.tif").probability)


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_pillow_image_is_turned_once(suffix: str, loaded: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path, tags = tmp_path / f"a{suffix}", Image.Exif()
    tags[274] = 6
    Image.fromarray(pixels(3)).save(path, **({"tiffinfo": {274: 6}} if suffix == ".tif" else {"exif": tags}))
    network = network_of()
    mcbn = segment.MCBN(network, bank_of(network, noise(3, 3, *SIZE)), precision="fp32")
    with Image.open(path) as given:
        if loaded:
            given.load()
        assert torch.equal(mcbn(given).probability, mcbn(path).probability)


def test_bytes_of_a_tensor_are_those_of_an_array() -> None:
    network = network_of()
    mcbn = segment.MCBN(network, bank_of(network, noise(3, 3, *SIZE)), precision="fp32")
    array = pixels(3)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(mcbn(tensor).probability, mcbn(array).probability)
    assert torch.equal(mcbn(tensor[None]).probability[0], mcbn(array).probability)


def test_normalised_tensors_are_padded_to_the_stride_by_both() -> None:
    network = network_of(stride=16)
    images = noise(3, 3, 30, 41)
    bank = bank_of(network, images)
    assert_same(bank, bank_of(network, functional.pad(images, (0, 7, 0, 2), mode="reflect")))
    assert segment.MCBN(network, bank)(images[0]).prediction.shape == (30, 41)


WRONG: dict[str, tuple[Any, str]] = {
    "float pixels": (np.zeros((*SIZE, 3), np.float32), r"float32, shape 32x40x3.*uint8 \(H W C\).*float tensor \(C"),
    "double pixels": (np.zeros((*SIZE, 3)), r"float64, shape 32x40x3.*uint8 \(H W C\).*float tensor \(C H W\)"),
    "16 bits": (np.zeros((*SIZE, 3), np.uint16), r"uint16, shape 32x40x3.*white: 65535"),
    "long integers": (np.zeros((*SIZE, 3), np.int64), r"int64, shape 32x40x3.*uint8 H W 3"),
    "a mask": (np.zeros((*SIZE, 3), bool), r"bool, shape 32x40x3.*uint8 H W 3"),
    "objects": (np.array([1, None], object), r"object, shape 2.*uint8 H W 3"),
    "no pixel": (np.zeros((0, 40, 3), np.uint8), r"uint8, shape 0x40x3"),
    "alpha": (np.zeros((*SIZE, 4), np.uint8), r"uint8, shape 32x40x4.*takes 3 channels"),
    "grey": (np.zeros(SIZE, np.uint8), r"uint8, shape 32x40.*takes 3 channels"),
    "four planes": (torch.zeros(4, *SIZE), r"float32, shape 4x32x40.*takes 3 channels"),
    "a map": (torch.zeros(SIZE), r"float32, shape 32x40"),
    "whole numbers": (torch.zeros(3, *SIZE, dtype=torch.int64), r"a tensor of int64, shape 3x32x40"),
    "four planes of bytes": (torch.zeros(4, *SIZE, dtype=torch.uint8), r"a tensor of uint8, shape 4x32x40"),
    "nan": (torch.full((3, *SIZE), torch.nan), r"3840 of its values are not finite"),
    "infinity": (torch.zeros(3, *SIZE).index_fill(0, torch.tensor(1), torch.inf), "1280 of its values are not finite"),
    "nothing": (None, "not a NoneType"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_right_is_refused_by_both_in_the_same_words(what: str) -> None:
    network = network_of()
    given, pattern = WRONG[what]
    bank = bank_of(network, noise(3, 3, *SIZE))
    with pytest.raises(WrongUse, match=pattern) as of_mcbn:
        segment.MCBN(network, bank)(given)
    with pytest.raises(WrongUse) as of_fit:
        bank_of(network, [given, given])
    assert "\n" not in str(of_mcbn.value)
    assert str(of_fit.value) == f"Image 0 of the statistics images: {of_mcbn.value}"


EMPTY = torch.zeros(0, 3, *SIZE)


@pytest.mark.parametrize("nothing", [[], (), EMPTY, EMPTY.byte(), np.zeros((0, *SIZE, 3), np.uint8)])
def test_no_image_is_refused_by_both(nothing: Any) -> None:
    network = network_of()
    with pytest.raises(WrongUse, match="list is empty"):
        segment.MCBN(network, bank_of(network, noise(3, 3, *SIZE)))(nothing)
    with pytest.raises(WrongUse, match="list is empty"):
        bank_of(network, nothing)


def test_images_of_several_shapes_are_refused_by_both() -> None:
    network = network_of()
    mixed = [noise(3, 32, 40), noise(3, 32, 48)]
    with pytest.raises(WrongUse, match=r"shape 3x32x40.*shape 3x32x48"):
        segment.MCBN(network, bank_of(network, noise(3, 3, *SIZE)))(mixed)
    with pytest.raises(WrongUse, match=r"must share one size: .*32x4[08].*32x4[08]"):
        bank_of(network, mixed)


@pytest.mark.parametrize("given", [{"a": 1}, 5, iter([1, 2, 3]), pixels(3)])
def test_what_holds_no_images_is_refused_by_fit(given: Any) -> None:
    with pytest.raises(WrongUse, match=r"not a (dict|int|list_iterator)|several images are a list"):
        bank_of(network_of(), given)


def test_image_files_of_a_network_that_takes_other_channels_are_refused_with_the_way_out(tmp_path: Any) -> None:
    for seed in range(3):
        Image.fromarray(pixels(3, seed=seed)).save(tmp_path / f"{seed}.png")
    with pytest.raises(ImageUnreadable, match=r"holds 3 bands, where 4 channels are asked for"):
        bank_of(network_of(4), str(tmp_path))
    with pytest.raises(ImageUnreadable, match=r"holds 3 bands, where one is asked for.*channels: grey"):
        bank_of(network_of(1), str(tmp_path))
    assert len(bank_of(network_of(1, channels="grey"), str(tmp_path))) == 3


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def named(name: str, spec: InputSpec) -> Network:
    return load_network(Toy(), card=Card(name=name, network="py:made:here", input=spec))


FLOATS: dict[str, tuple[InputSpec, Tensor, bool]] = {
    "scaled": (InputSpec(mean=MEAN, std=STD), noise(3, 8, 8).sigmoid(), True),
    "several": (InputSpec(std=STD), noise(2, 3, 8, 8).sigmoid(), True),
    "normalised": (InputSpec(mean=MEAN, std=STD), noise(3, 8, 8), False),
    "of little contrast": (InputSpec(mean=MEAN, std=STD), noise(3, 8, 8).sigmoid() / 2, False),
    "neither mean nor std": (InputSpec(), noise(3, 8, 8).sigmoid(), False),
}


@pytest.mark.parametrize("name", FLOATS)
def test_floats_of_zero_to_one_are_warned_of_where_normalised_ones_are_expected(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec, images, warned = FLOATS[name]
    network = named(name, spec)
    for _ in range(2):
        assert torch.equal(network.accept.batch(images)[0].reshape(images.shape), images)
    said = f"{name} was given a float tensor whose values all lie within [0, 1], and its input has mean and std"
    assert caplog.text.count(said) == int(warned)


def test_floats_that_are_pixel_values_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pixels = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    kept, spec = named("kept", InputSpec(scale=1)), InputSpec(mean=MEAN, std=STD)
    assert torch.equal(kept.accept.batch(pixels)[0][0], pixels)  # 0..255 is what this network was trained on
    named("bright", spec).accept.batch(torch.full((3, 8, 8), spec.normalised_white) * 1.5)
    named("centred", spec).accept.batch(pixels - 128)
    assert "looks like pixel values" not in caplog.text
    named("pixels", spec).accept.batch(pixels)
    assert "pixels was given a float tensor without a negative value and up to 25" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_floats_are_taken_in_float32(dtype: torch.dtype) -> None:
    network = named("floats", InputSpec(mean=MEAN, std=STD))
    images = noise(2, 3, 8, 8).to(dtype)
    assert torch.equal(network.accept.batch(images.requires_grad_())[0], images.detach().float())


@pytest.mark.parametrize("scale", [255.0, (255.0, 255.0, 255.0)])
def test_a_mean_in_pixel_values_is_refused_where_pixels_are_divided_first(scale: Any) -> None:
    pixel_mean, pixel_std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    with pytest.raises(WrongUse, match=r"'own' cannot be meant: mean \(123\.675, .* is in pixel values.*`scale: 1`"):
        named("own", InputSpec(scale=scale, mean=pixel_mean, std=pixel_std))
    with pytest.raises(WrongUse, match="Divide mean and std by 255"):
        segment.fit_bank(Toy(), [np.zeros((8, 8, 3), np.uint8)], batch=1, draws=1, mean=pixel_mean, std=pixel_std)
    for fits in (
        InputSpec(scale=1.0, mean=pixel_mean, std=pixel_std),
        InputSpec(mean=pixel_mean, white=100.0),  # heights, of which many are above white
        InputSpec(scale=scale),
    ):
        assert named("own", fits).card.input == fits


@pytest.mark.parametrize(
    ("stated", "taken", "advice"),
    [
        ("grey", 3, "`channels: RGB`"),
        (4, 3, "`3`"),
        (("red", "nir"), 4, "`channels: 4`"),
        ("BGR", 1, "`channels: grey`"),
    ],
)
def test_channels_that_a_card_states_and_the_network_does_not_take_are_refused(
    stated: Any, taken: int, advice: str
) -> None:
    card = Card(name="own", network="", input=InputSpec(channels=stated))
    network = load_network(Channels(taken), card=card)
    for use in (lambda: network.input, lambda: network.accept.prepared(np.zeros((*SIZE, 3), np.uint8))):
        with pytest.raises(WrongUse, match=f"^The input of 'own' has channels .*{re.escape(advice)}"):
            use()
