"""Laws of `segment select`: all images written, as many shown as asked, diverse ones, windows with their crops."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from console import invoked
from labelled_scenes import SIZE, bank_of_scenes, written
from PIL import Image
from plain import seeded
from torch import Tensor, nn

from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.files.banks.bank_file import save_bank
from segment.files.writing import write_png
from segment.images.find import find_images, images_by_id
from segment.images.listing.parts import Listing
from segment.images.read import read_image, read_source
from segment.images.specs import InputSpec
from segment.jobs.decisions import regions
from segment.jobs.decisions.features import BottleneckFeatures
from segment.jobs.decisions.regions import select_regions, write_regions
from segment.jobs.decisions.run_table import run_table
from segment.jobs.decisions.select import select, write_selection
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.cards import Card
from segment.networks.load import Network, load_network
from segment.ranking.diversity import diverse
from segment.report.run_files.saved_run import SavedRun, load_run
from segment.scenes.scene import TEST, VALIDATION
from segment.stores.requests import files_below, put, remove

PLAN = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("predictive_entropy",), precision="fp32"))


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, draws=2)


@pytest.fixture(scope="module")
def runs(network: Network, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data, validation = written(folder / "data", TEST[:8]), written(folder / "validation", VALIDATION[:22])
    evaluate_into(network, data, folder / "scores", banks=[bank], plan=PLAN, validation=validation)
    predict(network, data.images, bank, folder / "maps", PredictPlan(maps=("predictive_entropy",), precision="fp32"))
    return folder


def test_an_evaluation_with_validation_images_is_ranked_by_what_ranked_those_best(runs: Path) -> None:
    ranking = json.loads((runs / "scores" / "ranking.json").read_text(), parse_constant=pytest.fail)
    best = ranking["methods"]["mcbn"]["best"]["dice"]
    selection = select(runs / "scores", 3)
    assert selection.by == best["column"]
    assert "22 validation images" in selection.why
    rows = list(csv.DictReader((runs / "scores" / "per_image.csv").read_text().splitlines()))
    assert "predicted_dice" in rows[0]
    values = [image[2] for image in (*selection.images, *selection.rest) if image[2] is not None]
    assert len(values) == 8
    grows = best["column"] in ("predicted_dice", "soft_dice", "expected_miou", "expected_accuracy")
    assert values == sorted(values, reverse=not grows)


@pytest.fixture(scope="module")
def evaluated(runs: Path) -> dict[str, dict[str, str]]:
    lines = csv.DictReader((runs / "scores" / "per_image.csv").read_text().splitlines())
    return {line["id"]: line for line in lines}


def test_a_predict_run_keeps_the_numbers_that_an_evaluation_of_its_images_has(
    runs: Path, evaluated: dict[str, dict[str, str]]
) -> None:
    table = run_table(runs / "maps")
    assert len(table.rows) == 8
    for name, row in table.rows.items():
        assert {"soft_dice", "expected_miou", "interior.predictive_entropy", "patch.predictive_entropy"} <= set(row)
        assert any(column.startswith("soft_dice.") for column in row)
        for column, value in row.items():
            assert value == pytest.approx(float(evaluated[name][column]), rel=1e-3, abs=1e-5), column


def test_a_predict_run_is_ranked_by_what_an_evaluation_fitted_on_its_validation_images(
    runs: Path, evaluated: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    content = json.loads((runs / "scores" / "ranking.json").read_text())
    of = content["methods"]["mcbn"]
    of["best"]["dice"] = {"column": "predicted_dice", "why": "it was fitted"}
    (tmp_path / "ranking.json").write_text(json.dumps(content))
    shutil.copy(runs / "scores" / "run.json", tmp_path)
    selection = select(runs / "maps", 3, ranking=tmp_path)
    assert selection.by == "predicted_dice"
    for name, _, value in (*selection.images, *selection.rest):
        assert value == pytest.approx(float(evaluated[name]["predicted_dice"]), abs=1e-4)
    assert invoked("select", runs / "maps", "--ranking", runs / "scores", "--top", 2).exit_code == 0
    of["predictors"]["dice"]["features"][0] = "mean.margin"
    (tmp_path / "ranking.json").write_text(json.dumps(content))
    with pytest.raises(WrongUse, match=r"lacks 1 numbers.*'mean.margin'. Predict with these among --maps: margin"):
        select(runs / "maps", 3, ranking=tmp_path)
    with pytest.raises(WrongUse, match="has no method 'dropout'"):
        select(runs / "maps", 3, ranking=tmp_path, method="dropout")
    with pytest.raises(WrongUse, match="an evaluation has its own"):
        select(runs / "scores", 3, ranking=tmp_path)
    with pytest.raises(
        WrongUse, match=r"ranking.json' cannot be read: .* Give --ranking a folder of `segment evaluate`"
    ):
        select(runs / "maps", 3, ranking=runs)


def test_an_evaluation_of_another_network_ranks_no_run_and_one_by_another_bank_does(runs: Path, tmp_path: Path) -> None:
    shutil.copy(runs / "scores" / "ranking.json", tmp_path)
    record = json.loads((runs / "scores" / "run.json").read_text())
    settings = record["settings"]
    (tmp_path / "run.json").write_text(json.dumps(record | {"settings": settings | {"banks": ["another"]}}))
    assert select(runs / "maps", 3, ranking=tmp_path).images == select(runs / "maps", 3, ranking=runs / "scores").images
    (tmp_path / "run.json").write_text(json.dumps(record | {"settings": settings | {"network": "0" * 64}}))
    with pytest.raises(WrongUse, match=r"is of another network, 'scenes', whose ranking says nothing of this run's"):
        select(runs / "maps", 3, ranking=tmp_path)


def test_means_without_a_border_are_ranked_by_no_evaluation_of_whole_images(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "maps", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["settings"]["border"] = 8
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    content = json.loads((runs / "scores" / "ranking.json").read_text())
    content["methods"]["mcbn"]["best"]["dice"] = {"column": "mean.predictive_entropy", "why": "it ranks"}
    (tmp_path / "ranking.json").write_text(json.dumps(content))
    shutil.copy(runs / "scores" / "run.json", tmp_path)
    with pytest.raises(WrongUse, match=r"border of 8 pixels out .* 'mean.predictive_entropy' of whole images"):
        select(tmp_path / "run", 3, ranking=tmp_path)
    assert select(tmp_path / "run", 3, by="mean.predictive_entropy").images
    content["methods"]["mcbn"]["best"]["dice"]["column"] = "expected_accuracy"
    (tmp_path / "ranking.json").write_text(json.dumps(content))
    assert select(tmp_path / "run", 3, ranking=tmp_path).images, "not a measure: it is of the whole image"


def test_the_maps_of_a_column_that_the_run_lacks_are_named(runs: Path, tmp_path: Path) -> None:
    content = json.loads((runs / "scores" / "ranking.json").read_text())
    shutil.copy(runs / "scores" / "run.json", tmp_path)
    for column, advice in (("interior.variance", " Predict with these among --maps: variance."), ("soft_dice.x", "")):
        content["methods"]["mcbn"]["best"]["dice"] = {"column": column, "why": "it ranks"}
        (tmp_path / "ranking.json").write_text(json.dumps(content))
        with pytest.raises(WrongUse, match=rf"that rank its images, as '{column}'\.{advice}$"):
            select(runs / "maps", 3, ranking=tmp_path)


@pytest.mark.parametrize("name", ["manifest.jsonl", "regions.csv", "mine.csv", "empty.csv"])
def test_a_selection_replaces_only_a_selection(runs: Path, tmp_path: Path, name: str) -> None:
    texts = {"regions.csv": "rank,id,source,top,left,height,width,mean,crop\n", "mine.csv": "id\n", "empty.csv": ""}
    text = texts.get(name, '{"id": "a"}\n')
    path = tmp_path / name
    path.write_text(text)
    for output in (path, path.with_name(f"{path.stem.removesuffix('_all')}x{path.suffix}")):
        if output != path:  # the file of all images would replace one
            path = path.replace(output.with_name(f"{output.stem}_all{output.suffix}"))
        ended = invoked("select", runs / "maps", "--top", 2, "-o", output)
        assert isinstance(ended.exception, WrongUse), ended.output
        there = output.exists() or output.suffix == ".csv"
        assert ("is no selection of images" if there else "add the suffix .csv") in str(ended.exception)
        assert [file.read_text() for file in tmp_path.iterdir()] == [text]
    path.unlink()
    for top in (2, 3):
        assert invoked("select", runs / "maps", "--top", top, "-o", tmp_path / "s.csv").exit_code == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 4


def test_images_without_the_column_are_listed_and_named(runs: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(runs / "maps", copied)
    lines = [json.loads(line) for line in (copied / "manifest.jsonl").read_text().splitlines()]
    names = sorted({line["id"] for line in lines})
    for line in lines:
        if line["id"] == names[4]:  # as of a mask whose regions are all narrower than 5 pixels
            del line["predictive_entropy"]["interior"]
        if line["id"] == names[2]:  # as of an image that was too large for memory
            del line["predictive_entropy"]["interior"], line["predictive_entropy"]["patch"]
    (copied / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = select(copied, 2, by="interior.predictive_entropy")
    assert select(copied, 2, by="interior_predictive_entropy") == found, "as images.csv spells it"
    order = [name for name, *_ in (*found.images, *found.rest)]
    assert sorted(order) == names
    assert (order[0], order[-1]) == (names[4], names[2])
    ended = invoked("select", copied, "--by", "interior.predictive_entropy", "--top", 2)
    said = " ".join(ended.stdout.split())
    assert "The first 2 of 8" in said
    assert f"no region of the mask has an interior, listed as the most uncertain: {names[4]}." in said
    assert f"1 image without interior.predictive_entropy, listed as the least uncertain: {names[2]}." in said
    rows = list(csv.DictReader((copied / "select_all.csv").read_text().splitlines()))
    assert [row["interior.predictive_entropy"] == "" for row in rows] == [True, *[False] * 6, True]


@pytest.mark.parametrize(("column", "worst_is_large"), [("accuracy", False), ("soft_dice", False), ("nll", True)])
def test_the_worst_images_come_first_by_every_column(runs: Path, column: str, worst_is_large: bool) -> None:  # noqa: FBT001
    lines = run_table(runs / "scores").rows
    names = [column, *(name for name in next(iter(lines.values())) if name.startswith(f"{column}."))]
    for name in names:
        found = select(runs / "scores", 3, by=name)
        numbers = [value for *_, value in (*found.images, *found.rest) if value is not None]
        assert numbers == sorted(numbers, reverse=worst_is_large), name
    with pytest.raises(WrongUse, match="ranks none"):
        select(runs / "scores", 3, by="pixels")


def test_as_many_are_shown_as_asked_and_all_are_written(runs: Path, tmp_path: Path) -> None:
    ended = invoked("select", runs / "scores", "--top", 3, "-o", tmp_path / "some.csv")
    assert ended.exit_code == 0, ended.output
    assert "The first 3 of 8" in ended.stdout
    assert len((tmp_path / "some.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "some_all.csv").read_text().splitlines()) == 9


def test_diverse_images_are_other_ones_and_the_first_stays(runs: Path) -> None:
    plain, unlike = select(runs / "maps", 2), select(runs / "maps", 2, unlike=True)
    assert unlike.images[0] == plain.images[0]
    assert len(unlike.images) == 2
    assert len({image[0] for image in (*unlike.images, *unlike.rest)}) == 8
    assert "unlike one another" in unlike.why


class Pooled(nn.Module):
    """Its smallest map is the mean of 4 x 4 pixels, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.smallest = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.smallest.running_mean = torch.tensor([0.1, 0.2, 0.3])
        self.smallest.running_var = torch.tensor([4.0, 1.0, 0.25])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.smallest(nn.functional.avg_pool2d(self.first(x), 4)), scale_factor=4)


