"""Pixels without data, outside a region mask or in a border: NaN in a measure, and no class in a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import ROWS, Plane
from segment.errors import PredictionFailed
from segment.estimation.estimate import Estimate
from segment.files.lazy_arrays import ComputedRows


def with_hidden(estimate: Estimate[Plane], border: int, valid: Plane | None) -> Estimate[Plane]:
    """The estimate with NaN in each measure's outer `border` pixels, and where `valid` (H W) is False.

    Errors: PredictionFailed where nothing is left of the image.
    """
    height, width = estimate.prediction.shape[-2:]
    if 2 * border >= min(height, width):
        raise PredictionFailed(f"--border {border} leaves nothing of an image of {height} x {width} pixels.")
    inner, rows = slice(border, width - border), range(border, height - border, ROWS)
    if valid is not None and not any(valid[top : min(top + ROWS, rows.stop), inner].any() for top in rows):
        raise PredictionFailed("No pixel of the image holds data within its region mask and --border.")

    return replace(estimate, maps={name: hidden(values, border, valid) for name, values in estimate.maps.items()})


def hidden(values: Plane, border: int, valid: Plane | None) -> ComputedRows:
    """Some values (H W) with NaN in the outer `border` pixels, and where `valid` is False."""
    height, width = values.shape

    def of(rows: slice) -> NDArray[Any]:
        block = np.array(values[rows], copy=True)
        block[:, :border] = block[:, width - border :] = np.nan  # no column at border 0
        block[: max(0, border - rows.start)] = np.nan
        block[max(0, height - border - rows.start) :] = np.nan
        if valid is not None:
            block[~valid[rows.start : rows.start + len(block)]] = np.nan
        return block

    return ComputedRows((height, width), np.dtype(np.float32), of)


def labels_or_none(labels: Plane, valid: Plane, none: int) -> ComputedRows:
    """Labels (H W), `none` where the image is not valid."""

    def of(rows: slice) -> NDArray[Any]:
        return np.where(valid[rows], np.asarray(labels[rows]), none)

    return ComputedRows(tuple(labels.shape), np.dtype(np.uint8 if none <= 255 else np.uint16), of)
