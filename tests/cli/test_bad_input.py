"""Bad input to every command: one line that says what, where and what to do, and nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from console import DRAWS, NETWORKS, contents, fitted, lines, photographs, segment
from safetensors.torch import load_file, save_file

from segment.errors import WrongUse
from segment.estimation.estimate import estimates
from segment.files.writing import write_map_png, write_npz, write_png
from segment.networks.cards import SHIPPED

WEIGHTS = SHIPPED / "scenes.safetensors"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, bank: Path) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert segment("predict", "scenes", photos, "--bank", bank, "-o", folder).code == 0
    return folder


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of networks, as a user has one."""
    (tmp_path / "odd_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nothing_half_written(folder: Path) -> None:
    assert not list(folder.rglob("*.part"))
    done = {name for name, line in lines(folder).items() if line["status"] == "done"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == done
    for name in done:
        files = {path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file()}
        assert files == set(lines(folder)[name]["files"])


# images


def half_a_jpeg(path: Path) -> None:
    _, data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    path.write_bytes(data.tobytes()[: len(data) // 2])


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.png": (lambda path: path.write_bytes(b""), "0 bytes"),
    "half.jpg": (half_a_jpeg, "does not decode"),
    "text.png": (lambda path: path.write_text("not a picture"), "b'not a pictur'"),
    "deep.png": (lambda path: cv2.imwrite(str(path), np.full((8, 8, 3), 40_000, np.uint16)), "white"),
}


def test_bad_files_are_named_with_the_reason_and_the_other_images_are_done(
    tmp_path: Path, photos: Path, bank: Path, whole: Path
) -> None:
    shutil.copytree(photos, tmp_path / "images")
    for name, (write, _) in BAD_IMAGES.items():
        write(tmp_path / "images" / name)
    ended = segment("predict", "scenes", tmp_path / "images", "--bank", bank, "-o", tmp_path / "run")
    assert ended.code == 1
    assert "4 of 7 images failed" in ended.error
    assert str(tmp_path / "run" / "manifest.jsonl") in ended.error
    nothing_half_written(tmp_path / "run")
    manifest = lines(tmp_path / "run")
    assert {name for name, line in manifest.items() if line["status"] == "done"} == {"a", "b", "c"}
    for name, (_, message) in BAD_IMAGES.items():
        line = manifest[name.split(".")[0]]
        assert message in line["error"]
        assert name in line["error"]
        assert line["files"] == []
        assert any(line["error"] in warning for warning in ended.err.splitlines() if warning.startswith("Warning: "))
    assert contents(tmp_path / "run")["b/maps.npz"] == contents(whole)["b/maps.npz"]
    again = segment("predict", "scenes", tmp_path / "images", "--bank", bank, "-o", tmp_path / "run", "--resume")
    assert again.code == 1, "what failed before is tried again, and reported again"


def test_a_bad_statistics_image_is_named_and_no_bank_is_written(tmp_path: Path, statistics: Path) -> None:
    shutil.copytree(statistics, tmp_path / "images")
    (tmp_path / "images" / "torn.png").write_bytes(b"")
    ended = segment(
        "fit",
        "scenes",
        "--images",
        tmp_path / "images",
        "--batch",
        5,
        "--draws",
        2,
        "-o",
        tmp_path / "bank.safetensors",
    )
    assert ended.code == 1
    assert "torn.png" in ended.error
    assert "no bank was written" in ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_folder_without_images_is_refused_before_a_run_is_made(tmp_path: Path, bank: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.docx").write_text("no image")
    for source, message in ((tmp_path / "images", "No image in folder"), (tmp_path / "image", "is not there")):
        ended = segment("predict", "scenes", source, "--bank", bank, "-o", tmp_path / "run")
        assert ended.code == 2
        assert message in ended.error
        assert str(source) in ended.error
        fit = segment("fit", "scenes", "--images", source, "-o", tmp_path / "bank.safetensors")
        assert (fit.code, fit.error) == (2, ended.error)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_smallest_and_the_longest_image_are_done_at_their_own_size(tmp_path: Path, bank: Path) -> None:
    sizes = {"dot": (1, 1), "long": (20, 20_000), "row": (1, 40)}
    for name, (height, width) in sizes.items():
        grey = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
        write_png(tmp_path / "images" / f"{name}.png", np.broadcast_to(grey, (height, width, 3)).copy())
    ended = segment("predict", "scenes", tmp_path / "images", "--bank", bank, "--draws", 2, "-o", tmp_path / "run")
    assert (ended.code, ended.err) == (0, "")
    nothing_half_written(tmp_path / "run")
    for name, size in sizes.items():
        with np.load(tmp_path / "run" / name / "maps.npz") as maps:
            assert {maps[key].shape for key in maps.files} == {size}
        assert cv2.imdecode(np.fromfile(tmp_path / "run" / name / "overlay.png", np.uint8), 1) is not None


def test_an_image_that_the_network_does_not_take_is_named_with_its_size(
    networks: Path, photos: Path, statistics: Path
) -> None:
    picky = "py:odd_networks:Picky"
    fitted(networks / "bank.safetensors", statistics, picky, "--size", "32x32")
    shutil.copytree(photos, "images")
    write_png(networks / "images" / "narrow.png", np.zeros((20, 30, 3), np.uint8))
    ended = segment("predict", picky, "images", "--bank", "bank.safetensors", "-o", "run")
    assert ended.code == 1
    assert "1 of 4 images failed" in ended.error
    assert "narrow: 20 x 30 image: ValueError: the network asserts the width is no multiple of 32" in ended.error
    nothing_half_written(networks / "run")


# networks, weights, banks


def test_a_network_without_batch_normalisation_is_refused_with_what_to_use_instead(
    networks: Path, statistics: Path
) -> None:
    for ended in (
        segment("inspect", "py:odd_networks:without_batchnorm"),
        segment("fit", "py:odd_networks:without_batchnorm", "--images", statistics, "-o", "bank.safetensors"),
    ):
        assert ended.code == 3
        assert "batch norm" in ended.error.lower()
        assert "dropout" in ended.error or "ensemble" in ended.error
    assert not (networks / "bank.safetensors").exists()


@pytest.mark.parametrize("network", ["Nan", "NanInside"])
def test_a_network_that_gives_nan_gets_no_bank(networks: Path, statistics: Path, network: str) -> None:
    ended = segment(
        "fit",
        f"py:odd_networks:{network}",
        "--images",
        statistics,
        "--size",
        "32x32",
        "--batch",
        2,
        "--draws",
        2,
        "-o",
        "bank.safetensors",
    )
    assert ended.code == 3
    assert f"odd_networks:{network}" in ended.error
    assert "not finite" in ended.error
    assert "weights" in ended.error
    assert not (networks / "bank.safetensors").exists()


def test_an_image_on_which_the_network_gives_nan_is_named_and_the_others_are_done(
    networks: Path, photos: Path, statistics: Path
) -> None:
    fitted(networks / "bank.safetensors", statistics, "py:odd_networks:NanOnBlack", "--size", "32x32")
    shutil.copytree(photos, "images")
    write_png(networks / "images" / "black.png", np.zeros((64, 96, 3), np.uint8))
    ended = segment("predict", "py:odd_networks:NanOnBlack", "images", "--bank", "bank.safetensors", "-o", "run")
    assert ended.code == 1
    assert "black: 64 x 96 image: The network's output is not finite" in ended.error
    assert [name for name, line in lines(networks / "run").items() if line["status"] == "failed"] == ["black"]
    nothing_half_written(networks / "run")


def test_a_bank_of_another_network_or_preprocessing_is_refused_with_what_differs(
    networks: Path, photos: Path, bank: Path
) -> None:
    card = {"network": "segment:tiny?classes=6", "weights": {"file": str(WEIGHTS)}, "input": {"stride": 16}}
    (networks / "plain.yaml").write_text(yaml.safe_dump(card))
    for model, message in (("py:odd_networks:plain", "scenes"), ("plain.yaml", "mean")):
        ended = segment("predict", model, photos, "--bank", bank, "-o", "run")
        assert ended.code == 3
        assert message in ended.error
        assert "segment fit" in ended.error
    assert not (networks / "run").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "weights", "cut"])
def test_what_is_no_bank_is_refused_with_the_way_to_one(tmp_path: Path, photos: Path, bank: Path, kind: str) -> None:
    path = tmp_path / "bank.safetensors"
    if kind == "text":
        path.write_text("a bank")
    if kind == "weights":
        shutil.copy(WEIGHTS, path)
    if kind == "cut":
        path.write_bytes(bank.read_bytes()[:-100])
    ended = segment("predict", "scenes", photos, "--bank", path, "-o", tmp_path / "run")
    assert ended.code == 3
    assert str(path) in ended.error
    assert "segment fit" in ended.error
    assert not (tmp_path / "run").exists()


def test_a_card_of_other_classes_than_the_outputs_is_refused(tmp_path: Path, photos: Path, bank: Path) -> None:
    card = yaml.safe_load((SHIPPED / "scenes.yaml").read_text())
    card |= {"classes": card["classes"][:5], "palette": card["palette"][:5], "weights": {"file": str(WEIGHTS)}}
    (tmp_path / "five.yaml").write_text(yaml.safe_dump(card))
    for ended in (
        segment("inspect", tmp_path / "five.yaml"),
        segment("predict", tmp_path / "five.yaml", photos, "--bank", bank, "-o", tmp_path / "run"),
    ):
        assert ended.code == 3
        assert "6 outputs for the 5 classes" in ended.error
        assert "classes:" in ended.error
    assert not (tmp_path / "run").exists()


class Marker:
    """Unpickled by a careless reader, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["missing", "empty", "another", "text", "pickle"])
def test_wrong_weights_are_refused_and_none_of_their_code_runs(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "weights.pt", tmp_path / "marker"
    if kind == "empty":
        path.touch()
    if kind == "another":
        state = {name: value for name, value in load_file(WEIGHTS).items() if not name.startswith("up1")}
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    if kind == "text":
        path.write_text("weights")
    if kind == "pickle":
        torch.save({"state_dict": Marker(marker)}, path)
        with path.with_suffix(".pkl").open("wb") as stream:
            pickle.dump(Marker(marker), stream)
    for file in {path, path.with_suffix(".pkl") if kind == "pickle" else path}:
        ended = segment("inspect", "scenes", "--weights", file)
        assert ended.code == 3
        assert str(file) in ended.error
    assert not marker.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("scene", "Near: 'scenes'"),
        ("smpp:Unet", "Near: 'smp'"),
        ("segment:tinny", "Near: 'tiny'"),
        ("py:no_such_module:make", "no_such_module"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_an_unknown_network_is_refused_with_what_is_near(model: str, message: str) -> None:
    ended = segment("inspect", model)
    assert ended.code in (2, 3)
    assert ended.code == (2 if model.endswith(".yaml") else 3)
    assert message in ended.error


# options


def predicting(photos: Path, bank: Path, folder: Path) -> list[object]:
    return ["predict", "scenes", photos, "--bank", bank, "-o", folder]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--draws", "abc"], 2, "--draws"),
        (["--draws", "2.5"], 2, "--draws"),
        (["--draws", "0"], 2, f"1 to {DRAWS}"),
        (["--draws", "-1"], 2, f"1 to {DRAWS}"),
        (["--draws", str(DRAWS + 1)], 2, f"{DRAWS + 1} draws were asked of a bank of {DRAWS}"),
        (["--tile", "big"], 2, "--tile is auto, off or a number of pixels from 1 up, not 'big'"),
        (["--tile", "0"], 2, "--tile is auto, off or a number of pixels from 1 up, not 0"),
        (["--batch", "-2"], 2, "--batch is auto or a number of images from 1 up, not -2"),
        (["--fold", "0"], 2, "fold"),
        (["--maps", "variance,entropie"], 2, "entropie"),
        (["--heat", "varience"], 2, "Near: 'variance'"),
        (["--heat", "prediction"], 2, "--heat"),
        (
            ["--heat", "entropy"],
            2,
            "--heat shows a measure, not 'entropy'. Near: 'expected_entropy'. Known: ",
        ),
        (["--heat-max", "0"], 2, "--heat-max"),
        (["--heat-max", "nan"], 2, "--heat-max"),
        (["--format", "jpg"], 2, "jpg"),
        (["--format", ","], 2, "png, npz"),
        (["--format", "png", "--maps", "probability"], 2, "npz"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--device", "tpu0"], 2, "tpu0"),
        (["--weights"], 2, "--weights"),
        (["--mops", "variance"], 2, "--maps"),
        (["--tolerance", "0.01"], 2, "--tolerance would change nothing here: add --draws auto, or leave it out."),
        (["--label-suffix", "_x"], 2, "--label-suffix would change nothing here: add --labels, or leave it out."),
        (["--tile", "off", "--tile-mode", "blended"], 2, "--tile-mode would change nothing here: add --tile auto or N"),
        (["--format", "npz", "--heat-max", "1"], 2, "--heat-max would change nothing here: add --format png"),
        (["more"], 2, "more"),
    ],
)
def test_a_wrong_option_of_predict_is_one_line_and_makes_no_run(
    tmp_path: Path, photos: Path, bank: Path, options: list[str], code: int, message: str
) -> None:
    ended = segment(*predicting(photos, bank, tmp_path / "run"), *options)
    assert ended.code == code
    assert message in ended.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--draws", "abc"], 2, "--draws"),
        (["--draws", "0"], 2, "draws"),
        (["--batch", "0"], 2, "batch"),
        (["--batch", "100"], 2, "mini-batches of 4 or fewer"),
        (["--seed", "-1"], 2, "seed"),
        (["--size", "10"], 2, "360x480"),
        (["--size", "64x96"], 2, "leave --size out"),
        (["--layers", "decoder.*"], 2, "decoder.*"),
        (["--precision", "fp16"], 2, "fp32 or bf16"),
        (["--device", "tpu0"], 2, "tpu0"),
    ],
)
def test_a_wrong_option_of_fit_is_one_line_and_writes_no_bank(
    tmp_path: Path, statistics: Path, options: list[str], code: int, message: str
) -> None:
    ended = segment("fit", "scenes", "--images", statistics, "-o", tmp_path / "bank.safetensors", *options)
    assert ended.code == code
    assert message in ended.error
    assert not list(tmp_path.iterdir())


SCORING = ["evaluate", "scenes", "--images", "images", "-o", "run"]
SWEEPING = ["sweep", "scenes", "--images", "images", "--train", "train", "-o", "run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "scenes"], "--output"),
        (["predict", "scenes", "-o", "run"], "SRC"),
        (["frobnicate"], "frobnicate"),
        (["inspect", "scenes", "--size", "0x10"], "0x10"),
        (["experiment", "nothing"], "nothing"),
        (
            ["triage", "scores", "--confidence", ".95"],
            "--confidence would change nothing here: add --guarantee images or --guarantee mean, or leave it out.",
        ),
        (["triage", "scores", "--guarantee", "mean", "--share", ".5"], "--share would change nothing here: add --guar"),
        (["triage", "scores", "--sets", "raps", "--penalty", ".2"], "--sets and --penalty would change nothing here"),
        (["triage", "scores", "--coverage", ".9", "--penalty", ".2"], "add --sets raps"),
        ([*SCORING, "--methods", "mcbn", "--views", "flip"], "add tta to --methods"),
        ([*SCORING, "--methods", "mcbn", "--insert-dropout", ".2"], "add dropout to --methods"),
        ([*SCORING, "--unseen", "11;12"], "--unseen '11;12' is no list of integers"),
        ([*SCORING, "--methods", "mcbn", "--seed", "0"], "--seed would change nothing here: add dropout to --methods"),
        ([*SCORING, "--methods", "tta", "--draws", "4"], "--draws would change nothing here: add mcbn or dropout to"),
        ([*SCORING, "--methods", "mcbn", "--ensemble", "x"], "add ensemble to --methods"),
        ([*SCORING, "--methods", "tuned"], "give its folder by --tuned"),
        ([*SCORING, "--label-suffix", "_x"], "add --labels"),
        ([*SCORING, "--annotator-suffix", "_x"], "add --annotator"),
        ([*SCORING, "--title", "x"], "add --report"),
        (
            [*SWEEPING, "--severities", "1", "--adapt"],
            "--severities and --adapt would change nothing here: add --sh",
        ),
        ([*SWEEPING, "--insert-dropout", "0"], "add dropout to --methods"),
        ([*SWEEPING, "--label-suffix", "_x"], "add --labels"),
        ([*SWEEPING, "--title", "x"], "add --report"),
        (["tune", *SWEEPING[1:], "--label-suffix", "_x"], "add --labels"),
        (["report", "run", "--weights", "w.safetensors"], "add --model"),
        (["compare", "a", "b", "--plots"], "add --output"),
    ],
)
def test_a_command_that_cannot_be_is_one_line_that_names_the_help(arguments: list[str], message: str) -> None:
    ended = segment(*arguments)
    assert ended.code == 2
    assert message in ended.error
    assert ended.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("draw: 3\n", "Near: 'draws'"),
        ("draws: 1.5\n", "--draws"),
        ("draws: [1, 2]\n", "--draws"),
        ("draws: {a: 1}\n", "option: value"),
        ("- draws\n", "option: value"),
        ("draws: [\n", "YAML"),
        (None, "No such file"),
    ],
)
def test_a_settings_file_with_an_unknown_option_or_a_wrong_value_is_refused(
    tmp_path: Path, photos: Path, bank: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "options.yaml").write_text(text)
    ended = segment(*predicting(photos, bank, tmp_path / "run"), "--config", tmp_path / "options.yaml")
    assert ended.code == 2
    assert message in ended.error
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    networks: Path, photos: Path, statistics: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (networks / "taken").write_text("mine")
    (networks / "folder.safetensors").mkdir()
    monkeypatch.setattr("segment.estimation.estimator.estimates", lambda *_, **__: pytest.fail("the work was begun"))
    stopping = "py:odd_networks:Stopping", "--images", statistics, "--size", "32x32"  # ends with 130 when it begins
    taken = networks / "taken"
    for ended in (
        segment(*predicting(photos, bank, taken)),
        segment(*predicting(photos, bank, taken / "run")),
        segment("fit", *stopping, "-o", taken / "bank.safetensors"),
        segment("fit", *stopping, "-o", networks / "folder.safetensors"),
        segment("demo", "-o", taken),
    ):
        assert ended.code == 2
        assert str(networks) in ended.error
        assert "Cannot write" in ended.error
    assert taken.read_text() == "mine"
    there = {path.name for path in networks.iterdir()}
    assert there <= {"folder.safetensors", "taken", "odd_networks.py", "__pycache__"}


def test_a_bank_is_only_written_as_safetensors(tmp_path: Path, statistics: Path) -> None:
    ended = segment("fit", "scenes", "--images", statistics, "-o", tmp_path / "bank.pt")
    assert ended.code == 2
    assert f"{tmp_path / 'bank.pt'}.safetensors" in ended.error


# runs that are there, cut off, or go on


def test_a_run_that_is_there_is_refused_without_resume_and_left_as_it_is(photos: Path, bank: Path, whole: Path) -> None:
    before = contents(whole)
    ended = segment(*predicting(photos, bank, whole))
    assert ended.code == 2
    assert "--resume" in ended.error
    other = segment(*predicting(photos, bank, whole), "--resume", "--draws", 2, "--heat", "variance")
    assert other.code == 2
    assert "draws is all there, 2 asked" in other.error
    assert "heat is 'predictive_entropy' there, 'variance' asked" in other.error
    assert contents(whole) == before


def without_times(folder: Path) -> dict[str, Any]:
    """A run's bytes, less what tells the time."""
    files: dict[str, Any] = dict(contents(folder))
    del files["manifest.jsonl"], files["run.json"]
    record = json.loads((folder / "run.json").read_text())
    files["run.json"] = {key: value for key, value in record.items() if key != "timings"}
    files["lines"] = {name: {**line, "seconds": 0} for name, line in lines(folder).items()}
    return files


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, photos: Path, bank: Path, whole: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    manifest = (cut / "manifest.jsonl").read_bytes()
    first, second, _ = manifest.splitlines(keepends=True)
    (cut / "manifest.jsonl").write_bytes(first + second[:40])
    (cut / "sheet.png").unlink()
    (cut / "b" / "variance.png").unlink()
    (cut / "b" / "maps.npz").write_bytes(b"half")
    (cut / "b" / ".overlay.png.1-2.part").write_bytes(b"half")
    shutil.rmtree(cut / "c")
    ended = segment(*predicting(photos, bank, cut), "--resume")
    assert ended.code == 0
    assert "ends in half a line" in ended.err
    nothing_half_written(cut)
    assert without_times(cut) == without_times(whole)


def test_an_interrupted_run_keeps_what_is_whole_and_goes_on(
    tmp_path: Path, photos: Path, bank: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(9))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return estimates(*arguments, **options)

    monkeypatch.setattr("segment.estimation.estimator.estimates", interrupted)
    ended = segment(*predicting(photos, bank, tmp_path / "run"))
    assert ended.code == 130
    assert "--resume" in ended.error
    assert set(lines(tmp_path / "run")) == {"a", "b"}
    nothing_half_written(tmp_path / "run")
    monkeypatch.setattr("segment.estimation.estimator.estimates", estimates)
    assert segment(*predicting(photos, bank, tmp_path / "run"), "--resume").code == 0
    assert without_times(tmp_path / "run") == without_times(whole)


def test_an_interrupted_fit_writes_no_bank(networks: Path, statistics: Path) -> None:
    ended = segment(
        "fit",
        "py:odd_networks:Stopping",
        "--images",
        statistics,
        "--size",
        "32x32",
        "--batch",
        2,
        "-o",
        "bank.safetensors",
    )
    assert ended.code == 130
    assert ended.error.startswith("Error: Interrupted.")
    assert not list(networks.glob("*bank*"))
    assert not list(networks.glob(".*"))


def test_a_run_that_goes_on_keeps_its_plan(
    tmp_path: Path, photos: Path, bank: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    record = json.loads((run / "run.json").read_text())
    there, seen = torch.get_num_threads(), []
    record["plan"] |= {"threads": there + 1, "precision": "bf16"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "b" / "maps.npz").unlink()

    def looked(*_: Any, **__: Any) -> Any:
        seen.append(torch.get_num_threads())
        raise ValueError("seen enough")

    monkeypatch.setattr("segment.estimation.estimator.estimates", looked)
    assert segment(*predicting(photos, bank, run), "--resume").code == 1
    assert seen == [there + 1]
    assert torch.get_num_threads() == there
    assert json.loads((run / "run.json").read_text())["plan"] == record["plan"]


def test_pictures_that_cannot_be_made_fail_their_image_and_leave_no_folder(
    tmp_path: Path, photos: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, *arguments: Any, **options: Any) -> None:
        if path.parents[1].name == "b":
            raise ValueError("no such pixel")
        write_map_png(path, *arguments, **options)

    monkeypatch.setattr("segment.report.run_files.image_files.write_map_png", failing)
    ended = segment(*predicting(photos, bank, tmp_path / "run"))
    assert ended.code == 1
    assert "b: its pictures: ValueError: no such pixel" in ended.error
    nothing_half_written(tmp_path / "run")


def test_a_disk_that_fills_up_ends_the_run_in_one_line_with_whole_files_only(
    tmp_path: Path, photos: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *arguments: Any) -> None:
        if path.parent.name == "b":
            raise WrongUse(f"Cannot write {str(path)!r}: No space left on device. Choose another folder.")
        write_npz(path, *arguments)

    monkeypatch.setattr("segment.report.run_files.image_files.write_npz", full)
    ended = segment(*predicting(photos, bank, tmp_path / "run"))
    assert ended.code == 2
    assert "No space left" in ended.error
    assert lines(tmp_path / "run")["a"]["status"] == "done"
    nothing_half_written(tmp_path / "run")


def test_the_pictures_of_a_run_among_the_images_are_not_predicted(
    tmp_path: Path, photos: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "images")
    monkeypatch.chdir(tmp_path / "images")
    assert segment(*predicting(Path(), bank, Path("run"))).code == 0
    ended = segment(*predicting(Path(), bank, Path("run")), "--resume")
    assert ended.code == 0
    assert ended.err == "Warning: 32 files of runs below '.' are left out.\n"
    assert set(lines(Path("run"))) == {"a", "b", "c"}


def test_a_path_that_the_system_refuses_is_one_line(photos: Path, bank: Path) -> None:
    ended = segment(*predicting(photos, bank, Path("x" * 5000)))
    assert ended.code == 2
    assert "name too long" in ended.error
