"""Which images belong together: folders, frames of one sequence; and ids that look like frames."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, count_of, first_of
from segment.images.find import Source
from segment.images.listing.groups import group_table, groups_by_id

BUILT_IN = ("folder", "sequence")


class TableOfGroups(dict[str, str]):
    """Id to group, with the name of the column that says so."""

    def __init__(self, column: str, groups: Mapping[str, str]) -> None:
        super().__init__(groups)
        self.column = column


Groups = str | Mapping[str, str] | Sequence[str] | None
"""Which images belong together: "folder" or "sequence", by their ids; a column of their list; id to group; or the name
of each image's group, in the images' order."""
FRAMES = 5
"""So many ids of one name with evenly numbered ends look like frames."""
BY_GROUPS = "Give --groups sequence, or a column that names the patient or the part."
"""Advice where scores are tested over images."""
NUMBERED = "The ids are numbered as frames of "
"""How the sentence of `numbered_warnings` begins."""
_NUMBERED = re.compile(r"^(.*?)(?:[ _.-]+(?:f|frame))?[ _.-]*(\d+)$", re.DOTALL | re.IGNORECASE)


def folder_of(identity: str) -> str:
    """The folder of an id.

    >>> folder_of("night/a/7"), folder_of("7")
    ('night/a', '')
    """
    return identity.rpartition("/")[0]


def sequence_of(identity: str) -> str:
    """An id without its number at the end: the sequence whose frame it names.

    >>> sequence_of("val/0001TP_006690"), sequence_of("Seq05VD_f02370"), sequence_of("portrait")
    ('val/0001TP', 'Seq05VD', 'portrait')
    """
    match = _NUMBERED.match(identity)
    return match.group(1) if match else identity


def frames(ids: Sequence[str]) -> tuple[str, ...]:
    """Names of sequences that the ids look like frames of: five numbers or more, most at one distance.

    >>> frames([f"0001TP_{n:06}" for n in range(6690, 7000, 30)]), frames(["a_3", "a_90", "a_7", "a_1", "a_55"])
    (('0001TP',), ())
    """
    numbers: dict[str, list[int]] = {}
    for identity in ids:
        if match := _NUMBERED.match(identity):
            numbers.setdefault(match.group(1), []).append(int(match.group(2)))
    names = []
    for name, of_name in numbers.items():
        if len(of_name) >= FRAMES:
            ordered = sorted(of_name)
            steps = Counter(after - before for before, after in itertools.pairwise(ordered))
            if 2 * steps.most_common(1)[0][1] > len(ordered) - 1:
                names.append(name)
    return tuple(sorted(names))


def sequence_text(name: str) -> str:
    """A sequence in a message: ids that are numbers alone have no name in common.

    >>> sequence_text("val/0001TP"), sequence_text("")
    ("'val/0001TP'", 'numbers alone')
    """
    return repr(name) if name else "numbers alone"


def numbered_warnings(ids: Sequence[str], advice: str) -> list[str]:
    """What ids that look like frames mean for tests over images, in a sentence; empty where they do not.

    advice: what to do about it

    >>> numbered_warnings([f"val/0001TP_{n:06}" for n in range(5)], "Give --groups.")[0].partition(" If ")[0]
    "The ids are numbered as frames of 1 video are ('val/0001TP')."
    """
    names = frames(ids)
    if not names:
        return []
    videos, which = count_of(len(names), "video"), first_of(map(sequence_text, names))
    return [
        f"{NUMBERED}{videos} are ({which}). "
        "If they are frames or slices, they are not independent: the p-values over images are then too small, and the "
        f"intervals too narrow. {advice}"
    ]


def group_of(name: str, identity: str) -> str:
    """The group of an id under one of the built-in rules."""
    return folder_of(identity) if name == "folder" else sequence_of(identity)


def groups_given(name: str | None, table: str | Path | None) -> Groups:
    """What `--groups` and `--groups-table` say. Errors: WrongUse for a table alone, or one that does not read."""
    if table is None:
        return name
    if name is None:
        raise WrongUse("A table of groups needs --groups COLUMN, the column that names an image's group.")
    return TableOfGroups(name, group_table(table, name))


def groups_of(
    ids: Sequence[str], groups: Groups, listed: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, str] | None:
    """The group of each id; None where none are asked for.

    Args:
        ids: Of the images.
        groups: As `Groups` says.
        listed: Id to the other cells of its line in the list of images, where there is one.

    Returns:
        Id to group.

    Raises:
        WrongUse: For a column that is not there, an image without a group, or names for other than these images.

    """
    if groups is None:
        return None
    if isinstance(groups, Mapping):
        column = f"The column {groups.column!r} of the table" if isinstance(groups, TableOfGroups) else "groups="
        return groups_by_id(ids, groups, column)
    if not isinstance(groups, str):
        if len(groups) != len(ids):
            raise WrongUse(
                f"groups= has {count_of(len(groups), 'name')} for {count_of(len(ids), 'image')}: give each one."
            )
        return groups_by_id(ids, dict(zip(ids, groups, strict=True)), "groups=")
    if groups in BUILT_IN:
        return {i: group_of(groups, i) for i in ids}
    cells = {i: (listed or {}).get(i, {}).get(groups, "") for i in ids}
    if not any(cells.values()):
        column = ", nor a column of the list of images" if listed else ""
        raise WrongUse(
            f"--groups {groups!r} is neither {' nor '.join(BUILT_IN)}{column}: a column of a CSV of groups needs "
            "--groups-table CSV too."
        )
    return groups_by_id(ids, cells, f"The column {groups!r} of the list of images")


def groups_of_sources(sources: Sequence[Source], groups: Groups) -> dict[str, str] | None:
    """As `groups_of`, of images that a list may say more about."""
    listed = {source.id: source.more for source in sources if source.more}
    return groups_of([source.id for source in sources], groups, listed)


def under_ids(groups: Mapping[str, str] | None, sources: Sequence[Source]) -> dict[str, str] | None:
    """The groups of the same images in the same order, under the ids that a run has for them."""
    return None if groups is None else dict(zip((source.id for source in sources), groups.values(), strict=True))


def setting_of(groups: Groups) -> dict[str, Any]:
    """How a run's settings name the groups, and whether a table does; nothing for none."""
    if groups is None:
        return {}
    if isinstance(groups, str):
        return {"groups": groups}
    return {"groups": getattr(groups, "column", "group"), "groups_table": True}
