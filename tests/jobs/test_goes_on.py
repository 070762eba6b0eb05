"""What goes on is of the same members, precision, images and masks, and counts no image twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from labelled_scenes import SIZE, written
from plain import Toy, calibrated, random_bank, seeded

from segment.errors import WrongUse
from segment.files.runs.manifest import read_entries
from segment.files.writing import write_png
from segment.images.find import Source
from segment.images.listing.parts import Listing
from segment.images.read import read_label
from segment.jobs.evaluate import EvaluatePlan, evaluate
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.labelled_images import Labels
from segment.jobs.predict import predict
from segment.networks.load import Network, load_network
from segment.scenes.scene import TEST
from segment.scores.board import Board
from segment.tracing.bn_network import bn_network_of


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("scenes")


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    return written(tmp_path / "images", TEST[:3])


def plan(*methods: str, precision: str = "fp32", workers: int = 0) -> EvaluatePlan:
    how = MethodPlan(methods=methods, measures=("predictive_entropy",), precision=precision)
    return EvaluatePlan(methods=how, workers=workers)


def test_other_members_of_an_ensemble_are_refused(network: Network, data: Labels, tmp_path: Path) -> None:
    other = load_network("scenes")
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.5)
    methods = plan("deterministic", "ensemble")
    evaluate(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")])
    for members in ([other], [load_network("scenes"), other]):
        with pytest.raises(WrongUse, match="ensemble"):
            evaluate(network, data, tmp_path / "run", plan=methods, members=members, resume=True)
    evaluate(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")], resume=True)


def test_the_precision_that_auto_took_stays(
    network: Network, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = plan("deterministic", precision="auto")
    evaluate(network, data, tmp_path / "run", plan=auto)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["plan"]["precision"] = "bf16"  # as a processor that computes it would have taken
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    evaluate(network, data, tmp_path / "run", plan=auto, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["precision"] == "bf16"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_update_that_was_interrupted_is_counted_once(
    network: Network,
    data: Labels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    workers: int,
) -> None:
    asked = plan("deterministic", "tta", workers=workers)
    whole = evaluate(network, data, tmp_path / "whole", plan=asked)
    real, calls = Board.add, [0]

    def torn(self: Board, *given: Any) -> None:
        real(self, *given)
        calls[0] += 1
        if calls[0] == 3:
            raise error

    monkeypatch.setattr(Board, "add", torn)
    with pytest.raises(error):
        evaluate(network, data, tmp_path / "run", plan=asked)
    monkeypatch.setattr(Board, "add", real)
    again = evaluate(network, data, tmp_path / "run", plan=asked, resume=True)
    assert (again.scores["images"], again.scores["pixels"]) == (whole.scores["images"], whole.scores["pixels"])
    for name, method in whole.scores["methods"].items():
        for score, entry in method["scores"].items():
            assert again.scores["methods"][name]["scores"][score]["value"] == entry["value"], f"{name} {score}"


def test_a_run_goes_on_with_the_masks_and_images_that_are_there_now(
    network: Network, data: Labels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bank = random_bank(bn_network_of(network))
    images = Path(str(data.images))
    mask = np.zeros(SIZE, np.uint8)
    mask[:32] = 255
    for image in images.iterdir():
        write_png(tmp_path / "masks" / image.name, mask)

    sources = [Source(path.stem, path, mask=tmp_path / "masks" / path.name) for path in sorted(images.iterdir())]

    def run(*, resume: bool) -> None:
        made = predict(network, sources, bank, tmp_path / "run", resume=resume)
        assert (made.done, made.failed) == (3, {})

    run(resume=False)
    first = sources[0]
    folder = tmp_path / "run" / first.id
    before = read_label(folder / "prediction.png")
    write_png(tmp_path / "masks" / first.path.name, 255 - mask)
    run(resume=True)
    assert (read_label(folder / "prediction.png") != before).any(), "the part outside is another"
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lines = dict(read_entries(tmp_path / "run" / "manifest.jsonl"))
    first.path.rename(tmp_path / "away.png")
    run(resume=True)
    assert f"{first.id} cannot be read now" in caplog.text
    (tmp_path / "masks" / first.path.name).rename(tmp_path / "mask.png")
    run(resume=True)
    assert f"The region mask of {first.id} cannot be read now" in caplog.text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept
    assert dict(read_entries(tmp_path / "run" / "manifest.jsonl")) == lines


def test_other_slices_are_other_settings(tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 40)))
    bank = random_bank(bn_network_of(network))
    grey = replace(network, card=replace(network.card, input=replace(network.card.input, white=255.0)))
    nibabel.save(
        nibabel.Nifti1Image(np.arange(8 * 32 * 40, dtype=np.int32).reshape(8, 32, 40) % 255, np.eye(4)),
        tmp_path / "v.nii",
    )
    predict(grey, str(tmp_path / "v.nii"), bank, tmp_path / "run", listing=Listing(axis=0))
    with pytest.raises(WrongUse, match="other settings: listing"):
        predict(grey, str(tmp_path / "v.nii"), bank, tmp_path / "run", listing=Listing(axis=1), resume=True)
