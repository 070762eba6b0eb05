"""What goes on is of the same members, precision, images and masks, and counts no image twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from labelled_scenes import SIZE, written
from plain import Toy, calibrated, random_bank, seeded

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import ModelRefused, OutOfMemory, WrongUse
from segment.files.banks.bank_file import save_bank
from segment.files.runs.manifest import read_entries
from segment.files.runs.places import RunPlaces
from segment.files.writing import write_png
from segment.images.find import Source
from segment.images.listing.parts import Listing
from segment.images.read import read_label, read_source
from segment.jobs import sweep as sweeping
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled import labels
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.progress import Progress, silent
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.inputs import IMAGES, joined
from segment.jobs.sweeping.states import SweepPlan
from segment.networks.load import Network, load_network
from segment.report.results import CLEAN, Sweep
from segment.scenes.classes import CLASSES
from segment.scenes.scene import TEST, VALIDATION
from segment.scores.board import Board


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    return written(tmp_path / "images", TEST[:3])


def plan(*methods: str, precision: str = "fp32", workers: int = 0) -> EvaluatePlan:
    how = MethodPlan(methods=methods, measures=("predictive_entropy",), precision=precision)
    return EvaluatePlan(methods=how, workers=workers)


OF_ONE_METHOD = SweepPlan(
    grid=Grid(batches=(2,), draws=(1,), transforms=("plain",)),
    shifts=("noise",),
    severities=(1,),
    methods=MethodPlan(methods=("deterministic",), precision="fp32", measures=("predictive_entropy",)),
)


def test_other_members_of_an_ensemble_are_refused(network: Network, data: Labels, tmp_path: Path) -> None:
    other = load_network("scenes")
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.5)
    methods = plan("deterministic", "ensemble")
    evaluate_into(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")])
    for members in ([other], [load_network("scenes"), other]):
        with pytest.raises(WrongUse, match="ensemble"):
            evaluate_into(network, data, tmp_path / "run", plan=methods, members=members, resume=True)
    evaluate_into(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")], resume=True)


def test_the_precision_that_auto_took_stays(
    network: Network, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = plan("deterministic", precision="auto")
    evaluate_into(network, data, tmp_path / "run", plan=auto)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["plan"]["precision"] = "bf16"  # as a processor that computes it would have taken
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    evaluate_into(network, data, tmp_path / "run", plan=auto, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["precision"] == "bf16"


class Scaled(Toy):
    """The same weights, and by `factor` other outputs: an edit behind the last BN layer."""

    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.factor


def edited(factor: float, *, normalised: bool = True) -> Network:
    module = calibrated(seeded(partial(Scaled, len(CLASSES))), SIZE)
    module.factor = factor
    if not normalised:
        for name in ("bn1", "bn2"):
            setattr(module, name, torch.nn.Identity())
    return load_network(module)


def bank_of_toy(network: Network) -> Bank:
    bank = random_bank(drawn := bn_network_of(network), draws=3)
    return identified(network, drawn, bank)


@pytest.mark.parametrize("job", ["predict", "evaluate", "evaluate without BN", "ensemble", "sweep", "begun sweep"])
def test_a_network_of_the_same_weights_that_computes_something_else_does_not_go_on(
    data: Labels, tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights, draws and settings are equal: an edit behind the last BN layer changes none of them."""

    def run(factor: float, *, resume: bool) -> None:
        network, folder = edited(factor, normalised="without" not in job), tmp_path / "run"
        if job == "predict":
            predict(network, data.images, bank_of_toy(network), folder, resume=resume)
        elif "sweep" in job:
            sweep(network, data, str(data.images), folder, OF_ONE_METHOD, resume=resume)
        elif job == "ensemble":
            methods = plan("deterministic", "ensemble")
            evaluate_into(load_network("scenes"), data, folder, plan=methods, members=[network], resume=resume)
        else:
            evaluate_into(network, data, folder, plan=plan("deterministic"), resume=resume)

    if job == "begun sweep":
        real = sweeping._condition  # whose first is kept before there is a manifest

        def interrupted(*arguments: Any) -> Any:
            if arguments[2] != CLEAN:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(sweeping, "_condition", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(1.0, resume=False)
        monkeypatch.setattr(sweeping, "_condition", real)
    else:
        run(1.0, resume=False)
    record = tmp_path / "run" / "run.json"
    before = record.read_bytes()
    with pytest.raises(WrongUse, match=r"of the same weights as .* that computes something else"):
        run(1.5, resume=True)
    assert record.read_bytes() == before
    run(1.0, resume=True)
    assert "was begun by an earlier version" not in caplog.text
    content = json.loads(record.read_text())
    probes = content.pop("probes")
    record.write_text(json.dumps(content))
    run(1.0, resume=True)
    assert caplog.text.count("was begun by an earlier version, which kept no probe") == 1
    assert json.loads(record.read_text())["probes"] == probes
    record.write_text(json.dumps(content | {"probes": [probes[0] | {"trained": "AAAA"}]}))
    with pytest.raises(WrongUse, match=r"run\.json .* is damaged: probes: "):
        run(1.0, resume=True)


def swept(
    data: Labels, tmp_path: Path, *, resume: bool, plan: SweepPlan = OF_ONE_METHOD, progress: Progress = silent
) -> Sweep:
    train = tmp_path / "train"
    if not train.exists():
        shutil.copytree(data.images, train)
    return sweep(edited(1.0), data, str(train), tmp_path / "run", plan, resume=resume, progress=progress)


def images_of(made: Sweep) -> list[int]:
    return [row.result["images"] for row in made.rows]


def test_a_sweep_tries_again_the_images_that_failed_and_passes_no_other_one(
    data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = read_source, list[str]()

    def flaky(source: Source, spec: Any) -> Any:
        read.append(source.id)
        if read.count(source.id) == 1 and source.id == f"s{TEST[1]}":  # a disk that answers later
            raise OSError(5, "Input/output error")
        return real(source, spec)

    monkeypatch.setattr(labels, "read_source", flaky)
    made = swept(data, tmp_path, resume=False)
    assert (list(made.failed), images_of(made)) == ([f"s{TEST[1]}"], [2, 3])
    warning = f"1 image failed under some conditions only (s{TEST[1]})"
    assert any(line.startswith(warning) for line in made.warnings)
    assert read_entries(tmp_path / "run" / "manifest.jsonl")[f"s{TEST[1]}"]["status"] == "failed"
    assert (tmp_path / "run" / "state_clean_0.npz").exists()
    read[:] = [f"s{TEST[1]}"]
    made = swept(data, tmp_path, resume=True)
    assert read[1:] == [f"s{TEST[1]}"]
    assert (made.failed, images_of(made)) == ({}, [3, 3])
    assert not any("failed under" in line for line in made.warnings)
    assert read_entries(tmp_path / "run" / "manifest.jsonl")[f"s{TEST[1]}"]["status"] == "done"
    assert not (tmp_path / "run" / "state_clean_0.npz").exists()
    shutil.rmtree(tmp_path / "run")
    fresh = swept(data, tmp_path, resume=False)
    assert [row.result["scores"] for row in fresh.rows] == [row.result["scores"] for row in made.rows]


def test_a_sweep_goes_on_with_a_repaired_image_and_names_those_that_are_others(data: Labels, tmp_path: Path) -> None:
    label = Path(str(data.labels)) / f"s{TEST[1]}.png"
    whole = label.read_bytes()
    label.unlink()
    assert images_of(swept(data, tmp_path, resume=False)) == [2, 2]
    label.write_bytes(whole)
    made = swept(data, tmp_path, resume=True)
    assert (made.failed, images_of(made)) == ({}, [3, 3])
    for folder in (Path(str(data.images)), Path(str(data.labels))):
        shutil.copy(folder / f"s{TEST[1]}.png", folder / "another.png")
    write_png(label, 1 + 0 * read_label(label).astype(np.uint8))
    others = rf"other images: 1 changed or gone \(s{TEST[1]}\); 1 new \(another\)\. Put them back"
    record = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(WrongUse, match=others):
        swept(data, tmp_path, resume=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == record


def test_a_sweep_that_was_ended_within_a_condition_is_refused_with_other_images_and_stays_as_it_was(
    data: Labels, tmp_path: Path
) -> None:
    def cut(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(data, tmp_path, resume=False, progress=cut)
    assert (tmp_path / "run" / "state_clean_0.npz").exists()
    before = (tmp_path / "run" / "run.json").read_bytes()
    image = Path(str(data.images)) / f"s{TEST[0]}.png"
    image.rename(image.with_name("renamed.png"))
    label = Path(str(data.labels)) / f"s{TEST[0]}.png"
    label.rename(label.with_name("renamed.png"))
    with pytest.raises(WrongUse, match=rf"other images: 1 changed or gone \(s{TEST[0]}\)\."):
        swept(data, tmp_path, resume=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_the_sums_of_a_bank_whose_name_holds_a_bar_are_read_back(data: Labels, tmp_path: Path) -> None:
    path, label = tmp_path / "a|b.safetensors", Path(str(data.labels)) / f"s{TEST[1]}.png"
    save_bank(bank_of_toy(edited(1.0)), path)
    methods = replace(OF_ONE_METHOD.methods, methods=("deterministic", "mcbn"))
    asked = replace(OF_ONE_METHOD, shifts=(), methods=methods, banks=(str(path),))
    whole = label.read_bytes()
    label.unlink()
    assert images_of(swept(data, tmp_path, resume=False, plan=asked)) == [2, 2, 2]
    label.write_bytes(whole)
    assert images_of(swept(data, tmp_path, resume=True, plan=asked)) == [3, 3, 3]


def test_a_sweep_of_an_earlier_version_goes_on_with_the_same_images_only(
    data: Labels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It kept the content of all images as one setting, and no sums of a condition with images that failed."""
    label = Path(str(data.labels)) / f"s{TEST[1]}.png"
    whole = label.read_bytes()
    label.unlink()
    assert images_of(swept(data, tmp_path, resume=False)) == [2, 2]
    folder = tmp_path / "run"
    record = json.loads((folder / "run.json").read_text())
    sources = data.sources(edited(1.0))
    record["settings"][IMAGES] = joined(labels.contents_of(source) for source in sources)
    (folder / "run.json").write_text(json.dumps(record))
    for path in folder.glob("condition_*.json"):
        content = json.loads(path.read_text())
        assert len(content.pop("contents")) == 2
        path.write_text(json.dumps(content))
    for path in folder.glob("state_*.npz"):
        path.unlink()
    assert images_of(swept(data, tmp_path, resume=True)) == [2, 2]
    assert caplog.text.count("were kept: all images are scored again") == 2
    assert images_of(swept(data, tmp_path, resume=True)) == [2, 2]
    assert caplog.text.count("were kept: all images are scored again") == 2
    label.write_bytes(whole)
    with pytest.raises(WrongUse, match="other settings: images and labels: other files"):
        swept(data, tmp_path, resume=True)


def test_a_sweep_that_was_ended_before_its_manifest_goes_on_with_the_same_settings_only(
    data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its conditions would be read as those of the other settings."""
    monkeypatch.setattr(sweeping, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        swept(data, tmp_path, resume=False)
    monkeypatch.undo()
    with pytest.raises(WrongUse, match="already holds a run"):
        swept(data, tmp_path, resume=False)
    (tmp_path / "run" / "manifest.jsonl").unlink()  # as earlier versions left it
    with pytest.raises(WrongUse, match="void is none given there, 3 asked"):
        swept(data, tmp_path, resume=True, plan=replace(OF_ONE_METHOD, void=3))
    before = (tmp_path / "run" / "condition_clean_0.json").stat().st_mtime_ns
    assert images_of(swept(data, tmp_path, resume=True)) == [3, 3]
    assert (tmp_path / "run" / "condition_clean_0.json").stat().st_mtime_ns == before


def test_a_network_that_takes_none_of_the_probes_inputs_goes_on(
    data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(network: Network) -> None:
        raise ModelRefused(f"{network.name!r} accepts none of the probe's inputs.")

    monkeypatch.setattr("segment.files.runs.computation.probe_of", refused)
    for resume in (False, True):
        evaluate_into(edited(1.0), data, tmp_path / "run", plan=plan("deterministic"), resume=resume)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["probes"] == [None]


def test_what_was_validated_on_a_network_that_computes_something_else_is_not_used(
    data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first image is scored the folder holds no run yet, and may be begun anew."""
    held_out = written(tmp_path / "validation", VALIDATION[:2])

    def fitted(factor: float, folder: str) -> Any:
        made = evaluate_into(edited(factor), data, tmp_path / folder, plan=plan("temperature"), validation=held_out)
        return made.validation.as_dict()

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("segment.jobs.evaluate._scoring", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(1.0, "run")
    assert (tmp_path / "run" / "validation.json").exists()
    assert fitted(3.0, "run") == fitted(3.0, "fresh") != fitted(1.0, "other")


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
    whole = evaluate_into(network, data, tmp_path / "whole", plan=asked)
    real, calls = Board.add, [0]

    def torn(self: Board, *given: Any) -> None:
        real(self, *given)
        calls[0] += 1
        if calls[0] == 3:
            raise error

    monkeypatch.setattr(Board, "add", torn)
    with pytest.raises(error):
        evaluate_into(network, data, tmp_path / "run", plan=asked)
    monkeypatch.setattr(Board, "add", real)
    again = evaluate_into(network, data, tmp_path / "run", plan=asked, resume=True)
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


def test_images_of_two_folders_that_share_names_stay_apart_when_a_run_goes_on(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    folders = [Path(str(data.images)), tmp_path / "more"]
    for image in sorted(folders[0].iterdir()):
        write_png(folders[1] / image.name, 255 - read_source(Source("", image), network.input).pixels)
    bank, sources = random_bank(bn_network_of(network)), list[dict[str, str]]()
    for resume in (False, True):
        assert predict(network, folders, bank, tmp_path / "run", resume=resume).done == 6
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert "removed" not in record
        sources.append({id: line["source"] for id, line in read_entries(tmp_path / "run" / "manifest.jsonl").items()})
    assert sources[0] == sources[1] == record["sources"]
    assert len(set(sources[0].values())) == 6


def test_a_run_among_its_images_that_ends_before_its_first_line_takes_none_of_its_pictures(
    network: Network, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, bank = Path(str(data.images)), random_bank(bn_network_of(network))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunPlaces, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(network, images, bank, images / "run")
    assert any((images / "run").rglob("overlay.png"))
    with pytest.raises(WrongUse, match="already holds a run"):  # other pictures would stand beside those there
        predict(network, images, bank, images / "run", PredictPlan(maps=(), formats=("npz",)))
    assert predict(network, images, bank, images / "run", resume=True).done == 3


def test_other_versions_than_a_run_was_begun_with_are_named(
    network: Network, data: Labels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bank, run = random_bank(bn_network_of(network)), tmp_path / "run"
    for resume in (False, True):
        predict(network, data.images, bank, run, PredictPlan(maps=(), formats=("npz",)), resume=resume)
    assert "other versions" not in caplog.text
    record = json.loads((run / "run.json").read_text())
    now = record["versions"]["torch"]
    record["versions"] |= {"torch": "1.0.0", "tensorflow": "2"}
    (run / "run.json").write_text(json.dumps(record))
    predict(network, data.images, bank, run, PredictPlan(maps=(), formats=("npz",)), resume=True)
    assert (
        f"begun with other versions: torch 1.0.0 (now {now}), tensorflow 2 (now missing). Images that are made now"
        in caplog.text
    )
    assert json.loads((run / "run.json").read_text())["versions"]["torch"] == now


def test_a_run_that_is_refused_before_its_first_image_may_be_begun_anew(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    bank = random_bank(bn_network_of(network))
    with pytest.raises(OutOfMemory):
        predict(network, data.images, bank, tmp_path / "run", PredictPlan(memory="1MiB"))
    assert predict(network, data.images, bank, tmp_path / "run").done == 3


def test_a_run_goes_on_with_the_region_masks_that_its_list_has_now(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    bank, run = random_bank(bn_network_of(network)), tmp_path / "run"
    mask = np.zeros(SIZE, np.uint8)
    mask[:32] = 255
    write_png(tmp_path / "mask.png", mask)

    def hidden(cell: str, *, resume: bool = True) -> list[int]:
        rows = [f"{image},{cell}" for image in sorted(Path(str(data.images)).iterdir())]
        (tmp_path / "list.csv").write_text("\n".join(["image,mask", *rows]))
        predict(network, tmp_path / "list.csv", bank, run, PredictPlan(formats=("npz",)), resume=resume)
        maps = (np.load(run / id / "maps.npz")["variance"] for id in read_entries(run / "manifest.jsonl"))
        return [int(np.isnan(one).sum()) for one in maps]

    assert hidden("", resume=False) == [0] * 3
    assert hidden("mask.png") == [int((mask == 0).sum())] * 3
    assert hidden("") == [0] * 3


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
