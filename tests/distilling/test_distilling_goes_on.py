"""A distilling that ends early keeps what it has reached, and the same call goes on to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import Toy, calibrated, noise, seeded
from safetensors.torch import load_file
from small_networks import Contrast
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.distilling.distill import observe_views
from segment.distilling.refine import RefinePlan
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import FastPathDiffers, PredictionFailed, WrongUse
from segment.files.banks.bank_file import load_bank
from segment.files.banks.unfinished import PartialTensors
from segment.files.writing import write_png
from segment.jobs.distill import distill_bank
from segment.jobs.fit import fit_bank
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST, Passes

STEPS, EVERY = 9, 2
IMAGES = [np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8) for seed in range(5)]


class Ended(Exception):
    """What ends a distilling early."""


class Distilling:
    """Calls with one output. refined: the steps of the newest one; passed: how many views each pass of it ended."""

    def __init__(self, network: Network, bank: Bank, output: Path) -> None:
        self.network, self.bank, self.output = network, bank, output
        self.refined: list[int] = []
        self.passed: list[tuple[str, int, int]] = []

    @property
    def partial(self) -> Path:
        return self.output.with_suffix(".partial.safetensors")

    @property
    def parts(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.glob("small.partial.*.safetensors"))

    def __call__(self, *, end_after: int | None = None, end_at: str = "", views: int = 4, seed: int = 0) -> Bank:
        self.refined, self.passed = [], []

        def record_or_end(stage: str, done: int, total: int, draws: int = 0) -> None:
            if stage != "refining":
                self.passed.append((stage.removeprefix("passing the bank over "), done, total))
                if stage.endswith(end_at or "-") and done == end_after:
                    raise Ended
            elif not end_at:
                self.refined.append(done)
                if done == end_after:
                    raise Ended

        return distill_bank(
            self.network,
            self.bank,
            IMAGES,
            draws=3,
            views=views,
            held_out=2,
            steps=STEPS,
            seed=seed,
            output=self.output,
            progress=record_or_end,
        )

    def end_after(self, step: int) -> None:
        with pytest.raises(Ended):
            self(end_after=step)


@pytest.fixture(scope="module")
def fitted() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    return network, fit_bank(network, IMAGES, batch=2, draws=8)


@pytest.fixture
def distilling(fitted: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distilling:
    monkeypatch.setattr("segment.jobs.distill.RefinePlan", partial(RefinePlan, every=EVERY, patience=9))
    return Distilling(*fitted, tmp_path / "small.safetensors")


@pytest.fixture
def whole(distilling: Distilling) -> str:
    made = bank_fingerprint(distilling())
    distilling.output.unlink()
    return made


def test_the_same_call_goes_on_to_the_same_bits(distilling: Distilling, whole: str) -> None:
    distilling.end_after(5)
    assert (distilling.partial.exists(), distilling.output.exists()) == (True, False)
    distilling.end_after(8)
    assert distilling.refined == [5, 6, 7, 8]  # what was reached at step 4 was kept
    made = distilling()
    assert distilling.refined == [7, 8, 9]
    assert bank_fingerprint(made) == whole == bank_fingerprint(load_bank(distilling.output))
    assert not distilling.partial.exists()


@pytest.mark.parametrize(("end_at", "end_after"), [("over views", 3), ("held-out-views", 1), ("over views", 1)])
def test_views_that_the_bank_was_passed_over_are_not_passed_again(
    distilling: Distilling, monkeypatch: pytest.MonkeyPatch, end_at: str, end_after: int
) -> None:
    monkeypatch.setattr("segment.jobs.distill.PART", 2)
    monkeypatch.setattr("segment.distilling.distill.TOGETHER", 1)
    every = [*(("views", done, 4) for done in (1, 2, 3, 4)), *(("held-out-views", done, 2) for done in (1, 2))]
    with pytest.raises(Ended):
        distilling(end_at=end_at, end_after=end_after)
    ended = every.index((end_at.removeprefix("over "), end_after, 2 if end_at.startswith("held") else 4))
    assert distilling.passed == every[: ended + 1]
    assert len(distilling.parts) == ended // 2
    made = bank_fingerprint(distilling())
    assert distilling.passed == every[ended - ended % 2 :]
    assert list(distilling.output.parent.iterdir()) == [distilling.output]
    distilling.output.unlink()
    assert made == bank_fingerprint(distilling())


def test_parts_of_other_settings_are_neither_used_nor_taken_away(
    distilling: Distilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segment.jobs.distill.PART", 2)
    with pytest.raises(Ended):
        distilling(views=8, end_at="held-out-views", end_after=2)
    assert len(distilling.parts) == 4
    distilling()
    assert distilling.passed[-1] == ("held-out-views", 2, 2)
    assert distilling.passed[0][2] == 4
    assert distilling.parts == [f"small.partial.views{start}.safetensors" for start in (4, 6)]
    distilling.output.unlink()
    distilling(views=8)
    assert list(distilling.output.parent.iterdir()) == [distilling.output]


def test_a_part_that_another_call_has_written_in_its_place_stays(tmp_path: Path) -> None:
    mine, other = (PartialTensors(tmp_path / "small.safetensors", recipe) for recipe in ("mine", "other"))
    for part in ("views0", "views16", ""):
        mine.keep({"mean.0": torch.zeros(2)}, part)
    other.keep({"mean.0": torch.ones(2)}, "views16")
    mine.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["small.partial.views16.safetensors"]
    assert mine.load("views16") is None
    kept = other.load("views16")
    assert kept is not None
    assert kept["mean.0"].tolist() == [1, 1]
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_before_the_first_evaluation(distilling: Distilling, whole: str) -> None:
    distilling.end_after(1)
    assert not distilling.partial.exists()
    assert bank_fingerprint(distilling()) == whole


def test_another_call_begins_anew(distilling: Distilling) -> None:
    distilling.end_after(5)
    distilling(seed=1)
    assert distilling.refined[0] == 1


class Scaled(Toy):
    """The same weights and draws, and other outputs: a factor behind the last BN layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_was_reached_on_a_network_of_the_same_weights_that_computes_something_else_is_not_used(
    distilling: Distilling, *, by_hand: bool
) -> None:
    def of(toy: type[Toy]) -> Distilling:
        network = load_network(calibrated(seeded(toy), (32, 32)))
        bank = fit_bank(network, IMAGES, batch=2, draws=8)
        bank = Bank(bank.weights, bank.mean, bank.var) if by_hand else bank
        return Distilling(network, bank, distilling.output)

    plain, scaled = of(Toy), of(Scaled)
    assert plain.network.fingerprint == scaled.network.fingerprint
    assert bank_fingerprint(plain.bank) == bank_fingerprint(scaled.bank)
    expected = bank_fingerprint(scaled())
    scaled.output.unlink()
    plain.end_after(5)
    assert bank_fingerprint(scaled()) == expected
    assert scaled.refined[0] == 1
    assert {stage for stage, *_ in scaled.passed} == {"views", "held-out-views"}
    if not by_hand:
        with pytest.raises(WrongUse, match="or the network's code"):
            plain()  # whose bank would take the place of the other network's


