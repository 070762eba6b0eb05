"""`segment doctor`: what the machine has, and fast passes of a network compared with plain ones."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from console import DRAWS, NETWORKS, SMALL, fitted, photographs, segment, training

from segment.jobs.doctor import EXTRAS
from segment.passes.fused.convolutions import FusedConvolutions
from segment.passes.passes import Passes
from segment.scenes.scene import TRAIN

READING = """

class Reading(Net):
    def forward(self, x):
        y = self.norm(self.first(x))
        return self.last(y.relu()) + (0.1 if float(y.mean()) > 100 else 0.0)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", 4)


@pytest.fixture
def wrong_fused_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fused convolution gives 1.1 times its result."""
    run = FusedConvolutions.run

    def wrong(self: Any, *arguments: Any, **named: Any) -> Any:
        result, through = run(self, *arguments, **named)
        return result * 1.1, through

    monkeypatch.setattr(FusedConvolutions, "run", wrong)


needs_onednn = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of torch has no oneDNN to fuse with")


def test_doctor_lists_versions_precision_and_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segment.jobs.doctor.EXTRAS", {"plots": ("torch",), "wings": ("no_such_package",)})
    ended = segment("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert "missing: pip install 'mcbn-segment[wings]'" in ended.out
    findings = segment("doctor", "--json").json
    assert findings["torch"] == torch.__version__.split("+")[0]
    assert findings["extra plots"] == "installed"
    assert findings["threads"] == torch.get_num_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert "for the shipped network" in findings[f"precision on {device}"]


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    every = re.search(r"\[(.*)\]", project["project"]["optional-dependencies"]["all"][0])
    assert every is not None
    assert set(EXTRAS) == set(every[1].split(","))
    assert all(find_spec(module) for modules in EXTRAS.values() for module in modules)


def test_fast_passes_of_the_shipped_network_agree_with_plain_ones_on_three_images(tmp_path: Path) -> None:
    images = training(tmp_path / "training")
    ended = segment("doctor", "scenes", "--images", images, "--device", "cpu", "--json")
    assert (ended.code, ended.err) == (0, "")
    report = ended.json
    assert (report["network"], report["draws"], report["agree"]) == ("scenes", 4, True)
    assert [image["image"] for image in report["images"]] == [str(seed) for seed in TRAIN[:3]]
    for image in report["images"]:
        assert 0 < image["probability"] <= image["tolerance"] == 1e-4, "other kernels round otherwise, and no more"
        assert 0 < image["variance"] <= image["tolerance"]
        assert image["within"]


@needs_onednn
def test_a_table_shows_how_the_passes_of_each_image_ran(tmp_path: Path, photos: Path) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "training"))
    ended = segment("doctor", "scenes", "--images", photos / "b.png", "--bank", bank, "--device", "cpu")
    assert (ended.code, ended.err) == (0, "")
    assert f"scenes: fast against plain passes, {DRAWS} draws" in ended.out
    (row,) = [line.split() for line in ended.out.splitlines() if line.split()[:1] == ["b"]]
    assert (row[1], row[-1]) == ("fused", "yes")
    assert "Fast and plain passes agree." in ended.out


def test_the_call_that_keeps_draws_from_sharing_is_named(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reading_networks.py").write_text(NETWORKS + READING)
    monkeypatch.syspath_prepend(tmp_path)
    ended = segment("doctor", "py:reading_networks:Reading", "--images", photos, "--json")
    assert ended.code == 0, ended.err
    assert {image["way"] for image in ended.json["images"]} == {"plain"}
    (reason,) = ended.json["reasons"]
    assert reason.startswith("Each draw runs the whole network: ")
    assert reason.endswith("gives values that depend on the draw to Python.")


@needs_onednn
@pytest.mark.usefixtures("wrong_fused_calls")
def test_passes_that_differ_end_with_exit_code_1_and_their_largest_difference(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "training"))
    monkeypatch.setattr(Passes, "_difference", lambda *_: "")  # the engine's own comparison finds nothing
    ended = segment("doctor", "scenes", "--images", photos, "--bank", bank, "--device", "cpu", "--json")
    assert ended.code == 1, ended.err
    assert not ended.json["agree"]
    for image in ended.json["images"]:
        assert image["way"] == "fused"
        assert not image["within"]
        assert image["probability"] > 100 * image["tolerance"]
        assert image["variance"] > image["tolerance"]
    table = segment("doctor", "scenes", "--images", photos, "--bank", bank, "--device", "cpu")
    assert table.code == 1
    assert "Fast and plain passes differ." in table.out


@needs_onednn
@pytest.mark.usefixtures("wrong_fused_calls")
def test_a_fast_way_that_the_engine_gave_up_for_other_numbers_is_listed_and_ends_with_exit_code_1(
    tmp_path: Path, photos: Path
) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "training"))
    ended = segment("doctor", "scenes", "--images", photos, "--bank", bank, "--device", "cpu", "--json")
    assert (ended.code, ended.err) == (1, "")
    assert all(image["within"] for image in ended.json["images"]), "the engine makes plain passes instead"
    (reason,) = ended.json["reasons"]
    assert reason.startswith("This network's convolutions are not fused: other numbers than a plain pass")


def test_images_of_several_sizes_are_compared_without_a_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sized_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    photos = photographs(tmp_path / "photos", 1, size=(48, 80))
    photographs(photos / "larger", 1, size=SMALL)
    ended = segment("doctor", "py:sized_networks:plain", "--images", photos, "--json")
    assert ended.code == 0, ended.err
    assert [image["image"] for image in ended.json["images"]] == ["a", "larger/a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "photos"], "go with a MODEL"),
        (["--weights", "w.safetensors"], "go with a MODEL"),
        (["scenes"], "give --images SRC"),
    ],
)
def test_a_model_and_its_images_go_together(arguments: list[str], message: str) -> None:
    ended = segment("doctor", *arguments)
    assert ended.code == 2
    assert message in ended.error


def test_an_output_that_is_not_finite_is_one_line_that_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nan_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    photos = photographs(tmp_path / "photos", 3)
    bank = tmp_path / "bank.safetensors"
    fitted(bank, photos, "py:nan_networks:plain")
    ended = segment("doctor", "py:nan_networks:Nan", "--images", photos, "--bank", bank)
    assert ended.code in (1, 3)
    assert "Traceback" not in ended.err