def test_features_are_the_means_of_the_smallest_map_and_leave_the_network_as_it_was(tmp_path: Path) -> None:
    network = load_network(Pooled())
    features = BottleneckFeatures(network)
    assert features.layer == "smallest"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    found = features(*find_images(tmp_path / "a.png"))
    means = pixels.mean(axis=(0, 1)) / 255
    expected = (means - [0.1, 0.2, 0.3]) / np.sqrt([4.0, 1.0, 0.25])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not any(part._forward_hooks for part in network.module.modules())
    frames = [Image.fromarray(np.full((32, 48, 3), value, np.uint8)) for value in (0, 255)]
    frames[0].save(tmp_path / "f.gif", save_all=True, append_images=frames[1:])
    black, white = map(features, find_images(tmp_path / "f.gif"))
    np.testing.assert_allclose(white - black, 1 / np.sqrt([4.0, 1.0, 0.25]), atol=1e-3)


def test_a_slice_is_that_of_the_runs_axis(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii")
    for axis in range(3):
        listing = Listing(axis=axis)
        sources = images_by_id(find_images(tmp_path / "v.nii", listing))
        entry = {"id": "v/0001", "source": str(tmp_path / "v.nii")}
        run = SavedRun(tmp_path, {"settings": listing.settings(), "sources": sources}, {"v/0001": entry})
        source = run.source_of(entry)
        expected = np.take(voxels, 1, axis).T
        np.testing.assert_array_equal(read_source(source, InputSpec()).pixels[..., 0], expected)


def test_images_are_unlike_in_the_features_of_the_runs_own_network(
    runs: Path, network: Network, tmp_path: Path
) -> None:
    plain = select(runs / "maps", 3)
    ended = invoked(
        "select", runs / "maps", "--diverse", "--model", "scenes", "--top", 3, "-o", tmp_path / "s.csv", "--json"
    )
    assert ended.exit_code == 0, ended.output
    shown = json.loads(ended.stdout)
    assert shown["images"][0]["id"] == plain.images[0][0]
    assert len(shown["images"]) == 3
    assert "unlike one another in the network's features at 'bottom.4'" in shown["why"]
    assert len((tmp_path / "s_all.csv").read_text().splitlines()) == 9
    features = BottleneckFeatures(network)
    ranked = (*plain.images, *plain.rest)
    all_features = np.stack([features(*find_images(source)) for _, source, _ in ranked])
    assert [image["id"] for image in shown["images"]] == [ranked[index][0] for index in diverse(all_features, 3)]
    assert [image[0] for image in select(runs / "scores", 2, unlike=True, network=network).images]
    with pytest.raises(WrongUse, match="is not the network of this run, which is 'scenes'"):
        select(runs / "maps", 3, unlike=True, network=load_network(Pooled()))
    ended = invoked("select", runs / "maps", "--model", "scenes")
    assert isinstance(ended.exception, WrongUse)


def test_windows_have_boxes_inside_their_images_and_crops_of_them(runs: Path, tmp_path: Path) -> None:
    ended = invoked(
        "select", runs / "maps", "--regions", "--side", 32, "--top", 5, "-o", tmp_path / "windows", "--json"
    )
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)["regions"]
    assert len(found) == 5
    for region in found:
        assert 0 <= region["top"] <= SIZE[0] - 32
        assert 0 <= region["left"] <= SIZE[1] - 32
    first = next(csv.DictReader((tmp_path / "windows" / "regions.csv").read_text().splitlines()))
    crop = read_image(tmp_path / "windows" / first["crop"])
    whole = read_image(Path(first["source"]))
    top, left = int(first["top"]), int(first["left"])
    assert (crop == whole[top : top + 32, left : left + 32]).all()


