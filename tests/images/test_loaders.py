"""Every batch that a DataLoader may give is taken apart into its images and their labels, or refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain import calibrated, noise, seeded
from small_networks import Small
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import segment
from segment.draws.image_pool import ImagePool
from segment.errors import WrongUse
from segment.images.listing.samples import images_in, labelled_samples
from segment.networks.load import load_network

IMAGES = noise(6, 3, 16, 16, seed=0)
LABELS = torch.randint(0, 4, (6, 16, 16), generator=torch.Generator().manual_seed(0))


class Pairs(Dataset[Any]):
    """What `make` gives for a number."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Stream(IterableDataset[Any]):
    """The same pairs, one after the other."""

    def __iter__(self) -> Any:
        return ((IMAGES[index], LABELS[index]) for index in range(len(IMAGES)))


def pair(index: int) -> tuple[Tensor, Tensor]:
    return IMAGES[index], LABELS[index]


def grey_pair(index: int) -> tuple[Tensor, Tensor]:
    return IMAGES[index, :1], LABELS[index][None].float()


def one_hot_pair(index: int) -> tuple[Tensor, Tensor]:
    return IMAGES[index], functional.one_hot(LABELS[index], 4).permute(2, 0, 1)


def columns(batch: list[Any]) -> Any:
    return [list(column) for column in zip(*batch, strict=True)]