DAMAGES = [lambda content: content[:-9], lambda content: b"", lambda content: content[:-1] + bytes([content[-1] ^ 1])]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_parts_are_passed_anew(distilling: Distilling, whole: str, damage: Callable[[bytes], bytes]) -> None:
    distilling.end_after(5)
    assert distilling.parts == ["small.partial.held_out_views0.safetensors", "small.partial.views0.safetensors"]
    part = distilling.output.with_name(distilling.parts[1])
    part.write_bytes(damage(part.read_bytes()))
    assert bank_fingerprint(distilling()) == whole
    assert {stage for stage, *_ in distilling.passed} == {"views"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refined_anew(distilling: Distilling, whole: str, damage: Callable[[bytes], bytes]) -> None:
    distilling.end_after(5)
    distilling.partial.write_bytes(damage(distilling.partial.read_bytes()))
    assert bank_fingerprint(distilling()) == whole
    assert distilling.refined[0] == 1


def test_refining_goes_on_where_its_steps_cannot_be_kept(
    distilling: Distilling, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WrongUse("No space left on device.")

    monkeypatch.setattr("segment.files.banks.unfinished.write_bytes", full)
    assert bank_fingerprint(distilling()) == whole


def test_where_a_fast_pass_differs_all_views_are_passed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 40)))
    bank = fit_bank(network, IMAGES, batch=3, draws=6)
    expected = Distilling(network, bank, tmp_path / "right.safetensors")()
    passed, calls = Passes.__call__, []

    def spoiled(passes: Passes, images: Tensor) -> Iterator[Tensor]:
        calls.append(passes)
        if len(calls) == 2:  # the held-out views
            raise FastPathDiffers("0.2 at a pixel")
        return passed(passes, images)

    monkeypatch.setattr(Passes, "__call__", spoiled)
    distilling = Distilling(network, bank, tmp_path / "small.safetensors")
    made = distilling()
    assert "the views are passed again" in caplog.text
    assert bank_fingerprint(made) == bank_fingerprint(expected)
    assert [done for stage, done, _ in distilling.passed if stage == "views"].count(4) >= 1
    assert distilling.parts == []


@pytest.mark.parametrize("files", [True, False])
def test_an_image_with_outputs_that_are_not_finite_is_named_before_its_views_are_kept(
    tmp_path: Path, *, files: bool
) -> None:
    network = load_network(calibrated(seeded(Contrast), (32, 32)))
    bank = fit_bank(network, IMAGES, batch=2, draws=4)
    images = [*IMAGES, np.zeros_like(IMAGES[0])]
    for number, image in enumerate(images):
        write_png(tmp_path / "images" / f"i{number}.png", image)
    name = "'i5'" if files else "image 5"
    given = str(tmp_path / "images") if files else images
    with pytest.raises(PredictionFailed, match=rf"not finite .* of 32 x 40 pixels of {name}\. Remove"):
        distill_bank(network, bank, given, draws=2, views=8, held_out=2, steps=1, output=tmp_path / "small.safetensors")
    for path in tmp_path.glob("small.partial.*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values())
    with pytest.raises(PredictionFailed, match="pixels of image 1"):
        observe_views(
            Passes(bn_network_of(network), bank, FAST), [noise(1, 3, 32, 40), torch.zeros(1, 3, 32, 40)], "softmax"
        )
