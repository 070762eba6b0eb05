"""triage.json: a calibrated triage, written whole or not at all, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segment.errors import SegmentError, WrongUse
from segment.files.writing import write_json
from segment.guarantees.triage import Triage
from segment.stores.copies import here

TRIAGED, TRIAGED_TABLE = "triaged.json", "triaged.csv"
"""What a triage accepts of a run's or an evaluation's images."""
FORMAT = 1


def save_triage(triage: Triage, path: Path, *, text: str = "") -> None:
    """text: what it holds for, in sentences, for people who open the file."""
    write_json(path, {"format": FORMAT, "text": text, **triage.as_dict()})


def load_triage(path: str | Path) -> Triage:
    """What `segment triage` wrote. Errors: WrongUse where it is missing, damaged or of another version."""
    path = Path(path)
    try:
        with here(path) as copy:
            values: dict[str, Any] = json.loads(copy.read_text(encoding="utf-8"))
        version = values["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongUse(
            f"{str(path)!r} does not read as a triage: {_short(error)}. Make one by `segment triage`."
        ) from error
    if version != FORMAT:
        raise WrongUse(f"{str(path)!r} has format {version}; this version reads {FORMAT}. Make it again.")
    try:
        return Triage.of(values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SegmentError) as error:
        raise WrongUse(f"{str(path)!r} is damaged: {_short(error)}. Make it again by `segment triage`.") from error


def _short(error: BaseException) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
