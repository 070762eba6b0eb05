"""Which software a bank or a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mcbn-segment", "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations",
            "opencv-python", "numpy")  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, with Python's; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
