"""A bank of the very same network, images and plan is recorded once; of anything else it is recorded anew."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from console import segment
from PIL import Image
from plain import Toy, calibrated, noise, seeded
from processes import photographs
from small_networks import InNumpy
from torch import Tensor, nn
from torch.nn import functional

from segment.draws.bank import Bank
from segment.draws.identity import computes_the_same
from segment.draws.probe_passes import probe_inputs
from segment.errors import WrongUse
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.banks.cache import KEPT, BankCache, signed, user_folder
from segment.images.specs import TrainingSpec
from segment.jobs.distill import distill_bank
from segment.jobs.fit import fit, fit_bank
from segment.jobs.recording import bank as recording
from segment.jobs.recording.plan import FitPlan
from segment.jobs.sweeping.grid import Banks
from segment.networks.load import Network, load_network
from segment.report.results import Setting


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each bank that is recorded."""
    times: list[int] = []
    real = recording.recorded

    def counted(*given: Any) -> Bank:
        times.append(1)
        return real(*given)

    monkeypatch.setattr("segment.jobs.fit.recorded", counted)
    return times


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return photographs(tmp_path / "images", 4, 64, 64)


class Doubling(Toy):
    """Its interpolation is in no weight."""

    mode = "nearest"

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.head(self.bn2(self.conv2(functional.interpolate(x, scale_factor=2, mode=self.mode))).relu())


def network_of(**card: Any) -> Network:
    network = load_network(calibrated(seeded(Doubling)))
    return replace(network, card=replace(network.card, **card))


def asked(network: Network, images: Path, output: Path | None = None, **plan: Any) -> tuple[Bank, Path | None]:
    return fit(network, str(images), output, FitPlan(**{"batch": 2, "draws": 2} | plan), cache=BankCache.of_user())


def test_a_bank_is_recorded_once_and_found_in_its_file_or_in_the_cache_within_a_second(
    images: Path, tmp_path: Path, recorded: list[int]
) -> None:
    network, first_file = network_of(), tmp_path / "a.safetensors"
    first, path = asked(network, images, first_file)
    assert path is None
    begun = time.perf_counter()
    again, path = asked(network_of(), images, first_file)
    assert time.perf_counter() - begun < 1
    assert path == first_file
    other, path = asked(network, images, tmp_path / "b.safetensors")
    assert path is not None
    assert path.parent == user_folder()
    assert len(recorded) == 1
    assert first_file.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for name in first.layers:
        assert torch.equal(first.mean[name], again.mean[name])
        assert torch.equal(first.var[name], other.var[name])


def with_attribute(name: str, value: Any) -> Callable[[Network], Network]:
    def change(network: Network) -> Network:
        for part in network.module.modules():
            if hasattr(part, name):
                setattr(part, name, value)
        return network

    return change


def with_input(**changes: Any) -> Callable[[Network], Network]:
    return lambda n: replace(n, card=replace(n.card, input=replace(n.card.input, **changes)))


def with_card(**changes: Any) -> Callable[[Network], Network]:
    return lambda network: replace(network, card=replace(network.card, **changes))


def with_weight(network: Network) -> Network:
    with torch.no_grad():
        network.module.get_submodule("conv1").get_parameter("weight")[0, 0, 0, 0] += 1e-7
    return network


