"""The two CamVid networks give what their makers measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from plain import noise, seeded
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, jaccard_score
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchvision.transforms.functional import normalize, to_tensor

from segment.networks.architectures.enet import ENet, Upsampling, unpooled_in_order
from segment.networks.load import Network, load_network

VOID = 11


def images(data: Path, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:  # C H W in 0..1, H W
    for path in sorted((data / "camvid" / "test").iterdir())[:count]:
        label = Image.open(data / "camvid" / "testannot" / f"{path.stem}.png")
        yield to_tensor(Image.open(path).convert("RGB")), torch.from_numpy(np.array(label)).long()


def logits(network: Network, x: Tensor) -> Tensor:  # C H W in 0..1 -> K H W
    spec = network.card.input
    height, width = x.shape[-2:]
    x = normalize(x, spec.mean, spec.std) if spec.mean else x
    padded = functional.pad(x[None], (0, -width % spec.stride, 0, -height % spec.stride), mode="reflect")
    with torch.no_grad():
        return network(padded)[0, :, :height, :width]


def scores(network: Network, data: Path) -> tuple[float, float, float]:
    """Over the whole test set: mIoU over 11 classes, pixel accuracy, NLL (nats a pixel)."""
    jaccard = MulticlassJaccardIndex(12, average=None, ignore_index=VOID)
    accuracy = MulticlassAccuracy(12, average="micro", ignore_index=VOID)
    nll, pixels = 0.0, 0
    for x, label in images(data):
        outputs = logits(network, x)[None]
        jaccard.update(outputs.argmax(dim=1), label[None])
        accuracy.update(outputs.argmax(dim=1), label[None])
        nll += functional.cross_entropy(outputs, label[None], ignore_index=VOID, reduction="sum").item()
        pixels += int((label != VOID).sum())
    return float(jaccard.compute()[:VOID].mean()), float(accuracy.compute()), nll / pixels


def test_enets_weights_load_strictly_and_are_all_there(shared_data: Path) -> None:
    state = load_file(shared_data / "weights" / "enet_camvid.safetensors")
    network = ENet(classes=12)
    network.load_state_dict(state, strict=True)
    assert len(state) == 554
    assert sum(parameter.numel() for parameter in network.parameters()) == 359_780
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 88
    assert sum(isinstance(layer, nn.Dropout2d) for layer in network.modules()) == 27


def test_enet_gives_the_reference_logits(shared_data: Path) -> None:
    reference = np.load(shared_data / "weights" / "enet_camvid.reference.npz")
    module = load_network("enet_camvid").module
    x = to_tensor(Image.open(shared_data / "camvid" / "test" / f"{reference['stem']}.webp").convert("RGB"))
    with torch.no_grad():
        outputs = module(x[None])[0]  # all twelve outputs
    np.testing.assert_allclose(outputs[:, ::8, ::8], reference["logits"], rtol=0, atol=1e-3)
    assert float(outputs.mean()) == pytest.approx(float(reference["logits_mean"]), abs=1e-3)
    np.testing.assert_array_equal(
        torch.bincount(outputs.argmax(dim=0).flatten(), minlength=12), reference["argmax_counts"]
    )


def test_unpooling_does_not_depend_on_how_its_input_lies_in_memory() -> None:
    """With channels innermost, torch's threads race for pixels that two pools share."""
    block = seeded(lambda: Upsampling(64, 32, 0.0)).eval()
    _, places = functional.max_pool2d(noise(1, 32, 96, 96), 3, stride=2, padding=1, return_indices=True)
    x = noise(1, 64, 48, 48)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with torch.no_grad():
            rows = block.unpooled(x, places)
            for _ in range(5):
                last = torch.channels_last
                unpooled = block.unpooled(x.to(memory_format=last), places.to(memory_format=last))
                torch.testing.assert_close(unpooled, rows, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_unpooling_in_order_is_what_a_cpu_does_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 4, (2, 3, 24, 32), generator=generator).float()  # many equal maxima, many shared pixels
    x += torch.rand(x.shape, generator=generator) * torch.randint(0, 2, x.shape, generator=generator)
    pooled, indices = functional.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    assert len(set(indices[0, 0].flatten().tolist())) < 0.9 * indices[0, 0].numel()
    values = torch.randn(pooled.shape, generator=generator)
    wanted = functional.max_unpool2d(values, indices, (2, 2), (2, 2))
    assert torch.equal(unpooled_in_order(values, indices), wanted)
    halves = values.bfloat16()
    assert torch.equal(unpooled_in_order(halves, indices), functional.max_unpool2d(halves, indices, (2, 2), (2, 2)))


