"""Validation images, statistics images and pages see the slices and the pixels that scores are of, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from console import segment as command
from numpy.typing import NDArray
from plain import calibrated, noise, random_bank, seeded
from torch import nn

import segment
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import ImageUnreadable, WrongUse
from segment.files.banks.bank_file import load_bank
from segment.files.reading import read_json
from segment.files.writing import write_png
from segment.images.find import find_images
from segment.images.listing.parts import Listing
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.temperatures import at_an_end_words
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.report import report
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.states import SweepPlan
from segment.jobs.tuning.tune import TunePlan, tune
from segment.networks.load import Network, load_network
from segment.report.html.details import detail

SIZE = (16, 16)
ALONG_ROWS = Listing(axis=0)
METHODS = MethodPlan(methods=("deterministic", "temperature"), measures=("predictive_entropy",), precision="fp32")


class Pixelwise(nn.Module):
    """Masks follow the pixels, so that a volume's masks are the same along every axis."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(self.bn(self.conv(x)).relu())
        return made


def network_of(**card: Any) -> Network:
    network = load_network(calibrated(seeded(Pixelwise), SIZE))
    given = replace(network.card.input, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), white=255.0)
    return replace(network, card=replace(network.card, classes=("a", "b"), input=given, **card))


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of()


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return random_bank(bn_network_of(network))


