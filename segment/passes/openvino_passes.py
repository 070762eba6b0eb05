"""Passes by OpenVINO: graphs compiled for an image's size, with each BN layer's scale and shift as inputs.

A draw changes no weight: scale, shift and activation are one pass over each map, for OpenVINO fuses only constants into
a convolution. What does not depend on the draw is a graph of its own, run once an image. So are, in half precision, the
first calls that do: they stay in float32, as in torch's passes. Must not know how a pass is checked, nor what an output
means.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.recording import Precision
from segment.errors import error_message, imported
from segment.networks.modules import buffers, parameters, parameters_and_buffers
from segment.networks.trial_images import noise
from segment.passes.float32_calls import exact_calls
from segment.passes.onnx_pass import IMAGE, OPSET, OUTPUT, pass_graph
from segment.passes.unchanged import SameSettings, Unchanged
from segment.tracing.sources import IMAGE as IMAGE_SOURCE
from segment.tracing.trace import depends_on_draw

COMPILED = 2
"""Sizes and precisions whose graphs are kept, with their memory: in half precision, and in float32 to compare by."""

WEIGHT_COPIES = 2 + COMPILED
"""Copies of a network's weights at most: as ONNX, as they are read, and packed in each compiled graph."""


def copied_bytes(module: nn.Module) -> int:
    """Bytes of the copies of a network's weights that OpenVINO holds."""
    return WEIGHT_COPIES * sum(value.nbytes for value in parameters_and_buffers(module))


HINTS = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True)
class _Part:
    """A compiled part of a pass: what runs it, and the names that it reads, of which some hold a draw, and gives."""

    request: Any
    reads: tuple[str, ...]
    drawn: tuple[str, ...]
    gives: tuple[str, ...]


class CompiledNetwork:
    """A network under the draws of a bank, compiled for an image's size when the first of that size comes.

    It is compiled anew where it has changed since: a weight, a part, a hook, or an attribute such as `eps`.
    Errors: ModelRefused where a graph cannot express the network; MissingExtra.
    """

    def __init__(self, network: BatchNormNetwork, bank: Bank) -> None:
        self._openvino = imported("openvino", extra="openvino", what="Passes by OpenVINO")
        self._onnx = imported("onnx", extra="openvino", what="Passes by OpenVINO")
        self._network, self._bank = network, bank
        self._core = self._openvino.Core()
        self.lock = threading.RLock()  # threads share what runs the parts, with its inputs
        self._read_weights()

    def _read_weights(self) -> None:
        network, module = self._network, self._network.module
        self._graph = pass_graph(network, self._bank, noise(*_shape(network)))
        self._first_exact = _first_exact(network)
        self._compiled: dict[tuple[Any, ...], list[_Part]] = {}
        self._draws = {name: [self.shared(draw) for draw in values] for name, values in self._graph.statistics.items()}
        self._weights = Unchanged(lambda: parameters(module)), Unchanged(lambda: buffers(module), versions=False)
        self.note_settings()

    def note_settings(self) -> None:
        """After a pass of the network's own code, which may write to attributes: these are no change."""
        self._settings = SameSettings(self._network.module)

    def shared(self, values: Any) -> Any:
        """An array as OpenVINO's tensor, in the same memory."""
        return self._openvino.Tensor(values, shared_memory=True)

    def draw(self, name: str, t: int) -> Any:
        return self._draws[name][t]

    def parts(self, shape: Sequence[int], precision: Precision) -> tuple[list[_Part], bool]:
        """The parts of a pass over an image of that shape (1 C H W), in order, and whether they were compiled now."""
        if not (self._settings and all(self._weights)):
            self._network = self._network.retraced(noise(*_shape(self._network)))
            self._read_weights()
        key = (*shape, precision, torch.get_num_threads())
        if key in self._compiled:
            return self._compiled[key], False
        while len(self._compiled) >= COMPILED:
            del self._compiled[next(iter(self._compiled))]
        drawn = list(self._graph.drawn)
        cut = self._cut(drawn) if precision != "fp32" else 0
        nodes = [list(self._graph.shared), drawn[:cut], drawn[cut:]]
        given = {IMAGE: (np.dtype(np.float32), list(shape))}
        constants = dict(self._graph.constants)
        parts = []
        for number, of_part in enumerate(nodes):
            later = {name for others in nodes[number + 1 :] for node in others for name in node.input} or {OUTPUT}
            hint = HINTS[precision if number == 2 else "fp32"]
            if any(later.intersection(node.output) for node in of_part):
                parts.append(self._part(of_part, later, given, constants, hint))
        self._compiled[key] = parts
        return parts, True

    def _cut(self, nodes: Sequence[Any]) -> int:
        """How many nodes come before the first convolution that may be in half precision."""
        convolutions = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
        return convolutions[self._first_exact] if self._first_exact < len(convolutions) else len(nodes)

    def _part(
        self, nodes: list[Any], later: set[str], given: dict[str, Any], constants: dict[str, Any], hint: str
    ) -> _Part:
        """Nodes as one part. What it gives to later ones is added to `given`, as type and shape, or to `constants`."""
        helper, statistics = self._onnx.helper, self._graph.statistics
        read = dict.fromkeys(name for node in nodes for name in node.input)
        reads = tuple(name for name in read if name in given)
        drawn = tuple(name for name in read if name in statistics)
        gives = [name for node in nodes for name in node.output if name in later]
        kinds = {name: given[name] for name in reads} | {
            name: (statistics[name].dtype, statistics[name].shape[1:]) for name in drawn
        }
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)
            for name, (kind, shape) in kinds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in gives]
        known = [constants[name] for name in read if name in constants]
        graph = helper.make_graph(nodes, "part", inputs, outputs, known)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        compiled = self._core.compile_model(self._core.read_model(model.SerializeToString()), "CPU", settings)
        request = compiled.create_infer_request()
        sizes = [name for name in gives if name in self._graph.sizes]
        if sizes:  # they are constants of the parts behind it, whose shapes are then known
            request.infer({name: np.zeros(shape, kind) for name, (kind, shape) in kinds.items()})
        for name in gives:
            output = compiled.output(name)
            if name in sizes:
                constants[name] = self._onnx.numpy_helper.from_array(request.get_tensor(name).data.copy(), name)
            else:
                given[name] = (np.dtype(output.element_type.to_dtype()), list(output.shape))
        return _Part(request, reads, drawn, tuple(name for name in gives if name not in sizes))


