"""Which software a bank or a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from segment.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python",
    "numpy",
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
