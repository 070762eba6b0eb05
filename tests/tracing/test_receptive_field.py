"""Where an image may be cut is measured on the network: the alignment, the halo, the stride of the image's sides."""

from __future__ import annotations

import pytest
import torch
from plain import calibrated, noise, seeded
from small_networks import Placed, Pooling, Small, Strided
from torch import Tensor, nn
from torch.nn import functional

from segment.tracing.receptive_field import MARGIN, TileGeometry, measure_tiling


def geometry_of(module: nn.Module, card_stride: int = 1) -> TileGeometry:
    return measure_tiling(module, module, channels=3, card_stride=card_stride)


def strided(stride: int, **how: object) -> nn.Module:
    return calibrated(seeded(lambda: Strided(stride, **how)), (3 * 64, 3 * 64))  # type: ignore[arg-type]


@pytest.mark.parametrize("convolutions", [1, 3, 12])
def test_the_halo_of_convolutions_is_what_they_reach_and_a_margin(convolutions: int) -> None:
    layers = [nn.Conv2d(3, 3, 3, padding=1, padding_mode="zeros") for _ in range(convolutions)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.05)
    module = nn.Sequential(*layers)
    for card_stride, align in ((1, 32), (3, 96), (40, 160)):
        halo = -(-(convolutions + MARGIN) // align) * align
        assert geometry_of(module, card_stride) == TileGeometry(align=align, halo=halo, stride=card_stride)


@pytest.mark.parametrize(
    ("stride", "align"), [(1, 32), (2, 32), (3, 3), (8, 32), (12, 12), (64, 64), (96, 96), (128, 128)]
)
def test_the_alignment_is_a_multiple_of_the_networks_stride_whatever_its_card_says(stride: int, align: int) -> None:
    geometry = geometry_of(strided(stride))
    assert geometry.align == align
    assert geometry.stride == stride
    assert geometry.halo is not None
    assert geometry.halo % align == 0
    assert geometry_of(strided(stride), stride).stride == stride


@pytest.mark.parametrize("stride", [3, 8, 64])
def test_pieces_at_odd_and_even_multiples_of_the_alignment_have_the_outputs_of_the_whole(stride: int) -> None:
    module = strided(stride)
    geometry = geometry_of(module)
    assert geometry.halo is not None
    align, halo = geometry.align, geometry.halo
    length = -(-(2 * halo + 6 * align) // align) * align
    image = noise(1, 3, 64 * stride // 8 * 8 if stride == 3 else 128, length + 4 * align, seed=5)
    image = image[:, :, : image.shape[2] // align * align]
    with torch.no_grad():
        whole = module(image)
        for start in range(0, 5 * align, align):
            part = module(image[..., start : start + length].contiguous())
            inner = slice(halo if start else 0, length - halo)
            shown = whole[..., start : start + length]
            torch.testing.assert_close(part[..., inner], shown[..., inner], rtol=0, atol=1e-4)


def test_branches_of_different_stride_align_to_their_common_multiple() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Strided(12), Strided(64)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    geometry = geometry_of(calibrated(seeded(Branches), (192, 192)))
    assert (geometry.align, geometry.stride) == (192, 192)


def test_outputs_that_are_cropped_to_the_image_allow_sides_of_any_length() -> None:
    geometry = geometry_of(strided(64, cropped=True))
    assert (geometry.align, geometry.stride) == (64, 1)


def test_a_network_that_takes_multiples_of_its_stride_only_is_measured_at_these() -> None:
    geometry = geometry_of(strided(64, checked=True))
    assert (geometry.align, geometry.stride) == (64, 64)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_that_moves_with_the_image_can_be_cut(mode: str) -> None:
    assert geometry_of(strided(8, mode=mode)).halo is not None


@pytest.mark.parametrize("build", [Pooling, Placed])
def test_a_network_that_depends_on_the_whole_image_has_no_halo(build: type[Small]) -> None:
    geometry = geometry_of(calibrated(seeded(build), (64, 64)), card_stride=4)
    assert geometry.halo is None
    assert "all pixels" in geometry.reason


def test_squeeze_and_excitation_has_no_halo() -> None:
    class Squeezed(Small):
        def forward(self, x: Tensor) -> Tensor:
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn2(self.conv2(y * y.mean((2, 3), keepdim=True).sigmoid())).relu()
            return self.head(functional.interpolate(y, scale_factor=4, mode="bilinear"))

    assert geometry_of(calibrated(seeded(Squeezed), (64, 64))).halo is None


def test_corners_that_are_aligned_depend_on_the_images_size() -> None:
    assert geometry_of(strided(8, align_corners=True)).halo is None


def test_a_network_that_no_narrow_strip_passes_is_measured_on_a_wider_strip() -> None:
    class Wide(Small):
        def forward(self, x: Tensor) -> Tensor:
            if min(x.shape[-2:]) < 150:
                raise RuntimeError("too narrow")
            return super().forward(x)

    geometry = geometry_of(calibrated(seeded(Wide), (160, 160)))
    assert geometry == geometry_of(calibrated(seeded(Small), (160, 160)))
    assert geometry.halo is not None


def test_a_network_of_one_size_only_has_no_halo_and_the_reason_is_its_own_words() -> None:
    class Fixed(Small):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-2:] != (64, 64):
                raise AssertionError("only 64 x 64 images")
            return super().forward(x)

    geometry = geometry_of(calibrated(seeded(Fixed), (64, 64)))
    assert geometry.halo is None
    assert "only 64 x 64 images" in geometry.reason


@pytest.mark.parametrize("out", [-1e7, -torch.inf, torch.inf])
def test_a_class_that_is_ruled_out_hides_no_cut(out: float) -> None:
    class Ruled(Pooling):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), torch.full_like(x[:, :1], out)], dim=1)

    assert geometry_of(calibrated(seeded(Ruled), (64, 64))).halo is None


def test_values_that_are_not_finite_in_other_places_count_as_another_output() -> None:
    class Masked(Pooling):
        def forward(self, x: Tensor) -> Tensor:
            y = Small.forward(self, x)
            return torch.where(x[:, :1] > x.mean(), y, -torch.inf)

    assert geometry_of(calibrated(seeded(Masked), (64, 64))).halo is None


class Ring(nn.Module):
    """One side of the image lies beside the other, as in a panorama; upright: the upper beside the lower."""

    def __init__(self, *, upright: bool) -> None:
        super().__init__()
        self.conv, self.upright = nn.Conv2d(3, 4, 3), upright

    def forward(self, x: Tensor) -> Tensor:
        along, across = ((0, 0, 1, 1), (1, 1, 0, 0)) if self.upright else ((1, 1, 0, 0), (0, 0, 1, 1))
        made: Tensor = self.conv(functional.pad(functional.pad(x, along, mode="circular"), across))
        return made


@pytest.mark.parametrize("upright", [False, True])
def test_a_network_that_joins_the_sides_of_its_image_has_no_halo(upright: bool) -> None:  # noqa: FBT001
    assert geometry_of(seeded(lambda: Ring(upright=upright)).eval()).halo is None


class OneWay(nn.Module):
    """A stride along one axis, and back to the image's size."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.conv(x), x.shape[-2:], mode="bilinear")


@pytest.mark.parametrize("stride", [(8, 1), (1, 8)])
def test_a_stride_along_either_axis_is_seen(stride: tuple[int, int]) -> None:
    assert geometry_of(seeded(lambda: OneWay(stride)).eval()).stride == 8
