"""A bank recorded once: found again by the fingerprint of all that makes it, in its own file or in a cache of banks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from segment.draws.bank import Bank
from segment.errors import SegmentError
from segment.estimation.mcbn import preprocessing_of
from segment.files.banks import load_bank, save_bank
from segment.images.find import find_images
from segment.jobs.versions import versions
from segment.networks.load import Network

log = logging.getLogger(__name__)

RECIPE = "recipe"
"""Key of the fingerprint in a bank's provenance."""

KEPT = 64
"""Banks in the cache; the one that was used longest ago goes first."""

ROOMS = ("images", "networks", "tracing", "draws", "jobs/fit.py", "files/banks.py")
"""Code that a bank depends on."""


def folder() -> Path:
    """Where banks are kept: $SEGMENT_CACHE, else `segment` in the user's cache folder; below it, `banks`."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SEGMENT_CACHE") or user / "segment") / "banks"


def recipe(network: Network, images: str | Path, **plan: Any) -> str:
    """SHA-256 over the network and its code, the images' paths, sizes and times, the plan, and the software.

    plan: what `fit_bank` is asked besides, as JSON values
    """
    card, device = network.card, network.device.type
    training = None if card.training is None else [card.training.batch, [dict(one) for one in card.training.transforms]]
    told = {
        "network": network.fingerprint, "input": preprocessing_of(network), "pad": [card.input.stride, card.input.pad],
        "white": card.input.white, "head": card.head, "training": training, "device": device, "plan": plan,
        "images": _files(source.path for source in find_images(images)),
        "module": str(network.module), "code": _files(_sources(network)), "house": _house(), "versions": versions(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def recorded_once(path: Path, made_by: str, record: Callable[[], Bank]) -> tuple[Bank, Path | None]:
    """The bank of a recipe in the file `path`, and where it was found; None where it had to be recorded.

    record: makes it. Errors: as `record`; WrongUse where `path` cannot be written.
    """
    kept = folder() / f"{made_by}.safetensors"
    for found in (path, kept):
        bank = _bank_of(found, made_by)
        if bank is not None:
            if found == kept:
                save_bank(bank, path)
            return bank, found
    bank = record()
    bank = replace(bank, provenance={**bank.provenance, RECIPE: made_by})
    save_bank(bank, path)
    try:
        save_bank(bank, kept)
        _prune(kept.parent)
    except (SegmentError, OSError) as problem:  # the bank itself is where it was asked for
        log.info("Not kept for the next time: %s", problem)
    return bank, None


def _bank_of(path: Path, made_by: str) -> Bank | None:
    if not path.is_file():
        return None
    try:
        bank = load_bank(path)
        if bank.provenance.get(RECIPE) != made_by:
            return None
        os.utime(path)
    except (SegmentError, OSError) as problem:
        log.info("%s is not used: %s", path, problem)
        return None
    return bank


def _prune(banks: Path) -> None:
    by_time = sorted(banks.glob("*.safetensors"), key=lambda one: one.stat().st_mtime, reverse=True)
    for path in by_time[KEPT:]:
        path.unlink(missing_ok=True)


def _files(paths: Iterable[Path]) -> list[list[Any]]:
    found = []
    for path in paths:
        told = path.stat() if path.exists() else None
        found.append([str(path.resolve()), *((told.st_size, told.st_mtime_ns) if told else ())])
    return found


def _sources(network: Network) -> list[Path]:
    """Files of the classes that the network is made of: its fingerprint knows its weights, not its forward."""
    names = {type(module).__module__ for module in network.module.modules()}
    files = (getattr(sys.modules.get(name), "__file__", None) for name in sorted(names))
    return [Path(file) for file in files if file]


def _house() -> str:
    top = Path(__file__).parent.parent
    files = sorted(
        file for room in ROOMS for file in ([top / room] if room.endswith(".py") else (top / room).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
