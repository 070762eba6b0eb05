"""Exported graphs to disk: ONNX files, and OpenVINO's pairs of .xml and .bin.

Must not know what a graph computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segment.errors import imported
from segment.files.writing import fresh_path, write_bytes


def write_onnx(path: Path, model: Any, metadata: Mapping[str, str]) -> None:
    """An ONNX model with its metadata."""
    imported("onnx", extra="onnx", what="Exported graphs").helper.set_model_props(model, dict(metadata))
    write_bytes(path, model.SerializeToString(deterministic=True))


def write_openvino(path: Path, model: Any, metadata: Mapping[str, str]) -> None:
    """An OpenVINO model with its metadata, in float32: its weights, `path` with .bin, are in place before it is."""
    openvino = imported("openvino", extra="openvino", what="Exported graphs")
    read = openvino.Core().read_model(model.SerializeToString(deterministic=True))
    for key, value in metadata.items():
        read.set_rt_info(value, ["segment", key])
    with fresh_path(path) as graph, fresh_path(path.with_suffix(".bin")) as weights:
        openvino.serialize(read, str(graph), str(weights))
