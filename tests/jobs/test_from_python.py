"""What a caller holds in Python gives the numbers of the same files, from the documented lines."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_scenes import written
from numpy.typing import NDArray
from PIL import Image
from plain import Toy, calibrated, seeded
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, WeightedRandomSampler

import segment
from segment.draws.image_pool import ImagePool
from segment.errors import BankRefused, WrongUse, warn_once
from segment.images.specs import InputSpec
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.inspect import inspect_network
from segment.jobs.report import report
from segment.jobs.sweeping.grid import Grid
from segment.networks.given import network_of
from segment.scenes.scene import TRAIN, VALIDATION, scene

SIZE, MEAN, STD = (32, 40), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPEC = InputSpec(mean=MEAN, std=STD)
RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(5)]
LABELS = [RNG.integers(0, 4, SIZE) for _ in range(5)]


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    return network_of(Toy(), mean=MEAN, std=STD).accept.batch(pixels)[0][0]


class Scans(Dataset[Any]):
    """Samples of one of the usual forms."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Any:
        image, label = normalised(PIXELS[index]), torch.from_numpy(LABELS[index])
        return {"tensor": image, "pair": (image, label), "dictionary": {"image": image, "label": label}}[self.form]


@pytest.fixture
def module() -> Toy:
    return calibrated(seeded(Toy), SIZE)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        for name, array in (("images", pixels), ("labels", label.astype(np.uint8))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    return tmp_path


def every_form(files: Path) -> Iterator[tuple[str, Any]]:
    yield "a folder", str(files / "images")
    yield "a path", files / "images"
    yield "a list of paths", sorted((files / "images").iterdir())
    yield "a list of texts", sorted(map(str, (files / "images").iterdir()))
    yield "an array of texts", np.array(sorted(map(str, (files / "images").iterdir())))
    yield "an array of paths", np.array(sorted((files / "images").iterdir()), dtype=object)
    yield "arrays", PIXELS
    yield "one array", np.stack(PIXELS)
    yield "Pillow images", [Image.fromarray(pixels) for pixels in PIXELS]
    yield "uint8 tensors", [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in PIXELS]
    yield "a tensor", torch.stack([normalised(pixels) for pixels in PIXELS])
    yield "a generator", (pixels for pixels in PIXELS)
    for form in ("tensor", "pair", "dictionary"):
        yield f"a Dataset of {form}", Scans(form)
        yield f"a DataLoader of {form}", DataLoader(Scans(form), batch_size=2)
        yield f"a DataLoader with its own collation of {form}", DataLoader(Scans(form), batch_size=2, collate_fn=list)
        yield f"batches of {form}", iter(list(DataLoader(Scans(form), batch_size=2)))


def test_images_of_any_form_enter_a_mini_batch_as_the_same_numbers(module: Toy, files: Path) -> None:
    network = network_of(module, mean=MEAN, std=STD)
    count = 0
    for form, images in every_form(files):
        pool = ImagePool(network, images)
        assert len(pool) == len(PIXELS), form
        for index, pixels in enumerate(PIXELS):
            assert torch.equal(pool.prepared(index, seed=7), normalised(pixels)), form
        count += 1
    assert count == 24


def test_a_bank_of_a_loader_is_that_of_the_files(module: Toy, files: Path) -> None:
    of_files, of_loader = (
        segment.fit_bank(module, images, batch=2, draws=2, mean=MEAN, std=STD)
        for images in (files / "images", DataLoader(Scans("pair"), batch_size=2, shuffle=True))
    )
    for name in of_files.layers:
        assert torch.equal(of_files.mean[name], of_loader.mean[name])


def samplers() -> dict[str, DataLoader[Any]]:
    """Loaders of samples 1, 2 and 4 alone, and of some twice."""
    scans, own = Scans("pair"), torch.Generator().manual_seed(0)
    few = (1, 4, 2)
    return {
        "subset": DataLoader(scans, batch_size=2, sampler=SubsetRandomSampler(few, generator=own)),
        "list": DataLoader(scans, batch_size=2, sampler=few),
        "batches": DataLoader(scans, batch_sampler=[[1, 4], [2]]),
        "weights": DataLoader(scans, batch_size=2, sampler=WeightedRandomSampler([0, 1, 1, 0, 1], 6)),
    }


@pytest.mark.parametrize("name", list(samplers()))
def test_of_a_loader_only_what_its_sampler_gives_is_taken(module: Toy, name: str) -> None:
    loader = samplers()[name]
    normalisation: dict[str, Any] = {"mean": MEAN, "std": STD}
    own: torch.Generator | None = getattr(loader.sampler, "generator", None)
    before = torch.empty(0) if own is None else own.get_state()
    bank = segment.fit_bank(module, loader, batch=2, draws=2, **normalisation)
    scores = segment.evaluate(module, loader, bank=bank, methods=("deterministic",), **normalisation)
    taken = {"weights": 6}.get(name, 3)
    assert bank.provenance["images"] == scores.scores["images"] == taken
    pool = ImagePool(network_of(module, **normalisation), loader)
    found = {
        next(at for at, pixels in enumerate(PIXELS) if torch.equal(image, normalised(pixels)))
        for image in (pool.prepared(index, 0) for index in range(len(pool)))
    }
    assert found <= {1, 2, 4}
    if own is not None:
        assert torch.equal(own.get_state(), before)


def test_a_loader_that_drops_its_last_batch_or_shuffles_is_its_whole_dataset(module: Toy) -> None:
    network = network_of(module, mean=MEAN, std=STD)
    for loader in (
        DataLoader(Scans("pair"), batch_size=3, drop_last=True),
        DataLoader(Scans("pair"), batch_size=2, shuffle=True),
        DataLoader(Scans("pair"), batch_size=None),
    ):
        pool = ImagePool(network, loader)
        assert len(pool) == len(PIXELS)
        assert all(torch.equal(pool.prepared(at, 0), normalised(pixels)) for at, pixels in enumerate(PIXELS))


def test_mcbn_takes_the_banks_file_and_images_of_any_form(module: Toy, files: Path) -> None:
    path = files / "bank.safetensors"
    segment.save_bank(segment.fit_bank(module, PIXELS, batch=2, draws=2, mean=MEAN, std=STD), path)
    mcbn = segment.MCBN(module, str(path), mean=MEAN, std=STD, channels="RGB", precision="fp32")
    expected = mcbn(PIXELS[0]).probability
    for image in (files / "images" / "0.png", str(files / "images" / "0.png"), Image.fromarray(PIXELS[0])):
        assert torch.equal(mcbn(image).probability, expected)
    assert torch.equal(mcbn(normalised(PIXELS[0])).probability, expected)
    assert mcbn([PIXELS[0], files / "images" / "1.png"]).probability.shape == (2, 4, *SIZE)
    assert torch.equal(mcbn(np.array([str(files / "images" / "0.png")])).probability[0], expected)


@pytest.mark.parametrize("form", ["loader", "own collation"])
def test_an_evaluation_of_a_loader_has_the_scores_of_the_files(module: Toy, files: Path, form: str) -> None:
    given: Any = {
        "loader": DataLoader(Scans("pair"), batch_size=2),
        "own collation": DataLoader(Scans("dictionary"), batch_size=2, collate_fn=list),
    }[form]
    bank = segment.fit_bank(module, PIXELS, batch=2, draws=2, mean=MEAN, std=STD)
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "bank": bank, "methods": ("deterministic", "mcbn")}
    found = segment.evaluate(module, given, **options)
    expected = segment.evaluate(module, str(files / "images"), files / "labels", output=files / "scores", **options)
    assert found.scores["images"] == 5
    assert not found.failed
    assert found.folder is None
    assert not any("numbered as frames" in line for line in found.scores.get("warnings", ())), "the numbers are ours"
    assert repr(found).partition("\n")[0].endswith("5 images, 0 failed")
    assert f"0 failed, in {files / 'scores'}" in repr(expected)
    for method in ("deterministic", "mcbn"):
        scores = found.scores["methods"][method]["scores"]
        for name in ("nll", "miou", "accuracy", "brier", "error_auroc.predictive_entropy"):
            wanted = expected.scores["methods"][method]["scores"][name]["value"]
            assert scores[name]["value"] == pytest.approx(wanted, abs=1e-12), (method, name)