LOADERS: dict[str, tuple[Any, Callable[[int], tuple[Tensor, Tensor]]]] = {
    "tuples": (DataLoader(Pairs(pair), 4, collate_fn=lambda batch: tuple(zip(*batch, strict=True))), pair),
    "lists": (DataLoader(Pairs(pair), 4, collate_fn=columns), pair),
    "lists of two": (DataLoader(Pairs(pair), 2, collate_fn=columns), pair),
    "lists of one hot": (DataLoader(Pairs(one_hot_pair), 4, collate_fn=columns), one_hot_pair),
    "samples": (DataLoader(Pairs(pair), 4, collate_fn=list), pair),
    "samples by two": (DataLoader(Pairs(pair), 2, collate_fn=list), pair),
    "dictionaries of lists": (
        DataLoader(
            Pairs(pair), 4, collate_fn=lambda batch: {"image": [i for i, _ in batch], "mask": [m for _, m in batch]}
        ),
        pair,
    ),
    "no batches": (DataLoader(Pairs(pair), batch_size=None), pair),
    "no batches of grey images": (DataLoader(Pairs(grey_pair), batch_size=None), grey_pair),
    "a stream": (DataLoader(Stream(), 4), pair),
    "a stream without batches": (DataLoader(Stream(), batch_size=None), pair),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_batch_of_any_form_is_its_images_and_labels(name: str) -> None:
    loader, made = LOADERS[name]
    images, samples = images_in(loader), labelled_samples(loader)
    assert len(images) == len(samples) == len(IMAGES)
    for index, (image, sample) in enumerate(zip(images, samples, strict=True)):
        expected = made(index)
        assert torch.equal(image, expected[0])
        assert torch.equal(sample()[0], expected[0])
        assert torch.equal(torch.as_tensor(sample()[1]), expected[1])


def named(index: int) -> Any:
    return f"{index}.png", *pair(index)


def pictured(index: int) -> Any:
    return Image.new("RGB", (16, 16)), *pair(index)


def both(index: int) -> Any:
    return {"image": f"{index}.png", "pixel_values": IMAGES[index], "labels": LABELS[index]}


@pytest.mark.parametrize("make", [named, pictured, both])
@pytest.mark.parametrize("loaded", ["a Dataset", "a DataLoader", "samples", "batches", "lists of samples"])
def test_a_normalised_tensor_comes_before_the_path_or_picture_that_it_was_made_from(
    make: Callable[[int], Any], loaded: str
) -> None:
    samples = Pairs(make)
    each = [samples[index] for index in range(len(IMAGES))]
    stacked: Any = [
        [("a", "b"), IMAGES[:2], LABELS[:2]],
        [("c", "d", "e", "f"), list(IMAGES[2:]), list(LABELS[2:])],
    ]
    if make is both:
        stacked = [{"image": ["a"] * 6, "pixel_values": IMAGES, "labels": LABELS}]
    given: Any = {
        "a Dataset": samples,
        "a DataLoader": DataLoader(samples, 2),
        "samples": iter(each),
        "batches": iter(stacked),
        "lists of samples": iter([each[:3], each[3:]]),
    }
    labelled = labelled_samples(given[loaded])
    again = {"samples": iter(each), "lists of samples": iter([each[:3], each[3:]]), "batches": iter(stacked)}
    images = images_in((given | again)[loaded])
    for index, (image, label) in enumerate([sample() for sample in labelled]):
        assert torch.equal(images[index], IMAGES[index])
        assert torch.equal(image, IMAGES[index])
        assert torch.equal(label, LABELS[index])
    assert len(images) == len(labelled) == len(IMAGES)


def test_float_arrays_behind_a_loader_are_the_tensors_that_its_collation_makes() -> None:
    arrays = Pairs(lambda index: (IMAGES[index].numpy(), LABELS[index].numpy()))
    loader = DataLoader(arrays, 2)
    network = load_network(calibrated(seeded(Pointwise), (16, 16)))
    for index, (image, sample) in enumerate(zip(images_in(loader), labelled_samples(loader), strict=True)):
        assert torch.equal(network.accept.batch(image)[0][0], IMAGES[index])
        assert torch.equal(sample()[0], IMAGES[index])
    with pytest.raises(WrongUse, match="whether it is scaled or normalised cannot be seen"):
        network.accept.image(images_in(arrays)[0])  # nothing makes tensors of these
    pixels = Pairs(lambda index: IMAGES[index].permute(1, 2, 0).numpy())
    assert isinstance(images_in(DataLoader(pixels, 2))[0], np.ndarray)  # H W C, for a card that says which is white


class Indexed:
    """Samples by number, as a data set of Hugging Face gives them."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Any:
        return {"pixel_values": IMAGES[index], "label": LABELS[index]}


HELD: dict[str, Any] = {
    "a list of batches": [IMAGES[:4], IMAGES[4:]],
    "a tuple of batches": (IMAGES[:2], IMAGES[2:]),
    "one batch in a list": [IMAGES],
    "a list of a loader": list(DataLoader(Pairs(pair), 4)),
    "a batch of a loader": next(iter(DataLoader(Pairs(pair), 6))),
    "a batch and its masks": (IMAGES, LABELS[:, None]),
    "by number": Indexed(),
}


@pytest.mark.parametrize("name", HELD)
def test_batches_in_a_list_and_samples_by_number_are_their_images(name: str) -> None:
    network = load_network(calibrated(seeded(Pointwise), (16, 16)))
    pool = ImagePool(network, HELD[name])
    assert len(pool) == len(IMAGES)
    assert all(torch.equal(pool.prepared(index, 0), image) for index, image in enumerate(IMAGES))
    if name != "by number":
        batch, single = network.accept.batch(HELD[name])
        assert torch.equal(batch, IMAGES)
        assert not single
    if name not in ("a list of batches", "a tuple of batches", "one batch in a list"):
        labels = [torch.as_tensor(sample()[1]).reshape(16, 16) for sample in labelled_samples(HELD[name])]
        assert torch.equal(torch.stack(labels), LABELS)


@pytest.mark.parametrize("given", [{"a.png", "b.png"}, frozenset({"a.png"})])
def test_a_set_is_refused_for_its_order_is_another_in_each_process(given: Any) -> None:
    network = load_network(calibrated(seeded(Pointwise), (16, 16)))
    with pytest.raises(WrongUse, match="A set of images has no order"):
        segment.fit_bank(network, given, batch=1, draws=1)
    with pytest.raises(WrongUse, match="A set of images has no order"):
        labelled_samples(given)


def test_a_path_and_a_tensor_that_may_be_image_or_mask_are_refused_and_a_picture_keeps_its_mask() -> None:
    with pytest.raises(WrongUse, match=r"the path '0\.png' and a tensor of floats.*\(path, image, label\)"):
        images_in(Pairs(lambda index: (f"{index}.png", IMAGES[index])))[0]
    picture = Image.new("RGB", (16, 16))
    (sample,) = labelled_samples([(picture, torch.zeros(1, 16, 16))])
    assert sample()[0] is picture
    assert images_in(Pairs(lambda index: (f"{index}.png", LABELS[index])))[0] == "0.png"


def test_what_may_be_images_or_samples_is_refused() -> None:
    loader = DataLoader(Pairs(grey_pair), 2, collate_fn=columns)
    with pytest.raises(WrongUse, match="2 lists of 2 arrays, which are all alike: it may be images and labels, or"):
        images_in(loader)
    with pytest.raises(WrongUse, match="Give a collate_fn that makes tuples"):
        labelled_samples(loader)


def test_a_list_of_an_image_and_its_mask_is_a_pair_and_is_refused_where_it_may_be_two_images() -> None:
    colour = [[torch.rand(3, 8, 8), torch.zeros(1, 8, 8)] for _ in range(4)]
    assert [image.shape[0] for image in images_in(iter(colour))] == [3] * 4
    grey = [[torch.rand(1, 8, 8), torch.zeros(1, 8, 8)] for _ in range(4)]
    with pytest.raises(WrongUse, match="a list of two arrays, which are alike: an image and its label map, or two"):
        images_in(iter(grey))
    assert len(labelled_samples(iter(grey))) == 4  # labelled images have a label each
    assert len(images_in(iter([[torch.rand(1, 8, 8) for _ in range(3)]]))) == 3
    loader: DataLoader[Any] = DataLoader([image for image, _ in grey], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    assert len(images_in(loader)) == 4


@pytest.mark.parametrize("given", [None, 3, TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8)), []])
def test_no_labelled_images_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(WrongUse, match=r"abelled images"):
        labelled_samples(given)


class Cropped(Pairs):
    """One seed for an image and its mask, as is usual, with some time in between."""

    def __getitem__(self, index: int) -> Any:
        seed, parts = int(torch.randint(0, 2**31, (1,))), []
        for part in (IMAGES[index], LABELS[index][None]):
            time.sleep(0.002)
            torch.manual_seed(seed)  # noqa: TID251 - as data sets do
            at = int(torch.randint(0, 8, (1,)))
            parts.append(part[..., at : at + 8])
        return parts[0], parts[1][0]


def test_an_image_and_its_mask_are_cropped_alike_and_the_callers_generator_stays() -> None:
    network = load_network(calibrated(seeded(Pointwise), (8, 8)))
    with torch.no_grad():
        LABELS.copy_(network.module(IMAGES).argmax(dim=1))
    before = torch.get_rng_state()
    scores = [
        segment.evaluate(network, Cropped(pair), methods=("deterministic",)).scores["methods"]["deterministic"]
        for _ in range(3)
    ]
    assert [each["scores"]["accuracy"]["value"] for each in scores] == [1.0, 1.0, 1.0]
    assert torch.equal(torch.get_rng_state(), before)


class Pointwise(Small):
    """The mask of a crop is the crop of the mask."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(functional.conv2d(x, self.conv1.weight[..., 1:2, 1:2], self.conv1.bias)).relu()
        x = self.bn2(functional.conv2d(x, self.conv2.weight[..., 1:2, 1:2], self.conv2.bias)).relu()
        return self.head(x)


class OwnGenerator(Pairs):
    """Augmented by no global generator."""

    random = np.random.default_rng(0)

    def __getitem__(self, index: int) -> Any:
        return IMAGES[index] + float(self.random.normal())


def test_a_dataset_with_a_generator_of_its_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    network = load_network(calibrated(seeded(Small), (16, 16)))
    with caplog.at_level(logging.WARNING):
        segment.fit_bank(network, Pairs(pair), batch=2, draws=2)
        assert "own generator" not in caplog.text
        segment.fit_bank(network, OwnGenerator(pair), batch=2, draws=2)
    assert "it augments by its own generator" in caplog.text
