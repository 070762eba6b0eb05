"""triage.json: a calibrated triage with a digest of its content, written whole or not at all, and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from segment.errors import SegmentError, WrongUse, one_line
from segment.files.reading import file_bytes, first_error, json_values
from segment.files.replacing import refuse_other_file
from segment.files.writing import write_json
from segment.guarantees.triage import Triage
from segment.stores.copies import here

TRIAGED, TRIAGED_TABLE = "triaged.json", "triaged.csv"
"""What a triage accepts of a run's or an evaluation's images."""
FORMAT = 3
AGAIN = "Make it again by `segment triage`."


def save_triage(triage: Triage, path: str | Path, *, text: str = "") -> None:
    """Write triage.json, whole or not at all. Errors: WrongUse where it cannot be written.

    text: what it holds for, in sentences, for people who open the file
    """
    content = {"format": FORMAT, "text": text, **triage.as_dict()}
    write_json(Path(path), content | {"digest": digest_of(content)})


def refuse_other_than_triage(path: Path) -> None:
    """Refuse a name for a triage under which something else lies, or without its suffix. Errors: WrongUse."""
    refuse_other_file(path, "triage", (".json",), _is_triage)


def _is_triage(path: Path) -> bool:
    """Whether a file is a triage of any version, also an edited one."""
    try:
        values = json_values(file_bytes(path))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"format", "plan", "decisions"} <= values.keys()


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 over what triage.json holds beside it: a threshold that was changed by hand promises nothing."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_triage(path: str | Path) -> Triage:
    """What `segment triage` wrote. Errors: WrongUse where it is missing, damaged, edited or of another version."""
    path = Path(path)
    try:
        with here(path) as copy:
            data = file_bytes(copy)
        values: dict[str, Any] = json_values(data)
        version = values["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"{str(path)!r} does not read as a triage: {_short(error)}. {AGAIN}") from error
    if version != FORMAT:
        raise WrongUse(f"{str(path)!r} has format {version}; this version reads {FORMAT}. {AGAIN}")
    if values.get("digest") != digest_of(values):
        raise WrongUse(
            f"{str(path)!r} was changed after `segment triage` wrote it, so that it promises nothing. {AGAIN}"
        )
    try:
        triage = TypeAdapter(Triage).validate_json(data, strict=True)
        json.dumps(triage.as_dict(), allow_nan=False)  # a number beyond what a float holds was read as infinity
    except (ValueError, SegmentError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else one_line(error).rstrip(".")
        raise WrongUse(f"{str(path)!r} is damaged: {reason}. {AGAIN}") from error
    for unit in dict.fromkeys((triage.plan.unit, "image", *triage.decisions)):
        decision = triage.decisions.get(unit)
        if decision is None or decision.unit != unit:
            has = "there is none" if decision is None else f"it is for {decision.unit!r}"
            raise WrongUse(f"{str(path)!r} is damaged: of the decision of {unit!r}, {has}. {AGAIN}")
    return triage


def _short(error: BaseException) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {one_line(error, 120)}"
