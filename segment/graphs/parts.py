"""The parts of a deployed graph around the network: the image before it, the moments over the draws, the maps.

They compute what `images.prepare`, `uncertainty.moments` and `uncertainty.measures` do. Nodes are written in ONNX's own
text form. Must not know a network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head
from segment.images.specs import LARGEST, InputSpec, numbers_of

SMALLEST = 1e-7
"""Where a logarithm begins: half precision holds nothing smaller. The error in an entropy is below 4e-8 K nats."""


class Nodes:
    """Nodes and constants of a graph, gathered in order."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> None:
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))

    def add(self, lines: str) -> None:
        """Nodes as ONNX writes them, one a line."""
        self.nodes += [self._onnx.parser.parse_node(line) for line in map(str.strip, lines.splitlines()) if line]


def add_preparation(nodes: Nodes, spec: InputSpec, image: str) -> None:
    """From `image` (1 H W C pixels, raw ones where there is a `white`) to normalised and padded ones (1 C H W).

    `size`: H and W of the image, not padded.
    """
    floats = np.float32
    nodes.add("""
        values = Cast <to = 1> (image)
        planes = Transpose <perm = [0, 3, 1, 2]> (values)
    """)
    if spec.channels == "BGR":
        nodes.constant("blue_first", np.array([2, 1, 0]))
        nodes.add("wanted = Gather <axis = 1> (planes, blue_first)")
    elif spec.channels == "grey":
        nodes.constant("axis_of_planes", np.array([1]))
        nodes.constant("luma", np.array([0.299, 0.587, 0.114], floats).reshape(1, 3, 1, 1))
        nodes.add("""
            weighted_planes = Mul (planes, luma)
            wanted = ReduceSum <keepdims = 1> (weighted_planes, axis_of_planes)
        """)
    else:
        nodes.add("wanted = Identity (planes)")
    channels = spec.planes
    in_255 = np.array(numbers_of(spec.white or LARGEST, channels)) / LARGEST
    scale = np.array(numbers_of(spec.scale, channels)) * in_255
    nodes.constant("centre", (np.array(spec.mean or (0.0,) * channels) * scale).astype(floats).reshape(1, -1, 1, 1))
    nodes.constant("spread", (np.array(spec.std or (1.0,) * channels) * scale).astype(floats).reshape(1, -1, 1, 1))
    nodes.add("""
        centred = Sub (wanted, centre)
        normalised = Div (centred, spread)
        shape = Shape (normalised)
    """)
    nodes.constant("axes_of_pixels", np.array([2, 3]))
    nodes.add("size = Gather (shape, axes_of_pixels)")
    padded = "normalised"
    if spec.stride > 1:
        nodes.constant("stride", np.array(spec.stride))
        nodes.constant("one", np.array(1))
        nodes.add("""
            last = Sub (size, one)
            above = Add (last, stride)
            times = Div (above, stride)
            whole = Mul (times, stride)
            more = Sub (whole, size)
        """)
        padded = _reflected(nodes) if spec.pad == "reflect" else _padded(nodes, spec.pad)
    nodes.add(f"{image} = Identity ({padded})")


def _padded(nodes: Nodes, pad: str) -> str:
    nodes.constant("nothing_before", np.zeros(6, np.int64))
    nodes.add(f"""
        pads = Concat <axis = 0> (nothing_before, more)
        padded = Pad <mode = "{"edge" if pad == "edge" else "constant"}"> (normalised, pads)
    """)
    return "padded"


def _reflected(nodes: Nodes) -> str:
    """By the index of each pixel, because ONNX's own reflection refuses what is longer than the image."""
    nodes.constant("zero", np.array(0))
    before = "normalised"
    for number, side in enumerate(("rows", "columns")):
        nodes.constant(f"at_{side}", np.array(number))
        nodes.add(f"""
            length_{side} = Gather (size, at_{side})
            last_{side} = Gather (last, at_{side})
            whole_{side} = Gather (whole, at_{side})
            more_{side} = Gather (more, at_{side})
            numbers_{side} = Range (zero, whole_{side}, one)
            edge_{side} = Min (numbers_{side}, last_{side})
            beyond_{side} = Sub (numbers_{side}, last_{side})
            distance_{side} = Abs (beyond_{side})
            mirrored_{side} = Sub (last_{side}, distance_{side})
            enough_{side} = Less (more_{side}, length_{side})
            index_{side} = Where (enough_{side}, mirrored_{side}, edge_{side})
            padded_{side} = Gather <axis = {number + 2}> ({before}, index_{side})
        """)
        before = f"padded_{side}"
    return before


