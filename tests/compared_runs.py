"""Two predict runs, compared but for their seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from console import contents, lines

from segment.files.runs.manifest import SHARDS

TIMES = ("seconds", "timings", "seconds_expected")


def without_times(run: Path) -> dict[str, Any]:
    """Every file's bytes, the record and the manifest's lines without the seconds that they name."""
    files: dict[str, Any] = {name: data for name, data in contents(run).items() if not name.startswith(SHARDS)}
    del files["manifest.jsonl"]
    record = json.loads(files.pop("run.json"))
    return files | {"run.json": dropped(record), "lines": {id: dropped(line) for id, line in lines(run).items()}}


def without_places(run: Path) -> dict[str, Any]:
    """The same without what names where the images lie: the record, and of each line source, version and checksum."""
    kept = without_times(run)
    del kept["run.json"]
    places = ("source", "sha256", "version")
    return kept | {
        "lines": {id: {k: v for k, v in line.items() if k not in places} for id, line in kept["lines"].items()}
    }


def dropped(line: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in line.items() if key not in TIMES}
    return {key: dropped(value) if key == "tiling" else value for key, value in kept.items()}
