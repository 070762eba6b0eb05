"""A deployed graph run by ONNX Runtime or by OpenVINO, in float32 on the CPU.

Must not know what made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import imported

Outputs = Mapping[str, NDArray[np.float32]]
RunGraph = Callable[[NDArray[Any]], Outputs]
"""Pixels (1 H W C) -> output name -> its values."""


def in_onnxruntime(model: Any) -> RunGraph:
    """An ONNX model, as ONNX Runtime runs it. Errors: MissingExtra."""
    runtime = imported("onnxruntime", extra="onnx", what="Exported graphs")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(names, {"image": image}), strict=True))


def in_openvino(model: Any) -> RunGraph:
    """An ONNX model, as OpenVINO runs it. Errors: MissingExtra."""
    openvino = imported("openvino", extra="openvino", what="Exported graphs")
    core = openvino.Core()
    # OpenVINO rounds to bfloat16 of its own accord where the processor has that
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda image: {output.any_name: value.copy() for output, value in compiled({"image": image}).items()}
