"""What a command may replace: files of its own kind, and no other.

Must not know what a file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from segment.errors import WrongUse
from segment.stores.copies import here
from segment.stores.requests import is_there
from segment.stores.urls import url_of


def refuse_other_file(path: Path, kind: str, suffixes: Sequence[str], is_own: Callable[[Path], bool]) -> None:
    """Refuse a name without one of the suffixes, and one where a file of another kind lies.

    kind: of file, as "triage". is_own: whether a file here is of that kind
    Errors: WrongUse; those of a store.
    """
    if is_there(path):
        with here(path) as copy:
            own = is_own(copy)
        if not own:
            raise WrongUse(
                f"{url_of(path)!r} is there already and is no {kind}. Give another name by -o, or remove the file."
            )
    if path.suffix.lower() not in suffixes:
        raise WrongUse(
            f"A {kind} is written as {' or '.join(suffixes)}; {path.name!r} is not: add the suffix {suffixes[0]}."
        )