def _shape(network: BatchNormNetwork) -> Sequence[int]:
    """The shape of the images that the network was traced over."""
    return next(call.shape for call in network.calls if call.shape and call.sources[:1] == (IMAGE_SOURCE,))


def _first_exact(network: BatchNormNetwork) -> int:
    """How many convolutions that depend on the draw come before the first that may be in half precision."""
    depends = depends_on_draw(network.calls, {layer.call for layer in network.stochastic})
    exact = exact_calls(network.calls, depends)
    count = 0
    for index, call in enumerate(network.calls):
        if call.function is torch.conv2d and depends[index]:
            if index not in exact:
                break
            count += 1
    return count


class OpenVinoPasses:
    """Called with a draw's number, gives the output (N K ...) of some images, or None and then the `reason`.

    images: (N C H W), each of which is passed on its own. retraced: a graph was compiled for their size
    """

    def __init__(self, compiled: CompiledNetwork, images: Tensor, precision: Precision) -> None:
        self.reason, self.retraced = "", False
        self._network = compiled
        self._parts: list[_Part] = []
        self._given: list[dict[str, Any]] = [{IMAGE: image.numpy()} for image in torch.split(images.contiguous(), 1)]
        try:
            with compiled.lock:
                self._parts, self.retraced = compiled.parts((1, *images.shape[1:]), precision)
        except Exception as error:  # whatever OpenVINO raises for a graph
            self.reason = error_message(error)

    def __call__(self, t: int) -> Tensor | None:
        if self.reason:
            return None
        try:
            with self._network.lock:
                outputs = [self._pass(given, t) for given in self._given]
        except Exception as error:  # the same of an image; torch makes its passes then
            self.reason = error_message(error)
            return None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _pass(self, given: dict[str, Any], t: int) -> Tensor:
        for part in self._parts:
            if not part.drawn and given.keys() >= set(part.gives):  # shared by all draws
                continue
            request = part.request
            for name in part.reads:
                request.set_tensor(name, self._network.shared(given[name]))
            for name in part.drawn:
                request.set_tensor(name, self._network.draw(name, t))
            for name in part.gives:
                if name not in given or name == OUTPUT:  # a new one, for the caller keeps it
                    tensor = request.get_tensor(name)
                    given[name] = np.empty(tuple(tensor.shape), tensor.element_type.to_dtype())
                request.set_tensor(name, self._network.shared(given[name]))
            request.infer()
        return torch.from_numpy(given[OUTPUT])
