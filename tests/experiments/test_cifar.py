"""The CIFAR-10 experiment: the trained network as its maker measured it, and a curve that plain loops confirm."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from segment.errors import WeightsRefused, WrongUse
from segment.experiments.cifar import experiment as cifar
from segment.experiments.cifar.curve import Curve, curve_of, interval, joined, share_by
from segment.experiments.cifar.experiment import CifarPlan
from segment.experiments.cifar.network import all_passes, drawn_network, normalised, read_images
from segment.methods.deterministic import deterministic
from segment.networks.architectures.resnet import ResNet32
from segment.networks.building.weights import load_weights
from segment.passes.passes import FAST

SMALL = CifarPlan(draws=8, banks={16: 2}, images=20)


def likelihoods(draws: int, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    passes = rng.dirichlet(np.ones(4), size=(draws, images))
    return passes, rng.integers(4, size=images)


@pytest.fixture(scope="module")
def once(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cifar")
    assert len(cifar.run(out, budget="quick", data=shared_data, seed=1, plan=SMALL)) == 4
    return out


def test_the_resnet_scores_what_its_maker_measured(shared_data: Path) -> None:
    network = drawn_network(shared_data)
    assert len(network.stochastic) == 31
    pixels, labels = read_images(shared_data, "test1000")
    p = all_passes(deterministic(network, plan=FAST), normalised(pixels))[0]
    assert accuracy_score(labels, p.argmax(axis=1)) == 0.84
    assert log_loss(labels, p / p.sum(axis=1, keepdims=True)) == pytest.approx(0.7949, abs=1e-4)
    with torch.no_grad():
        first = network.forward(normalised(pixels[:1]))[0]
    expected = [11.8091, -0.6598, 2.5210, -0.2331, -4.6393, -8.7310, -7.3924, -7.1125, 12.6043, 1.8393]
    torch.testing.assert_close(first, torch.tensor(expected), rtol=0, atol=1e-3)


def test_weights_of_another_network_are_refused(shared_data: Path) -> None:
    with pytest.raises(WeightsRefused):
        load_weights(ResNet32(classes=100), shared_data / "weights" / "resnet32_cifar10.safetensors")


def test_the_curve_is_that_of_a_plain_loop_over_subsets() -> None:
    passes, labels = likelihoods(draws=8, images=12)
    curve = curve_of(passes, labels, seed=0)
    assert curve.draws == (1, 2, 4, 8)
    whole = np.log(passes.mean(axis=0)[np.arange(12), labels])
    np.testing.assert_allclose(curve.likelihood[0, -1], whole)
    each = np.log(passes[:, np.arange(12), labels])
    assert curve.likelihood[0, 0].mean() == pytest.approx(each.mean(), abs=0.05)
    pairs = [np.log(passes[[a, b]].mean(axis=0)[np.arange(12), labels]).mean() for a in range(8) for b in range(a)]
    assert curve.likelihood[0, 1].mean() == pytest.approx(np.mean(pairs), abs=0.05)


def test_more_draws_never_lower_the_expected_log_likelihood() -> None:
    passes, labels = likelihoods(draws=32, images=40)
    assert (np.diff(curve_of(passes, labels, seed=0).likelihood.mean(axis=(0, 2))) > 0).all()  # Jensen


def test_the_spread_between_banks_is_that_of_independent_banks() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(3, size=30)
    banks = rng.dirichlet(np.ones(3), size=(400, 64, 30))
    for count in (4, 16):
        picked = banks[:, :count].mean(axis=1)[:, np.arange(30), labels]
        truth = np.log(picked).mean(axis=1).std()
        curves = [curve_of(bank, labels, seed=1) for bank in banks[:5]]
        place = curves[0].draws.index(count)
        assert np.mean([curve.bank_sd[place] for curve in curves]) == pytest.approx(truth, rel=0.15)
    assert np.isnan(curves[0].bank_sd[-1])
    whole = joined([curve_of(bank, labels, seed=1) for bank in banks[:60]]).bank_sd[-1]
    assert whole == pytest.approx(np.log(banks.mean(axis=1)[:, np.arange(30), labels]).mean(axis=1).std(), rel=0.3)


def test_the_interval_is_that_of_a_normal_mean() -> None:
    values = np.random.default_rng(2).normal(size=400)
    low, high = interval(values[None], seed=0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_interval_is_over_banks_too() -> None:
    banks, images = 40, 50
    rng = np.random.default_rng(2)
    of_bank, of_image = rng.normal(size=(banks, 1)), rng.normal(size=(1, images))
    low, high = interval(of_bank + of_image, seed=0)
    sd = np.sqrt(of_bank.var() / banks + of_image.var() / images)
    assert high - low == pytest.approx(2 * 1.96 * sd, rel=0.1)
    few, many = interval(0 * of_bank + of_image, seed=0), interval(of_image, seed=0)
    assert few == pytest.approx(many)  # banks that are alike add nothing


def test_a_stopped_run_goes_on_from_the_banks_that_are_kept(once: Path, shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(once / "kept", tmp_path / "kept")
    (tmp_path / "kept" / "M16-2.npz").unlink()
    messages: list[str] = []
    cifar.run(tmp_path, budget="quick", data=shared_data, seed=1, plan=SMALL, progress=messages.append)
    assert messages == ["cifar: 8 draws of M = 16, bank 2 of 2"]
    for name in ("cifar.csv", "page.md"):
        assert (tmp_path / name).read_bytes() == (once / name).read_bytes()

    messages.clear()
    before = (tmp_path / "kept" / "M16-1.npz").read_bytes()
    fewer = replace(SMALL, images=10)
    with pytest.raises(WrongUse, match=r"M16-1\.npz' was made with other settings \(inputs\)"):
        cifar.run(tmp_path, budget="quick", data=shared_data, seed=1, plan=fewer, progress=messages.append)
    assert messages == []
    assert (tmp_path / "kept" / "M16-1.npz").read_bytes() == before
    (tmp_path / "kept" / "M16-1.npz").write_bytes(b"PK")
    with pytest.raises(WrongUse, match=r"M16-1\.npz' is damaged"):
        cifar.run(tmp_path, budget="quick", data=shared_data, seed=1, plan=SMALL)


def test_banks_are_joined_by_their_mean() -> None:
    labels = np.zeros(12, dtype=int)
    curves = [curve_of(likelihoods(8, 12, seed)[0], labels, seed=0) for seed in range(3)]
    both = joined(curves)
    np.testing.assert_array_equal(both.likelihood[1:2], curves[1].likelihood)
    np.testing.assert_array_equal(both.hits[2:], curves[2].hits)
    np.testing.assert_array_equal(joined(curves[:1]).likelihood, curves[0].likelihood)
    assert np.isnan(joined(curves[:1]).bank_sd[-1])


def test_the_share_of_the_gain_is_read_off_the_curve() -> None:
    likelihood = np.array([[[-1.0, -2.0], [-0.9, -1.8], [-0.8, -1.5]]])
    curve = Curve(draws=(1, 8, 64), likelihood=likelihood, hits=likelihood, bank_sd=np.zeros(3))
    share, low, high = share_by(curve, 8, seed=0)
    assert share == pytest.approx(0.15 / 0.35)
    assert low <= share <= high


def test_the_experiment_leaves_a_table_a_figure_and_verdicts(once: Path) -> None:
    names = {path.relative_to(once).as_posix() for path in once.rglob("*") if path.is_file()}
    pages = {"cifar.csv", "cifar.md", "cifar.png", "cifar.svg", "verdicts.csv", "verdicts.md", "page.md"}
    assert names == pages | {"kept/M16-1.npz", "kept/M16-2.npz"}
    assert len((once / "cifar.csv").read_text().splitlines()) == 1 + 4 + 2
    page = " ".join((once / "page.md").read_text().split())
    accuracy = pd.read_csv(once / "cifar.csv").set_index("method").loc["trained statistics", "accuracy"]
    assert f"The trained statistics are right on {accuracy:.1%} of them, where 92.8%" in page
    assert f"accuracy {accuracy:.3f} on these images" in page


def test_the_same_seed_writes_the_same_bytes(once: Path, shared_data: Path, tmp_path: Path) -> None:
    cifar.run(tmp_path, budget="quick", data=shared_data, seed=1, plan=SMALL)
    for path in (path for path in once.rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(once)).read_bytes() == path.read_bytes(), path.name


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"test1000\.npz"):
        read_images(tmp_path, "test1000")
    with pytest.raises(WeightsRefused, match="--data DIR"):
        cifar.run(tmp_path / "out", budget="quick", data=tmp_path)


PIXELS, LABELS = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (PIXELS / np.float32(255), LABELS, "not float32, 20 x 32 x 32 x 3"),
        (PIXELS.transpose(0, 3, 1, 2), LABELS, "not uint8, 20 x 3 x 32 x 32"),
        (PIXELS, LABELS[:15], "20 integers from 0 to 9"),
        (PIXELS, LABELS[:, None], "20 integers from 0 to 9"),
        (PIXELS, LABELS - 1, "20 integers from 0 to 9"),
        (PIXELS, LABELS + 1, "20 integers from 0 to 9"),
        (PIXELS, LABELS / 1.0, "20 integers from 0 to 9"),
        (PIXELS[:0], LABELS[:0], "0 integers from 0 to 9"),
    ],
)
def test_images_that_are_not_as_described_are_refused(
    images: np.ndarray, labels: np.ndarray, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "test1000.npz", images=images, labels=labels)
    with pytest.raises(WrongUse, match=complaint):
        read_images(tmp_path, "test1000")


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "one array"])
def test_a_damaged_file_of_images_is_refused(damage: str, tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "test1000.npz"
    np.savez(path, images=PIXELS, labels=LABELS)
    whole = path.read_bytes()
    array = io.BytesIO()
    np.save(array, PIXELS)
    content = {"empty": b"", "cut": whole[:1000], "flipped": whole[:5000] + b"\xff" * 9 + whole[5009:]}
    path.write_bytes(content.get(damage, array.getvalue()))
    with pytest.raises(WrongUse, match="does not read as CIFAR-10 images"):
        read_images(tmp_path, "test1000")


def test_fewer_images_than_the_plan_takes_are_refused(shared_data: Path, tmp_path: Path) -> None:
    for folder in ("cifar10", "weights"):
        (tmp_path / folder).mkdir()
    (tmp_path / "weights" / "resnet32_cifar10.safetensors").symlink_to(
        shared_data / "weights" / "resnet32_cifar10.safetensors"
    )
    for name, count, least in (("train1000", 10, 16), ("test1000", 16, 20)):
        for each in ("train1000", "test1000"):
            np.savez(tmp_path / "cifar10" / f"{each}.npz", images=PIXELS[:count], labels=LABELS[:count])
        with pytest.raises(WrongUse, match=rf"{name}\.npz' holds {count} images, .* takes {least} or more"):
            cifar.run(tmp_path / "out", budget="quick", data=tmp_path, plan=SMALL)
