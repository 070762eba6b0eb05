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
    now = versions() if there else {}  # a run that was stopped early names none
    others = [
        f"{name} {there.get(name, 'was missing')} (now {now.get(name, 'missing')})"
        for name in {**there, **now}
        if there.get(name) != now.get(name)
    ]
    if others:
        log.warning(
            "%s was begun with other versions: %s. Images that are made now may differ from those there.",
            in_text(place),
            ", ".join(others),
        )


def versions() -> dict[str, str]:
    """Package -> version, with Python's; a package that is not installed is left out."""
    by_package = {"python": platform.python_version(), "mcbn-segment": __version__}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package