NETWORKS: dict[str, Callable[[Network], Network]] = {
    "weights": with_weight,
    "interpolation": with_attribute("mode", "bilinear"),
    "eps": with_attribute("eps", 1e-3),
    "scale": with_input(scale=1.0),
    "mean": with_input(mean=(0.1, 0.1, 0.1)),
    "std": with_input(std=(0.5, 0.5, 0.5)),
    "channels": with_input(channels="BGR"),
    "white": with_input(white=65535.0),
    "stride": with_input(stride=8),
    "pad": with_input(pad="edge"),
    "head": with_card(head="multilabel"),
    "drop_outputs": with_card(drop_outputs=(3,)),
    "transforms": with_card(training=TrainingSpec(batch=2, transforms=({"name": "HorizontalFlip", "p": 0.5},))),
}
PLANS: dict[str, dict[str, Any]] = {
    "batch": {"batch": 3},
    "draws": {"draws": 3},
    "seed": {"seed": 1},
    "layers": {"layers": "bn2"},
    "size": {"size": (32, 32)},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("what", [*NETWORKS, *PLANS])
def test_each_thing_that_changes_what_is_computed_is_recorded_anew_and_found_the_second_time(
    images: Path, recorded: list[int], what: str
) -> None:
    asked(network_of(), images)
    changed = NETWORKS.get(what, with_card())
    plan = PLANS.get(what, {})
    first, path = asked(changed(network_of()), images, **plan)
    assert (path, len(recorded)) == (None, 2)
    second, path = asked(changed(network_of()), images, **plan)
    assert path is not None
    assert all(torch.equal(first.mean[name], second.mean[name]) for name in first.layers)
    assert asked(network_of(), images)[1] is not None, "the first one is there still"
    assert len(recorded) == 2


def test_a_helper_function_edited_in_another_file_is_recorded_anew(
    images: Path, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(network_of(), images)
    real = functional.avg_pool2d
    monkeypatch.setattr(functional, "avg_pool2d", lambda x, size: real(x, size) * 1.001)
    assert asked(network_of(), images)[1] is None
    assert asked(network_of(), images)[1] is not None
    assert len(recorded) == 2


class Capped(Toy):
    """What its layers may reach at most is in no weight, and the trained statistics do not reach it."""

    cap = 1e6

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu().clamp(max=self.cap)
        return self.head(self.bn2(self.conv2(x)).relu())


def test_code_that_differs_under_mini_batches_alone_is_recorded_anew(images: Path, recorded: list[int]) -> None:
    network = load_network(calibrated(seeded(Capped)))
    bank, _ = asked(network, images)
    assert bank.probe is not None
    reached: list[float] = []
    network.module.get_submodule("bn1").register_forward_hook(
        lambda _part, _given, y: reached.append(float(y.detach().max()))
    )
    for image in probe_inputs(network, bank.probe.side, bank.probe.seed):  # the hook sees what they reach
        network.module(image)
    changed = load_network(calibrated(seeded(Capped)))
    changed.module.cap = max(reached) * 1.001  # type: ignore[assignment]
    assert computes_the_same(changed, bank.probe)
    assert asked(changed, images)[1] is None
    assert len(recorded) == 2


class FrozenBN(nn.BatchNorm2d):
    """Another class of the same weights, which is not drawn."""


def test_layers_that_are_drawn_no_more_are_recorded_anew(images: Path, recorded: list[int]) -> None:
    first, _ = asked(load_network(calibrated(seeded(Toy))), images)
    module = calibrated(seeded(Toy))
    module.bn1.__class__ = FrozenBN
    second, path = asked(load_network(module), images)
    assert (first.layers, second.layers, path, len(recorded)) == (("bn1", "bn2"), ("bn2",), None, 2)


def test_images_are_known_by_their_bytes_and_their_order_alone(
    images: Path, tmp_path: Path, recorded: list[int]
) -> None:
    network = network_of()
    asked(network, images)
    for path in images.iterdir():
        os.utime(path, (1, 1))
    assert asked(network, images)[1] is not None, "touched"
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    assert asked(network, moved)[1] is not None, "copied"
    first, second, *_ = sorted(moved.iterdir())
    status, content = first.stat(), first.read_bytes()
    assert len(recorded) == 1
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert asked(network, moved)[1] is None, "two images changed places"
    second.unlink()
    assert asked(network, moved)[1] is None, "one is gone"
    assert len(recorded) == 3


def test_the_other_pixels_of_a_file_with_the_size_and_time_of_before_are_seen(
    images: Path, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import segment.files.file_hashes as file_hashes

    monkeypatch.setattr(file_hashes, "SETTLED", -(10**12))  # hashes are kept at once
    bitmap = images / "z.bmp"
    from PIL import Image

    for grey, again in ((10, False), (11, False)):
        kept = bitmap.stat() if bitmap.exists() else None
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(bitmap)
        if kept is not None:
            assert bitmap.stat().st_size == kept.st_size
            os.utime(bitmap, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        assert (asked(network_of(), images)[1] is not None) == again
    assert len(recorded) == 2


def test_arrays_and_tensors_are_cached_from_python_where_that_is_asked(recorded: list[int]) -> None:
    network, tensors = network_of(), noise(4, 3, 32, 32)
    for _ in range(2):
        fit_bank(network, tensors, batch=2, draws=2, cache=True)
    assert len(recorded) == 1
    fit_bank(network, tensors.flip(0), batch=2, draws=2, cache=True)
    assert len(recorded) == 2
    fit_bank(network, tensors, batch=2, draws=2)
    assert len(recorded) == 3


def test_a_distilled_bank_is_never_taken_for_a_recorded_one(images: Path, tmp_path: Path, recorded: list[int]) -> None:
    network, output = network_of(), tmp_path / "bank.safetensors"
    bank, _ = asked(network, images, output, draws=4)
    small = distill_bank(network, bank, str(images), draws=2, views=4, held_out=2, steps=2)
    for other in (small, replace(small, provenance={**small.provenance, "recipe": bank.provenance["recipe"]})):
        shutil.rmtree(user_folder())
        save_bank(other, output)
        with pytest.raises(WrongUse, match="another bank already"):
            asked(network, images, output, draws=4)
        output.unlink()
        again, path = asked(network, images, output, draws=4)
        assert path is None
        assert not again.distilled
        assert len(load_bank(output)) == 4
    assert len(recorded) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda bank: bank.first(1),
        lambda bank: bank.average(),
        lambda bank: bank.layers_only(["bn2"]),
        lambda bank: signed(bank, "another recipe"),
    ],
)
def test_a_bank_that_was_changed_after_it_was_recorded_is_another_one(
    images: Path, tmp_path: Path, recorded: list[int], change: Callable[[Bank], Bank]
) -> None:
    network, output = network_of(), tmp_path / "bank.safetensors"
    bank, _ = asked(network, images, output)
    shutil.rmtree(user_folder())
    save_bank(change(bank), output)
    with pytest.raises(WrongUse, match="another bank already"):
        asked(network, images, output)
    output.unlink()
    assert asked(network, images, output)[1] is None
    assert len(recorded) == 2


def test_a_damaged_bank_is_recorded_anew(images: Path, tmp_path: Path, recorded: list[int]) -> None:
    network, output = network_of(), tmp_path / "bank.safetensors"
    asked(network, images, output)
    for path in (output, *user_folder().iterdir()):
        path.write_bytes(path.read_bytes()[:100])
    asked(network, images, output)
    assert len(recorded) == 2
    assert len(load_bank(output)) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_next_time(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "taken"))
    assert asked(network_of(), images, tmp_path / "a.safetensors")[1] is None
    assert len(load_bank(tmp_path / "a.safetensors")) == 2


def test_the_cache_holds_so_many_banks_and_lets_the_oldest_go(images: Path) -> None:
    user_folder().mkdir(parents=True)
    for number in range(KEPT):
        (user_folder() / f"{number}.safetensors").touch()
        os.utime(user_folder() / f"{number}.safetensors", (1000 + number, 1000 + number))
    asked(network_of(), images)
    left = {path.stem for path in user_folder().iterdir()}
    assert len(left) == KEPT
    assert "0" not in left
    assert "1" in left
    assert any(len(name) > 64 for name in left), "and the new one"


def test_a_sweep_takes_its_banks_from_the_same_home(images: Path, tmp_path: Path, recorded: list[int]) -> None:
    banks = Banks(network_of(), str(images), tmp_path / "banks", 2)
    plain = Setting(batch=2, transform="plain")
    banks.bank(plain, 0)
    banks.bank(plain, 0)
    assert len(recorded) == 1
    other = with_attribute("mode", "bilinear")(network_of())
    Banks(other, str(images), tmp_path / "banks", 2).bank(plain, 0)
    assert len(recorded) == 2
    assert len(list((tmp_path / "banks").iterdir())) == 2


@pytest.mark.usefixtures("bfloat16")
def test_a_bank_whose_audit_was_cut_off_is_found_and_audited(
    images: Path, tmp_path: Path, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bank.safetensors"

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segment.jobs.recording.completion.audit", stopped)
        with pytest.raises(KeyboardInterrupt):
            asked(network_of(), images, output)
    assert load_bank(output).provenance["audit"] == {}, "the draws are there"
    bank, path = asked(network_of(), images, output)
    assert path == output
    assert len(recorded) == 1
    assert "variance_error" in bank.provenance["audit"]["cpu"]["bf16"]
    assert load_bank(output).provenance == bank.provenance


class IntoBuffer(Doubling):
    """It writes into a float32 buffer, which takes no bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 8, 64, 64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        index = torch.arange(8)
        if y.shape[-1] == 64:
            torch.zeros(len(y), 8, 64, 64).index_copy_(1, index, self.conv2(y))
        return self.head(self.bn2(self.conv2(y)).relu())


class Deformed(Doubling):
    """It holds torchvision's deformable convolution, which has no bfloat16 kernel on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import DeformConv2d

        self.deformed = DeformConv2d(8, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.deformed(y, self.offset(y))).relu())


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("build", [InNumpy, IntoBuffer, Deformed])
def test_a_network_that_does_not_work_in_half_precision_keeps_its_draws_and_the_reason(
    images: Path, tmp_path: Path, build: type[Toy]
) -> None:
    network = load_network(calibrated(seeded(build)))
    asked(network, images, tmp_path / "bank.safetensors")
    bank = load_bank(tmp_path / "bank.safetensors")
    assert len(bank) == 2
    reason = bank.provenance["audit"]["cpu"]["bf16"]["reason"]
    assert reason.startswith("this network does not work in bf16: ")
    assert len(reason) > 50
    assert "\n" not in reason


def test_fit_says_that_a_bank_was_recorded_before_and_records_anew_when_asked(images: Path, tmp_path: Path) -> None:
    def printed(name: str, *more: Any) -> str:
        ended = segment(
            "fit",
            "segment:tiny?classes=4",
            "--images",
            images,
            "--batch",
            2,
            "--draws",
            2,
            "-o",
            tmp_path / f"{name}.safetensors",
            *more,
        )
        assert ended.code == 0, ended.err
        return " ".join(ended.out.split())

    assert "recorded of the very same" not in printed("a")
    assert "it was there already" in printed("a")
    assert "copied from" in printed("b")
    assert "recorded of the very same" not in printed("c", "--no-cache")
    assert "recorded of the very same" not in printed("d", "--seed", 1)


def test_a_bank_of_other_images_than_training_is_warned_of_each_time(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = network_of()
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.get_buffer("running_var").mul_(100)
    for name in ("a", "a", "b"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="segment"):
            asked(network, images, tmp_path / f"{name}.safetensors")
        assert caplog.text.count("The statistics images are not like those of training") == 1, name


GIVEN: dict[str, Callable[[Path], Any]] = {
    "a generator of paths": lambda folder: folder.glob("*.png"),
    "a generator of texts": lambda folder: (str(path) for path in folder.glob("*.png")),
    "palettes": lambda folder: [Image.open(path).quantize(16) for path in sorted(folder.glob("*.png"))],
}


@pytest.mark.parametrize("form", GIVEN)
def test_images_of_any_form_are_told_apart_by_their_pixels(
    form: str, images: Path, recorded: list[int], tmp_path: Path
) -> None:
    network = network_of()
    banks = [fit_bank(network, GIVEN[form](images), batch=2, draws=2, cache=True) for _ in range(2)]
    assert len(recorded) == 1
    for path in images.glob("*.png"):
        Image.open(path).point(lambda value: 255 - value).save(path)
    banks.append(fit_bank(network, GIVEN[form](images), batch=2, draws=2, cache=True))
    assert len(recorded) == 2
    assert banks[0].provenance["images_sha256"] == banks[1].provenance["images_sha256"]
    assert banks[1].provenance["images_sha256"] != banks[2].provenance["images_sha256"]
    if form != "palettes":
        assert len(banks[2].provenance["image_marks"]) == 4
