"""Images and results on an object store: the same bytes as here, whatever ends a run or fails on its way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from compared_runs import without_places
from console import Ended, contents, lines, photographs, segment
from s3_server import S3Server

from segment.files.runs.manifest import MANIFEST, SHARDS
from segment.images.find import find_images
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.stores import requests


def uploaded(server: S3Server, folder: Path, prefix: str) -> str:
    """The files of a folder below a prefix; its URL."""
    for name, data in contents(folder).items():
        server.put("bucket", f"{prefix}/{name}", data)
    return f"s3://bucket/{prefix}"


def same(server: S3Server, here: Path, prefix: str, renamed: tuple[object, str] = ("", "")) -> None:
    """renamed: what files name their images' folder by, here and there."""
    there, (local, url) = server.files("bucket", f"{prefix}/"), renamed
    local_files = {name: data.replace(str(local).encode(), url.encode()) for name, data in contents(here).items()}
    assert without_places(there) == without_places(local_files if local else contents(here))
    assert [name for name in there if name.startswith(SHARDS)] == []


def test_a_run_from_and_to_a_store_leaves_the_bytes_of_one_here(server: S3Server, tmp_path: Path, bank: Path) -> None:
    photos = photographs(tmp_path / "photos", 4)
    (photos / "broken.png").write_bytes(b"not a png")
    (photos / "deeper").mkdir()
    (photos / "a.png").rename(photos / "deeper" / "a.png")
    url = uploaded(server, photos, "photos")
    formats = ("--format", "png,npz,csv,coco,zarr,tif")
    here = segment("predict", "scenes", photos, "--bank", bank, *formats, "-o", tmp_path / "run")
    server.put("bucket", "banks/bank.safetensors", bank.read_bytes())
    from_store = ("predict", "scenes", url, "--bank", "s3://bucket/banks/bank.safetensors", *formats)
    there = segment(*from_store, "-o", "s3://bucket/run")
    assert (here.code, there.code) == (1, 1), there.err
    assert "s3://bucket/photos/broken.png" in there.error
    assert "named in s3://bucket/run/manifest.jsonl" in there.error
    assert "s3://bucket/run: 4 done, 1 failed" in there.out
    same(server, tmp_path / "run", "run", (photos, url))
    per_image = lines_there(server, "run")
    assert per_image["deeper/a"]["source"] == "s3://bucket/photos/deeper/a.png"
    assert per_image["deeper/a"]["sha256"] == lines(tmp_path / "run")["deeper/a"]["sha256"]
    again = segment(*from_store, "-o", "s3://bucket/run")
    assert again.code == 2
    assert "already holds a run" in again.error
    begun = len(server.requests)
    resumed = segment(*from_store, "-o", "s3://bucket/run", "--resume")
    assert resumed.code == 1
    same(server, tmp_path / "run", "run", (photos, url))
    written = {path for method, path in server.requests[begun:] if method == "PUT"}
    assert not [path for path in written if path.startswith(("/bucket/run/b/", "/bucket/run/deeper/"))]


def lines_there(server: S3Server, prefix: str) -> dict[str, dict[str, Any]]:
    text = server.files("bucket", f"{prefix}/")[MANIFEST]
    return {line["id"]: line for line in map(json.loads, text.splitlines())}


def test_an_image_that_changes_on_its_store_is_made_again(server: S3Server, tmp_path: Path, bank: Path) -> None:
    photos = photographs(tmp_path / "photos", 3)
    url = uploaded(server, photos, "changing")
    command = ("predict", "scenes", url, "--bank", bank, "--format", "npz", "-o", "s3://bucket/changed")
    assert segment(*command).code == 0
    before = server.files("bucket", "changed/")
    server.put("bucket", "changing/b.png", (photos / "c.png").read_bytes())
    assert segment(*command, "--resume").code == 0
    after = server.files("bucket", "changed/")
    assert after["b/maps.npz"] == after["c/maps.npz"] == before["c/maps.npz"] != before["b/maps.npz"]
    assert after["a/maps.npz"] == before["a/maps.npz"]


def test_a_run_in_the_folder_of_its_images_takes_none_of_its_pictures(
    server: S3Server, tmp_path: Path, bank: Path
) -> None:
    url = uploaded(server, photographs(tmp_path / "photos", 2), "inside")
    command = ("predict", "scenes", url, "--bank", bank, "-o", f"{url}/run")
    assert segment(*command).code == 0
    assert segment(*command, "--resume").code == 0
    assert set(lines_there(server, "inside/run")) == {"a", "b"}


