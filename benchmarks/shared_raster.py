"""A large raster here and by its windows on Ray: whether the files are the same, what memory and disk both take.

    python -m benchmarks.shared_raster [FOLDER] [--side 20000] [--actors 2] [--memory 2GiB] [--tile 1024]
        [--tile-mode exact|blended] [--s3]

Scene, network and bank are those of `benchmarks.large_raster`; FOLDER keeps them. --s3: the run on Ray reads the scene
from a server that speaks S3 (rclone's, started here) and leaves its files there; the other run is on the disk. Each
process has one thread. Must not know how the work is shared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.large_raster import scene_and_network
from benchmarks.rclone import rclone_s3
from benchmarks.runners import ACTOR, EVERY, ONE_THREAD
from segment.stores.requests import put

fsspec: Any = import_module("fsspec")
NOT_COMPARED = ("manifest.jsonl", "run.json", ".lock")


def watched(command: list[str], windows: Path | None) -> dict[str, Any]:
    """Seconds of a command, and its largest bytes: of its own memory, of an actor's, and of what lies in `windows`.

    Errors: RuntimeError where it fails.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "segment", *command], env=os.environ | ONE_THREAD)
    own = actor = disk = 0
    actors = set[int]()
    while process.poll() is None:
        own = max(own, _own_bytes(process.pid))
        for number in _actors(process.pid):
            actors.add(number)
            actor = max(actor, _own_bytes(number))
        disk = max(disk, 0 if windows is None else sum(_size(path) for path in windows.rglob("*")))
        time.sleep(EVERY)
    if process.returncode:
        raise RuntimeError(f"A command ended with {process.returncode}: {command}")
    seconds = round(time.perf_counter() - begun, 1)
    return {
        "seconds": seconds,
        "command_bytes": own,
        "actor_bytes": actor,
        "actors": len(actors),
        "windows_bytes": disk,
    }


def _own_bytes(number: int) -> int:
    """Resident bytes of a process that no other one may share."""
    try:
        memory = psutil.Process(number).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - memory.shared)


def _actors(number: int) -> list[int]:
    try:
        below = psutil.Process(number).children(recursive=True)
    except psutil.Error:
        return []
    found = []
    for child in below:
        try:
            if ACTOR in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def hashes(run: str) -> dict[str, str]:
    """SHA-256 of every file of a run but those that name seconds, also on an object store."""
    files, root = fsspec.core.url_to_fs(run)
    found = {}
    for path in files.find(root):
        name = path.removeprefix(root).lstrip("/")
        if name not in NOT_COMPARED:
            with files.open(path, "rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="what is made there is used again")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--tile", default="1024", help="of both: what --memory leaves depends on the process")
    parser.add_argument("--tile-mode", default="exact")
    parser.add_argument("--formats", default="tif,png")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--s3", action="store_true", help="Ray's run reads and writes an object store")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = (arguments.folder or Path(temporary)).resolve()
        scene, card, bank = scene_and_network(folder, arguments.side)
        runs = folder / f"shared_{arguments.side}_{arguments.tile_mode}"
        places = {"here": (str(scene), str(runs / "here")), "ray": (str(scene), str(runs / "ray"))}
        if arguments.s3:
            stack.enter_context(rclone_s3(runs))
            (runs / "bucket").mkdir(parents=True)
            places["ray"] = ("s3://bucket/scene.tif", "s3://bucket/run")
            put([(scene, Path(places["ray"][0]))])
        command = ["predict", str(card), "--bank", str(bank), "--precision", "fp32", "--quiet"]
        command += ["--draws", str(arguments.draws), "--memory", arguments.memory, "--tile-mode", arguments.tile_mode]
        command += ["--tile", arguments.tile, "--format", arguments.formats]
        result: dict[str, Any] = {"side": arguments.side, "draws": arguments.draws, "memory": arguments.memory}
        result |= {"tile": arguments.tile, "mode": arguments.tile_mode, "formats": arguments.formats}
        result["s3"] = arguments.s3
        windows = None if arguments.s3 else runs / "ray" / ".windows"
        more = {"here": [], "ray": ["--runner", "ray", "--actors", str(arguments.actors)]}
        for name, options in more.items():
            source, run = places[name]
            result[name] = watched([*command, source, "-o", run, *options], windows)
        here, there = (hashes(run) for _, run in places.values())
        names = {*here, *there}
        result["files"] = len(names)
        result["differing_files"] = sorted(name for name in names if here.get(name) != there.get(name))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
