"""Segments as Label Studio's pre-annotations: brush labels with scores, and the labelling interface for them.

Must not know how a segment was found. Regions below `SMALL` of the image are left out: nobody corrects specks.
Source: Label Studio's documentation, "Import pre-annotated data" and "Brush labels".
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from segment.files.exports.image import ExportedImage, Segment
from segment.files.exports.rle import brush
from segment.files.writing import fresh, write_json, write_text
from segment.regions.components import SMALL
from segment.stores.urls import is_url, url_of

FILE, INTERFACE = "labelstudio.json", "labelstudio.xml"
TAG, IMAGE = "segments", "image"
"""Names of the interface's parts, which every result refers to."""


def write_task(path: Path, image: ExportedImage, version: str) -> None:
    """A list of one task: the image, its segments, and the mean expected accuracy as the prediction's score.

    version: the model's name. The image is named as Label Studio's local storage serves it, /data/local-files/?d=PATH;
    one on a store by its URL
    """
    least = SMALL * image.shape[0] * image.shape[1]
    kept = [(segment, mask) for segment, mask in image.masks() if segment.area >= least]
    results = [_result(segment, brush(mask, *segment.box[:2], image.shape), image.shape) for segment, mask in kept]
    known = [(segment.accuracy, segment.area) for segment, _ in kept if not math.isnan(segment.accuracy)]
    local = f"/data/local-files/?d={quote(image.source.lstrip('/'))}"
    url = url_of(image.source) if is_url(image.source) else local
    prediction = {"model_version": version, "score": _weighted(known), "result": results}
    write_json(path, [{"data": {IMAGE: url, "id": image.id}, "predictions": [prediction]}])


def _weighted(known: Sequence[tuple[float, int]]) -> float:
    """The mean accuracy by area; 0 where none is known."""
    total = sum(area for _, area in known)
    return sum(accuracy * area for accuracy, area in known) / total if total else 0.0


def _result(segment: Segment, rle: list[int], shape: tuple[int, int]) -> dict[str, Any]:
    lines = [
        f"{name}: mean {mean:.4g}, max {most:.4g}"
        for name, (mean, most, _) in segment.measures.items()
        if not math.isnan(mean)
    ]
    entry: dict[str, Any] = {
        "id": f"s{segment.number}",
        "type": "brushlabels",
        "from_name": TAG,
        "to_name": IMAGE,
        "origin": "prediction",
        "original_width": shape[1],
        "original_height": shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": rle, "brushlabels": [segment.name]},
        "meta": {"text": lines},
    }
    return entry if math.isnan(segment.accuracy) else entry | {"score": segment.accuracy}


def join_tasks(path: Path, parts: Sequence[Path]) -> None:
    """The tasks of several images as one list; in memory is one of them at a time."""
    with fresh(path) as stream:
        stream.write(b"[")
        for number, part in enumerate(parts):
            (task,) = json.loads(part.read_bytes())
            stream.write((",\n" if number else "\n").encode() + json.dumps(task, ensure_ascii=False).encode())
        stream.write(b"\n]\n")


def write_interface(path: Path, classes: Sequence[str], palette: NDArray[np.uint8]) -> None:
    """The labelling interface (XML) of a project that takes the tasks."""
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr('#{:02x}{:02x}{:02x}'.format(*map(int, colour)))}/>"
        for name, colour in zip(classes, palette, strict=True)
    )
    write_text(
        path,
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n'
        f'  <BrushLabels name="{TAG}" toName="{IMAGE}">\n{labels}\n  </BrushLabels>\n</View>\n',
    )
