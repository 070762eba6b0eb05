"""Whether a network's outputs are probabilities already, to which the head's softmax or sigmoid must not be applied.

Must not know a bank.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from segment.errors import warn_once
from segment.networks.load import Network
from segment.networks.outputs import logits_in
from segment.networks.preserve_state import preserve_state
from segment.tracing.trace import Trace

log = logging.getLogger(__name__)

ALREADY = (
    "The outputs of %s are probabilities already: %s. Logits are expected, and a softmax or sigmoid is applied to them "
    "once more, so that probabilities and maps are wrong. Leave that last layer out (activation=None in smp), or give "
    "a module that returns %s of its outputs."
)
ROUNDING = 1e-4
"""How far from 1 the probabilities of a pixel may sum to."""

MOVES = frozenset(("__getitem__", "contiguous", "float", "index_select", "interpolate", "to"))
"""Functions after which probabilities still are some."""


def warn_of_probabilities(network: Network, traced: Trace, image: Tensor) -> None:  # N C H W
    """Warn, once a process, where the outputs of a network for this image of noise can be nothing but probabilities.

    traced: a pass of the network
    """
    if _last_function(traced) in ("sigmoid", "sigmoid_"):
        warn_once(log, ALREADY, network.name, "its last call is a sigmoid", "torch.logit")
    elif any(_name(call.function) in ("softmax", "exp", "exp_") for call in traced.calls) and _sums_to_one(
        network, image
    ):
        why = "for noise they lie within [0, 1] and sum to 1 at every pixel"
        warn_once(log, ALREADY, network.name, why, "torch.log")


def _sums_to_one(network: Network, image: Tensor) -> bool:
    with torch.no_grad(), preserve_state(network.module):
        output = logits_in(network.module(image.clone()), network.name, network.card.outputs)
    if output is None or output.ndim != 4 or output.shape[1] < 2:
        return False
    sums = output.sum(dim=1)
    return bool(((output >= 0) & (output <= 1)).all()) and bool(((sums - 1).abs() < ROUNDING).all())


def _last_function(traced: Trace) -> str:
    """The name of the function that made the output's values."""
    at = traced.output
    while at >= 0 and _name(traced.calls[at].function) in MOVES and len(traced.calls[at].parents) == 1:
        (at,) = traced.calls[at].parents
    return _name(traced.calls[at].function) if at >= 0 else ""


def _name(function: object) -> str:
    return getattr(function, "__name__", "")
