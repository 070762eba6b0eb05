"""A bank is not written over another one: runs that were made with that could not be resumed.

Must not know how a bank is recorded or distilled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import BankRefused, WrongUse
from segment.files.banks.bank_file import NotABank, load_bank
from segment.files.reading import as_json_values
from segment.stores.requests import is_there
from segment.stores.urls import refuse_file_url, url_of

SHOWN = 12
"""Digits of a fingerprint in messages."""
IN_WORDS = {
    "fingerprint": "it is of another network",
    "images_sha256": "its statistics images are others",
    "pipeline": "its training pipeline is another",
    "bank": "it was distilled from another bank",
    "plan": "it was distilled by another plan",
}
"""Keys whose values say nothing to a reader."""


def refuse_other_bank(output: Path, same: Callable[[Bank], bool], asked: Mapping[str, Any]) -> None:
    """Refuse an output that holds another bank; one that is damaged, or of an older format, may be replaced.

    same: whether a bank that is there is the one that is going to be written. asked: what its provenance would say
    Errors: WrongUse, also where the file holds something else, as weights.
    """
    there = bank_there(output)
    if there is None or same(there):
        return
    known = {"distilled": False, "size": None, **there.provenance, **there.provenance.get("distillation", {})}
    differences = [
        IN_WORDS.get(key, f"{key} is {known.get(key)!r} there, {value!r} asked")
        for key, value in as_json_values(dict(asked)).items()
        if known.get(key) != value
    ]
    why = "; ".join(differences) or "it was changed, or the network's code, the card, the device or a version differs"
    raise WrongUse(
        f"{url_of(output)!r} is another bank already, of fingerprint {bank_fingerprint(there)[:SHOWN]}: {why}. Without "
        "it, runs that were made with it cannot be resumed. Give another name, or remove the file."
    )


def bank_there(path: Path) -> Bank | None:
    """The bank of a file; None where there is none that reads.

    Errors: WrongUse where the file holds something else, or is named by a URL of a file here.
    """
    refuse_file_url(path)
    if not is_there(path):
        return None
    try:
        return load_bank(path)
    except NotABank:
        raise WrongUse(
            f"{url_of(path)!r} is there already and is no bank, perhaps weights. Give another name, or remove the file."
        ) from None
    except BankRefused:
        return None
