"""Which software a bank or a run was made with."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segment.images.listing.ids import in_text
from segment.version import __version__

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python",
    "numpy",
)


def warn_of_other_versions(place: Path, there: Mapping[str, str]) -> None:
    """Name the versions that a run which goes on was begun with, where they are others. there: as `versions` gave."""
    if there and (others := _others(there, "now")):  # a run that was stopped early names none
        log.warning(
            "%s was begun with other versions: %s. Images that are made now may differ from those there.",
            in_text(place),
            ", ".join(others),
        )


def warn_of_versions_here(there: Mapping[str, str]) -> None:
    """Name the versions that the command of this worker runs with, where they are others. there: as `versions` gave."""
    if others := _others(there, "there"):
        log.warning(
            "A worker on %s has other versions than the command: %s. Images that it makes may differ from the others.",
            platform.node(),
            ", ".join(others),
        )


def _others(given: Mapping[str, str], here: str) -> list[str]:
    """Packages of other versions than were given. here: what says where this is."""
    now = versions()
    return [
        f"{name} {given.get(name, 'was missing')} ({here} {now.get(name, 'missing')})"
        for name in {**given, **now}
        if given.get(name) != now.get(name)
    ]


def versions() -> dict[str, str]:
    """Package -> version, with Python's; a package that is not installed is left out."""
    by_package = {"python": platform.python_version(), "mcbn-segment": __version__}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package
