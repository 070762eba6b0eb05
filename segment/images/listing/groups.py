"""Id to group, from a CSV: the patient, the sequence or the place that images share.

Must not know what is made of the groups.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, near


def group_table(path: str | Path, column: str) -> dict[str, str]:
    """The group of each id that a table names one for.

    Args:
        path: A CSV with the column `id`.
        column: The column that names an image's group.

    Returns:
        Id to group, without lines whose group is empty.

    Raises:
        WrongUse: The table does not read or lacks a column, or an image has two groups.

    """
    groups: dict[str, str] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            for wanted in ("id", column):
                if wanted not in columns:
                    raise WrongUse(
                        f"{str(path)!r} has no column {wanted!r}.{near(wanted, columns)} It has {', '.join(columns)}."
                    )
            for line in reader:
                identity, group = line["id"], line[column]
                if group and groups.setdefault(identity, group) != group:
                    raise WrongUse(f"{str(path)!r} names two groups for {identity!r}: {groups[identity]!r}, {group!r}.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WrongUse(f"{str(path)!r} does not read as a CSV: {error}.") from error
    return groups


def groups_by_id(ids: Sequence[str], groups: Mapping[str, Any], where: str) -> dict[str, str]:
    """The group of each id. where: who names them. Errors: WrongUse for an id without one (None, NaN or no text)."""
    missing = [identity for identity in ids if _is_none(groups.get(identity))]
    if missing:
        raise WrongUse(f"{where} names no group for {len(missing)} of {len(ids)} images, as {missing[0]!r}.")
    return {identity: str(groups[identity]) for identity in ids}


def _is_none(name: Any) -> bool:
    return name is None or name == "" or (isinstance(name, float) and math.isnan(name))
