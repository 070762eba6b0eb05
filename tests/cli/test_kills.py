"""A command that is killed at any moment goes on to what an undisturbed one leaves; two never share a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from console import DRAWS, fitted, photographs, segment, training

from segment.files.runs.lock import lock_folder

CODES = {"kill": {"0", "-9"}, "term": {"0", "143", "-15"}, "interrupt": {"0", "130"}, "full": {"0", "2"}}
"""Of the killed processes, by what killed them. -15: before the command had begun; a shell says 143 of it, too."""


def check(name: str, *, kills: int, others: int, images: int) -> None:
    """In a process of its own: forks of this one would have the locks of threads that they do not have."""
    seed = int.from_bytes(os.urandom(2), "big")
    numbers = [f"--{key}={value}" for key, value in (("kills", kills), ("others", others), ("images", images))]
    words = [sys.executable, "-m", "benchmarks.kills", f"--commands={name}", f"--seed={seed}", *numbers]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = json.loads(done.stdout)["commands"][name]
    assert kinds.keys() == CODES.keys()
    for kind, outcome in kinds.items():
        assert outcome["kills"] >= (kills if kind == "kill" else others)
        assert outcome["different"] == [], f"{name} after {kind}, seed {seed}"
        assert set(outcome["ends"]) <= CODES[kind], f"{name} after {kind}, seed {seed}: {outcome} {done.stderr}"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_killed_prediction_goes_on_to_the_same_bytes() -> None:
    check("predict", kills=3, others=1, images=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "evaluate", "sweep", "fit"])
def test_every_command_killed_a_hundred_times_ends_in_the_same_bytes(name: str) -> None:
    check(name, kills=100, others=20, images=200)


def test_a_second_process_on_a_run_is_refused_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "train"))
    photos, run = photographs(tmp_path / "photos", 2), tmp_path / "run"
    words = ("predict", "scenes", photos, "--bank", bank, "-o", run, "--draws", DRAWS, "--precision", "fp32")
    lock = lock_folder(run)
    refused = segment(*words)
    assert refused.code == 2
    assert "Another process is writing" in refused.err
    assert not (run / "manifest.jsonl").exists()
    lock.release()
    assert segment(*words).code == 0
    assert segment(*words, "--resume").code == 0  # the folder is free again, though its lock's file is there
