"""An image in tiles has the maps of the whole image, within a budget of memory."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import calibrated, noise, random_bank, seeded
from processes import peak_of, photographs
from small_networks import Pooling, Strided, network_of
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import OutOfMemory, WrongUse
from segment.estimation.estimate import Estimate, ReadOut, estimate
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import BYTES_BESIDE_PASSES, FIRST_PASS_BYTES, KERNEL_FACTOR, MemoryBudget
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.tiles import Cut
from segment.files.banks.bank_file import save_bank
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.methods.mcbn import BankMethod, mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import PassPlan
from segment.tracing.pass_memory import peak_bytes
from segment.tracing.receptive_field import measure_tiling

MEASURES = ("variance", "predictive_entropy", "mutual_information")


def in_tiles(
    network: Network, bank: Bank | None = None, fold: int = 1, *, probability: bool = False, **plan: Any
) -> Estimator:
    drawn = bn_network_of(network)
    passes = PassPlan(fold=fold, channels_last=True, fuse=True)
    method = mcbn(drawn, bank or random_bank(drawn), passes, network.card.input)
    read_out = ReadOut(method=method, measures=MEASURES, probability=probability)
    return Estimator(network, {"": read_out}, EstimatePlan(**plan))


def whole(network: Network, images: Tensor) -> Estimate[Tensor]:
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn), spec=network.card.input)
    return estimate(method, images, head="softmax", measures=MEASURES).image(0)


def assert_same_maps(estimated: Estimate[Any], expected: Estimate[Tensor], atol: float = 1e-5) -> None:
    assert list(estimated.maps) == list(expected.maps) == list(MEASURES)
    for name, values in expected.maps.items():
        np.testing.assert_allclose(estimated.maps[name][:], values.numpy(), rtol=0, atol=atol)
    sure = expected.probability.topk(2, dim=0).values
    clear = ((sure[0] - sure[1]) > 1e-4).numpy()  # rounding may decide a tie
    assert bool((np.asarray(estimated.prediction[:]) == expected.prediction.numpy())[clear].all())
    assert float(clear.mean()) > 0.99


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    align=st.sampled_from([1, 4, 8]),
    halos=st.integers(0, 3),
    steps=st.integers(1, 5),
)
def test_the_kept_parts_of_tiles_cover_the_image_once_and_lie_a_halo_from_every_cut(
    height: int, width: int, align: int, halos: int, steps: int
) -> None:
    halo, side = halos * align, (2 * halos + steps) * align
    times = np.zeros((height, width), int)
    for tile in Cut(side, halo, align).tiles(height, width):
        times[tile.kept] += 1
        for (start, stop), (first, last), length in (
            (tile.rows, tile.inner_rows, height),
            (tile.columns, tile.inner_columns, width),
        ):
            assert start % align == 0
            assert 0 <= start <= first < last <= stop <= length
            assert stop - start <= side
            assert first - start >= halo or start == 0
            assert stop - last >= halo or stop == length
    assert bool((times == 1).all())


def test_tiles_put_back_are_the_image() -> None:
    image = np.random.default_rng(0).random((37, 61))
    back = np.zeros_like(image)
    for tile in Cut(20, 4, 4).tiles(37, 61):
        back[tile.kept] = image[tile.seen][tile.within]
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(("side", "halo"), [(8, 4), (10, 0), (16, 3)])
def test_tiles_that_cannot_be_laid_are_refused(side: int, halo: int) -> None:
    with pytest.raises(WrongUse, match="at least"):
        Cut(side, halo, 4)


def default_card(stride: int, *, cropped: bool = False) -> Network:
    """A network of that stride under the card that a module gets which says nothing: stride 1."""
    return load_network(calibrated(seeded(lambda: Strided(stride, cropped=cropped)), (192, 192)))


def test_the_sums_by_class_of_tiles_are_those_of_the_whole() -> None:
    network = default_card(2)
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn), spec=network.card.input)
    read_outs = {"": ReadOut(method=method, measures=("variance",), probability=False, sums=True)}
    images = noise(1, 3, 256, 320, seed=3)
    tiled, plain = (Estimator(network, read_outs, EstimatePlan(tile=tile))(images)[""] for tile in (224, "off"))
    assert tiled.mean is None
    assert tiled.class_sums is not None
    assert plain.class_sums is not None
    assert float(tiled.class_sums[0, 0].sum()) == 256 * 320
    torch.testing.assert_close(tiled.class_sums[0, 1:], plain.class_sums[0, 1:], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("tile", [224, 256, "memory"])
@pytest.mark.parametrize("stride", [1, 2, 3, 8, 64])
def test_tiles_have_the_maps_of_the_whole_whatever_stride_the_card_says(
    stride: int, tile: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    network = default_card(stride)
    size = (6 * 96, 9 * 96) if stride == 3 else (640, 832)  # odd multiples of the alignment and multiples of the stride
    images = noise(1, 3, *size, seed=3)
    if tile == "memory":
        measured = in_tiles(network, budget=MemoryBudget(2**40)).pixel
        least = 2 * (measure_tiling(network, network.module, channels=3).halo or 0) + 64
        budget = (
            FIRST_PASS_BYTES
            + size[0] * size[1] * (BYTES_BESIDE_PASSES + 80)
            + int(max(224, least) ** 2 * KERNEL_FACTOR * measured * 1.2)
        )
        estimator = in_tiles(network, budget=MemoryBudget(budget))
    else:
        estimator = in_tiles(network, tile=tile)
        try:
            estimator.side_for(*size)
        except WrongUse as refusal:
            needed = re.search(r"its tiles need (\d+) or more", str(refusal))
            assert needed is not None
            estimator = in_tiles(network, tile=int(needed[1]))
    side = estimator.side_for(*size)
    assert side is not None
    assert side < max(size)
    atol = 1e-4 if stride == 3 else 1e-5  # law 2: float32 costs an interpolation by thirds 4.7e-5 against float64
    assert_same_maps(estimator(images)[""], whole(network, images), atol=atol)
    assert "stride" not in caplog.text


@pytest.mark.parametrize("cropped", [True, False])
def test_sides_that_are_no_multiple_of_the_networks_stride_have_the_right_maps_or_the_card_is_named(
    caplog: pytest.LogCaptureFixture, *, cropped: bool
) -> None:
    network = default_card(8, cropped=cropped)
    size = (301, 397)
    images = noise(1, 3, *size, seed=3)
    estimator = in_tiles(network, tile=224)
    made, expected = estimator(images)[""], whole(network, images)
    estimator(images)
    if cropped:
        assert_same_maps(made, expected)
        assert "stride" not in caplog.text
    else:
        assert caplog.text.count("301 x 397 pixels are no multiple of it") == 1
        assert "Say `input: {stride: 8}` in its card" in caplog.text
        card = replace(network.card, input=replace(network.card.input, stride=8))
        network = replace(network, card=card)
        assert_same_maps(in_tiles(network, tile=224)(images)[""], whole(network, images))


def test_tiles_have_the_maps_of_the_whole_image() -> None:
    network = network_of()
    images = noise(1, 3, 197, 325, seed=2)
    estimator = in_tiles(network, tile=160, probability=True)
    assert estimator.side_for(197, 325) == 160
    expected = whole(network, images)
    made = estimator(images)[""]
    assert_same_maps(made, expected)
    np.testing.assert_allclose(made.probability[:], expected.probability.numpy(), rtol=0, atol=1e-5)
    assert estimator.tiler.geometry.halo is not None
    assert 0 < estimator.tiler.geometry.halo <= 64


def test_probabilities_are_put_together_only_where_they_are_wanted() -> None:
    made = in_tiles(network_of(), tile=160)(noise(1, 3, 200, 200))[""]
    assert made.mean is None
    with pytest.raises(AttributeError, match="was not asked for"):
        _ = made.probability
    assert made.maps["variance"].shape == made.prediction.shape == (200, 200)


def test_an_image_goes_whole_where_it_fits_and_in_the_largest_tiles_where_not() -> None:
    network = network_of()
    images = noise(1, 3, 640, 640, seed=3)
    measured = in_tiles(network, budget=MemoryBudget(2**40)).pixel
    roomy = in_tiles(network, budget=MemoryBudget(FIRST_PASS_BYTES + int(640 * 640 * (100 + 2 * measured))))
    assert roomy.side_for(640, 640) is None
    tight = in_tiles(network, budget=MemoryBudget(FIRST_PASS_BYTES + 640 * 640 * 100 + int(200 * 200 * 2 * measured)))
    side = tight.side_for(640, 640)
    assert side is not None
    assert 160 <= side <= 320
    assert side % 32 == 0
    assert_same_maps(tight(images)[""], whole(network, images))


def test_what_does_not_fit_in_the_smallest_tiles_is_refused_with_the_number_needed() -> None:
    estimator = in_tiles(network_of(), budget=MemoryBudget(FIRST_PASS_BYTES + 1000))
    with pytest.raises(OutOfMemory, match=r"smallest plan needs \d+ MiB"):
        estimator(noise(1, 3, 512, 512))
    estimator = in_tiles(network_of(), tile="off", budget=MemoryBudget(FIRST_PASS_BYTES + 512 * 512 * 100))
    with pytest.raises(OutOfMemory, match="remove --tile off"):
        estimator(noise(1, 3, 512, 512))


def test_a_network_that_depends_on_the_whole_image_is_tiled_only_when_asked_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = network_of(Pooling)
    images = noise(1, 3, 640, 640)
    with pytest.raises(OutOfMemory, match=r"or --tile N: .* depends on the whole image"):
        in_tiles(network, budget=MemoryBudget(FIRST_PASS_BYTES + 640 * 640 * 100))(images)[""]
    with caplog.at_level(logging.WARNING):
        made = in_tiles(network, tile=256)(images)[""]
    assert made.maps["variance"].shape == (640, 640)
    assert "depends on the whole image" in caplog.text


def test_tiles_smaller_than_the_halo_are_refused_with_the_size_needed() -> None:
    estimator = in_tiles(network_of(), tile=64)
    with pytest.raises(WrongUse, match=r"--tile 64 is too small: .* or more"):
        estimator(noise(1, 3, 256, 256))


class Limited:
    """A network on a device that takes no more than so many pixels at once."""

    def __init__(self, module: nn.Module, pixels: int) -> None:
        self.pixels = pixels
        self.sizes: list[int] = []
        module.register_forward_pre_hook(self._check)

    def _check(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        with torch._C.DisableTorchFunction():
            size = args[0].shape.numel() // args[0].shape[1]
        self.sizes.append(size)
        if size > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_device_that_runs_out_gets_half_until_it_fits_and_the_maps_stay(caplog: pytest.LogCaptureFixture) -> None:
    network = network_of()
    images = noise(1, 3, 512, 512, seed=4)
    expected = whole(network, images)
    estimator = in_tiles(network, fold=2)
    assert estimator.tiler.geometry.halo is not None
    limited = Limited(network.module, 200 * 200)
    with caplog.at_level(logging.WARNING):
        assert_same_maps(estimator(images)[""], expected)
    assert "half as many draws in a pass" in caplog.text
    assert "tiles of 160 pixels" in caplog.text
    method = estimator.read_outs[""].method
    assert isinstance(method, BankMethod)
    assert (method.passes.plan.fold, estimator.plan.tile) == (1, 160)
    limited.sizes.clear()
    estimator(images)[""]  # what was learnt holds for the next image
    assert max(limited.sizes) <= 200 * 200


def test_a_device_that_runs_out_at_the_smallest_tiles_is_refused_with_the_number_needed() -> None:
    network = network_of()
    estimator = in_tiles(network)
    assert estimator.tiler.geometry.halo is not None
    assert estimator.pixel > 0  # measured before the device was full
    Limited(network.module, 32 * 32)
    with pytest.raises(OutOfMemory, match=r"smallest plan, \d+ x \d+ pixels at once, which takes about \d+ MiB"):
        estimator(noise(1, 3, 256, 256))


def test_another_failure_of_the_network_is_not_taken_for_a_lack_of_memory() -> None:
    estimator = in_tiles(network_of())
    with pytest.raises(RuntimeError, match="channels"):
        estimator(noise(1, 5, 64, 64))


def test_peak_memory_does_not_grow_with_the_number_of_draws() -> None:
    network = load_network("scenes")
    drawn = bn_network_of(network)
    bank = random_bank(drawn, draws=64)
    images = noise(1, 3, 64, 96)

    def taken(draws: int) -> int:
        method = mcbn(drawn, bank.first(draws), PassPlan(channels_last=True, fuse=True))
        return peak_bytes(lambda x: estimate(method, x, head=network.card.head, measures=MEASURES), images)

    assert taken(64) <= 1.03 * taken(8)


def test_a_run_keeps_its_tiles_and_room_and_goes_on_with_them(tmp_path: Path) -> None:
    network = load_network("segment:tiny?classes=4")
    images = photographs(tmp_path / "images", 2, 160, 224)
    bank = fit_bank(network, str(images), batch=2, draws=2)
    plan = PredictPlan(tile=128, formats=("npz",), precision="fp32")
    predict(network, str(images), bank, tmp_path / "tiled", plan)
    kept = json.loads((tmp_path / "tiled" / "run.json").read_text())["plan"]
    assert kept["tile"] == 128
    predict(network, str(images), bank, tmp_path / "whole", replace(plan, tile="off"))
    for name in ("000", "001"):
        with (
            np.load(tmp_path / "tiled" / name / "maps.npz") as first,
            np.load(tmp_path / "whole" / name / "maps.npz") as two,
        ):
            assert sorted(first) == sorted(two)
            for key in first:
                np.testing.assert_allclose(first[key], two[key], atol=1e-5)
    predict(network, str(images), bank, tmp_path / "roomy", replace(plan, memory="100GiB"))
    kept = json.loads((tmp_path / "roomy" / "run.json").read_text())["plan"]
    predict(network, str(images), bank, tmp_path / "roomy", replace(plan, memory="50GiB"), resume=True)
    assert json.loads((tmp_path / "roomy" / "run.json").read_text())["plan"] == kept
    assert 50 * 2**30 < kept["memory_free"] < 100 * 2**30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_that_runs_out_gets_half() -> None:
    network = network_of()
    network = replace(network, module=network.module.cuda())
    images = noise(1, 3, 2048, 2048)
    drawn = bn_network_of(network)
    method = mcbn(drawn, random_bank(drawn), PassPlan(channels_last=True))
    estimator = Estimator(network, {"": ReadOut(method=method, measures=MEASURES)})
    expected = estimator(images)[""]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 300 * 2**20) / total)
    try:
        made = estimator(images)[""]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert isinstance(estimator.plan.tile, int)
    for name in MEASURES:
        np.testing.assert_allclose(made.maps[name].cpu(), expected.maps[name].cpu(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_peak_of_predict_stays_under_its_budget(tmp_path: Path) -> None:
    network = load_network("segment:tiny?classes=6")
    small = photographs(tmp_path / "small", 4, 128, 160)
    save_bank(fit_bank(network, str(small), batch=2, draws=2), tmp_path / "bank.safetensors")
    large = photographs(tmp_path / "large", 2, 1400, 1800)
    arguments = ("predict", "segment:tiny?classes=6", str(large), "--bank", str(tmp_path / "bank.safetensors"))
    code, peak, output = peak_of(*arguments, "-o", str(tmp_path / "run"), "--memory", "1100MiB")
    assert code == 0, output
    assert peak <= 1100 * 2**20
    assert 0 < json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["memory_free"] < 600 * 2**20
    code, peak, output = peak_of(*arguments, "-o", str(tmp_path / "less"), "--memory", "780MiB")
    assert code == 4
    assert "Even the smallest plan needs" in output
    assert peak <= 780 * 2**20


class HalvesLongImages(Strided):
    """Computes images of more than 300 columns at half their size."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= 300:
            return super().forward(x)
        return functional.interpolate(super().forward(functional.avg_pool2d(x, 2)), x.shape[-2:])


def test_a_network_that_takes_another_way_for_long_images_is_named(caplog: pytest.LogCaptureFixture) -> None:
    network = load_network(calibrated(seeded(lambda: HalvesLongImages(2)), (192, 192)))
    estimator = in_tiles(network, tile=224)
    estimator(noise(1, 3, 256, 288, seed=3))
    assert "takes another way by the size" not in caplog.text
    estimator(noise(1, 3, 256, 416, seed=3))
    assert "something else for tiles of 224 pixels than for images of 416" in caplog.text
    usual = in_tiles(default_card(2), tile=224)
    caplog.clear()
    usual(noise(1, 3, 256, 448, seed=3))
    assert "takes another way" not in caplog.text