def add_probabilities(nodes: Nodes, head: Head) -> None:
    """From `cropped` (1 K' H W logits) to `p` (1 K H W)."""
    if head == "softmax":
        nodes.add("p = Softmax <axis = 1> (cropped)")
    elif head == "multilabel":
        nodes.add("p = Sigmoid (cropped)")
    else:
        nodes.add("""
            opposite = Neg (cropped)
            background = Sigmoid (opposite)
            foreground = Sigmoid (cropped)
            p = Concat <axis = 1> (background, foreground)
        """)


def add_entropy(nodes: Nodes, p: str, entropy: str, head: Head) -> None:
    """H(p) in nats (1 H W) of probabilities (1 K H W): over the classes, or the mean over labels of each label's."""
    nodes.constant(f"{p}_smallest", np.array(SMALLEST, np.float32))
    nodes.add(_of_each(p, p))
    if head != "multilabel":
        nodes.constant(f"{p}_classes", np.array([1]))
        nodes.add(f"{p}_sum = ReduceSum <keepdims = 0> ({p}_each, {p}_classes)")
    else:
        nodes.constant(f"{p}_one", np.array(1, np.float32))
        nodes.add(f"{p}_not = Sub ({p}_one, {p})")
        nodes.add(_of_each(f"{p}_not", p))
        nodes.add(f"""
            {p}_both = Add ({p}_each, {p}_not_each)
            {p}_sum = ReduceMean <axes = [1], keepdims = 0> ({p}_both)
        """)
    nodes.add(f"{entropy} = Neg ({p}_sum)")


def _of_each(p: str, name: str) -> str:
    return f"""
        {p}_floored = Max ({p}, {name}_smallest)
        {p}_log = Log ({p}_floored)
        {p}_each = Mul ({p}, {p}_log)
    """


def add_update(nodes: Nodes, weights: NDArray[np.float64]) -> None:
    """West's update of `mean`, `square` (1 K H W), `expected` (1 H W) by draw `draw`, to these names with `_new`.

    `square` ends as Var_T[p], biased by weight; it is exactly 0 for equal draws.
    """
    total = np.cumsum(weights)
    share = np.divide(weights, total, out=np.zeros_like(total), where=total > 0)
    nodes.constant("shares", share.astype(np.float32))
    nodes.constant("coefficients", (weights * (1 - share) / total[-1]).astype(np.float32))
    nodes.add("""
        share = Gather (shares, draw)
        coefficient = Gather (coefficients, draw)
        delta = Sub (p, mean)
        step = Mul (delta, share)
        mean_new = Add (mean, step)
        squared = Mul (delta, delta)
        weighted = Mul (squared, coefficient)
        square_new = Add (square, weighted)
        change = Sub (entropy, expected)
        part = Mul (change, share)
        expected_new = Add (expected, part)
    """)


OUTPUTS = ("probability", "predictive_entropy", "expected_entropy", "mutual_information", "variance")


def add_maps(nodes: Nodes, head: Head) -> None:
    """The OUTPUTS of `mean_final`, `square_final` and `expected_final`."""
    nodes.constant("none", np.array(0, np.float32))
    nodes.constant("all", np.array(1, np.float32))
    nodes.add("""
        probability = Clip (mean_final, none, all)
        expected_entropy = Max (expected_final, none)
        variance = ReduceMean <axes = [1], keepdims = 0> (square_final)
    """)
    add_entropy(nodes, "probability", "entropy_final", head)
    nodes.add("""
        predictive_entropy = Max (entropy_final, none)
        information = Sub (predictive_entropy, expected_entropy)
        mutual_information = Max (information, none)
    """)