def of_bands(channels: Any) -> Network:
    """A network of random weights with this input, `white` given."""
    spec = InputSpec(channels=channels, white=4095.0, mean=(), std=())
    module = seeded(lambda: nn.Sequential(nn.Conv2d(spec.planes, 3, 3, padding=1), nn.BatchNorm2d(3)).eval())
    card = Card(name="bands", network="py:given:module", classes=("a", "b", "c"), input=spec)
    return load_network(module, card=card)


@pytest.mark.parametrize("channels", ["RGB", ("a", "b", "c", "d")])
def test_images_of_deep_bands_are_read_as_the_run_read_them(
    channels: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng, planes = np.random.default_rng(0), 3 if channels == "RGB" else 4
    (tmp_path / "images").mkdir()
    for number in range(6):
        values = rng.integers(0, 4095, (24, 5 if number == 5 else 32, planes)).astype(np.uint16)
        kind = "rgb" if planes == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "images" / f"i{number}.tif", values, photometric=kind, planarconfig="contig")
    deep = of_bands(channels)
    bank = fit_bank(deep, sorted((tmp_path / "images").iterdir())[:5], batch=2, draws=2)
    plan = PredictPlan(maps=("predictive_entropy",), precision="fp32", formats=("npz",))
    predict(deep, tmp_path / "images", bank, tmp_path / "run", plan)
    found = select_regions(tmp_path / "run", 4, side=16)
    listed = write_regions(found, tmp_path / "windows", tmp_path / "run")
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    assert all(read_image(tmp_path / "windows" / row["crop"]).shape[2] == 3 for row in rows)
    assert "could not be made" not in caplog.text
    unlike = select(tmp_path / "run", 2, unlike=True)
    assert "in colours among the 6 most uncertain" in unlike.why, "the narrow one too"
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"no image")
    write_regions(found, tmp_path / "windows", tmp_path / "run")
    assert "4 of 4 crops could not be made. i" in caplog.text
    with pytest.raises(WrongUse, match=r"No image of this run can be read.*has changed since the run"):
        select(tmp_path / "run", 2, unlike=True)


