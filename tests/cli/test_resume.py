"""A run that goes on: an id belongs to a path for good, what changed is done again, and other settings are named."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from console import Ended, contents, lines, photographs, segment
from PIL import Image

from segment.files.writing import write_png
from segment.jobs.decisions.select import select
from segment.networks.cards import SHIPPED
from segment.report.run_files.saved_run import load_run
from segment.scenes.scene import TEST, scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", 2)


def predicted(photos: Path, bank: Path, *more: object, model: object = "scenes") -> Ended:
    run = photos.parent / "run"
    return segment("predict", model, photos, "--bank", bank, "-o", run, "--draws", 2, "--precision", "fp32", *more)


def another(path: Path, seed: int = 5) -> Path:
    """Another picture under that name."""
    Image.fromarray(scene(TEST[seed], size=(48, 64)).image).save(path)
    return path


def of_image(run: Path, name: str) -> dict[str, bytes]:
    return {file: data for file, data in contents(run).items() if file.startswith(f"{name}/")}


def shifted_ids(run: Path) -> dict[str, str]:
    """Path -> id."""
    record: dict[str, str] = json.loads((run / "run.json").read_text())["sources"]
    return {Path(path).name: name for name, path in record.items()}


def test_a_file_that_sorts_before_its_namesake_gets_an_id_of_its_own_and_is_predicted(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    assert predicted(photos, bank).code == 0
    before = of_image(tmp_path / "run", "a")
    another(photos / "a.bmp")
    ended = predicted(photos, bank, "--resume")
    assert (ended.code, ended.err) == (0, "")
    assert shifted_ids(tmp_path / "run") == {"a.png": "a", "b.png": "b", "a.bmp": "a-2"}
    assert of_image(tmp_path / "run", "a") == before
    alone = tmp_path / "alone"
    segment("predict", "scenes", photos / "a.bmp", "--bank", bank, "-o", alone, "--draws", 2, "--precision", "fp32")
    bytes_alone = of_image(alone, "a")
    assert {name.replace("a-2/", "a/"): data for name, data in of_image(tmp_path / "run", "a-2").items()} == bytes_alone
    assert predicted(photos, bank, "--resume").code == 0
    assert shifted_ids(tmp_path / "run")["a.bmp"] == "a-2"


def test_the_id_of_a_file_that_is_gone_is_not_given_away(tmp_path: Path, photos: Path, bank: Path) -> None:
    assert predicted(photos, bank).code == 0
    (photos / "a.png").rename(tmp_path / "a.png")
    another(photos / "a.bmp")
    assert predicted(photos, bank, "--resume").code == 0
    assert shifted_ids(tmp_path / "run")["a.bmp"] == "a-2"
    (tmp_path / "a.png").rename(photos / "a.png")
    count = len((tmp_path / "run" / "manifest.jsonl").read_text().splitlines())
    assert predicted(photos, bank, "--resume").code == 0
    assert len((tmp_path / "run" / "manifest.jsonl").read_text().splitlines()) == count, "both were done before"


def test_an_image_that_was_taken_away_is_in_no_list_of_the_run_until_it_is_back(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    assert predicted(photos, bank).code == 0
    run = tmp_path / "run"
    assert "removed" not in json.loads((run / "run.json").read_text())
    (photos / "a.png").rename(tmp_path / "a.png")
    assert predicted(photos, bank, "--resume").code == 0
    assert list(load_run(run)) == ["b"]
    assert [name for name, *_ in select(run, 3).images] == ["b"]
    (tmp_path / "a.png").rename(photos / "a.png")
    assert predicted(photos, bank, "--resume").code == 0
    assert list(load_run(run)) == ["a", "b"]
    assert {name for name, *_ in select(run, 3).images} == {"a", "b"}


def test_a_source_that_changed_is_done_again_and_no_other(tmp_path: Path, photos: Path, bank: Path) -> None:
    assert predicted(photos, bank).code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "first")
    stat = (photos / "b.png").stat()
    another(photos / "b.png")
    os.utime(photos / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert predicted(photos, bank, "--resume").code == 0
    manifest = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert [(line["id"], line["status"]) for line in manifest[2:]] == [("b", "failed"), ("b", "done")]
    assert of_image(tmp_path / "run", "a") == of_image(tmp_path / "first", "a")
    fresh = tmp_path / "fresh"
    segment("predict", "scenes", photos, "--bank", bank, "-o", fresh, "--draws", 2, "--precision", "fp32")
    assert of_image(tmp_path / "run", "b") == of_image(fresh, "b")


def test_a_source_that_became_unreadable_leaves_no_maps_of_what_it_was(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    assert predicted(photos, bank).code == 0
    (photos / "b.png").write_bytes(b"torn")
    ended = predicted(photos, bank, "--resume")
    assert ended.code == 1
    assert "1 of 2 images failed" in ended.error
    assert lines(tmp_path / "run")["b"]["status"] == "failed"
    assert not (tmp_path / "run" / "b").exists()


def test_files_that_a_manifest_names_outside_the_run_are_left_alone(tmp_path: Path, photos: Path, bank: Path) -> None:
    assert predicted(photos, bank).code == 0
    manifest = tmp_path / "run" / "manifest.jsonl"
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    changed = [json.loads(line) for line in manifest.read_text().splitlines()]
    changed[1]["files"].append("../kept.txt")
    manifest.write_text("".join(json.dumps(line) + "\n" for line in changed))
    another(photos / "b.png")
    assert predicted(photos, bank, "--resume").code == 0
    assert kept.read_text() == "mine"


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "void": ({"void": 9}, "card.void is 255 there, 9 asked"),
    "drop_outputs": ({"drop_outputs": [5], "classes": 5}, "card.drop_outputs is [] there, [5] asked"),
    "classes": ({"classes": {0: "air"}}, "card.classes is ['sky', "),
    "palette": ({"palette": {0: [1, 2, 3]}}, "card.palette is [["),
    "white": ({"input": {"white": 4095}}, "card.input.white is none given there, 4095.0 asked"),
    "pad": ({"input": {"pad": "edge"}}, "card.input.pad is 'reflect' there, 'edge' asked"),
    "stride": ({"input": {"stride": 32}}, "card.input.stride is "),
    "eps": ({"batchnorm_eps": {"*": 0.1}}, "card.batchnorm_eps.* is none given there, 0.1 asked"),
    "labels": ({"labels": {7: 1}}, "card.labels.7 is none given there, 1 asked"),
}


NO_MATTER_OF_THE_BANK = ("void", "classes", "palette", "labels")


def card_with(path: Path, **changes: Any) -> Path:
    card = yaml.safe_load((SHIPPED / "scenes.yaml").read_text()) | {"void": 255}
    card["weights"]["file"] = str(SHIPPED / "scenes.safetensors")
    for key, value in changes.items():
        if key in ("classes", "palette"):
            listed = list(card[key])[: value if isinstance(value, int) else None]
            for index, entry in value.items() if isinstance(value, dict) else ():
                listed[index] = entry
            card[key] = listed
        else:
            card[key] = {**card[key], **value} if key == "input" else value
    if len(card["palette"]) > len(card["classes"]):
        card["palette"] = card["palette"][: len(card["classes"])]
    path.write_text(yaml.safe_dump(card))
    return path


@pytest.mark.parametrize("key", CHANGES)
def test_whatever_changed_in_the_card_is_named_with_both_values(
    tmp_path: Path, photos: Path, bank: Path, key: str
) -> None:
    model = card_with(tmp_path / "own.yaml")
    assert predicted(photos, bank, model=model).code == 0
    before = contents(tmp_path / "run")
    changes, named = CHANGES[key]
    card_with(model, **changes)
    ended = predicted(photos, bank, "--resume", model=model)
    if ended.code != 3 or key in NO_MATTER_OF_THE_BANK:  # 3: the bank knows already that it is another network
        assert ended.code == 2
        assert named in ended.error
    assert contents(tmp_path / "run") == before
    card_with(model)
    assert predicted(photos, bank, "--resume", model=model).code == 0


def test_a_palette_that_no_file_shows_does_not_stop_a_run(tmp_path: Path, photos: Path, bank: Path) -> None:
    model = card_with(tmp_path / "own.yaml")
    assert predicted(photos, bank, "--format", "npz", model=model).code == 0
    card_with(model, palette={0: [1, 2, 3]})
    assert predicted(photos, bank, "--format", "npz", "--resume", model=model).code == 0


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names there are Unicode")
def test_a_name_that_is_not_utf_8_is_escaped_and_written_and_the_run_goes_on(tmp_path: Path, bank: Path) -> None:
    folder = tmp_path / os.fsdecode(b"photos\xfc")
    write_png(folder / "a.png", scene(TEST[0], size=(48, 64)).image)
    for name in (b"caf\xe9.png", b"caf\xe8.png", rb"caf\xe9.png"):
        shutil.copy(folder / "a.png", folder / os.fsdecode(name))
    ended = predicted(folder, bank)
    assert (ended.code, ended.err) == (0, "")
    manifest = lines(tmp_path / "run")
    assert set(manifest) == {"a", "caf%E8", "caf%E9", "caf_xe9"}
    assert {line["status"] for line in manifest.values()} == {"done"}
    sources = {name: Path(line["source"]).name for name, line in manifest.items()}
    assert sources["caf%E9"] == r"caf\xe9.png"
    assert len(set(sources.values())) == 4
    assert (tmp_path / "run" / "run.json").read_text(encoding="utf-8")
    data = (tmp_path / "run" / "manifest.jsonl").read_bytes()
    (tmp_path / "run" / "manifest.jsonl").write_bytes(b"".join(data.splitlines(keepends=True)[:2]))
    assert predicted(folder, bank, "--resume").code == 0
    assert set(lines(tmp_path / "run")) == set(manifest)
    size = len((tmp_path / "run" / "manifest.jsonl").read_bytes())
    assert predicted(folder, bank, "--resume").code == 0
    assert len((tmp_path / "run" / "manifest.jsonl").read_bytes()) == size, "all were done"
