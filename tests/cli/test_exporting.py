"""segment export: a file that other programs read, or one line that says why there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from console import DRAWS, SMALL, fitted, photographs, segment, training
from PIL import Image


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    return fitted(folder / "bank.safetensors", training(folder / "images"))


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