def test_windows_of_an_evaluation_or_of_another_map_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="needs maps"):
        select_regions(runs / "scores", 3)
    with pytest.raises(WrongUse, match="has no map 'variance'"):
        select_regions(runs / "maps", 3, measure="variance")
    pictures = shutil.copytree(runs / "maps", tmp_path / "pictures")
    for path in pictures.rglob("maps.npz"):
        path.unlink()
    with pytest.raises(WrongUse, match=r"maps\.npz' is not there, and --regions needs its maps: .*npz among --format"):
        select_regions(pictures, 3)
    for name in ("prediction", "probability", "p95.variance"):
        with pytest.raises(WrongUse, match=f"ranked by a measure's mean, and '{name}' is none"):
            select_regions(runs / "maps", 3, measure=name)
    with pytest.raises(WrongUse, match="1 or more"):
        select(runs / "maps", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--regions", "--diverse"), "--diverse only chooses whole images: leave it out"),
        (("--regions", "--ranking", "scores"), "--ranking only chooses"),
        (("--regions", "--method", "mcbn", "--model", "scenes"), "--method, --model only chooses"),
        (("--side", 32), "add --regions"),
        (("--weights", "w.safetensors"), "--weights would change nothing here: add --model"),
        (("--ranking", "scores", "--by", "mean.variance"), "--ranking chooses .* --by mean.variance names one"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(runs: Path, options: tuple[object, ...], message: str) -> None:
    ended = invoked("select", runs / "maps", *options)
    assert isinstance(ended.exception, WrongUse), ended.output
    assert re.search(message, str(ended.exception))
    assert not (runs / "maps" / "regions").exists()


def test_windows_written_anew_leave_no_crop_of_the_earlier_ones(runs: Path, tmp_path: Path) -> None:
    found = select_regions(runs / "maps", 4, side=32)
    write_regions(found, tmp_path, runs / "maps")
    (tmp_path / "mine.png").touch()
    listed = tmp_path / "regions.csv"
    listed.write_text(listed.read_text() + "9,x,,0,0,1,1,0,../outside.png\n")
    (tmp_path.parent / "outside.png").touch()
    write_regions(found[:1], tmp_path, runs / "maps")
    assert {path.name for path in tmp_path.iterdir()} == {
        "regions.csv",
        "mine.png",
        f"001_{found[0].id}.png",
    }
    assert (tmp_path.parent / "outside.png").exists()


def test_crops_of_an_interrupted_call_are_cleared_by_the_next_one_and_other_files_stay(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (select_regions(runs / "maps", count, side=side) for count, side in ((3, 32), (5, 48)))
    write_regions(first, tmp_path, runs / "maps")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(regions, "write_png", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_regions(second, tmp_path, runs / "maps")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with monkeypatch.context() as patched:
        patched.setattr(regions, "write_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_regions(second, tmp_path, runs / "maps")
    assert len(list(tmp_path.iterdir())) > 4
    write_png(tmp_path / "009_mine.png", np.zeros((4, 4), np.uint8), {"title": "mine"})
    (tmp_path / "010_damaged.png").write_bytes(b"\x89PNG")
    write_regions(first[:2], tmp_path, runs / "maps")
    names = {path.name for path in tmp_path.iterdir()}
    kept = {f"{rank:03d}_{region.id}.png" for rank, region in enumerate(first[:2], start=1)}
    assert names == {"regions.csv", "009_mine.png", "010_damaged.png", *kept}


def test_crops_of_deep_ids_have_short_names_that_are_unique_and_stay(runs: Path, tmp_path: Path) -> None:
    region, *_ = select_regions(runs / "maps", 1, side=32)
    deep = [replace(region, id=f"{'straße/' * 60}{end}") for end in ("x", "y", "道" * 80, "道" * 81)]
    run = shutil.copytree(runs / "maps", tmp_path / "maps")
    with (run / "manifest.jsonl").open("a") as lines:
        entry = load_run(run)[region.id].entry
        lines.writelines(json.dumps({**entry, "id": other.id}) + "\n" for other in deep)
    (listed, again) = (write_regions(deep, tmp_path / name, run) for name in ("windows", "again"))
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    crops = [row["crop"] for row in rows]
    assert crops == [row["crop"] for row in csv.DictReader(again.read_text().splitlines())]
    assert len({crop.partition("_")[2] for crop in crops}) == 4
    assert all(len(crop.encode()) <= 160 and (tmp_path / "windows" / crop).is_file() for crop in crops)
    assert [row["id"] for row in rows] == [each.id for each in deep]


def test_windows_of_a_run_on_a_store_are_those_of_the_same_run_here(runs: Path, tmp_path: Path) -> None:
    there = Path(f"memory://{tmp_path.name}")
    put([(path, there / path.relative_to(runs)) for path in (runs / "maps").rglob("*") if path.is_file()])
    found = select_regions(there / "maps", 3, side=32)
    assert found == select_regions(runs / "maps", 3, side=32)
    local = write_regions(found, tmp_path, runs / "maps").parent
    for count in (3, 2):
        folder = write_regions(found[:count], there / "maps" / "regions", there / "maps").parent
    crops = {path.name for path in files_below(folder)}
    assert crops == {path.name for path in local.iterdir() if not path.name.startswith("003_")}
    remove([there / "maps" / found[0].id / "maps.npz"])
    with pytest.raises(WrongUse, match=r"'memory://.*maps.npz' is not there"):
        select_regions(there / "maps", 3)


def test_a_measure_that_is_equal_in_all_images_ranks_none(runs: Path, bank: Bank, tmp_path: Path) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    options = ("--draws", 1, "--maps", "prediction,variance", "--heat", "variance", "--format", "npz")
    ended = invoked(
        "predict",
        "scenes",
        runs / "data" / "images",
        "--bank",
        tmp_path / "bank.safetensors",
        *options,
        "-o",
        tmp_path / "r",
    )
    assert ended.exit_code == 0, ended.output
    assert "variance is 0 in every image (one draw): it ranks none." in " ".join(ended.stdout.split())
    assert "Most uncertain" not in ended.stdout
    with pytest.raises(WrongUse, match=r"mean.variance is 0 in every image \(one draw\): it ranks none. Name another"):
        select(tmp_path / "r")
    with pytest.raises(WrongUse, match=r"the mean variance is 0 in every window: it ranks none"):
        select_regions(tmp_path / "r", 3)


def test_a_selection_has_a_name_that_other_commands_read_as_a_list(runs: Path, tmp_path: Path) -> None:
    ended = invoked("select", runs / "maps", "--top", 2, "-o", tmp_path / "chosen")
    assert isinstance(ended.exception, WrongUse), ended.output
    assert "'chosen' is not: add the suffix .csv" in str(ended.exception)
    assert not list(tmp_path.iterdir())


def stacks(folder: Path, *names: str) -> dict[str, np.ndarray]:
    """Files of two images each, random."""
    folder.mkdir(exist_ok=True)
    made = {}
    for name in names:
        values = np.random.default_rng(len(name) + ord(name[-1])).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
        made[str(folder / name)] = values
        if name.endswith(".npy"):
            np.save(folder / name, values)
        else:
            tifffile.imwrite(folder / name, values, photometric="rgb")
    return made


OF_STACKS = PredictPlan(formats=("npz",), precision="fp32", workers=0)


def test_an_image_is_that_of_its_own_file_where_another_file_is_called_alike_and_came_later(
    small_and_bank: tuple[Network, Bank], tmp_path: Path
) -> None:
    network, bank = small_and_bank
    pixels = stacks(tmp_path / "in", "a.tif")
    predict(network, tmp_path / "in", bank, tmp_path / "run", OF_STACKS)
    pixels |= stacks(tmp_path / "in", "a.npy")  # listed first
    predict(network, tmp_path / "in", bank, tmp_path / "run", OF_STACKS, resume=True)
    run = load_run(tmp_path / "run")
    assert len(run) == 4
    for id, image in run.items():
        source, _, part = run.record["sources"][id].partition("::")
        assert source == str(image.source)
        np.testing.assert_array_equal(image.image, pixels[source][int(part)])


def test_images_of_files_called_alike_are_chosen_and_given_on_as_themselves(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, bank = small_and_bank
    stacks(tmp_path / "in", "a.tif", "a.npy")
    predict(network, tmp_path / "in", bank, tmp_path / "run", OF_STACKS)
    whole = load_run(tmp_path / "run")
    assert set(whole) == {"a/0000", "a/0001", "a/0000-2", "a/0001-2"}
    assert {image[0] for image in select(tmp_path / "run", 4, unlike=True).images} == set(whole)
    write_regions(select_regions(tmp_path / "run", 4, side=16), tmp_path / "windows", tmp_path / "run")
    assert "is left out" not in caplog.text
    assert "could not be made" not in caplog.text
    everything = write_selection(select(tmp_path / "run", 2), tmp_path / "chosen.csv")
    for listed, count in ((tmp_path / "chosen.csv", 2), (everything, 4)):
        predict(network, listed, bank, tmp_path / f"run{count}", OF_STACKS)
        again = load_run(tmp_path / f"run{count}")
        assert len(again) == count
        for id, image in again.items():
            assert (image.source, image.measures) == (whole[id].source, whole[id].measures)


def test_a_selection_names_the_runs_own_images_from_any_working_folder(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, bank = small_and_bank
    for place in ("here", "elsewhere"):
        (tmp_path / place / "in").mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng(len(place) + number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
            write_png(tmp_path / place / "in" / f"{number}.png", values)
    monkeypatch.chdir(tmp_path / "here")
    predict(network, "in", bank, "run", OF_STACKS)
    assert {image[1] for image in select("run").images} == {"in/0.png", "in/1.png", "in/2.png"}
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_selection(select("../here/run", 2), Path("chosen.csv"))
    predict(network, "chosen.csv", bank, "again", OF_STACKS)
    made, again = load_run("../here/run").sha256, load_run("again").sha256
    assert len(again) == 2
    assert again.items() <= made.items()
    regions = select_regions(Path("../here/run"), 1, side=16)
    assert Path(regions[0].source) == tmp_path / "here" / "in" / Path(regions[0].source).name
