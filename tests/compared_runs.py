"""Two predict runs, compared but for their seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console import contents

from segment.files.runs.manifest import MANIFEST, SHARDS

TIMES = ("seconds", "timings", "seconds_expected")


def without_times(run: Path | Mapping[str, bytes]) -> dict[str, Any]:
    """Every file's bytes, the record and the manifest's newest lines without the seconds that they name.

    run: its folder, or its files by name
    """
    every = contents(run) if isinstance(run, Path) else run
    files: dict[str, Any] = {name: data for name, data in every.items() if not name.startswith(SHARDS)}
    lines = {line["id"]: line for line in map(json.loads, files.pop(MANIFEST).splitlines())}
    record = json.loads(files.pop("run.json"))
    return files | {"run.json": dropped(record), "lines": {id: dropped(line) for id, line in lines.items()}}


def without_places(run: Path | Mapping[str, bytes], *, hashes: bool = True) -> dict[str, Any]:
    """The same without what names where the images lie: sources and versions, and the table of images.

    hashes: of the images' files, which a store's large rasters have not
    """
    kept = without_times(run)
    kept.pop("images.csv", None)
    del kept["run.json"]["sources"]
    kept["run.json"]["settings"].pop("source", None)
    for line in kept["lines"].values():
        for name in ("source", "version", *(() if hashes else ("sha256",))):
            line.pop(name, None)
    return kept


def dropped(line: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in line.items() if key not in TIMES}
    return {key: dropped(value) if key == "tiling" else value for key, value in kept.items()}
