"""One pass of a network as an ONNX graph, with the scale and the shift of each stochastic BN layer as inputs.

y = (x - mean) / sqrt(var + eps) * weight + bias is y = x * scale + shift, and of a draw only scale and shift differ.
The graph is made by torch's exporter that traces values (`dynamo=False`): for the U-Net on EfficientNet-Lite0 it takes
2.5 s, the other one 416 s, because it reasons about every padded size in symbols. A trace keeps what Python decided, so
what depends on the image's values is refused here, and the caller compares the graph with plain passes at other sizes.
Must not know what an output means.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.draws.bank import Bank
from segment.draws.recording import BatchNormMode, layers_in_order
from segment.errors import ModelRefused, SegmentError, imported, one_line
from segment.networks.preserve_state import preserve_state
from segment.tracing.sources import CONSTANT, UNKNOWN, constants_of

OPSET = 17
IMAGE, OUTPUT = "mcbn_padded", "mcbn_logits"
"""Names of the graph's image (1 C H W, normalised and padded) and output (1 K' H W)."""

MOST_BYTES = 2**31 - 2**20
"""Bytes of an ONNX file at most: it is one protobuf message."""


@dataclass(frozen=True)
class PassGraph:
    """The nodes of a pass in order, in two parts, and the constants that they read.

    shared: what does not depend on the draw; drawn: what does
    sizes: names that depend on the size of the image and on none of its values
    constants: name -> its tensor (an ONNX TensorProto), of both
    statistics: name of an input -> its values of all draws (T C 1 1; T C where the layer's input is N C), float32
    """

    shared: tuple[Any, ...]
    drawn: tuple[Any, ...]
    sizes: frozenset[str]
    constants: Mapping[str, Any]
    statistics: Mapping[str, NDArray[np.float32]]

    def constants_of(self, nodes: Iterable[Any]) -> list[Any]:
        """The constants that these nodes read, each once."""
        read = dict.fromkeys(name for node in nodes for name in node.input)
        return [self.constants[name] for name in read if name in self.constants]


def pass_graph(network: BatchNormNetwork, bank: Bank, image: Tensor) -> PassGraph:
    """The graph of a pass over an image like this one (1 C H W, padded); height and width stay open.

    network: on the CPU, traced over this image
    Errors: ModelRefused where a graph cannot express the network; MissingExtra.
    """
    onnx = imported("onnx", extra="onnx", what="Exported graphs")
    _check(network, image)
    single = _SinglePass(network)
    names = [f"mcbn_{kind}_{number}" for number in range(len(network.stochastic)) for kind in ("scale", "shift")]
    first = [torch.ones(_shape(network, layer)) for layer in network.stochastic for _ in ("scale", "shift")]
    stream: Any = io.BytesIO()
    try:
        with torch.no_grad(), preserve_state(network.module), _quiet():
            torch.onnx.export(
                single,
                (image, *first),
                stream,
                dynamo=False,
                input_names=[IMAGE, *names],
                output_names=[OUTPUT],
                dynamic_axes={IMAGE: {2: "rows", 3: "columns"}},
                opset_version=OPSET,
            )
        graph = onnx.load_from_string(stream.getvalue()).graph
    except SegmentError:
        raise
    except Exception as error:  # whatever the exporter raises, it cannot express the network
        raise ModelRefused(
            f"ONNX cannot express this network: {_reason(error)}. `segment predict` runs it all the same."
        ) from error
    return _in_parts(onnx, graph, dict(zip(names, _statistics(network, bank, single.norms), strict=True)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings (on the exporter's deprecation, on sizes that Python compares) and the graph that it prints."""
    printing = torch._C._jit_onnx_log
    try:
        torch._C._jit_onnx_log = lambda *_: None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = printing


def _reason(error: Exception) -> str:
    """The first sentence of the exporter's error, which goes on with its graph."""
    text = one_line(error, 200).split(". ")[0].split(" [Caused")[0]
    return text.split(", please")[0].rstrip(".") or type(error).__name__


def _check(network: BatchNormNetwork, image: Tensor) -> None:
    """Errors: ModelRefused where a trace of one image would not stand for others, or for other draws."""
    calls = network.calls
    for call in calls:
        if call.gives_values and call.origin != "constant":
            why = f"{call.name} gives values of the image to Python, which then decides by them"
        elif UNKNOWN in call.sources:
            why = f"{call.name} reads a tensor that no torch call of the pass made"
        elif call.random:
            why = f"{call.name} draws random numbers"
        elif call.autocast:
            why = f"{call.name} runs under the network's own autocast"
        else:
            continue
        raise ModelRefused(f"A graph cannot express this network: {why}.")
    computed = sum(call.gives_values and any(held is None for held in call.registered) for call in calls)
    if _values_read(network, image) > computed:
        raise ModelRefused(
            "A graph cannot express this network: it gives a tensor where torch takes a number, as torch.roll(x, k, 0) "
            "with a tensor k, so that the value for one image would stand for all."
        )
    for layer in network.stochastic:
        call = calls[layer.call or 0]
        own = call.sources[len(call.sources) - _norm_tensors(call.sources, layer) :]
        if any(source != CONSTANT and (source < 0 or calls[source].origin != "constant") for source in own):
            raise ModelRefused(
                f"A graph cannot express this network: the weight of BN layer {layer.name!r} depends on the image."
            )


class _CountedReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often the value of a tensor is read, also by a torch function that takes it for a number.

    constants: tensors whose value is that of every image
    """

    def __init__(self, constants: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self._constants = 0, {id(tensor) for tensor in constants}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = function is torch.ops.aten._local_scalar_dense.default and id(args[0]) not in self._constants
        self.count += int(reads)
        return function(*args, **(kwargs or {}))


def _values_read(network: BatchNormNetwork, image: Tensor) -> int:
    """How often a pass reads the value of a tensor."""
    reads = _CountedReads(constants_of(network.module))
    with torch.inference_mode(mode=False), torch.no_grad(), preserve_state(network.module), reads:
        network.forward(image.clone())
    return reads.count


def _norm_tensors(sources: Sequence[int], layer: Layer) -> int:
    """How many of a BN call's tensors are weight and bias: all behind the input and the running statistics."""
    return len(sources) - (3 if layer.trained is not None else 1)


def _shape(network: BatchNormNetwork, layer: Layer) -> tuple[int, ...]:
    shape = network.calls[layer.call or 0].shape
    assert shape is not None
    return (layer.channels, *(1,) * (len(shape) - 2))


class _ScaledPass(BatchNormMode):
    """A pass whose stochastic layers scale and shift their input; norms: their weight, bias and eps."""

    def __init__(self, layers: Iterable[Layer], given: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers)
        self._given = given
        self.norms: dict[str, tuple[Tensor | None, Tensor | None, float]] = {}

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        if layer.status != "stochastic":
            return call.unchanged()
        self.norms[layer.name] = call.weight, call.bias, call.eps
        scale, shift = self._given[layer.name]
        return call.input * scale + shift


class _SinglePass(nn.Module):
    """The network as a module of its image and of its layers' scales and shifts."""

    def __init__(self, network: BatchNormNetwork) -> None:
        super().__init__()
        self.module, self._network = network.module, network
        self._layers = layers_in_order(network)
        self.norms: dict[str, tuple[Tensor | None, Tensor | None, float]] = {}
        self.training = False

    def forward(self, image: Tensor, *given: Tensor) -> Tensor:
        names = [layer.name for layer in self._network.stochastic]
        mode = _ScaledPass(self._layers, dict(zip(names, zip(given[::2], given[1::2], strict=True), strict=True)))
        with mode:
            output = self._network.forward(image)
        mode.end()
        self.norms = mode.norms
        return output


def _statistics(
    network: BatchNormNetwork, bank: Bank, norms: Mapping[str, tuple[Tensor | None, Tensor | None, float]]
) -> list[NDArray[np.float32]]:
    """Scale and shift of each stochastic layer under all draws, computed in float64."""
    values = []
    for layer in network.stochastic:
        weight, bias, eps = norms[layer.name]
        scale = (bank.var[layer.name].double() + eps).rsqrt()
        scale = scale if weight is None else scale * weight.detach().double()
        shift = -bank.mean[layer.name].double() * scale
        shift = shift if bias is None else shift + bias.detach().double()
        shape = (len(bank), *_shape(network, layer))
        values += [each.float().reshape(shape).contiguous().numpy() for each in (scale, shift)]
    return values


def _in_parts(onnx: Any, graph: Any, statistics: Mapping[str, NDArray[np.float32]]) -> PassGraph:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            constants[value.name] = value
        else:
            nodes.append(node)
    of_image, of_draw, of_values = {IMAGE}, set(statistics), {IMAGE, *statistics}
    for node in nodes:
        for names in (of_image, of_draw, of_values):
            if names.intersection(node.input) and not (names is of_values and node.op_type == "Shape"):
                names.update(node.output)
    _fold(onnx, [node for node in nodes if not (of_image | of_draw).intersection(node.output)], constants)
    drawn = [node for node in nodes if of_draw.intersection(node.output)]
    shared = [node for node in nodes if of_image.intersection(node.output) and not of_draw.intersection(node.output)]
    if OUTPUT not in of_draw:
        raise ModelRefused("A graph cannot express this network: its output does not depend on the draw.")
    if sum(tensor.ByteSize() for tensor in constants.values()) > MOST_BYTES:
        raise ModelRefused("The network's weights exceed the 2 GiB that an ONNX file may hold.")
    return PassGraph(tuple(shared), tuple(drawn), frozenset((of_image | of_draw) - of_values), constants, statistics)


def _fold(onnx: Any, nodes: Sequence[Any], constants: dict[str, Any]) -> None:
    """Add what nodes compute of constants alone to these."""
    if not nodes:
        return
    helper = onnx.helper
    names = [name for node in nodes for name in node.output]
    read = [
        constants[name] for name in dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    model = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, read), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    values = imported("onnx.reference", extra="onnx", what="Exported graphs").ReferenceEvaluator(model).run(None, {})
    constants.update(
        (name, onnx.numpy_helper.from_array(value, name)) for name, value in zip(names, values, strict=True)
    )