def mask_of(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with torch.no_grad():
        output = network.module(network.accept.batch([pixels])[0].to(network.device))
    made: NDArray[np.uint8] = output.argmax(dim=1)[0].numpy().astype(np.uint8)
    return made


def images_of(network: Network, top: Path, count: int, *, wrong_outside: bool) -> Labels:
    """Images whose labels are right in the left half and, where asked, wrong in the right one; masks of the left."""
    rng = np.random.default_rng(count)
    for number in range(count):
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        label = mask_of(network, pixels)
        label[rng.random(SIZE) < 0.2] ^= 1
        if wrong_outside:
            label[:, 8:] = 1 - mask_of(network, pixels)[:, 8:]
        write_png(top / "images" / f"i{number}.png", pixels)
        write_png(top / "labels" / f"i{number}.png", label)
        write_png(top / "left" / f"i{number}.png", np.repeat([[255] * 8 + [0] * 8], 16, axis=0).astype(np.uint8))
        write_png(top / "void" / f"i{number}.png", np.where(np.arange(16) < 8, label, 9).astype(np.uint8))
    return Labels(top / "images", top / "labels", masks=top / "left")


def volume(path: Path, values: NDArray[np.int32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def cube(top: Path) -> NDArray[np.int32]:
    values = np.random.default_rng(1).integers(0, 256, (8, 8, 8), dtype=np.int32)
    volume(top / "images" / "v.nii", values)
    return values


def test_what_is_fitted_is_fitted_within_the_validation_masks(network: Network, tmp_path: Path) -> None:
    data = images_of(network, tmp_path / "test", 3, wrong_outside=False)
    masked = images_of(network, tmp_path / "validation", 4, wrong_outside=True)
    void = Labels(masked.images, tmp_path / "validation" / "void", masks=masked.images)  # nothing is black
    plan = EvaluatePlan(methods=METHODS, void=9)
    made = {
        name: evaluate_into(network, data, tmp_path / name, plan=plan, validation=held_out).validation
        for name, held_out in (("masked", masked), ("void", void))
    }
    assert made["masked"].temperatures == made["void"].temperatures
    assert made["masked"].accuracies == made["void"].accuracies
    assert made["masked"].accuracies["deterministic"] == pytest.approx(0.8, abs=0.1)
    with pytest.raises(WrongUse, match=r"the validation images have none.*Give --validation-mask"):
        evaluate_into(network, data, tmp_path / "refused", plan=plan, validation=replace(masked, masks=None))
    with pytest.raises(WrongUse, match="Give --validation-mask"):
        sweep(
            network,
            data,
            str(data.images),
            tmp_path / "swept",
            SweepPlan(grid=Grid(batches=(2,), transforms=("plain",))),
            validation=replace(masked, masks=None),
        )


@pytest.mark.parametrize("name", ["evaluate", "sweep"])
def test_the_commands_list_validation_images_as_the_test_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Labels, Labels]] = []

    def noted(network: Network, data: Labels, *_: Any, validation: Labels, **__: Any) -> None:
        kept.append((data, validation))
        raise WrongUse("enough")

    job = {"evaluate": "evaluate_into"}.get(name, name)
    monkeypatch.setattr(f"segment.jobs.{name}.{job}", noted)
    more = ["--train", "c"] if name == "sweep" else []
    options = ["--axis", "0", "--every", "7", "--mask", "m", "--validation-mask", "n", "--label-suffix", "_L"]
    images = ["--images", "a", "--labels", "b", "--validation-images", "c", "--validation-labels", "d"]
    command(name, "segment:tiny?classes=2", *images, *options, *more, "-o", str(tmp_path / "run"))
    (data, validation) = kept[0]
    assert data == Labels("a", "b", "_L", "m", Listing(every=7, axis=0))
    assert validation == Labels("c", "d", "_L", "n", Listing(every=7, axis=0))
    refused = command(name, "segment:tiny?classes=2", "--images", "a", "--validation-mask", "n", *more, "-o", "run")
    assert "--validation-mask needs --validation-images" in refused.error


def recorded(network: Network, train: Path, listing: Listing) -> dict[str, torch.Tensor]:
    card = replace(network.card, training=None)
    made = segment.fit_bank(
        replace(network, card=card), str(train), batch=4, draws=2, every=listing.every, axis=listing.axis
    )
    return dict(made.mean)


def of_a_sweep(network: Network, data: Labels, train: Path, top: Path) -> Bank:
    plan = SweepPlan(
        grid=Grid(batches=(4,), draws=(2,), transforms=("plain",)), methods=replace(METHODS, methods=("mcbn",))
    )
    sweep(network, data, str(train), top / "run", plan)
    (path,) = (top / "run" / "banks").glob("*.safetensors")
    return load_bank(path)


def of_a_tuning(network: Network, data: Labels, train: Path, top: Path) -> Bank:
    plan = TunePlan(passes=2, grid=Grid(batches=(4,), transforms=("plain",)))
    return tune(network, data, str(train), top / "tuned", plan).tuned.bank


@pytest.mark.parametrize("made_by", [of_a_sweep, of_a_tuning])
def test_statistics_of_volumes_are_of_slices_along_the_axis_that_is_scored(
    network: Network, tmp_path: Path, made_by: Callable[[Network, Labels, Path, Path], Bank]
) -> None:
    values = np.repeat(np.arange(8, dtype=np.int32)[None, None] * 30, 8, axis=0).repeat(8, axis=1)  # alike along axis 0
    volume(tmp_path / "train" / "v.nii", values)
    scored = cube(tmp_path)
    volume(tmp_path / "labels" / "v.nii", (scored > 120).astype(np.int32))
    data = Labels(tmp_path / "images", tmp_path / "labels", listing=ALONG_ROWS)
    made = made_by(network, data, tmp_path / "train", tmp_path)
    wanted, other = (recorded(network, tmp_path / "train", listing) for listing in (ALONG_ROWS, Listing()))
    assert torch.equal(made.mean["bn"], wanted["bn"][: len(made)])
    assert not torch.allclose(made.mean["bn"], other["bn"][: len(made)])


def test_a_multi_label_volume_is_scored_along_the_axis_that_was_asked_for(tmp_path: Path) -> None:
    network = network_of(head="multilabel")
    values = cube(tmp_path)
    for place in range(8):
        pixels = np.repeat(values[place].T[..., None], 3, axis=2).astype(np.uint8)
        with torch.no_grad():
            output = network.module(network.accept.batch([pixels])[0])[0].sigmoid() >= 0.5
        for label, mask in zip("ab", output.numpy().astype(np.uint8), strict=True):
            write_png(tmp_path / "labels" / label / "v" / f"{place:04d}.png", mask)
    plan = EvaluatePlan(methods=replace(METHODS, methods=("deterministic",)))
    data = Labels(tmp_path / "images", tmp_path / "labels", listing=ALONG_ROWS)
    made = evaluate_into(network, data, tmp_path / "run", plan=plan)
    assert made.scores["methods"]["deterministic"]["scores"]["accuracy"]["value"] == 1.0
    assert read_json(tmp_path / "run" / "run.json", dict[str, Any], advice="")["settings"]["listing"]["axis"] == 0


@pytest.mark.parametrize("limited", ["axis", "masks", "unseen"])
def test_a_page_counts_the_pixels_that_the_evaluation_beside_it_counts(
    network: Network, bank: Bank, tmp_path: Path, limited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, dict[str, Any]] = {}

    def noted(run: Any, image: Any, *given: Any) -> Any:
        block, rows[image.id] = detail(run, image, *given)
        return block, rows[image.id]

    monkeypatch.setattr("segment.report.html.build.detail", noted)
    listing, masks = Listing(), None
    unseen: tuple[int, ...] = ()
    if limited == "axis":
        listing, values = ALONG_ROWS, cube(tmp_path)
        volume(tmp_path / "labels" / "v.nii", (values > 120).astype(np.int32))
    else:
        images_of(network, tmp_path, 3, wrong_outside=True)
        masks = tmp_path / "left" if limited == "masks" else None
        unseen = (1,) if limited == "unseen" else ()
    data = Labels(tmp_path / "images", tmp_path / "labels", masks=masks, listing=listing)
    plan = EvaluatePlan(methods=replace(METHODS, methods=("mcbn",)), unseen=unseen)
    made = evaluate_into(network, data, tmp_path / "scores", banks=[bank], plan=plan)
    predict(network, data.images, bank, tmp_path / "run", PredictPlan(precision="fp32"), listing=listing)
    report([tmp_path / "run", tmp_path / "scores"], tmp_path / "r.html")
    scores = made.scores
    labelled, right = (sum(row[key] for row in rows.values()) for key in ("labelled", "right"))
    assert labelled == scores["pixels"]
    assert right / labelled == pytest.approx(scores["methods"]["mcbn"]["scores"]["accuracy"]["value"])


def test_a_corruption_of_tensors_is_refused(network: Network) -> None:
    samples = [(noise(1, 3, *SIZE, seed=seed)[0], np.zeros(SIZE, np.int64)) for seed in range(2)]
    plan = EvaluatePlan(methods=replace(METHODS, methods=("deterministic",)), shift=("gaussian_noise", 5))
    with pytest.raises(ImageUnreadable, match=r"is a normalised tensor: give uint8 images \(H W C\)"):
        segment.evaluate(network, samples, plan=plan)


def test_a_label_that_no_validation_image_knows_has_no_normalised_score(tmp_path: Path) -> None:
    network, rng = network_of(head="multilabel"), np.random.default_rng(0)
    for part in ("validation", "test"):
        for number in range(2):
            name = f"{part}{number}.png"
            write_png(tmp_path / part / "images" / name, rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
            for label in "ab":
                values = rng.integers(0, 2, SIZE).astype(np.uint8)
                unknown = part == "validation" and label == "b"
                write_png(tmp_path / part / "labels" / label / name, np.full_like(values, 255) if unknown else values)
    plan = EvaluatePlan(methods=replace(METHODS, methods=("deterministic",)), void=255)
    data, held_out = (Labels(tmp_path / part / "images", tmp_path / part / "labels") for part in ("test", "validation"))
    made = evaluate_into(network, data, tmp_path / "run", plan=plan, validation=held_out)
    first, second = made.validation.accuracies["deterministic"]  # type: ignore[misc]
    assert first is not None
    assert second is None
    assert made.scores["methods"]["deterministic"]["scores"]["accuracy"]["value"] is not None
    again = evaluate_into(network, data, tmp_path / "run", plan=plan, validation=held_out, resume=True)
    assert again.validation.accuracies == made.validation.accuracies


def test_a_temperature_at_an_end_of_the_grid_is_told(network: Network, tmp_path: Path) -> None:
    sure = load_network(calibrated(seeded(Pixelwise), SIZE))
    with torch.no_grad():
        sure.module.head.weight.mul_(500)  # type: ignore[union-attr, operator]
    sure = replace(load_network(sure.module), card=network.card)
    data, held_out = (images_of(sure, tmp_path / part, 3, wrong_outside=False) for part in ("test", "validation"))
    made = evaluate_into(sure, data, tmp_path / "run", plan=EvaluatePlan(methods=METHODS), validation=held_out)
    assert "'temperature' is 8, the largest that is tried; the best is larger still." in " ".join(made.warnings)
    assert at_an_end_words({"temperature": 7.9}) == []


def test_a_row_of_a_list_may_say_its_axis(tmp_path: Path) -> None:
    volume(tmp_path / "v.nii", np.zeros((3, 4, 5), np.int32))
    listed = tmp_path / "list.csv"
    listed.write_text("id,source,axis\nv/0001,v.nii,0\nv/0002,v.nii,\n")
    assert [(source.id, source.part, source.axis) for source in find_images(listed)] == [
        ("v/0001", 1, 0),
        ("v/0002", 2, 2),
    ]
    listed.write_text("id,source,axis\nv/0001,v.nii,3\n")
    with pytest.raises(WrongUse, match=r"Line 2 .* has axis '3': slices of a volume lie along axis 0, 1 or 2"):
        find_images(listed)


def test_what_select_writes_of_a_volume_names_its_slices(network: Network, bank: Bank, tmp_path: Path) -> None:
    cube(tmp_path)
    for axis in (2, 0):
        run = predict(
            network, tmp_path / "images", bank, tmp_path / f"run{axis}", PredictPlan(), listing=Listing(axis=axis)
        ).folder
        chosen = segment.select(run, 3)
        (tmp_path / "select.csv").write_text(chosen.csv())
        found = find_images(tmp_path / "select.csv")
        assert [source.id for source in found] == [id for id, *_ in chosen.images]
        assert {source.axis for source in found} == {axis}
        assert "axis" not in chosen.csv() or axis == 0
