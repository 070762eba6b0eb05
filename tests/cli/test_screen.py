"""What a person sees: lines in a log, bars on a terminal, quiet on request, tables of 80 columns, the version."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from console import photographs, segment, training
from rich.console import Console

import segment as package
from segment import errors
from segment.cli import screen
from segment.cli.app import app, end_with_failures
from segment.cli.log_messages import ALIKE, set_up


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=stream, width=80))
    return stream


def test_a_log_gets_a_line_now_and_then(pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("segment.cli.screen.time.monotonic", lambda: clock[0])
    with screen.progress() as shown:
        for done in range(101):
            clock[0] = 2.0 * done
            shown("evaluating", done, 100, 8 * done)
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 6  # 200 s, one every 30
    assert lines[0] == "evaluating: 15 of 100 images, 0.5 images/s, 2:50 left"
    assert not any("\x1b" in line for line in lines)


def test_a_step_that_takes_long_has_lines_too(pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.ProgressLines.__init__, "__defaults__", (0.5,))
    with screen.progress() as shown:
        shown("predicting", 0, 1)
        time.sleep(2.5)
    lines = pipe.getvalue().splitlines()
    assert len(lines) in (1, 2, 3)
    assert re.fullmatch(r"predicting: 0 of 1 images, 0:0\d so far", lines[0])
    with screen.progress():
        pass
    assert pipe.getvalue().splitlines() == lines, "nothing where nothing has begun"


def test_a_stage_that_begins_again_has_its_own_rate(pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("segment.cli.screen.time.monotonic", lambda: now[0])
    lines = screen.ProgressLines(every=1.0)
    for _ in range(2):
        for done in (0, 1, 2):
            lines("recording draws", done, 3)
            now[0] += 10
        now[0] += 1000
    assert pipe.getvalue().splitlines()[-1] == "recording draws: 2 of 3 draws, 0.1 draws/s, 0:10 left"


def test_a_short_job_and_a_quiet_one_print_no_progress(pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    with screen.progress() as shown:
        shown("predicting", 1, 2)
    monkeypatch.setattr(screen, "_quiet", True)
    monkeypatch.setattr("segment.cli.screen.EVERY", 0.0)
    with screen.progress() as shown:
        shown("predicting", 1, 2)
    screen.print_text("done")
    assert pipe.getvalue() == ""


def test_every_command_takes_quiet_and_keeps_json_and_errors(tmp_path: Path) -> None:
    images = training(tmp_path / "images", 3)
    fit = ("fit", "scenes", "--images", images, "--batch", 2, "--draws", 2, "--no-cache")
    quiet = segment(*fit, "-o", tmp_path / "quiet.safetensors", "--quiet")
    assert (quiet.code, quiet.out) == (0, "")
    assert segment("inspect", "scenes", "--quiet", "--json").json["name"] == "scenes"
    assert "No network is called" in segment("inspect", "scense", "--quiet").error
    loud = segment(*fit, "-o", tmp_path / "loud.safetensors")  # the next command is not quiet
    assert "2 draws" in loud.out
    (tmp_path / "options.yaml").write_text("quiet: true\n")
    assert segment(*fit, "-o", tmp_path / "file.safetensors", "--config", tmp_path / "options.yaml").out == ""


@pytest.mark.parametrize("stage", ["evaluating", "sweep"])
def test_evaluation_and_sweep_report_their_progress(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: io.StringIO
) -> None:
    monkeypatch.setattr("segment.cli.screen.EVERY", 0.0)
    monkeypatch.setattr(screen.ProgressLines.__init__, "__defaults__", (0.0,))
    images = photographs(tmp_path / "images", 2)
    labels = tmp_path / "labels"
    from segment.files.writing import write_png
    from segment.scenes.scene import TEST, scene

    for name, seed in zip("ab", TEST, strict=False):
        write_png(labels / f"{name}.png", scene(seed, size=(64, 96)).label)
    common = ("scenes", "--images", images, "--labels", labels, "-o", tmp_path / "out")
    if stage == "sweep":
        train = training(tmp_path / "train", 3)
        ended = segment(
            "sweep", *common, "--train", train, "--batches", 2, "--draws", 2, "--no-plots", "--precision", "fp32"
        )
    else:
        ended = segment("evaluate", *common, "--methods", "deterministic")
    assert ended.code == 0, ended.err
    text = pipe.getvalue()
    assert ": 1 of 2 images" in text
    assert ": 2 of 2 images" in text


def test_tables_fit_80_columns_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(screen, "out", Console(file=stream, width=screen.WIDE))
    columns = ["method", *(f"measure {number}" for number in range(14))]
    rows = [[name, *(f"{number}.123456" for number in range(14))] for name in ("mcbn", "a method of a longer name")]
    screen.table("Scores", columns, rows)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for number in range(14):
        assert text.count(f"{number}.123456") >= 2  # whole, in each row
    assert text.count("a method of a") > 2


def test_names_and_numbers_of_a_table_of_just_80_columns_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(screen, "out", Console(file=stream, width=screen.WIDE))
    name, value = "deterministic", "0.123 (0.1..0.2)"  # 13 + 3 (16 + 3) + 3 + 7 = 80, without the edges
    screen.table("Scores", ["method", "a", "b", "c", "d"], [[name, value, value, value, "1234567"]])
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count(name) == 2
    assert text.count(value) == 3
    assert "1234567" in text


def test_the_help_names_every_exit_code() -> None:
    codes = {each.exit_code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "exit_code")}
    named = set(map(int, re.findall(r"\b\d+\b", str(app.info.epilog))))
    assert codes < named


def test_no_color_is_obeyed_on_a_terminal() -> None:
    code = (
        "import sys; from rich.console import Console; from segment.cli import screen;"
        "screen.err = Console(force_terminal=True, file=sys.stdout); screen.refuse('no')"
    )
    environment = {**os.environ, "TERM": "xterm-256color"}
    plain = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "NO_COLOR": "1"}, capture_output=True, text=True, check=True
    )
    coloured = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "\x1b[1;31m" in coloured.stdout
    assert "31m" not in plain.stdout


def test_the_version_and_shell_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert segment("--version").out == f"segment {package.__version__}\n"
    help_text = segment("--help").out
    assert "--install-completion" in help_text
    environment = {**os.environ, "_SEGMENT_COMPLETE": "complete_bash", "COMP_WORDS": "segment pre", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['segment']; from segment.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["predict"]


@pytest.mark.parametrize(
    ("failed", "held_out", "said"),
    [
        ({"validation image 1": "It is dark."}, {}, "1 image failed, named in out/manifest.jsonl;"),
        ({}, {"a": "It is dark."}, "1 image failed, named in out/validation.json; .* validation image a: It is dark."),
        ({"a": "It is dark."}, {"a": "Torn."}, "2 images failed, named in out/manifest.jsonl and out/validation.json;"),
    ],
)
def test_failures_name_the_file_that_lists_them(
    failed: dict[str, str], held_out: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        end_with_failures(failed, Path("out"), held_out=held_out)
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(("total", "others"), [(2, ""), (3, "; the others are done")])
def test_others_are_done_where_there_are_others(total: int, others: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        end_with_failures({"a": "It is dark.", "b": "Torn."}, Path("out"), total=total)
    message = " ".join(capsys.readouterr().err.split())
    assert f"2 of {total} images failed, named in out/manifest.jsonl{others}. a: It is dark." in message


@pytest.mark.parametrize(("verbose", "shown"), [(False, ALIKE), (True, 30)])
def test_warnings_that_say_the_same_of_many_images_are_shown_a_few_times(
    pipe: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, verbose: bool, shown: int
) -> None:
    ours = logging.getLogger("segment")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(ours, name, getattr(ours, name))
    set_up(verbose=verbose)
    for number in range(30):
        why = f"'{number}.png' does not decode: {number} bytes."
        logging.getLogger("segment.jobs").warning("%s: %s", chr(ord("A") + number), why)
    logging.getLogger("segment.jobs").warning("%s: %s", "z", "its labels are of another size.")
    for name in ("cat", "dog", "cow", "hen", "fox", "owl", "it's"):
        logging.getLogger("segment.jobs").warning("%s cannot be read now: %s.", name, f"no file {name!r}")
    lines = pipe.getvalue().splitlines()
    assert [line for line in lines if "does not decode" in line] == lines[:shown]
    assert lines[0] == "Warning: A: '0.png' does not decode: 0 bytes."
    assert lines[ALIKE - 1].endswith("--verbose shows all.)") != verbose
    assert lines[shown] == "Warning: z: its labels are of another size.", "another reason is shown"
    assert len(lines[shown + 1 :]) == (7 if verbose else ALIKE), "a name may be any word, at any place"