def killed(command: list[object], when: Any, sent: signal.Signals = signal.SIGKILL) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "segment", *map(str, command)], env=os.environ, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not when() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(sent)
    return process.wait()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on_from_the_lines_that_are_on_the_store(
    sent: signal.Signals, server: S3Server, tmp_path: Path, bank: Path
) -> None:
    photos, name = photographs(tmp_path / "photos", 8), f"killed-{sent.name}"
    command = ["predict", "scenes", photos, "--bank", bank, "--draws", 2, "--format", "npz,png", "-o"]
    assert segment(*command, tmp_path / "run").code == 0

    def begun() -> bool:
        return any(path.startswith(f"/bucket/{name}/{SHARDS}/") for _, path in server.requests)

    code = killed([*command, f"s3://bucket/{name}"], begun, sent)
    assert code in (-9, 143, 0)
    done = server.files("bucket", f"{name}/")
    counted = [json.loads(line) for key in done if key.startswith(SHARDS) for line in done[key].splitlines()]
    assert all(file in done for line in counted for file in line["files"])  # a line only where all files are
    ended = segment(*command, f"s3://bucket/{name}", "--resume")
    assert ended.code == 0, ended.err
    same(server, tmp_path / "run", name)


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_store_that_is_throttled_slow_and_away_for_a_while_changes_nothing(
    server: S3Server, tmp_path: Path, bank: Path, seconds: int
) -> None:
    photos, name = photographs(tmp_path / "photos", 8), f"faulty-run-{seconds}"
    url = uploaded(server, photos, f"faulty-{seconds}")
    command = ["predict", "scenes", url, "--bank", bank, "--draws", 2, "--format", "npz,png,csv", "-o"]
    assert segment(*command, tmp_path / "run").code == 0
    server.failing, server.slow, server.refused = 0.05, 0.01, 0
    try:
        with server.stopped_at(f"/bucket/{name}/b/", seconds=seconds):
            ended = segment(*command, f"s3://bucket/{name}")
    finally:
        server.failing, server.slow = 0.0, 0.0
    assert ended.code == 0, ended.err
    same(server, tmp_path / "run", name)
    assert server.refused


def test_a_store_that_stays_away_ends_the_run_with_its_code_and_the_run_goes_on_later(
    server: S3Server, tmp_path: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    photos = photographs(tmp_path / "photos", 4)
    command = ["predict", "scenes", photos, "--bank", bank, "--draws", 2, "--format", "npz", "-o"]
    assert segment(*command, tmp_path / "run").code == 0
    with server.stopped_at("/bucket/away/a/"):
        ended = segment(*command, "s3://bucket/away")
    assert ended.code == 5
    assert "cannot be reached" in ended.error
    assert segment(*command, "s3://bucket/away", "--resume").code == 0
    same(server, tmp_path / "run", "away")


def test_lists_name_urls_and_lie_on_stores(server: S3Server, tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", 2)
    uploaded(server, photos, "listed")
    server.put("bucket", "listed/list.txt", b"a.png\tb.png\n../listed/b.png\ta.png\n")
    server.put("bucket", "listed/table.csv", b"image,label,id\nb.png,a.png,second\n")
    pairs = find_images("s3://bucket/listed/list.txt")
    assert [pair.id for pair in pairs] == ["a", "b"]
    assert pairs[0].path == Path("s3://bucket/listed/a.png")
    assert pairs[0].label == Path("s3://bucket/listed/b.png")
    (found,) = find_images("s3://bucket/listed/table.csv")
    assert (found.id, found.label) == ("second", Path("s3://bucket/listed/a.png"))
    local = tmp_path / "local.txt"
    local.write_text("s3://bucket/listed/a.png\ns3://bucket/listed/b.png\n", encoding="utf-8")
    assert [source.id for source in find_images(local)] == ["a", "b"]
    assert [source.id for source in find_images("s3://bucket/listed/[b-z]*.png")] == ["b"]
    assert [source.id for source in find_images("s3://bucket/listed/a.png")] == ["a"]


@pytest.mark.parametrize(
    ("src", "says"),
    [
        ("s3://bucket/nowhere", "s3://bucket/nowhere is not there"),
        ("s3://bucket/texts", "No image at s3://bucket/texts. Found 1 .txt"),
        ("s3://bucket/texts/none.csv", "s3://bucket/texts/none.csv.*not there"),
        ("s3://no-such-bucket/a", "is not there"),
    ],
)
def test_what_is_not_on_the_store_is_one_clear_line(src: str, says: str, server: S3Server, bank: Path) -> None:
    server.put("bucket", "texts/a.txt", b"text")
    server.put("bucket", "texts/.hidden.png", b"hidden")
    ended: Ended = segment("predict", "scenes", src, "--bank", bank, "-o", "s3://bucket/never")
    assert ended.code == 2
    assert re.search(says, ended.error)
    assert server.files("bucket", "never/") == {}


def test_python_takes_urls_too(server: S3Server, tmp_path: Path, bank: Path) -> None:
    from segment.files.banks.bank_file import load_bank
    from segment.networks.load import load_network

    url = uploaded(server, photographs(tmp_path / "photos", 2), "python")
    plan = PredictPlan(formats=("npz",))
    summary = predict(load_network("scenes"), url, load_bank(bank), "s3://bucket/from-python", plan)
    assert summary.done == 2
    assert set(server.files("bucket", "from-python/")) == {"a/maps.npz", "b/maps.npz", MANIFEST, "run.json"}