@pytest.mark.gpu
def test_enet_on_a_gpu_gives_the_same_bits_each_time_and_the_cpus_classes(shared_data: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = next(images(shared_data))[0]
    once, twice = (logits(load_network("enet_camvid", device="cuda"), x.cuda()).cpu() for _ in range(2))
    assert torch.equal(once, twice)
    assert (once.argmax(dim=0) == logits(load_network("enet_camvid"), x).argmax(dim=0)).float().mean() > 0.999


def test_enet_as_carded_has_eleven_classes_and_never_gives_void(shared_data: Path) -> None:
    network = load_network("enet_camvid")
    x, _ = next(images(shared_data))
    with torch.no_grad():
        assert torch.equal(network(x[None]), network.module(x[None])[:, :VOID])
    assert network.classes == VOID


def test_the_unet_as_carded_is_smps_with_the_epsilon_of_its_training(shared_data: Path) -> None:
    network = load_network("unet_lite0_camvid")
    with torch.random.fork_rng(devices=[]):
        plain = smp.Unet(
            "tu-tf_efficientnet_lite0", encoder_weights=None, classes=11, decoder_channels=(192, 96, 48, 32, 16)
        )
    plain.load_state_dict(load_file(shared_data / "weights" / "unet_lite0_camvid.safetensors"))
    layers = [layer for layer in plain.eval().encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    x = normalize(next(images(shared_data))[0], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[None, :, :352]
    with torch.no_grad():
        for epsilon, same in ((1e-5, False), (1e-3, True)):
            for layer in layers:
                layer.eps = epsilon
            assert torch.equal(plain(x), network(x)) == same
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules()) == 58
    assert sum(parameter.numel() for parameter in network.module.parameters()) == 4_430_779


@pytest.mark.parametrize(("name", "least"), [("enet_camvid", 0.80), ("unet_lite0_camvid", 0.80)])
def test_a_few_test_images_are_mostly_right(name: str, least: float, shared_data: Path) -> None:
    """Six images: far off the recorded score means wrong channels, scale or class order."""
    network = load_network(name)
    pairs = [(logits(network, x).argmax(dim=0), label) for x, label in images(shared_data, 6)]
    predicted, label = (torch.cat([part.flatten() for part in parts]) for parts in zip(*pairs, strict=True))
    seen = label != VOID
    assert accuracy_score(label[seen], predicted[seen]) > least
    assert jaccard_score(label[seen], predicted[seen], average="macro", labels=[0, 1, 3, 5, 8]) > 0.6


@pytest.mark.slow
def test_enet_scores_on_the_whole_test_set_what_was_recorded(shared_data: Path) -> None:
    miou, accuracy, _ = scores(load_network("enet_camvid"), shared_data)
    assert miou == pytest.approx(0.5331, abs=0.001)
    assert accuracy == pytest.approx(0.8534, abs=0.001)


@pytest.mark.slow
def test_the_unet_scores_on_the_whole_test_set_what_was_recorded(shared_data: Path) -> None:
    miou, accuracy, nll = scores(load_network("unet_lite0_camvid"), shared_data)
    assert miou == pytest.approx(0.5151, abs=0.001)
    assert accuracy == pytest.approx(0.8504, abs=0.001)
    assert nll == pytest.approx(0.4664, abs=0.001)
