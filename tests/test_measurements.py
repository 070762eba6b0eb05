"""The commands behind README's and docs' figures: those that were recorded are those that would run again."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.image_lists import main as write_lists
from benchmarks.measure import in_order, run_step, shown, steps
from benchmarks.measured_files import MEASURED

STEPS = steps()


@pytest.mark.parametrize("path", sorted(MEASURED.glob("*.json")), ids=lambda path: path.stem)
def test_a_measurement_was_made_by_the_command_that_would_make_it_again(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["command"] == shown(STEPS[path.stem]["run"])


def test_each_step_runs_once_and_after_what_it_needs(tmp_path: Path) -> None:
    order = in_order(list(STEPS), STEPS, tmp_path)
    assert sorted(order) == sorted(STEPS)
    for name in order:
        assert all(order.index(need) < order.index(name) for need in STEPS[name].get("needs", ()))


def test_files_that_a_command_reads_below_outputs_are_written_by_a_step_that_it_needs() -> None:
    written = {name: _outputs(step["run"]) for name, step in STEPS.items()}
    for name, step in STEPS.items():
        before = {path for need in in_order([name], STEPS, Path("none")) if need != name for path in written[need]}
        for word in shlex.split(step["run"]):
            if word.startswith("outputs/measured/") and word not in written[name]:
                known = any(word == path or word.startswith(f"{path}/") for path in before)
                listed = "lists" in step.get("needs", ()) and word.endswith(".txt")
                assert known or listed, (name, word)


def _outputs(command: str) -> set[str]:
    words = shlex.split(command)
    marked = {words[place + 1] for place, word in enumerate(words) if word == "-o"}
    first = {"benchmarks.scene_files": 3, "benchmarks.cifar_files": 4, "benchmarks.large_raster": 3}  # no -o
    return marked | ({words[first[words[2]]]} if words[2] in first else set())


@pytest.fixture
def known() -> dict[str, dict[str, Any]]:
    return {
        "bank": {"run": _writing("bank.json", 1), "measures": False},
        "scores": {"run": _writing("scores.json", 2), "keep": ["scores.json"], "measures": True, "needs": ["bank"]},
    }


def _writing(name: str, number: int) -> str:
    return shlex.join(["python", "-c", f"from pathlib import Path; Path('{name}').write_text('{number}')"])


def test_what_is_needed_runs_again_only_where_its_command_changed_or_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    for name in in_order(["scores"], known, ran):
        run_step(name, known[name], tmp_path / "kept", ran)
    assert json.loads((tmp_path / "kept" / "scores.json").read_text())["result"] == 2
    assert not (tmp_path / "kept" / "bank.json").exists()
    assert in_order(["scores"], known, ran) == ["scores"]
    assert in_order(["scores", "bank"], known, ran) == ["bank", "scores"]
    known["bank"]["run"] += " "
    assert in_order(["scores"], known, ran) == ["scores"]  # the same command
    known["bank"]["run"] = _writing("bank.json", 3)
    assert in_order(["scores"], known, ran) == ["bank", "scores"]


def test_a_step_that_fails_or_leaves_an_old_file_keeps_nothing_and_counts_as_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran, kept = tmp_path / "ran", tmp_path / "kept"
    Path("old.json").write_text("{}")
    os.utime("old.json", (1, 1))
    idle = {"run": "python -c pass", "keep": ["old.json"], "measures": True}
    with pytest.raises(SystemExit, match=r"did not write old.json, which idle keeps"):
        run_step("idle", idle, kept, ran)
    failing = {"run": shlex.join(["python", "-c", "raise SystemExit(3)"]), "measures": True}
    with pytest.raises(SystemExit) as left:
        run_step("failing", failing, kept, ran)
    assert left.value.code == 3
    assert not kept.exists()
    assert not list(ran.glob("*"))


def test_lists_name_images_and_label_maps_as_seen_from_their_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "data" / "camvid", tmp_path / "outputs" / "measured"
    source.mkdir(parents=True)
    for part, count in (("val", 35), ("test", 50)):
        lines = [f"{part}/{number}.png {part}annot/{number}.png" for number in range(1, count + 1)]
        (source / f"{part}.txt").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["image_lists", str(source), str(out)])
    write_lists()
    lists = {path.stem: path.read_text().splitlines() for path in out.iterdir()}
    base = "../../data/camvid"
    assert lists["some_val"] == [f"{base}/val/{n}.png {base}/valannot/{n}.png" for n in (2, 19)]
    assert lists["twelfth_test"] == [f"{base}/test/{n}.png {base}/testannot/{n}.png" for n in (1, 13, 25, 37, 49)]
    assert lists["first_test"][0] == f"{base}/test/1.png"
    # tuned and tested on other images; those of a triage's temperature are not among its pool
    assert not set(lists["half_val"]) & set(lists["val"])
    assert not set(lists["tenth_val"]) & set(lists["held_pool"])
    assert set(lists["tenth_val"]) | set(lists["held_pool"]) == set(lists["pooled"])
