"""The command line: what a RUN folder holds, JSON, settings files, progress, silence in a pipe, a light --help."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import typer
import yaml
from console import DRAWS, NETWORKS, SMALL, contents, fitted, lines, photographs, segment
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from segment.cli import screen
from segment.cli.app import _load_commands, app
from segment.cli.panels import PANELS
from segment.files.banks.bank_file import load_bank
from segment.files.writing import write_png
from segment.images.isolation import isolating
from segment.images.limits import asked
from segment.networks.cards import SHIPPED, read_card
from segment.passes.fused import onednn
from segment.scenes.scene import TEST, scene

ALL_MEASURES = (
    "variance",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "predicted_std",
    "one_minus_max",
    "margin",
    "variation_ratio",
    "standard_error",
)
ALL_MAPS = ("prediction", "probability", *ALL_MEASURES)
CARD = read_card("scenes")
K = len(CARD.classes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b; and one below, of a size that the stride does not divide."""
    folder = photographs(tmp_path_factory.mktemp("photos"), 2)
    write_png(folder / "below" / "c d.png", scene(TEST[2], size=(50, 70)).image)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photos: Path, bank: Path) -> Path:
    """A run with every map."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    ended = segment(
        "predict", "scenes", photos, "--bank", bank, "-o", folder, "--maps", ",".join(ALL_MAPS), "--precision", "fp32"
    )
    assert (ended.code, ended.err) == (0, "")
    return folder


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def maps_of(run: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(run / name / "maps.npz") as archive:
        return {key: archive[key] for key in archive.files}


def files_of(*measures: str) -> set[str]:
    """Files of an image where the mask and these measures are asked for, in both formats."""
    pictures = {"prediction.png", "overlay.png", "overlay_uncertainty.png", "maps.npz"}
    return pictures | {f"{name}.png" for name in measures} | {f"raw/{name}.png" for name in measures}


# the RUN folder


def test_a_run_holds_its_record_manifest_sheet_and_a_folder_for_each_image(finished: Path, photos: Path) -> None:
    expected = files_of(*ALL_MEASURES)
    manifest = lines(finished)
    assert set(manifest) == {"a", "b", "below/c d"}
    files = {"run.json", "manifest.jsonl", "sheet.png", "legend.png"}
    for name, line in manifest.items():
        assert set(line["files"]) == {f"{name}/{file}" for file in expected}
        files |= set(line["files"])
    assert set(contents(finished)) == files
    with Image.open(finished / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
        assert min(sheet.size) > 100


def test_the_maps_that_are_written_when_none_are_named_are_the_documented_ones(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    ended = segment("predict", "scenes", photos / "a.png", "--bank", bank, "-o", tmp_path / "run", "--draws", 1)
    assert ended.code == 0
    measures = {"variance", "predictive_entropy", "mutual_information"}
    assert set(maps_of(tmp_path / "run", "a")) == {"prediction", *measures}
    assert set(contents(tmp_path / "run" / "a")) == files_of(*measures)
    assert maps_of(tmp_path / "run", "a")["variance"].max() == 0, "one draw has no variance"


def test_a_manifest_line_tells_where_an_image_came_from_and_what_its_maps_say(finished: Path, photos: Path) -> None:
    for name, line in lines(finished).items():
        keys = ["id", "source", "sha256", "status", "error", "files", "seconds", "draws", *ALL_MEASURES, "expected"]
        assert list(line) == keys
        p_max = maps_of(finished, name)["probability"].max(axis=0).astype(np.float64)
        assert line["expected"]["expected_accuracy"] == pytest.approx(p_max.mean(), abs=1e-5)
        assert Path(line["source"]) == photos / f"{name}.png"
        assert line["sha256"] == hashlib.sha256((photos / f"{name}.png").read_bytes()).hexdigest()
        assert (line["status"], line["error"], line["draws"]) == ("done", None, DRAWS)
        assert line["seconds"] > 0
        for measure in ALL_MEASURES:
            values = maps_of(finished, name)[measure].astype(np.float64)
            assert line[measure]["mean"] == pytest.approx(values.mean(), rel=1e-6)
            assert line[measure]["p95"] == pytest.approx(np.quantile(values, 0.95), abs=2e-6)


def test_maps_have_the_size_of_their_image_and_follow_from_the_mean_probability(finished: Path) -> None:
    for name in lines(finished):
        maps = maps_of(finished, name)
        size = SMALL if name != "below/c d" else (50, 70)
        p = maps["probability"].astype(np.float64)
        assert p.shape == (K, *size)
        assert maps["prediction"].dtype == np.uint8
        np.testing.assert_allclose(p.sum(axis=0), 1, atol=1e-5)
        np.testing.assert_array_equal(maps["prediction"], p.argmax(axis=0))
        np.testing.assert_allclose(maps["one_minus_max"], 1 - p.max(axis=0), atol=1e-5)
        entropy = -(p * np.log(np.clip(p, 1e-30, None))).sum(axis=0)
        np.testing.assert_allclose(maps["predictive_entropy"], entropy, atol=1e-4)
        total = maps["expected_entropy"] + maps["mutual_information"]
        np.testing.assert_allclose(maps["predictive_entropy"], total, atol=1e-5)


def test_the_mask_holds_the_predicted_classes_in_the_cards_colours(finished: Path) -> None:
    for name in lines(finished):
        with Image.open(finished / name / "prediction.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), maps_of(finished, name)["prediction"])
            assert mask.getpalette() == [part for colour in CARD.palette for part in colour]


def test_a_16_bit_map_is_the_measure_to_half_a_step(finished: Path) -> None:
    for measure in ALL_MEASURES:
        with Image.open(finished / "a" / "raw" / f"{measure}.png") as picture:
            assert picture.mode.startswith("I")
            text: dict[str, str] = picture.text  # type: ignore[attr-defined]  # of Pillow's PNG images
            pixels = np.asarray(picture).astype(np.float64)
        low, high = float(text["low"]), float(text["high"])
        values = low + pixels / 65535 * (high - low)
        assert np.abs(values - maps_of(finished, "a")[measure]).max() <= (high - low) / 131070 * 1.001
    assert float(text["low"]) == 0


def test_heat_is_one_scale_for_the_run_with_its_legend_below_the_map(
    tmp_path: Path, photos: Path, bank: Path, finished: Path
) -> None:
    ended = segment(
        "predict",
        "scenes",
        photos,
        "--bank",
        bank,
        "-o",
        tmp_path / "run",
        "--maps",
        "variance",
        "--heat",
        "margin",
        "--heat-max",
        0.5,
        "--format",
        "png",
        "--precision",
        "fp32",
    )
    assert ended.code == 0
    table = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1])
    for name in lines(tmp_path / "run"):
        margin = maps_of(finished, name)["margin"]
        with Image.open(tmp_path / "run" / name / "margin.png") as picture:
            heat = np.asarray(picture)[: margin.shape[0], : margin.shape[1]]
            assert picture.size[1] > margin.shape[0]
        steps = np.rint(np.clip(margin.astype(np.float64) / 0.5, 0, 1) * 255).astype(int)
        assert (heat == table[steps]).all(axis=2).mean() > 0.999, "all but ties of rounding"
        assert set(contents(tmp_path / "run" / name)) == files_of("variance", "margin") - {"prediction.png", "maps.npz"}


def test_the_record_of_a_run_keeps_its_settings_plan_fingerprints_and_versions(finished: Path, bank: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    sections = {"settings", "plan", "fingerprints", "versions", "classes", "preprocessing", "sources", "working_folder"}
    assert set(record) == sections | {"colours", "timings", "files", "probes"}
    assert len(record["probes"]) == 1, "of the one network"
    assert record["settings"]["model"] == "scenes"
    assert record["settings"]["maps"] == list(ALL_MAPS)
    assert record["classes"] == list(CARD.classes)
    plan = record["plan"]
    assert (plan["draws"], plan["precision"], plan["device"]) == (DRAWS, "fp32", "cpu")
    assert plan["threads"] == torch.get_num_threads()
    assert record["fingerprints"]["network"] == load_bank(bank).provenance["fingerprint"]
    assert len(record["fingerprints"]["bank"]) == 64
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["timings"]["images"] == 3
    assert record["timings"]["draws"] == 3 * DRAWS


def test_the_same_plan_gives_the_same_bytes_in_any_order_of_the_files(
    tmp_path: Path, photos: Path, bank: Path, finished: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "backwards.txt").write_text("below/c d.png\nb.png\na.png\n")
    ended = segment(
        "predict",
        "scenes",
        tmp_path / "photos" / "backwards.txt",
        "--bank",
        bank,
        "-o",
        tmp_path / "run",
        "--maps",
        ",".join(ALL_MAPS),
        "--precision",
        "fp32",
    )
    assert ended.code == 0
    assert list(lines(tmp_path / "run")) == ["below/c d", "b", "a"]
    for name, line in lines(finished).items():
        again = lines(tmp_path / "run")[name]
        assert {**again, "source": "", "seconds": 0} == {**line, "source": "", "seconds": 0}
        for file in line["files"]:
            assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes(), file


# heads, depths, layers


def test_a_sigmoid_head_enters_as_two_classes(networks: Path, photos: Path, statistics: Path) -> None:
    model = "py:own_networks:plain?outputs=1&head=sigmoid"
    fitted(networks / "bank.safetensors", statistics, model, "--size", "32x32")
    ended = segment(
        "predict",
        model,
        photos,
        "--bank",
        "bank.safetensors",
        "-o",
        "run",
        "--maps",
        "prediction,probability,variance",
        "--precision",
        "fp32",
    )
    assert (ended.code, ended.err) == (0, "")
    maps = maps_of(networks / "run", "a")
    assert maps["probability"].shape == (2, *SMALL)
    np.testing.assert_allclose(maps["probability"].sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(maps["prediction"], maps["probability"][1] > 0.5)
    assert 0 < maps["variance"].max() <= 0.25 + 1e-6


def test_a_multi_label_head_gives_a_mask_for_each_label(networks: Path, photos: Path, statistics: Path) -> None:
    model = "py:own_networks:plain?outputs=3&head=multilabel"
    fitted(networks / "bank.safetensors", statistics, model, "--size", "32x32")
    ended = segment(
        "predict",
        model,
        photos,
        "--bank",
        "bank.safetensors",
        "-o",
        "run",
        "--maps",
        "prediction,probability,predictive_entropy",
        "--precision",
        "fp32",
    )
    assert (ended.code, ended.err) == (0, "")
    maps = maps_of(networks / "run", "a")
    p = maps["probability"].astype(np.float64)
    assert p.shape == (3, *SMALL)
    np.testing.assert_array_equal(maps["prediction"], p >= 0.5)
    entropies = -(p * np.log(p.clip(1e-30)) + (1 - p) * np.log((1 - p).clip(1e-30)))
    np.testing.assert_allclose(maps["predictive_entropy"], entropies.mean(axis=0), atol=1e-4)
    assert maps["predictive_entropy"].max() <= math.log(2) + 1e-6
    for label in range(3):
        (mask,) = (networks / "run" / "a").glob(f"prediction_{label}_*.png")
        with Image.open(mask) as picture:
            np.testing.assert_array_equal(np.asarray(picture), maps["prediction"][label])


def card_with(path: Path, **changes: Any) -> Path:
    """The shipped card beside its weights, its `input:` changed."""
    card = yaml.safe_load((SHIPPED / "scenes.yaml").read_text())
    card["weights"]["file"] = str(SHIPPED / "scenes.safetensors")
    card["input"] |= changes
    path.write_text(yaml.safe_dump(card))
    return path


def test_16_bits_and_grey_are_read_as_the_same_picture_in_8_bits_rgb(tmp_path: Path, statistics: Path) -> None:
    image = scene(TEST[0], size=SMALL).image
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    (tmp_path / "images").mkdir()
    write_png(tmp_path / "images" / "colour8.png", image)
    write_png(tmp_path / "images" / "grey8.png", grey)
    Image.fromarray(grey[..., 0]).save(tmp_path / "images" / "grey1.tif")
    cv2.imwrite(str(tmp_path / "images" / "colour16.png"), image[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "images" / "grey16.tif"), grey[..., 0].astype(np.uint16) * 257)
    card = card_with(tmp_path / "deep.yaml", white=65535)
    bank = fitted(tmp_path / "bank.safetensors", statistics, str(card))
    ended = segment("predict", card, tmp_path / "images", "--bank", bank, "-o", tmp_path / "run", "--precision", "fp32")
    assert (ended.code, ended.err) == (0, "")
    for other, same in (("colour16", "colour8"), ("grey1", "grey8"), ("grey16", "grey8")):
        for name, values in maps_of(tmp_path / "run", other).items():
            if name != "prediction":
                np.testing.assert_allclose(values, maps_of(tmp_path / "run", same)[name], atol=1e-5)


def test_a_network_of_one_channel_is_fed_grey(networks: Path, photos: Path, statistics: Path) -> None:
    card = {
        "network": "py:own_networks:plain?inputs=1",
        "input": {"channels": "grey"},
        "training": {"batch": 2, "transforms": []},
    }
    (networks / "grey.yaml").write_text(yaml.safe_dump(card))
    fit = segment(
        "fit", "grey.yaml", "--trust", "--images", statistics, "--size", "32x32", "--draws", 2, "-o", "bank.safetensors"
    )
    assert fit.code == 0
    assert "Warning: Median variance ratio to the trained statistics" in fit.err, "it was never trained"
    assert "not good (outside 0.8 to 1.25)" in fit.out
    assert load_bank("bank.safetensors").provenance["batch"] == 2, "the card's M"
    ended = segment("predict", "grey.yaml", photos, "--trust", "--bank", "bank.safetensors", "-o", "run")
    assert (ended.code, ended.err) == (0, "")


def test_layers_without_running_statistics_are_drawn_and_cannot_be_left_out(
    networks: Path, photos: Path, statistics: Path
) -> None:
    model = "py:own_networks:Mixed"
    layers = segment("inspect", model, "--json").json["layers"]
    assert [(layer["name"], layer["status"]) for layer in layers] == [("norm", "stochastic"), ("other", "stochastic")]
    fitted(networks / "bank.safetensors", statistics, model, "--size", "32x32")
    assert segment("predict", model, photos, "--bank", "bank.safetensors", "-o", "run").code == 0
    refused = segment("fit", model, "--images", statistics, "--layers", "norm", "-o", "other.safetensors")
    assert refused.code == 3
    assert "'other'" in refused.error
    assert "running statistics" in refused.error
    assert not (networks / "other.safetensors").exists()


# what is printed


def test_inspect_lists_which_layers_are_drawn_and_why_the_others_are_fixed() -> None:
    ended = segment("inspect", "scenes", "--layers", "down*", "--size", "64x96")
    assert (ended.code, ended.err) == (0, "")
    assert "6 of 14 BN layers are stochastic" in ended.out
    assert "64x96" in ended.out
    report = segment("inspect", "scenes", "--layers", "down*", "--size", "64x96", "--json").json
    assert report["head"] == "softmax"
    assert report["classes"] == K
    assert report["size"] == [64, 96]
    assert report["pass_bytes"] > 0
    assert len(report["layers"]) == 14
    for layer in report["layers"]:
        drawn = layer["name"].startswith("down")
        assert layer["status"] == ("stochastic" if drawn else "fixed")
        assert bool(layer["reason"]) != drawn
        assert layer["name"] in ended.out
        assert layer["reason"] in " ".join(ended.out.split())


def test_json_of_fit_and_predict_lists_what_was_made(
    tmp_path: Path, photos: Path, statistics: Path, bank: Path
) -> None:
    fit = segment(
        "fit",
        "scenes",
        "--images",
        statistics,
        "--batch",
        2,
        "--draws",
        2,
        "--seed",
        3,
        "-o",
        tmp_path / "bank.safetensors",
        "--json",
    )
    assert (fit.code, fit.err) == (0, "")
    report = fit.json
    assert (report["batch"], report["draws"], report["seed"], report["images"], report["layers_drawn"]) == (
        2,
        2,
        3,
        4,
        14,
    )
    assert Path(report["bank"]) == tmp_path / "bank.safetensors"
    assert report["precision"] in ("fp32", "bf16")
    figures = {"variance_error", "speed", "speed_low", "speed_high"}
    assert set(report["audit"]["cpu"]["bf16"]) == (figures if onednn.has_bfloat16() else {"reason"})
    (tmp_path / "torn.png").touch()
    (tmp_path / "list.txt").write_text(f"{photos / 'a.png'}\n{tmp_path / 'torn.png'}\n")
    predict = segment("predict", "scenes", tmp_path / "list.txt", "--bank", bank, "-o", tmp_path / "run", "--json")
    assert predict.code == 1
    report = predict.json
    assert set(report) == {"run", "done", "failed", "draws", "precision", "seconds"}
    assert (report["done"], report["draws"], Path(report["run"])) == (1, DRAWS, tmp_path / "run")
    (failed,) = report["failed"]
    assert failed.endswith("torn")  # relative to what both images' folders share


def test_words_of_fit_and_predict_say_where_to_look_and_nothing_goes_to_stderr(
    tmp_path: Path, photos: Path, statistics: Path, bank: Path
) -> None:
    fit = segment("fit", "scenes", "--images", statistics, "--batch", 2, "--draws", 2, "-o", tmp_path / "b.safetensors")
    assert (fit.code, fit.err) == (0, "")
    assert "2 draws of 14 BN layers, M = 2 of 4 images" in fit.out
    good = fit.out.index("Median variance ratio to the trained statistics")
    assert good < fit.out.index("--precision auto will take")
    assert fit.out.splitlines()[-1].startswith("Next: segment predict scenes IMAGES --bank ")
    predict = segment("predict", "scenes", photos / "a.png", "--bank", bank, "-o", tmp_path / "run", "--draws", 2)
    assert (predict.code, predict.err) == (0, "")
    assert f"{tmp_path / 'run'}: 1 done, 0 failed, 2 draws each" in predict.out
    assert f"Look at {tmp_path / 'run' / 'sheet.png'} first." in predict.out
    assert predict.out.splitlines()[-1] == f"Then: segment report {tmp_path / 'run'} --output report.html"
    assert "\x1b" not in fit.out + predict.out, "no colours in a pipe"


def test_the_demo_goes_the_whole_way_and_never_over_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, smaller in (("SCENES", 6), ("DRAWS", 4), ("TRAINING_SCENES", 8)):
        monkeypatch.setattr(f"segment.jobs.demo.{name}", smaller)
    ended = segment("demo", "-o", tmp_path / "demo", "--json")
    assert (ended.code, ended.err) == (0, "")
    report = ended.json
    shown = [row[0] for row in report["rows"]]
    for word in ("accuracy", "mIoU", "NLL", "AUROC of errors", "AUROC of unseen"):
        assert any(word in row for row in shown)
    for row in report["rows"]:
        numbers = [float(cell) for cell in row[1:3] if cell != "none"]
        assert numbers
        assert all(0 <= number <= 1 for number in numbers)
        assert row[3] in ("better", "worse", "no different", "")
        named = [finding for finding in report["findings"] if row[0] in finding]
        assert [finding.startswith(f"Here MCBN is {row[3]} at: ") for finding in named] == [True] * len(named)
        assert bool(named) == (row[3] in ("better", "worse"))
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert set(scores["methods"]) == {"deterministic", "MCBN"}
    assert len(lines(tmp_path / "demo" / "run")) == 6
    assert Path(report["sheet"]).is_file()
    assert len(load_bank(tmp_path / "demo" / "bank.safetensors")) == 4
    assert (
        len(list((tmp_path / "demo" / "images").iterdir())) == len(list((tmp_path / "demo" / "labels").iterdir())) == 6
    )
    before = contents(tmp_path)
    again = segment("demo", "-o", tmp_path / "demo")
    assert again.code == 2
    assert "Remove it, or give another folder with -o" in again.error
    assert contents(tmp_path) == before


def test_on_a_terminal_progress_tells_images_draws_and_the_time_left(
    tmp_path: Path, photos: Path, bank: Path, statistics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=terminal, force_terminal=True, width=100))
    assert segment("predict", "scenes", photos, "--bank", bank, "-o", tmp_path / "run").code == 0
    assert (
        segment(
            "fit", "scenes", "--images", statistics, "--batch", 2, "--draws", 3, "-o", tmp_path / "bank.safetensors"
        ).code
        == 0
    )
    shown = terminal.getvalue()
    for word in ("predicting", "3/3", "images/s", "draws/s", "left", "recording draws"):
        assert word in shown
    assert shown.rstrip().endswith(("\x1b[2K", "\x1b[?25h")), "the bars are taken away at the end"


def test_rates_count_from_where_a_run_went_on() -> None:
    updates: list[dict[str, Any]] = []

    class Bar:
        def add_task(self, *_: Any, **__: Any) -> int:
            return 0

        def update(self, _: int, **fields: Any) -> None:
            updates.append(fields)

    shown = screen.ProgressBars(Bar())  # type: ignore[arg-type]  # as much of a bar as is used
    shown("predicting", 90, 100)
    shown("predicting", 91, 100, 16)
    assert updates[0] == {"completed": 90, "total": 100, "rate": ""}
    images, draws = updates[1]["rate"].split("  ")
    assert float(draws.split()[0]) / float(images.split()[0]) == pytest.approx(16, rel=0.1)


# options from a file, and help


def test_options_come_from_a_settings_file_and_the_command_line_wins(tmp_path: Path, photos: Path, bank: Path) -> None:
    options = {
        "source": str(photos / "a.png"),
        "bank": str(bank),
        "output": str(tmp_path / "run"),
        "draws": 3,
        "maps": ["prediction", "margin"],
        "tile-mode": "blended",
        "heat": "margin",
        "format": "npz",
        "json": True,
        "precision": "fp32",
        "weights": None,
    }
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options))
    ended = segment("predict", "scenes", "--config", tmp_path / "options.yaml", "--draws", 2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["draws"] == 2
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["maps"] == ["prediction", "margin"]
    assert (settings["heat"], settings["tile_mode"], settings["formats"]) == ("margin", "blended", ["npz"])
    assert set(maps_of(tmp_path / "run", "a")) == {"prediction", "margin"}
    assert set(contents(tmp_path / "run")) == {"run.json", "manifest.jsonl", "a/maps.npz"}


def test_an_option_that_may_be_repeated_is_a_list_in_a_settings_file(tmp_path: Path) -> None:
    banks = [str(tmp_path / "one.safetensors"), str(tmp_path / "two.safetensors")]
    options = {"images": "nowhere", "labels": "nowhere", "output": str(tmp_path / "run"), "bank": banks}
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options))
    ended = segment("evaluate", "scenes", "--config", tmp_path / "options.yaml")
    assert ended.code == 3
    assert f"No bank at {banks[0]!r}" in ended.error


def test_an_error_in_a_value_of_a_config_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("resume: maybe\nimages: nowhere\noutput: run\n")
    config = ("evaluate", "scenes", "--config", tmp_path / "options.yaml")
    assert segment(*config).error.startswith(f"Error: --config {str(tmp_path / 'options.yaml')!r}: Invalid value for")
    assert "'--resume': it is true or false." in segment(*config).error
    given = segment(*config, "--resume", "--every", "x").error
    assert given.startswith("Error: Invalid value for '--every': it is a whole number. See ")


def commands() -> list[str]:
    _load_commands()
    registered = [("", command) for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        registered += [(f"{group.name} ", command) for command in group.typer_instance.registered_commands]
    return [before + (command.name or str(getattr(command.callback, "__name__", ""))) for before, command in registered]


def test_every_command_has_the_shared_options_and_a_log_of_events_where_it_has_a_runner() -> None:
    assert {"inspect", "fit", "predict", "evaluate", "sweep", "experiment uci", "experiment report"} <= set(commands())
    for command in commands():
        ended = segment(*command.split(), "--help")
        assert (ended.code, ended.err) == (0, "")
        for option in ("--json", "--config", "--verbose", "--quiet"):
            assert option in ended.out, command
        assert ("--log-json" in ended.out) == ("--runner" in ended.out), command
        for option in ("--prefix", "--extra-keys"):
            assert (option in ended.out) == ("--trust" in ended.out), command
        reads = "--trust" in ended.out and command not in ("inspect", "export")
        assert ("--isolate" in ended.out, "--max-pixels" in ended.out) == (reads, reads), command


@pytest.mark.parametrize(
    "command",
    [
        ("tune", "scenes", "--train", "nowhere", "--images", "nowhere", "-o", "tuned"),
        ("select", "nowhere", "--diverse", "--model", "scenes"),
        ("report", "nowhere", "--model", "scenes"),
    ],
)
def test_commands_that_load_a_network_choose_among_the_keys_of_its_weights(command: tuple[str, ...]) -> None:
    assert "'ema_model.'" in segment(*command, "--prefix", "ema_model.").error
    assert "--extra-keys is refuse or ignore, not 'x'" in segment(*command, "--extra-keys", "x").error


def test_options_on_reading_end_with_their_command_also_where_a_later_argument_is_refused() -> None:
    assert "Missing option" in segment("fit", "scenes", "--isolate", "--max-pixels", 5).error
    assert not isolating()
    assert asked() is None


def test_the_help_of_a_long_command_has_panels_that_name_options_there_are() -> None:
    long, short = segment("predict", "--help").out, segment("compare", "--help").out
    for panel in PANELS:
        assert f"─ {panel} ─" in long
        assert f"─ {panel} ─" not in short
    commands: Any = typer.main.get_command(app)
    known = {parameter.name for command in commands.commands.values() for parameter in command.params}
    assert {name for names in PANELS.values() for name in names} <= known


def test_the_example_of_a_command_has_options_that_it_knows_and_all_that_it_needs() -> None:
    group: Any = typer.main.get_command(app)
    examples = {name: command for name, command in group.commands.items() if command.epilog}
    assert {"fit", "predict", "evaluate", "sweep", "tune"} <= set(examples)
    for name, command in examples.items():
        program, called, *words = command.epilog.removeprefix("Example: ").split()
        assert (program, called) == ("segment", name)
        context = command.make_context(name, words, resilient_parsing=True)
        assert not context.args, "every word was taken"
        missing = [p.name for p in command.params if p.required and context.params[p.name] is None]
        assert missing == [], name


def test_help_is_quick_and_needs_no_torch() -> None:
    heavy = "torch", "numpy", "cv2", "albumentations", "pydantic"
    asked = ["-X", "importtime", "-m", "segment", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *asked], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "predict" in ended.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in ended.stderr.splitlines()}
    assert imported.isdisjoint(heavy[:4])
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert busy < 0.7, "processor seconds, so that other work on the machine does not count"


PRESSED = """
import sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
from segment.cli import main
main()
"""
"""As if somebody pressed Ctrl-C while a module is imported."""


@pytest.mark.parametrize("module", ["segment.cli.app", "segment.cli.commands.predict"])
def test_ctrl_c_at_the_start_ends_without_a_traceback(module: str) -> None:
    ended = subprocess.run([sys.executable, "-c", PRESSED, module], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_a_misuse_and_a_closed_pipe_end_a_real_process_quietly(tmp_path: Path) -> None:
    wrong = subprocess.run(
        [sys.executable, "-m", "segment", "predict", "scenes", "--draws", "x"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("Error: ")
    assert "predict --help" in wrong.stderr
    bare = subprocess.run([sys.executable, "-m", "segment"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert bare.returncode == 2
    assert "Commands" in bare.stdout
    assert bare.stderr == ""
    with subprocess.Popen(
        [sys.executable, "-m", "segment", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as cut:
        assert cut.stdout is not None
        assert cut.stderr is not None
        cut.stdout.close()
        assert cut.stderr.read() == b""


def test_output_whose_encoding_lacks_a_character_ends_no_command() -> None:
    said = "import sys; sys.argv = ['segment', '--version']; import segment.cli as c; c.main"
    said += "; c._write_any_character(); from segment.cli import screen; screen.table('mIoU ↑', ['a ↑'], [['1']])"
    ended = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", said],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    assert b"\\u2191" in ended.stdout
