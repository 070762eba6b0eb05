"""Segments as COCO's JSON: one file for a run, whose images and annotations are numbered through.

Must not know how a segment was found. Source: the format page of cocodataset.org.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segment.files.exports.image import ExportedImage, Segment
from segment.files.exports.rle import coco_counts, coco_text
from segment.files.writing import fresh, write_json

FILE = "coco.json"


def write_coco(path: Path, image: ExportedImage) -> None:
    """The coco.json of one image, itself complete; `join_coco` makes one of several."""
    annotations = [
        _annotation(segment, coco_text(coco_counts(mask, *segment.box[:2], image.shape)), image.shape)
        for segment, mask in image.masks()
    ]
    height, width = image.shape
    entry = {"id": 1, "file_name": image.source, "height": height, "width": width, "segment_id": image.id}
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(image.classes)]
    write_json(path, {"images": [entry], "annotations": annotations, "categories": categories})


def _annotation(segment: Segment, counts: str, shape: tuple[int, int]) -> dict[str, Any]:
    """`uncertainty`: measure -> mean and max; `score`: the expected accuracy. Unknown numbers are left out."""
    entry: dict[str, Any] = {
        "id": segment.number,
        "image_id": 1,
        "category_id": segment.label + 1,
        "segmentation": {"size": list(shape), "counts": counts},
        "area": segment.area,
        "bbox": list(segment.box),
        "iscrowd": 0,
        "uncertainty": {
            name: {"mean": mean, "max": most}
            for name, (mean, most, _) in segment.measures.items()
            if not math.isnan(mean)
        },
    }
    return entry if math.isnan(segment.accuracy) else entry | {"score": segment.accuracy}


def join_coco(path: Path, parts: Sequence[Path]) -> None:
    """The files of several images as one; in memory is one of them at a time."""
    images, categories = [], []
    first = 0
    with fresh(path) as stream:
        stream.write(b'{"annotations": [')
        for number, part in enumerate(parts, start=1):
            data = json.loads(part.read_bytes())
            categories = data["categories"]
            images.append(data["images"][0] | {"id": number})
            for annotation in data["annotations"]:
                annotation |= {"id": first + annotation["id"], "image_id": number}
                separator = ",\n" if annotation["id"] > 1 else "\n"
                stream.write((separator + json.dumps(annotation, ensure_ascii=False)).encode())
            first += len(data["annotations"])
        rest = {"images": images, "categories": categories}
        stream.write(("\n],\n" + json.dumps(rest, ensure_ascii=False)[1:] + "\n").encode())
