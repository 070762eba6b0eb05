"""What a sweep was made of besides its test images, by content: rows that are scored are of these files and no others.

Must not know what is made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segment.draws.bank import Bank, bank_fingerprint
from segment.files.banks.cache import HASHES, user_folder
from segment.files.file_hashes import hashes_beside, sha256_of_files
from segment.images.find import Source
from segment.images.outside_runs import images_outside_runs
from segment.jobs.labelled.labels import contents_of

IMAGES = "images_and_labels_sha256"
"""Key of the settings of earlier versions: `joined` contents of all test images, which each condition has now."""


def input_hashes(train: str | Path, held_out: Sequence[Source], banks: Mapping[str, Bank]) -> dict[str, str]:
    """A hash for each kind of input that there is.

    train: statistics images; held_out: validation images; banks: those that were given
    """
    paths, memory = [source.path for source in images_outside_runs(train, warn=False)], user_folder().with_name(HASHES)
    statistics = [*sha256_of_files(paths, memory), *hashes_beside(paths, memory)]
    hashes = {"statistics_images_sha256": _joined(statistics)}
    if held_out:
        hashes["validation_sha256"] = joined(contents_of(source) for source in held_out)
    if banks:
        hashes["banks_sha256"] = _joined(bank_fingerprint(bank) for bank in banks.values())
    return hashes


def joined(contents: Iterable[Sequence[str]]) -> str:
    """One hash for several images, each as `contents_of` gives it."""
    return _joined(" ".join(each) for each in contents)


def _joined(hashes: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for each in hashes:
        digest.update(each.encode() + b"\n")
    return digest.hexdigest()
