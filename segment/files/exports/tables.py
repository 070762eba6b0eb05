"""Segments and images as tables, CSV or Parquet: a row a region of a mask, a row an image.

Must not know how a segment was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import imported
from segment.files.exports.image import ExportedImage
from segment.files.text_tables import csv_text
from segment.files.writing import fresh, fresh_path, write_text

_SUMS = ("sha256", "mask_sha256", "beside_sha256")
_NOT_MEASURES = (*_SUMS, "status", "error", "files", "triage", "notes", "blending", "expected")


def segment_rows(image: ExportedImage) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and a row a segment; `expected_accuracy` and measures are None where they are not known.

    area: pixels; left, top, width, height: the box, pixels; `mean_`, `max_` and `p95_` of each measure, in its unit
    """
    columns = ["image", "segment", "class_id", "class", "area", "left", "top", "width", "height", "expected_accuracy"]
    columns += [f"{what}_{name}" for name in image.maps for what in ("mean", "max", "p95")]
    rows: list[dict[str, Any]] = []
    for segment in (segment for part in image.segments for segment in part):
        values = [value for name in image.maps for value in segment.measures[name]]
        numbers = [None if math.isnan(value) else value for value in (segment.accuracy, *values)]
        cells = (image.id, segment.number, segment.label, segment.name, segment.area, *segment.box, *numbers)
        rows.append(dict(zip(columns, cells, strict=True)))
    return columns, rows


def image_rows(lines: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and a row an image that is done, of the lines of a manifest."""
    columns: dict[str, None] = {}
    rows = []
    for line in lines:
        row: dict[str, Any] = {}
        for key, value in line.items():
            if isinstance(value, Mapping) and key not in _NOT_MEASURES:
                row |= {f"{what}_{key}": number for what, number in value.items()}
            elif key not in _NOT_MEASURES:
                row["image" if key == "id" else key] = value
        triaged = {key: value for key, value in line.get("triage", {}).items() if not isinstance(value, Mapping)}
        row |= {**line.get("expected", {}), **triaged}
        columns |= dict.fromkeys(row)
        rows.append(row)
    return list(columns), rows


def write_segments_csv(path: Path, image: ExportedImage) -> None:
    columns, rows = segment_rows(image)
    write_text(path, csv_text(columns, rows))


def write_segments_parquet(path: Path, image: ExportedImage) -> None:
    columns, rows = segment_rows(image)
    _write_parquet(path, columns, rows, _types(columns))


def write_images(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """images.csv or images.parquet, by the suffix."""
    columns, rows = image_rows(lines)
    if path.suffix == ".csv":
        write_text(path, csv_text(columns, rows))
    else:
        _write_parquet(path, columns, rows, {})


def join_csv(path: Path, parts: Sequence[Path]) -> None:
    """Tables of the same columns as one."""
    with fresh(path) as stream:
        for number, part in enumerate(parts):
            data = part.read_bytes()
            stream.write(data if number == 0 else data.split(b"\n", 1)[1])


def join_parquet(path: Path, parts: Sequence[Path]) -> None:
    """Tables of the same columns as one, a row group a part."""
    parquet = imported("pyarrow.parquet", extra="tables", what="Parquet files")
    with fresh_path(path) as place, parquet.ParquetWriter(place, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))


def _types(columns: Sequence[str]) -> dict[str, str]:
    """Types by column, so that tables of images without a segment join with others."""
    types = dict.fromkeys(columns, "float64") | {"image": "string", "class": "string"}
    return types | dict.fromkeys(("segment", "class_id", "area", "left", "top", "width", "height"), "int64")


def _write_parquet(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]
) -> None:
    arrow = imported("pyarrow", extra="tables", what="Parquet files")
    parquet = imported("pyarrow.parquet", extra="tables", what="Parquet files")
    arrays = {}
    for name in columns:
        kind = getattr(arrow, types[name])() if name in types else None
        arrays[name] = arrow.array([row.get(name) for row in rows], type=kind)
    with fresh_path(path) as place:
        parquet.write_table(arrow.table(arrays), place)
