"""segment export: a file that other programs read, or one line that says why there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from console import DRAWS, SMALL, contents, fitted, photographs, segment, training
from PIL import Image

from segment.files.banks.bank_file import load_bank
from segment.jobs.distill import distill_bank
from segment.passes.fused import onednn


def test_an_exported_graph_has_the_maps_of_a_run(bank: Path, tmp_path: Path) -> None:
    ended = segment("export", "scenes", "--bank", bank, "-o", tmp_path / "g" / "mcbn.onnx", "--draws", 2, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["draws"] == 2
    assert ended.json["bytes"] == (tmp_path / "g" / "mcbn.onnx").stat().st_size
    images = photographs(tmp_path / "images", 1)
    maps = "probability,variance,predictive_entropy,expected_entropy,mutual_information"
    options = ("--draws", 2, "--maps", maps, "--precision", "fp32", "-o", tmp_path / "run")
    run = segment("predict", "scenes", images, "--bank", bank, *options)
    assert run.code == 0, run.err
    session = onnxruntime.InferenceSession(tmp_path / "g" / "mcbn.onnx")
    made = session.run(None, {"image": np.asarray(Image.open(images / "a.png"))[None]})
    expected = np.load(tmp_path / "run" / "a" / "maps.npz")
    for output, values in zip(session.get_outputs(), made, strict=True):
        assert values.shape[-2:] == SMALL
        np.testing.assert_allclose(values[0], expected[output.name], rtol=0, atol=1e-3, err_msg=output.name)


def test_a_sentence_tells_what_was_written(bank: Path, tmp_path: Path) -> None:
    ended = segment("export", "scenes", "--bank", bank, "-o", tmp_path / "mcbn.xml")
    assert ended.code == 0, ended.err
    assert f"one graph of {DRAWS} draws" in " ".join(ended.out.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mcbn.bin", "mcbn.xml"]


def test_what_cannot_be_written_is_one_line_and_leaves_no_file(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = segment("export", "scenes", "--bank", bank, "-o", tmp_path / "mcbn.pt")
    assert (wrong.code, "as .onnx" in wrong.error) == (2, True)
    other = segment("export", "segment:enet?classes=3", "--bank", bank, "-o", tmp_path / "mcbn.onnx")
    assert (other.code, "another network" in other.err or "recorded on" in other.err) == (3, True)
    (tmp_path / "file").touch()
    beneath = segment("export", "scenes", "--bank", bank, "-o", tmp_path / "file" / "mcbn.onnx")
    assert (beneath.code, "Cannot write" in beneath.error) == (2, True)
    for module, suffix in (("onnx", "onnx"), ("onnxruntime", "onnx"), ("openvino", "xml")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            missing = segment("export", "scenes", "--bank", bank, "-o", tmp_path / f"mcbn.{suffix}")
        assert missing.code == 2
        assert (
            f"need {module}: pip install 'mcbn-segment[{'openvino' if suffix == 'xml' else 'onnx'}]'" in missing.error
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_by_openvino_has_torchs_maps_says_so_and_goes_on_with_no_other_engine(bank: Path, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 3)
    options = ("scenes", images, "--bank", bank, "--format", "npz")
    for engine in ("torch", "openvino"):
        ended = segment("predict", *options, "--precision", "fp32", "--engine", engine, "-o", tmp_path / engine)
        assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "openvino" / "run.json").read_text())["plan"]["engine"] == "openvino"
    for id in "abc":
        maps = [np.load(tmp_path / engine / id / "maps.npz") for engine in ("torch", "openvino")]
        for name in ("variance", "predictive_entropy", "mutual_information"):
            np.testing.assert_allclose(maps[0][name], maps[1][name], rtol=0, atol=1e-4)
    (tmp_path / "openvino" / "b" / "maps.npz").unlink()
    manifest = tmp_path / "openvino" / "manifest.jsonl"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if '"id": "b"' not in line))
    fp32 = ("--precision", "fp32", "--resume", "-o", tmp_path / "openvino")
    other = segment("predict", *options, *fp32)
    assert (other.code, "engine" in other.error) == (2, True)
    whole = contents(tmp_path / "torch")
    again = segment("predict", *options, "--engine", "openvino", *fp32)
    assert again.code == 0, again.err
    assert len(contents(tmp_path / "openvino")) == len(whole)


@pytest.mark.skipif(not onednn.has_bfloat16(), reason="no bfloat16 instructions")
def test_half_precision_by_openvino_is_audited_when_a_bank_is_recorded_for_it(bank: Path, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 1)
    by_openvino = ("--engine", "openvino", "--format", "npz")
    ended = segment("predict", "scenes", images, "--bank", bank, *by_openvino, "-o", tmp_path / "run")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert plan["precision"] == "fp32"
    assert "was not audited for openvino" in plan["precision_why"]
    statistics = training(tmp_path / "statistics")
    audited = fitted(tmp_path / "audited.safetensors", statistics, "scenes", "--engine", "openvino")
    figures = load_bank(audited).provenance["audit"]
    assert set(figures) == {"cpu", "openvino"}
    assert 0 < figures["openvino"]["bf16"]["variance_error"] < 0.2
    assert figures["openvino"]["bf16"]["speed"] > 0
    distilled = distill_bank("scenes", audited, statistics, draws=2, steps=0)
    assert 0 < distilled.provenance["audit"]["openvino"]["bf16"]["variance_error"] < 0.2
    half = ("--precision", "bf16", "--draws", 2, "-o", tmp_path / "half")
    rounded = segment("predict", "scenes", images, "--bank", audited, *by_openvino, *half)
    assert rounded.code == 0, rounded.err


def test_half_precision_by_openvino_is_refused_where_it_would_be_fp32(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    images = photographs(tmp_path / "images", 1)
    options = ("--engine", "openvino", "--precision", "bf16", "-o", tmp_path / "run")
    ended = segment("predict", "scenes", images, "--bank", bank, *options)
    assert (ended.code, "Take --precision fp32" in ended.error) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--engine", "openvin"), "Near: 'openvino'"),
        (("--engine", "openvino", "--fold", 2), "one draw a pass"),
        (("--engine", "openvino", "--precision", "fp16"), "fp16"),
    ],
)
def test_what_an_engine_cannot_do_is_wrong_use(
    options: tuple[object, ...], why: str, bank: Path, tmp_path: Path
) -> None:
    images = photographs(tmp_path / "images", 1)
    ended = segment("predict", "scenes", images, "--bank", bank, *options, "-o", tmp_path / "run")
    assert (ended.code, why in ended.error) == (2, True)
    assert not (tmp_path / "run").exists()
