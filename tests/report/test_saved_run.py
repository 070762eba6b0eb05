"""A run read back: lazily, with the values that were predicted, and refused in one line where there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from console import photographs
from plain import Toy, calibrated, noise, seeded
from small_networks import network_of
from torch import nn

import segment
from segment.errors import WrongUse
from segment.files.writing import write_png
from segment.images.find import find_images
from segment.images.read import read_image
from segment.images.specs import InputSpec
from segment.jobs.decisions.select import write_selection
from segment.jobs.report import report
from segment.networks.load import Network, load_network


@pytest.fixture(scope="module")
def network() -> Network:
    network = network_of()
    return replace(network, card=replace(network.card, classes=("sky", "road", "car", "tree")))


@pytest.fixture(scope="module")
def bank(network: Network) -> segment.Bank:
    return segment.fit_bank(network, noise(6, 3, 32, 48, seed=3), batch=2, draws=3)


@pytest.fixture(scope="module")
def folder(network: Network, bank: segment.Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    images = photographs(top / "images", 2, (32, 48))
    (images / "bad.png").write_bytes(b"no image")
    maps = ("prediction", "variance", "predictive_entropy", "probability")
    segment.predict(network, images, bank, top / "run", segment.PredictPlan(maps=maps, precision="fp32"))
    return top / "run"


def test_a_run_is_a_mapping_of_images_with_their_maps(folder: Path, network: Network, bank: segment.Bank) -> None:
    run = segment.load_run(folder)
    assert set(run) == {"a", "b", "bad"}
    estimate = segment.MCBN(network, bank, precision="fp32")(read_image(folder.parent / "images" / "a.png"))
    for name in ("variance", "predictive_entropy", "probability"):
        np.testing.assert_allclose(run["a"].maps[name], getattr(estimate, name).numpy(), atol=1e-6)
    assert np.array_equal(run["a"].prediction, estimate.prediction.numpy())
    assert np.array_equal(run["a"].image, read_image(folder.parent / "images" / "a.png"))
    assert run["a"].picture("overlay").shape == (32, 48, 3)
    assert run["bad"].status == "failed"
    assert run["bad"].error
    assert "does not decode" in run["bad"].error
    again = run["a"].estimate()
    np.testing.assert_array_equal(again.overlay(), run["a"].picture("overlay_uncertainty"))
    assert again.view is not None
    assert again.view.classes == run.classes == ("sky", "road", "car", "tree")
    rows = {row["id"]: row for row in run.table()}
    assert rows["a"]["mean.variance"] == pytest.approx(float(run["a"].maps["variance"].mean()), abs=1e-6)
    assert run._repr_png_() == (folder / "sheet.png").read_bytes()


class Banded(Toy):
    """A network of images of another number of bands."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 8, 3, padding=1)


@pytest.mark.parametrize("bands", [1, 4])
def test_an_image_of_a_run_without_pictures_is_shown_as_one_with_them(bands: int, tmp_path: Path) -> None:
    spec = InputSpec(channels=bands, white=10_200)
    network = load_network(calibrated(seeded(lambda: Banded(bands)), (64, 64), channels=bands))
    network = replace(network, card=replace(network.card, input=spec))
    bank = segment.fit_bank(network, noise(6, bands, 32, 48, seed=3), batch=2, draws=3)
    pixels = np.random.default_rng(0).integers(0, 10_200, (32, 48, bands)).astype(np.uint16)
    planes = None if bands == 1 else "contig"
    tifffile.imwrite(tmp_path / "a.tif", pixels.squeeze(), photometric="minisblack", planarconfig=planes)
    found = []
    for formats in (("png", "npz"), ("npz",)):
        plan = segment.PredictPlan(formats=formats, precision="fp32")
        segment.predict(network, tmp_path / "a.tif", bank, tmp_path / str(len(formats)), plan)
        found.append(segment.load_run(tmp_path / str(len(formats)))["a"])
    np.testing.assert_array_equal(found[0].image, found[1].image)
    assert found[1].image.shape == (32, 48, 3)
    np.testing.assert_array_equal(found[0].estimate().overlay(), found[1].estimate().overlay())
    report([found[1].run.folder], tmp_path / "report.html")