def test_a_dataset_that_augments_gives_one_bank_by_its_seed_and_leaves_the_generators(module: Toy) -> None:
    class Random(Scans):
        def __getitem__(self, index: int) -> Tensor:
            return normalised(PIXELS[index]) + torch.randn(()) + float(np.random.normal())  # noqa: NPY002

    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first, second = (segment.fit_bank(module, Random("tensor"), batch=2, draws=3, mean=MEAN, std=STD) for _ in "ab")
    other = segment.fit_bank(module, Random("tensor"), batch=2, draws=3, seed=1, mean=MEAN, std=STD)
    assert torch.equal(first.mean["bn1"], second.mean["bn1"])
    assert not torch.equal(first.mean["bn1"], other.mean["bn1"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])  # noqa: NPY002


def test_a_bare_module_given_pixels_is_told_once_what_happens_to_them(
    module: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        bank = segment.fit_bank(module, PIXELS, batch=2, draws=2)
        segment.MCBN(module, bank)(PIXELS[0])
    warnings = [message for message in caplog.messages if "how the images of Toy were prepared" in message]
    assert len(warnings) == 1
    assert "RGB pixels divided by 255, neither mean nor std" in warnings[0]
    warn_once.cache_clear()
    caplog.clear()
    segment.fit_bank(module, PIXELS, batch=2, draws=2, mean=MEAN, std=STD)
    segment.fit_bank(module, torch.stack([normalised(pixels) for pixels in PIXELS]), batch=2, draws=2)
    assert not [message for message in caplog.messages if "were prepared" in message]


def test_what_is_said_twice_or_does_not_fit_is_refused(module: Toy) -> None:
    network = segment.load_network("segment:tiny?classes=3")
    with pytest.raises(WrongUse, match=r"the card of 'segment:tiny\?classes=3' says: RGB pixels divided by 255"):
        network_of(network, mean=MEAN)
    with pytest.raises(WrongUse, match="mean has 2 numbers for 3 channels"):
        network_of(module, mean=(0.1, 0.2))
    with pytest.raises(WrongUse, match="without an image: it has 'scan'"):
        segment.fit_bank(module, [{"scan": 1}, {"scan": 2}].__iter__(), batch=1)
    with pytest.raises(WrongUse, match=r"has no label map: give \(image, label\)"):
        segment.evaluate(module, [PIXELS[0]], mean=MEAN, std=STD)


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray", "L", "BGRA", "3", 0, (), ("red", "red", "nir"), True])
def test_channels_of_another_name_are_refused_and_not_taken_as_grey(module: Toy, channels: Any) -> None:
    with pytest.raises(WrongUse, match=r"^channels=.*: (it is RGB, BGR, grey, a number|two channels have the same)"):
        network_of(module, channels=channels)
    assert network_of(module, channels=["red", "green", "nir"]).input.channels == ("red", "green", "nir")


def test_the_whole_preprocessing_is_stated(module: Toy) -> None:
    network = network_of(module, mean=MEAN, std=STD, channels="BGR")
    sentence = "BGR pixels divided by 255, minus mean (0.4, 0.5, 0.6), divided by std (0.2, 0.25, 0.3)"
    assert network.input.sentence == sentence
    assert sentence in repr(network)


def test_the_public_names_of_jobs_are_there(files: Path, module: Toy) -> None:
    bank = segment.fit_bank(module, PIXELS, batch=2, draws=2)
    segment.predict(segment.load_network(module), files / "images", bank, files / "run")
    assert len(segment.select(files / "run", top=3).images) == 3
    assert callable(segment.sweep)
    listed = files / "select.csv"
    listed.write_text(segment.select(files / "run", top=2).csv())
    again = segment.predict(segment.load_network(module), listed, bank, files / "again")
    assert (again.done, len(again.failed)) == (2, 0)


def test_predict_takes_a_module_with_its_preprocessing_and_the_banks_file(module: Toy, files: Path) -> None:
    stated: dict[str, Any] = {"mean": MEAN, "std": STD}
    bank = segment.fit_bank(module, PIXELS, batch=2, draws=2, **stated)
    segment.save_bank(bank, files / "bank.safetensors")
    plan = segment.PredictPlan(precision="fp32")
    of_file = segment.predict(module, files / "images", files / "bank.safetensors", files / "of_file", plan, **stated)
    segment.predict(network_of(module, **stated), files / "images", bank, files / "loaded", plan)
    assert of_file.done == 5
    expected = segment.load_run(files / "loaded")
    for name, image in segment.load_run(files / "of_file").items():
        np.testing.assert_array_equal(image.prediction, expected[name].prediction)
    with pytest.raises(BankRefused, match="another preprocessing"):
        segment.predict(module, files / "images", str(files / "bank.safetensors"), files / "unstated", plan)


def test_predict_takes_a_list_of_paths_and_refuses_arrays(module: Toy, files: Path, tmp_path: Path) -> None:
    bank = segment.fit_bank(module, files / "images", batch=2, draws=2)
    paths = sorted((files / "images").iterdir())
    done = segment.predict(module, [paths[0], str(paths[1])], bank, tmp_path / "run", segment.PredictPlan(maps=()))
    assert (done.done, done.failed) == (2, {})
    with pytest.raises(WrongUse, match="this list holds a ndarray: give paths, or call MCBN"):
        segment.predict(module, [np.zeros((8, 8, 3), np.uint8)], bank, tmp_path / "arrays")  # type: ignore[list-item]
    with pytest.raises(WrongUse, match="the list is empty"):
        segment.predict(module, [], bank, tmp_path / "nothing")
    with pytest.raises(WrongUse, match=r"not a dict\. Give the module or its URI"):
        segment.load_network(dict(module.state_dict()))  # type: ignore[arg-type]


def test_jobs_take_a_uri_and_the_banks_file(tmp_path: Path) -> None:
    uri, path = "scenes", str(tmp_path / "bank.safetensors")
    pixels = [scene(seed).image for seed in TRAIN[:8]]
    segment.save_bank(segment.fit_bank(uri, pixels, batch=4, draws=3), path)
    small = tmp_path / "small.safetensors"
    segment.distill_bank(uri, path, pixels, draws=2, views=2, held_out=1, steps=0, output=str(small))
    assert len(segment.load_bank(small)) == 2
    labels = written(tmp_path, VALIDATION[:4])
    plan = segment.SweepPlan(grid=Grid(batches=(2,), draws=(2,), transforms=("plain",)), banks=(path,))
    swept = segment.sweep(uri, labels, str(labels.images), tmp_path / "sweep", plan)
    assert {row.method for row in swept.rows} == {"deterministic", "mcbn", "mean_statistics"}
    segment.predict(uri, labels.images, path, tmp_path / "run")
    assert len(segment.select(tmp_path / "run", top=2, unlike=True, network=uri).images) == 2
    first = next(iter(segment.load_run(tmp_path / "run")))
    report([tmp_path / "run"], tmp_path / "run.html", flip_book=[first], network=uri, bank=path)
    with pytest.raises(WrongUse, match="or its file, not a list"):
        segment.predict(uri, labels.images, [path], tmp_path / "listed")  # type: ignore[arg-type]


def test_attributes_named_like_methods_of_torchs_change_no_number(module: Toy, tmp_path: Path) -> None:
    named = copy.deepcopy(module)
    for name in ("modules", "parameters", "buffers", "named_modules", "named_parameters"):
        setattr(named, name, ["conv1", "bn1"])
    labels = list(zip(PIXELS, LABELS, strict=True))
    plan = segment.EvaluatePlan(methods=MethodPlan(methods=("deterministic", "dropout"), draws=2, precision="fp32"))
    found: list[Any] = []
    for network in (segment.load_network(module), segment.load_network(named)):
        bank = segment.fit_bank(network, PIXELS, batch=2, draws=2)
        segment.distill_bank(network, bank, PIXELS, draws=1, views=2, held_out=1, steps=1)
        folder = tmp_path / str(len(found))
        written_by = segment.PredictPlan(tile=160, precision="fp32", formats=("npz",))
        segment.predict(network, written(folder / "images", VALIDATION[:1]).images, bank, folder / "run", written_by)
        found.append(
            (
                inspect_network(network, size=SIZE).parameters,
                segment.MCBN(network, bank, memory="100GiB")(PIXELS[0]).probability.tolist(),
                segment.load_run(folder / "run").table()[0]["mean.variance"],
                segment.evaluate(network, labels, plan=plan).scores["methods"]["dropout"]["scores"],
            )
        )
    assert found[0] == found[1]


def test_export_takes_a_module_with_its_preprocessing_and_the_banks_file(module: Toy, files: Path) -> None:
    pytest.importorskip("onnxruntime")
    stated: dict[str, Any] = {"mean": MEAN, "std": STD}
    path = files / "bank.safetensors"
    segment.save_bank(segment.fit_bank(module, PIXELS, batch=2, draws=2, **stated), path)
    assert segment.export(module, path, files / "mcbn.onnx", **stated).draws == 2
