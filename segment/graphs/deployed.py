"""A network under the draws of a bank as one ONNX graph: pixels in, mean probability and maps of uncertainty out.

The draws are the rounds of a `Loop`, whose body holds the part of the network that depends on the draw, once; what does
not depend on it is before the loop. Must not know a file.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head, classes_of
from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import preprocessing_of
from segment.errors import imported
from segment.graphs.parts import OUTPUTS, Nodes, add_entropy, add_maps, add_preparation, add_probabilities, add_update
from segment.networks.load import Network
from segment.passes.onnx_pass import IMAGE, OPSET, OUTPUT, PassGraph

MARK = "segment_format"
"""Key of the metadata that tells these graphs from any other."""
FORMAT = 1
"""The format of the metadata; a reader of another one should refuse."""

IR_VERSION = 8
"""The version of ONNX 1.13, which every runtime of the last years reads."""


def takes_bytes(network: Network) -> bool:
    """Whether the graph takes uint8 pixels; else floats, raw where the card has a `white`, or bands in 0..255."""
    return network.input.colours and network.input.white is None


def _values(network: Network) -> str:
    if takes_bytes(network):
        return "uint8"
    white = network.input.white
    return "float32, 0..255" if white is None else f"float32, raw values of white {json.dumps(white)}"


def deployed(network: Network, bank: Bank, graph: PassGraph) -> Any:
    """The ONNX model. Input `image` (1 H W C), as decoded; outputs `parts.OUTPUTS`, of the image's size."""
    onnx = imported("onnx", extra="onnx", what="Exported graphs")
    helper, head = onnx.helper, network.card.head
    weights = bank.weights.double().numpy()
    main = Nodes(onnx)
    add_preparation(main, network.input, IMAGE)
    main.nodes += graph.shared
    main.constants += graph.constants_of(graph.shared)
    classes = classes_of(head, network.classes)
    _add_loop(main, onnx, graph, weights, head, classes)
    add_maps(main, head)
    kind = onnx.TensorProto.UINT8 if takes_bytes(network) else onnx.TensorProto.FLOAT
    image = helper.make_tensor_value_info("image", kind, [1, "height", "width", network.input.pixel_planes])
    sizes = {name: [1, "height", "width"] for name in OUTPUTS} | {"probability": [1, classes, "height", "width"]}
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes[name]) for name in OUTPUTS]
    made = helper.make_graph(main.nodes, "mcbn", [image], outputs, main.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "segment"
    return model


def _add_loop(main: Nodes, onnx: Any, graph: PassGraph, weights: NDArray[np.float64], head: Head, classes: int) -> None:
    helper = onnx.helper
    body = Nodes(onnx)
    for name, values in graph.statistics.items():
        body.constant(f"{name}_of_draws", values)
        body.add(f"{name} = Gather ({name}_of_draws, draw)")
    body.nodes += graph.drawn
    # a body reads what is before the loop by its name; its own weights are in it, where runtimes pack them
    before = {tensor.name for tensor in main.constants}
    body.constants += [tensor for tensor in graph.constants_of(graph.drawn) if tensor.name not in before]
    body.constant("corner", np.zeros(2, np.int64))
    body.constant("pixel_axes", np.array([2, 3]))
    body.add(f"cropped = Slice ({OUTPUT}, corner, size, pixel_axes)")
    add_probabilities(body, head)
    add_entropy(body, "p", "entropy", head)
    add_update(body, weights)
    body.add("go_on_new = Identity (go_on)")
    sums = {"mean": [1, classes, None, None], "square": [1, classes, None, None], "expected": [1, None, None]}

    def described(names: list[str]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in zip(names, sums.values(), strict=True)
        ]

    counter = helper.make_tensor_value_info("draw", onnx.TensorProto.INT64, [])
    flags = [helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in ("go_on", "go_on_new")]
    loop = helper.make_graph(
        body.nodes,
        "draws",
        [counter, flags[0], *described(list(sums))],
        [flags[1], *described([f"{name}_new" for name in sums])],
        body.constants,
    )
    main.constant("draws", np.array(len(weights)))
    main.constant("always", np.ones((), bool))
    main.constant("single", np.array([1]))
    main.constant("classes", np.array([classes]))
    main.add("""
        size_of_map = Concat <axis = 0> (single, size)
        size_of_classes = Concat <axis = 0> (single, classes, size)
        first_mean = ConstantOfShape (size_of_classes)
        first_expected = ConstantOfShape (size_of_map)
    """)
    inputs = ["draws", "always", "first_mean", "first_mean", "first_expected"]
    main.nodes.append(helper.make_node("Loop", inputs, [f"{name}_final" for name in sums], "draws", body=loop))


def metadata(network: Network, bank: Bank, versions: dict[str, str], checked: dict[str, float]) -> dict[str, str]:
    """What a program, or a person, must know of the graph; values are JSON where they are no text.

    checked: of the comparisons with the engine, output -> largest difference
    """
    card = network.card
    entries = {
        MARK: FORMAT,
        "network": network.name,
        "network_fingerprint": network.fingerprint,
        "head": card.head,
        "classes": list(network.class_names),
        "input": f"image: {_values(network)}, 1 x height x width x "
        f"{network.input.pixel_planes}{', RGB' if network.input.colours else ''}; the graph does the rest: "
        f"{network.input.sentence}",
        "preprocessing": preprocessing_of(network),
        "outputs": "probability: mean over the draws (1 K height width); predictive_entropy, expected_entropy, "
        "mutual_information: nats; variance: of p over the draws, mean over the classes (1 height width)",
        "draws": len(bank),
        "bank_fingerprint": bank_fingerprint(bank),
        "bank": {key: value for key, value in bank.provenance.items() if key not in ("audit", "preprocessing")},
        "versions": versions,
        "largest_difference": checked,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
