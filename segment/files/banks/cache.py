"""Banks that are kept and reused: a bank is identified by all that it is recorded from.

Used by the command, `segment.fit_bank`, a sweep and the tests. Must not know how a bank is recorded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import is_bank_of, preprocessing_of
from segment.draws.image_pool import ImagePool
from segment.errors import BankRefused, SegmentError
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.file_hashes import hashes_beside, sha256_of_files
from segment.files.versions import versions
from segment.images.listing.samples import DatasetImages, as_array
from segment.networks.load import Network
from segment.stores.requests import is_there

log = logging.getLogger(__name__)

RECIPE = "recipe"
"""Key in a bank's provenance: what it was recorded of, and the fingerprint of what was recorded."""

KEPT = 64
"""Banks in the user's cache; the one that was used longest ago goes first."""

HASHES = "image_hashes.json"

SAMPLED = 16
"""Samples of a Dataset that stand for its content."""

DIGITS = 12
"""Digits of a probe's digest, in a bank's file name."""

MARKS, MARK = "image_marks", 12
"""Key in a bank's provenance: which images it was recorded of, by so many digits of their SHA-256."""


def user_folder() -> Path:
    """Where the user's banks are kept: below $SEGMENT_CACHE, else below `segment` in the user's cache folder."""
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home folder keeps nothing
        user = Path(os.devnull)
    return Path(os.environ.get("SEGMENT_CACHE") or user / "segment") / "banks"


def pool_sha256(pool: ImagePool) -> str:
    """SHA-256 over the bytes of the images, and of what belongs to them, in their order.

    Wherever they lie and whatever they are called.
    """
    digest = hashlib.sha256()
    paths, memory = [source.path for source in pool.sources], user_folder().with_name(HASHES)
    for source, file_hash in zip(pool.sources, sha256_of_files(paths, memory), strict=True):
        digest.update(file_hash.encode())
        if source.part is not None:
            digest.update(f"{source.part} of axis {source.axis}".encode())
    for text in hashes_beside(paths, memory):
        digest.update(text.encode())
    step = 1
    if isinstance(pool.given, DatasetImages):  # reading all of it would take as long as training on it
        digest.update(f"{type(pool.given.dataset).__qualname__} of {len(pool.given)}".encode())
        step = max(1, len(pool.given) // SAMPLED)
    for index in range(0, len(pool.given), step):
        values = np.ascontiguousarray(as_array(pool.decoded(index, index)))  # as the network sees it: palettes and all
        digest.update(f"{values.dtype.str} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()


def marks_of(pool: ImagePool) -> list[str]:
    """The first MARK digits of the SHA-256 of every image file, for the provenance; none of images given as arrays."""
    hashes = sha256_of_files([source.path for source in pool.sources], user_folder().with_name(HASHES))
    return [file_hash[:MARK] for file_hash in hashes]


def marks_in(provenance: Mapping[str, Any]) -> frozenset[str]:
    """The marks of a bank's statistics images; empty for a bank recorded before they were kept, or of arrays."""
    return frozenset(provenance.get(MARKS, ()))


def recipe_of(network: Network, content: str, plan: Mapping[str, Any]) -> str:
    """SHA-256 over the weights, what the card says, the images' content, the plan and the software.

    What the network computes besides is compared by the probe (`BankCache.find`), for it has a tolerance.
    plan: how the bank is recorded, as JSON values
    """
    training = network.card.training
    parts = {
        "network": network.fingerprint,
        "preprocessing": preprocessing_of(network),
        "images": content,
        "training": None if training is None else [training.batch, [dict(each) for each in training.transforms]],
        "plan": dict(plan),
        "device": network.device.type,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def signed(bank: Bank, recipe: str) -> Bank:
    """The bank with its recipe, and the fingerprint of its draws: what changes them later makes it another bank."""
    marks = {"sha256": recipe, "draws": bank_fingerprint(bank)}
    return replace(bank, provenance={**bank.provenance, RECIPE: marks})


@dataclass(frozen=True)
class BankCache:
    """A folder of recorded banks; `most` are kept, all where it is None."""

    folder: Path
    most: int | None = KEPT

    @classmethod
    def of_user(cls) -> BankCache:
        return cls(user_folder())

    def find(
        self, network: Network, drawn: BatchNormNetwork, recipe: str, output: Path | None = None
    ) -> tuple[Bank, Path] | None:
        """A bank of the recipe, of a network that computes the same, and its file; `output` comes first.

        drawn: the network with the layers that are to be drawn
        """
        for path in [*([] if output is None else [output]), *sorted(self.folder.glob(f"{recipe}-*.safetensors"))]:
            bank = bank_of_recipe(path, recipe)
            if bank is None:
                continue
            if not is_bank_of(network, drawn, bank):
                log.info("%s is not used: the same weights, but the network computes something else.", path)
                continue
            try:
                os.utime(path)
            except OSError as error:
                log.info("%s is not marked as used: %s", path, error)
            return bank, path
        return None

    def keep(self, bank: Bank) -> None:
        """Write the bank for the next time; a folder that cannot be written costs nothing else."""
        marks = bank.provenance[RECIPE]
        try:
            assert bank.probe is not None  # networks of the same weights that compute something else lie side by side
            save_bank(bank, self.folder / f"{marks['sha256']}-{bank.probe.digest[:DIGITS]}.safetensors")
            self._prune()
        except (SegmentError, OSError) as error:
            log.info("Not kept for the next time: %s", error)

    def _prune(self) -> None:
        by_time = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in by_time[self.most :] if self.most is not None else ():
            path.unlink(missing_ok=True)


def bank_of_recipe(path: Path, recipe: str) -> Bank | None:
    """The bank in a file, where it is as it was recorded by this recipe."""
    if not is_there(path):
        return None
    try:
        bank = load_bank(path)
    except (BankRefused, OSError) as error:
        log.info("%s is not used: %s", path, error)
        return None
    return bank if is_of_recipe(bank, recipe) else None


def is_of_recipe(bank: Bank, recipe: str) -> bool:
    """Whether a bank is as it was recorded by this recipe."""
    return not bank.distilled and bank.provenance.get(RECIPE) == {"sha256": recipe, "draws": bank_fingerprint(bank)}
