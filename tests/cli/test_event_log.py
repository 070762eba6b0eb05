"""`--log-json`: one event a line, from the start to the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from console import DRAWS, Ended, photographs, segment

from segment.cli.event_log import current
from segment.files.writing import write_png
from segment.scenes.scene import TEST, scene


def events_in(text: str) -> list[dict[str, Any]]:
    """The events of one command."""
    events = [json.loads(line) for line in text.splitlines()]
    assert all(event["time"].endswith("+00:00") for event in events)
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "ended")
    assert kinds.count("started") == kinds.count("ended") == 1
    assert current() is None  # closed with its command
    return events


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = photographs(tmp_path / "photos", 2)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def predict(photos: Path, bank: Path, run: Path, *more: object) -> Ended:
    return segment("predict", "scenes", photos, "--bank", bank, "-o", run, "--format", "npz", *more)


def test_a_run_is_logged_from_its_start_to_its_exit_code(photos: Path, bank: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    ended = predict(photos, bank, tmp_path / "run", "--log-json", log)
    assert ended.code == 1
    events = events_in(log.read_text(encoding="utf-8"))
    started = events[0]
    assert (started["command"], started["arguments"][0]) == ("predict", "scenes")
    images = {event["id"]: event for event in of_kind(events, "image")}
    assert {id: event["status"] for id, event in images.items()} == {"a": "done", "b": "done", "broken": "failed"}
    assert images["a"]["seconds"] > 0
    assert "does not decode" in images["broken"]["error"]
    first, last = of_kind(events, "progress")[0], of_kind(events, "progress")[-1]
    assert (first["done"], last["done"], last["total"], last["draws"]) == (0, 3, 3, 2 * DRAWS)
    (message,) = of_kind(events, "message")
    assert (message["level"], message["message"][:7]) == ("warning", "broken:")
    (summary,) = of_kind(events, "summary")
    assert (summary["done"], summary["failed"], list(summary["reasons"].values())) == (2, 1, [1])
    assert set(summary["uncertain"]) == {"a", "b"}
    # exit code, last line and last event are of the same fact
    assert (events[-1]["exit_code"], events[-1]["done"], events[-1]["failed"]) == (1, 2, 1)
    assert ended.error == f"Error: {events[-1]['error']}"
    assert "2 done, 1 failed" in ended.out
    # a run that goes on is logged behind it, and counts all images of the run
    write_png(photos / "broken.png", scene(TEST[0], size=(64, 96)).image)
    again = predict(photos, bank, tmp_path / "run", "--resume", "--log-json", log)
    assert again.code == 0
    more = events_in("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[len(events) :]))
    assert [event["id"] for event in of_kind(more, "image")] == ["broken"]
    assert (more[-1]["exit_code"], more[-1]["done"], more[-1]["failed"]) == (0, 3, 0)


def test_on_stderr_events_take_the_place_of_all_text(photos: Path, bank: Path, tmp_path: Path) -> None:
    ended = predict(photos, bank, tmp_path / "run", "--log-json", "-", "--quiet")
    events = events_in(ended.err)
    assert (ended.code, ended.out) == (1, "")
    assert events[-1]["exit_code"] == 1
    assert len(of_kind(events, "image")) == 3


def test_a_refusal_is_the_last_event(photos: Path, bank: Path, tmp_path: Path) -> None:
    ended = predict(photos, bank, tmp_path / "run", "--draws", "999", "--log-json", "-")
    events = events_in(ended.err)
    assert ended.code == events[-1]["exit_code"] == 2
    assert "999 draws" in events[-1]["error"]
    ended = predict(photos, bank, tmp_path / "run", "--log-json", tmp_path)
    assert ended.code == 2
    assert str(tmp_path) in ended.error


def test_evaluate_sweep_and_fit_log_too(statistics: Path, bank: Path, tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for number, name in enumerate("ab"):
        made = scene(TEST[number], size=(32, 48))
        write_png(images / f"{name}.png", made.image)
        write_png(labels / f"{name}.png", made.label.astype("uint8"))
    write_png(images / "c.png", made.image)
    labelled = ("--images", images, "--labels", labels)
    ended = segment(
        *("evaluate", "scenes", *labelled, "--bank", bank, "-o", tmp_path / "scores", "--log-json", "-"),
        *("--methods", "mcbn,deterministic"),
    )
    events = events_in(ended.err)
    assert {event["id"]: event["status"] for event in of_kind(events, "image")} == {
        "a": "done",
        "b": "done",
        "c": "failed",
    }
    assert (events[-1]["exit_code"], events[-1]["done"], events[-1]["failed"]) == (ended.code, 2, 1) == (1, 2, 1)
    assert "Most uncertain, by mean predictive_entropy: " in ended.out
    (images / "c.png").unlink()
    ended = segment(
        *("sweep", "scenes", *labelled, "--train", statistics, "--batches", "2", "--draws", "1", "--no-plots"),
        *("-o", tmp_path / "sweep", "--log-json", "-"),
    )
    events = events_in(ended.err)
    assert (ended.code, events[-1]["exit_code"], events[-1]["failed"]) == (0, 0, 0)
    assert of_kind(events, "progress")
    ended = segment(
        *("fit", "scenes", "--images", statistics, "--batch", 2, "--draws", 2, "--no-cache"),
        *("-o", tmp_path / "bank.safetensors", "--log-json", "-"),
    )
    events = events_in(ended.err)
    assert (ended.code, events[-1]["exit_code"]) == (0, 0)
    assert {event["stage"] for event in of_kind(events, "progress")} >= {"recording draws"}
