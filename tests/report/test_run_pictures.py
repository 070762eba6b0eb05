"""The pictures of a run: raw numbers apart, one scale that the bank keeps, a hidden border, a sheet by uncertainty."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from plain import noise, plain_loop, plain_measures, probabilities_of, random_bank
from processes import photographs
from small_networks import Small, network_of
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.colour_scales import SPREADS, colour_scales, rounded_up
from segment.files.writing import read_map_png
from segment.images.find import Source, find_images
from segment.images.read import read_image
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.pictures.heatmaps import ABSENT, Scale, heatmap, level_legend
from segment.pictures.overlays import HIDDEN
from segment.pictures.palettes import WRONG, palette
from segment.pictures.sheets import SMALL
from segment.pictures.thumbnails import HEIGHT, WIDEST, thumbnail
from segment.report.run_files.sheet import EACH, KEPT, SheetCandidates, chosen
from segment.report.run_files.style import PictureStyle

NETWORK = network_of()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("pictures") / "images", 3, 40, 64)


@pytest.fixture(scope="module")
def bank(images: Path) -> Bank:
    return fit_bank(NETWORK, str(images), batch=2, draws=4)


def lines_of(run: Path) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in map(json.loads, (run / "manifest.jsonl").read_text().splitlines())}


def picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# scales


def test_a_scale_is_what_the_statistics_images_reach_by_a_plain_loop_over_the_draws() -> None:
    network = bn_network_of(NETWORK)
    bank = random_bank(network, draws=3)
    examples = [noise(1, 3, 32, 32, seed=seed) for seed in range(2)]
    scales = colour_scales(network, bank, examples, "softmax")
    maps = []
    for image in examples:
        p = probabilities_of(plain_loop(NETWORK.module, bank, image).numpy())
        maps.append(plain_measures(p, bank.weights.tolist()))
    for name in SPREADS:
        reached = np.quantile(np.concatenate([each[name].reshape(-1) for each in maps]), 0.995)
        assert reached * (1 - 1e-4) <= scales[name] <= reached * 1.1 + 1e-9, name
    assert scales["standard_error"] == rounded_up(scales["predicted_std"] / (bank.effective_draws - 1) ** 0.5)


def test_an_image_that_the_network_fails_on_takes_no_scale_of_the_others_away(caplog: pytest.LogCaptureFixture) -> None:
    network = bn_network_of(NETWORK)
    bank, image = random_bank(network, draws=3), noise(1, 3, 32, 32)
    alone = colour_scales(network, bank, [image], "softmax")
    assert colour_scales(network, bank, [image * float("nan"), image], "softmax") == alone != {}
    assert "without statistics image 0: The network's output is not finite" in caplog.text
    assert colour_scales(network, bank, [image * float("nan")], "softmax") == {}


def test_a_bank_of_one_draw_has_no_scales() -> None:
    network = bn_network_of(NETWORK)
    assert colour_scales(network, random_bank(network, draws=1), [noise(1, 3, 32, 32)], "softmax") == {}


def test_runs_with_one_bank_have_the_same_colours_whatever_they_show(tmp_path: Path, images: Path, bank: Bank) -> None:
    kept = bank.provenance["colour_scales"]
    assert set(kept) == {*SPREADS, "standard_error"}
    for name, source in (("one", images / "000.png"), ("all", images)):
        predict(NETWORK, str(source), bank, tmp_path / name, PredictPlan(draws=2 if name == "one" else None))
        colours = json.loads((tmp_path / name / "run.json").read_text())["colours"]
        assert colours["variance"] == {"high": kept["variance"], "from": "bank"}
        assert colours["mutual_information"]["high"] == kept["mutual_information"]
        assert colours["predictive_entropy"] == {"high": pytest.approx(np.log(4)), "from": "default"}
        maps = np.load(tmp_path / name / "000" / "maps.npz")
        for measure, entry in colours.items():
            expected = heatmap(maps[measure], high=entry["high"])
            np.testing.assert_array_equal(picture(tmp_path / name / "000" / f"{measure}.png")[:40, :64], expected)


def test_a_run_that_goes_on_keeps_its_colours(tmp_path: Path, images: Path, bank: Bank) -> None:
    predict(NETWORK, str(images), bank, tmp_path / "run")
    (tmp_path / "run" / "001" / "variance.png").unlink()
    other = replace(bank, provenance={**bank.provenance, "colour_scales": {"variance": 0.2}})
    predict(NETWORK, str(images), other, tmp_path / "run", resume=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["colours"]["variance"]["high"] == bank.provenance["colour_scales"]["variance"]


# border


def test_a_border_is_hidden_in_every_file_and_in_no_mean(tmp_path: Path, images: Path, bank: Bank) -> None:
    predict(NETWORK, str(images), bank, tmp_path / "whole")
    predict(NETWORK, str(images), bank, tmp_path / "run", PredictPlan(border=5))
    hidden = np.ones((40, 64), bool)
    hidden[5:-5, 5:-5] = False
    for id, line in lines_of(tmp_path / "run").items():
        folder = tmp_path / "run" / id
        maps, whole = np.load(folder / "maps.npz"), np.load(tmp_path / "whole" / id / "maps.npz")
        np.testing.assert_array_equal(maps["prediction"], whole["prediction"])
        for name in ("variance", "predictive_entropy", "mutual_information"):
            np.testing.assert_array_equal(maps[name], np.where(hidden, np.nan, whole[name]))
            inside = whole[name][~hidden].astype(np.float64)
            assert line[name]["mean"] == pytest.approx(inside.mean(), rel=1e-6)
            assert line[name]["p95"] == pytest.approx(np.percentile(inside, 95), abs=2e-6)
            values, text = read_map_png(folder / "raw" / f"{name}.png")
            np.testing.assert_array_equal(np.isnan(values), hidden)
            step = float(text["high"]) / 65534
            assert np.abs(values - maps[name])[~hidden].max() <= step / 2 + 2e-7
            assert text["nodata"] == "65535"
            assert (picture(folder / f"{name}.png")[:40, :64][hidden] == ABSENT).all()
        assert (picture(folder / "overlay_uncertainty.png")[hidden] == HIDDEN).all()


def test_an_image_that_the_border_covers_fails_alone(tmp_path: Path, images: Path, bank: Bank) -> None:
    summary = predict(NETWORK, str(images), bank, tmp_path / "run", PredictPlan(border=20))
    assert (summary.done, len(summary.failed)) == (0, 3)
    assert "--border 20 leaves nothing of an image of 40 x 64" in summary.failed["000"]
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == []


# names


def test_an_image_called_raw_below_another_gets_a_folder_of_its_own(tmp_path: Path, bank: Bank) -> None:
    folder = photographs(tmp_path / "images", 1, 40, 64)
    (folder / "000").mkdir()
    (folder / "000" / "raw.png").write_bytes((folder / "000.png").read_bytes())
    assert predict(NETWORK, str(folder), bank, tmp_path / "run").done == 2
    files = [set(line["files"]) for line in lines_of(tmp_path / "run").values()]
    assert not files[0] & files[1]


# the sheet


def test_a_sheet_of_many_images_shows_the_most_the_median_and_the_least_uncertain() -> None:
    values = {f"{number:05}": float(value) for number, value in enumerate(np.random.default_rng(0).permutation(10_000))}
    sections = chosen(values)
    most, median, least = ([values[id] for id in ids] for ids in sections.values())
    assert most == [9999 - number for number in range(EACH)]
    assert least == [EACH - 1 - number for number in range(EACH)]
    assert len(median) == EACH
    assert np.mean(median) == pytest.approx(4999.5, abs=1)
    assert chosen({"a": 0.0}) == {"": ["a"]}


def test_few_thumbnails_are_kept_while_ten_thousand_images_go_by() -> None:
    candidates = SheetCandidates()
    values = {str(number): float(value) for number, value in enumerate(np.random.default_rng(1).random(10_000))}
    for id, value in values.items():
        candidates.add(id, value, {})
        assert len(candidates.thumbnails) <= KEPT
    sections = chosen(values)
    assert set(sections["Most uncertain"]) | set(sections["Least uncertain"]) <= set(candidates.thumbnails)


def test_the_sheet_holds_the_images_in_order_with_their_ground_truth(tmp_path: Path, images: Path, bank: Bank) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    sources = [Source(source.id, source.path, labels / f"{source.id}.png") for source in find_images(images)]
    for number, source in enumerate(sources):
        assert source.label is not None
        Image.fromarray(np.full((40, 64), number, np.uint8)).save(source.label)
    predict(NETWORK, sources, bank, tmp_path / "run", PredictPlan(maps=("prediction", "variance")))
    sheet = picture(tmp_path / "run" / "sheet.png")
    lines = lines_of(tmp_path / "run")
    order = sorted(lines, key=lambda id: -lines[id]["predictive_entropy"]["mean"])
    tops = []
    for id in order:
        small = thumbnail(read_image(images / f"{id}.png"))
        rows, columns = small.shape[:2]
        starts = np.argwhere((sheet[: -rows + 1, : -columns + 1] == small[0, 0]).all(axis=-1))
        places = [(y, x) for y, x in starts if np.array_equal(sheet[y : y + rows, x : x + columns], small)]
        assert len(places) == 1
        tops.append(places[0])
        y, x = places[0]
        colour = palette(4)[int(id)]
        assert (sheet[y : y + rows, x + columns + 1 :] == colour).all(axis=-1).sum() >= rows * columns, "ground truth"
    assert tops == sorted(tops)
    plan = PredictPlan(maps=("prediction", "variance"))
    predict(NETWORK, str(images), bank, tmp_path / "again", plan, labels=labels)
    np.testing.assert_array_equal(picture(tmp_path / "again" / "sheet.png"), sheet)
    with pytest.raises(WrongUse, match="None of the 3 images has a label map that ends in '_L'"):
        predict(NETWORK, str(images), bank, tmp_path / "none", plan, labels=labels, label_suffix="_L")
    assert not (tmp_path / "none").exists()


def test_with_labels_the_sheet_shows_wrong_pixels_and_not_those_that_are_void(
    tmp_path: Path, images: Path, bank: Bank
) -> None:
    labels, void = tmp_path / "labels", 2
    labels.mkdir()
    truth = np.arange(40 * 64).reshape(40, 64).astype(np.uint8) % 7  # 4, 5 and 6 are no class
    for id in ("000", "001"):  # 002 has none
        Image.fromarray(truth).save(labels / f"{id}.png")
    network = replace(NETWORK, card=replace(NETWORK.card, void=void))
    predict(network, str(images), bank, tmp_path / "run", labels=labels)
    sheet, factor = picture(tmp_path / "run" / "sheet.png"), 3  # a thumbnail is three times as high
    shown = (sheet == WRONG).all(axis=-1).sum() - (SMALL - 2) ** 2  # without its key
    masks = [np.load(tmp_path / "run" / id / "maps.npz")["prediction"] for id in ("000", "001")]
    wrong = sum(int(((mask != truth) & (truth < 4) & (truth != void)).sum()) for mask in masks)
    assert wrong
    assert shown == wrong * factor**2
    before = (tmp_path / "run" / "sheet.png").read_bytes()
    predict(network, str(images), bank, tmp_path / "run", labels=labels, resume=True)
    assert (tmp_path / "run" / "sheet.png").read_bytes() == before


def test_the_legend_of_a_run_has_every_class_and_every_measure_s_scale(
    tmp_path: Path, images: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[str] = []

    def noted(width: int, scale: Scale, *, size: int) -> NDArray[np.uint8]:
        scales.append(scale.title)
        return level_legend(width, scale, size=size)

    monkeypatch.setattr("segment.pictures.sheets.level_legend", noted)
    plan = PredictPlan(heat="margin", maps=("prediction", "variance", "margin", "predicted_std"))
    predict(NETWORK, str(images), bank, tmp_path / "run", plan)
    assert scales[-3:] == ["1 − margin", "variance", "std of the predicted class"]
    legend = picture(tmp_path / "run" / "legend.png")
    for colour in palette(4):
        assert (legend == colour).all(axis=-1).sum() == (SMALL - 2) ** 2
    (tmp_path / "run" / "legend.png").unlink()
    predict(NETWORK, str(images), bank, tmp_path / "run", plan, resume=True)
    np.testing.assert_array_equal(picture(tmp_path / "run" / "legend.png"), legend)


def test_what_was_asked_for_and_is_left_out_is_one_warning_each(
    tmp_path: Path, images: Path, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    labels = photographs(tmp_path / "labels", 3, 40, 64)
    Image.new("L", (32, 20)).save(labels / "001.png")
    for id in ("000", "002"):
        Image.new("L", (64, 40)).save(labels / f"{id}.png")
    plan = PredictPlan(draws=1, maps=("prediction", "standard_error"))
    with caplog.at_level("WARNING", logger="segment"):
        predict(NETWORK, str(images), bank, tmp_path / "run", plan, labels=str(labels))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in warnings if "standard_error is left out of 3 of 3 images ('000'" in line]) == 1
    (label,) = [line for line in warnings if line.startswith("The labels of 1 of 3 images are not shown ('001'): ")]
    assert "The label map is 20x32, its image 40x64" in label
    assert "label" in lines_of(tmp_path / "run")["001"]["notes"]
    assert "label" not in lines_of(tmp_path / "run")["000"]["notes"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_sheet_made_again_from_files_is_the_same(*, alone: bool, tmp_path: Path, images: Path, bank: Bank) -> None:
    source = str(images / "000.png") if alone else str(images)
    predict(NETWORK, source, bank, tmp_path / "run")
    before = (tmp_path / "run" / "sheet.png").read_bytes()
    (tmp_path / "run" / "sheet.png").unlink()
    predict(NETWORK, source, bank, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "sheet.png").read_bytes() == before
    small = thumbnail(read_image(images / "000.png"), 3 * HEIGHT if alone else HEIGHT, 3 * WIDEST if alone else WIDEST)
    sheet, (rows, columns, _) = picture(tmp_path / "run" / "sheet.png"), small.shape
    starts = np.argwhere((sheet[: -rows + 1, : -columns + 1] == small[0, 0]).all(axis=-1))
    assert any(np.array_equal(sheet[y : y + rows, x : x + columns], small) for y, x in starts)


class Overlapping(Small):
    """Small, all of whose labels are set in every pixel; the likeliest one differs from pixel to pixel."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return 3 + 9 * (logits - logits.mean(dim=(-2, -1), keepdim=True))