def test_every_image_of_files_that_a_caller_named_is_found_again(
    network: Network, bank: segment.Bank, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), dtype=np.uint8)
    paths = [tmp_path / folder / "stack.npz" for folder in "ab"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        np.savez(path, one=pixels[2 * number], two=pixels[2 * number + 1])
    plan = segment.PredictPlan(precision="fp32")
    (second,) = (source for source in find_images(paths[1]) if source.part == "two")
    segment.predict(network, [paths[0], second], bank, tmp_path / "run", plan)
    for more in (0, 1):
        write_png(tmp_path / f"{more}.png", pixels[4 + more])
        paths.append(tmp_path / f"{more}.png")
        segment.predict(network, paths, bank, tmp_path / "run", plan, resume=True)
    run = segment.load_run(tmp_path / "run")
    expected = {"stack/one": 0, "stack/two": 1, "stack/one-2": 2, "stack/two-2": 3, "0": 4, "1": 5}
    assert set(run) == set(expected)
    for id, number in expected.items():
        np.testing.assert_array_equal(run[id].image, pixels[number])
    assert len(segment.select(tmp_path / "run", top=6, unlike=True).images) == 6


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_images_whose_names_are_not_utf_8_are_found_again(
    network: Network, bank: segment.Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = photographs(tmp_path / os.fsdecode(b"photos\xfc"), 3, (32, 48))
    for image, name in zip(sorted(images.iterdir()), (b"caf\xe9.png", rb"bar\xe9.png", b"a\\b.png"), strict=True):
        image.rename(images / os.fsdecode(name))
    monkeypatch.chdir(images)
    plan = segment.PredictPlan(maps=("predictive_entropy",), precision="fp32")
    segment.predict(network, ".", bank, tmp_path / "run", plan)
    write_selection(segment.select(tmp_path / "run", top=3), tmp_path / "selected.csv")
    assert segment.predict(network, tmp_path / "selected.csv", bank, tmp_path / "again", plan).done == 3
    monkeypatch.chdir(tmp_path)
    for run in map(segment.load_run, (tmp_path / "run", tmp_path / "again")):
        assert set(run) == {"caf%E9", "bar_xe9", "a_b"}
        assert all(image.image.shape == (32, 48, 3) for image in run.values())


def test_nothing_but_the_manifest_is_read_before_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    for name in ("run.json", "manifest.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run = segment.load_run(tmp_path)  # whose maps are not there
    assert "3 images, 1 failed; T = 3; 4 classes" in repr(run)
    assert len(repr(run).splitlines()) == 1
    assert "variance" in repr(run["a"])
    with pytest.raises(WrongUse, match=r"maps\.npz"):
        run["a"].maps["variance"]


def test_maps_come_from_pictures_where_no_archive_was_written(
    network: Network, bank: segment.Bank, folder: Path, tmp_path: Path
) -> None:
    plan = segment.PredictPlan(formats=("png",), precision="fp32")
    segment.predict(network, folder.parent / "images" / "a.png", bank, tmp_path / "png", plan)
    image = next(iter(segment.load_run(tmp_path / "png").values()))
    exact = segment.load_run(folder)["a"]
    assert np.array_equal(image.prediction, exact.prediction)
    np.testing.assert_allclose(image.maps["variance"], exact.maps["variance"], atol=1e-5)
    with pytest.raises(KeyError, match=r"No map 'varience' was written\. Near: 'variance'"):
        image.maps["varience"]


def test_classes_without_names_are_those_of_the_network_and_not_those_that_the_first_image_shows(
    bank: segment.Bank, tmp_path: Path
) -> None:
    images = photographs(tmp_path / "images", 2, (32, 48))
    unnamed = network_of()
    segment.predict(unnamed, images, bank, tmp_path / "run", segment.PredictPlan(precision="fp32", formats=("npz",)))
    run = segment.load_run(tmp_path / "run")
    assert run.classes == ("class 0", "class 1", "class 2", "class 3")
    for image in run.values():
        path = tmp_path / "run" / image.id / "maps.npz"
        arrays = dict(np.load(path))
        np.savez(path, **(arrays | {"prediction": np.zeros_like(arrays["prediction"])}))  # class 0 alone
        write_png(tmp_path / "labels" / f"{image.id}.png", np.tile(np.repeat([0, 3], 24), (32, 1)).astype(np.uint8))
    assert set(np.unique(next(iter(segment.load_run(tmp_path / "run").values())).prediction)) == {0}
    report([tmp_path / "run"], tmp_path / "page.html", labels=str(tmp_path / "labels"))
    found = re.search(r"Of the labelled pixels of 2 images, \D*([\d.]+) %", (tmp_path / "page.html").read_text())
    assert found is not None
    assert found[1] == "50.0"


def test_a_run_that_records_no_classes_is_not_given_any(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["settings"]["card"]["classes"] = record["classes"] = []
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    run = segment.load_run(tmp_path / "run")
    assert len(repr(run).splitlines()) == 1
    with pytest.raises(WrongUse, match="does not record the classes of its network"):
        run["a"].estimate()


def test_an_evaluation_gives_its_scores_and_rows(network: Network, bank: segment.Bank, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 2, (32, 48))
    for name in ("a", "b"):
        write_png(tmp_path / "labels" / f"{name}.png", np.full((32, 48), 1, np.uint8))
    labels = segment.Labels(images, tmp_path / "labels")
    evaluation = segment.evaluate(network, labels, bank=bank, output=tmp_path / "scores")
    text = repr(evaluation)
    assert 1 < len(text.splitlines()) <= 10
    assert "NLL" in text
    run = segment.load_run(tmp_path / "scores")
    assert run.scores == evaluation.scores
    assert {row["id"] for row in run.per_image} == {"a", "b"}
    assert "scores of mcbn, deterministic" in repr(run)


def test_a_folder_without_a_run_and_a_damaged_one_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WrongUse, match="holds no run"):
        segment.load_run(tmp_path)
    with pytest.raises(WrongUse, match=r"nope.json' is not there"):
        segment.load_run(tmp_path / "nope.json")
    with pytest.raises(WrongUse, match="give the folder that holds it"):
        segment.load_run(folder / "run.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(WrongUse, match=r"run.json' is damaged or of another version: .*Run the command again"):
        segment.load_run(tmp_path)
    for content in ('{"settings": []}', '{"settings": {"card": null}}', '{"fingerprints": null}', '{"plan": 1}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(WrongUse, match=r"run.json' is damaged"):
            segment.load_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "per_image.csv").write_bytes(b"id,dice\na,\xff\n")
    with pytest.raises(WrongUse, match=r"per_image.csv' does not read: .* Run the evaluation again"):
        _ = segment.load_run(tmp_path).per_image
    (tmp_path / "manifest.jsonl").write_text("no json\n")
    with pytest.raises(WrongUse, match="is damaged in line 1"):
        segment.load_run(tmp_path)
