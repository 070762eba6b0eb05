"""Images that are dropped into a folder while it is watched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from console import segment
from plain import random_bank
from processes import photographs

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.errors import WrongUse
from segment.files.banks.bank_file import save_bank
from segment.files.runs.manifest import MADE_AGAIN, read_manifest
from segment.files.runs.places import STOP
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.prediction.summary import Summary
from segment.jobs.prediction.watch import WatchPlan, arrivals
from segment.networks.load import Network, load_network

EVERY = 0.03
PLAN = PredictPlan(formats=("npz",))


@contextmanager
def dropping(work: Callable[[], None]) -> Iterator[None]:
    """Someone else drops files meanwhile; an error of theirs ends the watch, which waits for them for ever."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            os.kill(os.getpid(), signal.SIGINT)
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert not errors


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def status(run: Path, id: str) -> str:
    manifest = run / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().split("\n")[:-1]] if manifest.exists() else []
    return next((line["status"] for line in reversed(lines) if line["id"] == id), "")


def watch(small_and_bank: tuple[Network, Bank], inbox: Path, run: Path, *, resume: bool = False) -> Summary:
    network, bank = small_and_bank
    return predict(network, inbox, bank, run, PLAN, watch=WatchPlan(every=EVERY), resume=resume)


def test_images_are_made_as_they_are_dropped_once_they_are_whole(
    small_and_bank: tuple[Network, Bank], tmp_path: Path
) -> None:
    photos, inbox, run = photographs(tmp_path / "photos", 4, 32, 40), tmp_path / "inbox", tmp_path / "inbox" / "run"
    inbox.mkdir()
    shutil.copy(photos / "000.png", inbox / "there.png")

    def drop() -> None:
        until(lambda: status(run, "there") == "done")
        data = (photos / "001.png").read_bytes()
        with (inbox / "slow.png").open("wb") as stream:  # an upload, a few bytes at a time
            for start in range(0, len(data), len(data) // 8):
                stream.write(data[start : start + len(data) // 8])
                stream.flush()
                time.sleep(EVERY / 3)
        (inbox / ".hidden.part").write_bytes(data)
        (inbox / "day").mkdir()
        (inbox / ".hidden.part").rename(inbox / "day" / "renamed.png")
        (inbox / "bad.png").write_bytes(b"no image")
        (inbox / "empty.png").touch()
        until(lambda: all(status(run, id) for id in ("slow", "day/renamed", "bad")))
        shutil.copy(photos / "002.png", inbox / "bad.png")  # replaced: made again
        until(lambda: status(run, "bad") == "done")
        shutil.copy(photos / "003.png", inbox / "last.png")
        (run / STOP).touch()  # at once: what was dropped before it is made

    with dropping(drop):
        summary = watch(small_and_bank, inbox, run)
    assert (summary.done, summary.failed) == (5, {})
    assert set(summary.uncertain) < {"there", "slow", "day/renamed", "bad", "last"}
    lines = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == ["bad", "bad", "day/renamed", "last", "slow", "there"]
    assert not (run / STOP).exists()
    assert "timings" in json.loads((run / "run.json").read_text())
    # the same files as of a run over the folder
    with pytest.raises(WrongUse, match="--resume"):
        watch(small_and_bank, inbox, run)
    whole = predict(small_and_bank[0], photos, small_and_bank[1], tmp_path / "whole", PLAN)
    assert whole.done == 4
    for id, photo in {"there": "000", "slow": "001", "day/renamed": "001", "bad": "002", "last": "003"}.items():
        same = (run / id / "maps.npz").read_bytes() == (tmp_path / "whole" / photo / "maps.npz").read_bytes()
        assert same, id


def test_an_image_is_made_again_when_its_world_file_arrives(
    small_and_bank: tuple[Network, Bank], tmp_path: Path
) -> None:
    inbox, run = photographs(tmp_path / "inbox", 2, 32, 40), tmp_path / "run"
    (inbox / "000.pgw").symlink_to("nowhere")

    def drop() -> None:
        until(lambda: status(run, "001") == "done")
        (inbox / "001.pgw").write_text("0.5\n0\n0\n-0.5\n500000\n5000000\n")
        until(lambda: (run / "manifest.jsonl").read_text().count("\n") == 4)
        (run / STOP).touch()

    with dropping(drop):
        assert watch(small_and_bank, inbox, run).done == 2
    lines = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    again = [("001", MADE_AGAIN), ("001", None)]
    assert [(line["id"], line["error"]) for line in lines] == [("000", None), ("001", None), *again]
    assert "beside_sha256" in lines[3]
    assert "beside_sha256" not in lines[1]


def test_a_watch_that_goes_on_makes_only_what_is_new_or_changed(
    small_and_bank: tuple[Network, Bank], tmp_path: Path
) -> None:
    photos, inbox, run = photographs(tmp_path / "photos", 3, 32, 40), tmp_path / "inbox", tmp_path / "run"
    inbox.mkdir()
    for number in (0, 1):
        shutil.copy(photos / f"00{number}.png", inbox)

    def stop() -> None:
        until(lambda: status(run, "001") == "done")
        time.sleep(5 * EVERY)  # until it looks for more
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C, and as SIGTERM on the command line

    with dropping(stop):
        assert watch(small_and_bank, inbox, run).done == 2
    before = (run / "000" / "maps.npz").stat().st_mtime_ns
    shutil.copy(photos / "002.png", inbox / "001.png")
    shutil.copy(photos / "002.png", inbox / "002.png")
    (run / STOP).touch()
    assert watch(small_and_bank, inbox, run, resume=True).done == 3
    assert (run / "000" / "maps.npz").stat().st_mtime_ns == before
    assert (run / "001" / "maps.npz").read_bytes() == (run / "002" / "maps.npz").read_bytes()
    assert len(read_manifest(run / "manifest.jsonl")) == 3
    assert predict(small_and_bank[0], inbox, small_and_bank[1], run, PLAN, resume=True).done == 3  # without watching


def test_an_image_too_large_for_the_memory_fails_alone(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, run = photographs(tmp_path / "inbox", 2, 32, 40), tmp_path / "run"
    photographs(tmp_path / "more", 1, 64, 64)
    (tmp_path / "more" / "000.png").rename(inbox / "large.png")

    def refuse(_: object, height: int, width: int, *, in_memory: bool = True) -> None:
        if (height, width) == (64, 64):
            raise WrongUse("--tile 8 is too small.")

    monkeypatch.setattr("segment.estimation.estimator.Estimator.side_for", refuse)
    run.mkdir()
    (run / STOP).touch()
    summary = watch(small_and_bank, inbox, run)
    assert summary.done == 2
    assert summary.failed == {"large": "--tile 8 is too small."}


def test_files_that_still_grow_when_the_watch_ends_are_left_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, stop = photographs(tmp_path / "inbox", 1, 8, 8), tmp_path / STOP
    seen = []
    for arrived in arrivals(inbox, stop, WatchPlan(every=EVERY)):
        seen += [source.id for source in arrived]
        (inbox / "half.png").write_bytes(b"half")
        stop.touch()
        threading.Timer(EVERY * 1.5, (inbox / "half.png").write_bytes, [b"half and more"]).start()
    assert seen[0] == "000"
    assert ("half" in seen) != ("1 files" in caplog.text)


def test_a_file_is_given_again_when_one_of_its_size_and_time_replaces_it(tmp_path: Path) -> None:
    inbox, stop = photographs(tmp_path / "inbox", 1, 8, 8), tmp_path / STOP
    looks = arrivals(inbox, stop, WatchPlan(every=EVERY))
    assert [source.id for source in next(looks)] == ["000"]
    shutil.copy2(inbox / "000.png", tmp_path / "other.png")
    (tmp_path / "other.png").replace(inbox / "000.png")
    stop.touch()
    assert [source.id for arrived in looks for source in arrived] == ["000"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of POSIX")
def test_what_is_no_file_is_given_to_fail_by_its_name_and_empty_files_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, stop = photographs(tmp_path / "inbox", 1, 8, 8), tmp_path / STOP
    os.mkfifo(inbox / "pipe.png")
    (inbox / "loop.png").symlink_to(inbox / "loop.png")
    (inbox / "empty.png").touch()
    stop.touch()
    seen = [source.id for arrived in arrivals(inbox, stop, WatchPlan(every=EVERY)) for source in arrived]
    assert sorted(seen) == ["000", "loop", "pipe"]
    assert "1 files" in caplog.text
    assert "are empty" in caplog.text


@pytest.mark.parametrize(("where", "why"), [("run", "is the folder of the images"), ("missing", "cannot be watched")])
def test_what_cannot_be_watched_is_refused(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, where: str, why: str
) -> None:
    with pytest.raises(WrongUse, match=why):
        watch(small_and_bank, tmp_path / where, tmp_path / "run")
    with pytest.raises(WrongUse, match="looked at every 0 seconds"):
        WatchPlan(every=0)


def test_sigterm_ends_a_watch_of_the_command_line_with_its_summary(tmp_path: Path) -> None:
    inbox, run, bank = photographs(tmp_path / "inbox", 1, 32, 48), tmp_path / "run", tmp_path / "bank.safetensors"
    network = load_network("scenes")
    drawn = bn_network_of(network)
    save_bank(identified(network, drawn, random_bank(drawn)), bank)
    words = ["predict", "scenes", "--watch", str(inbox), "--bank", str(bank), "-o", str(run), "--draws", "1"]
    command = [sys.executable, "-m", "segment", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: status(run, "000") == "done" or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, error
    assert "1 done, 0 failed" in out
    assert (run / "sheet.png").is_file()
    assert "Traceback" not in error


@pytest.mark.parametrize("both", [False, True])
def test_either_a_source_or_a_watched_folder_is_given(tmp_path: Path, both: bool) -> None:  # noqa: FBT001
    given = (tmp_path, "--watch", tmp_path) if both else ()
    ended = segment("predict", "scenes", *given, "--bank", "x", "-o", tmp_path / "run")
    assert ended.code == 2
    assert "--watch FOLDER" in ended.error


def test_a_folder_that_goes_away_for_a_while_is_said_once(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, away, run = photographs(tmp_path / "inbox", 1, 32, 40), tmp_path / "away", tmp_path / "run"

    def said() -> int:
        return sum("cannot be read" in record.getMessage() for record in caplog.records)

    def drop() -> None:
        until(lambda: status(run, "000") == "done")
        for times in (1, 2):
            inbox.rename(away)
            until(lambda times=times: said() == times)  # type: ignore[misc]
            time.sleep(20 * EVERY)
            assert said() == times
            away.rename(inbox)
            time.sleep(20 * EVERY)
        (run / STOP).touch()

    with dropping(drop):
        assert watch(small_and_bank, inbox, run).done == 1
    assert (run / "manifest.jsonl").read_text().count("\n") == 1