def test_a_sheet_made_again_colours_overlapping_labels_as_the_run_did(tmp_path: Path, images: Path) -> None:
    network = network_of(Overlapping)
    network = replace(network, card=replace(network.card, head="multilabel"))
    plan = PredictPlan(maps=("prediction", "probability", "variance"))
    source, bank = str(images / "000.png"), random_bank(bn_network_of(network))
    predict(network, source, bank, tmp_path / "run", plan)
    maps = np.load(tmp_path / "run" / "000" / "maps.npz")
    claimed = maps["prediction"] == 1
    assert (claimed.argmax(axis=0) != maps["probability"].argmax(axis=0))[claimed.sum(axis=0) > 1].any()
    before = (tmp_path / "run" / "sheet.png").read_bytes()
    (tmp_path / "run" / "sheet.png").unlink()
    predict(network, source, bank, tmp_path / "run", plan, resume=True)
    assert (tmp_path / "run" / "sheet.png").read_bytes() == before


def test_a_background_has_no_colour_in_overlays() -> None:
    card = replace(NETWORK.card, classes=("Background", "disc", "cup", "rim"))
    assert PictureStyle.of(replace(NETWORK, card=card), "variance").bare == (0,)
    assert PictureStyle.of(NETWORK, "variance").bare == ()


def test_a_run_of_one_image_has_a_sheet(tmp_path: Path, images: Path, bank: Bank) -> None:
    predict(NETWORK, str(images / "002.png"), bank, tmp_path / "run", PredictPlan(heat="standard_error", draws=1))
    assert min(picture(tmp_path / "run" / "sheet.png").shape[:2]) > 100  # withheld at one draw: shown as absent
