"""Which modules and calls are batch normalisation, of which kind, and which modules cannot be traced.

Must not know a draw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.errors import ModelRefused, one_line
from segment.networks.modules import named_modules, parameters_and_buffers
from segment.tracing.trace import Call, trace

log = logging.getLogger(__name__)

MEANS = ("running_mean", "moving_mean")
VARIANCES = ("running_var", "running_variance", "moving_var", "moving_variance")
"""Names of the statistics of batch normalisations in torch, in Keras, and in ports of Keras layers."""


def check_traceable(module: nn.Module) -> None:
    """Errors: ModelRefused where a part was never initialised, or is compiled, or all of it is in half precision."""
    weights = [value for value in parameters_and_buffers(module) if isinstance(value, nn.Parameter)]
    types = {value.dtype for value in weights if value.is_floating_point()}
    if types and types <= {torch.float16, torch.bfloat16}:
        raise ModelRefused(
            f"The network's parameters are in {' and '.join(str(each) for each in sorted(types, key=str))}: give it in "
            "float32 (`module.float()`); `--precision bf16` or `fp16` then makes passes in half precision."
        )
    for name, child in named_modules(module):
        who = f"Module {name or '(root)'!r} ({type(child).__name__})"
        if isinstance(child, nn.modules.lazy.LazyModuleMixin) and child.has_uninitialized_params():
            raise ModelRefused(f"{who} was never initialised: run or load it first.")
        if isinstance(child, torch.jit.ScriptModule):
            raise ModelRefused(f"{who} is TorchScript, whose BN layers cannot be reached: give the Python module.")
        if type(child).__name__ == "OptimizedModule" or getattr(child, "_compiled_call_impl", None) is not None:
            raise ModelRefused(
                f"{who} is compiled, so its BN layers cannot be reached: give the module that was compiled "
                "(`_orig_mod` of what torch.compile gave), or leave `.compile()` out."
            )


def is_lower_batch_norm(function: Callable[..., object]) -> bool:
    """Whether a call is batch normalisation by another function than the one whose statistics can be replaced."""
    return function is not functional.batch_norm and "batch_norm" in getattr(function, "__name__", str(function))


def looks_like_bn(child: nn.Module) -> bool:
    """Whether a module keeps statistics of mini-batches, by its class, its name or its buffers."""
    if isinstance(child, nn.modules.instancenorm._InstanceNorm):  # statistics of an image, which no mini-batch changes
        return False
    called_so = "batchnorm" in type(child).__name__.lower().replace("_", "")
    named = called_so and any(hasattr(child, name) for name in VARIANCES)
    kept = not {*MEANS, *VARIANCES}.isdisjoint(child._buffers)
    return isinstance(child, nn.modules.batchnorm._BatchNorm) or named or kept


def is_frozen(child: nn.Module) -> bool:
    """Whether a module is a BN whose statistics were constants in training, by its class's name."""
    return "frozen" in type(child).__name__.lower()


def statistics_in(child: nn.Module) -> list[object]:
    """What a module keeps under the names of statistics."""
    return [getattr(child, name) for name in (*MEANS, *VARIANCES) if hasattr(child, name)]


def normalising_each_image(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    image: Tensor,  # 1 C H W
    calls: Sequence[Call],
    among: Collection[int],
) -> frozenset[int]:
    """Numbers of the calls, `among` those traced, that have twice the channels in a pass over two images.

    Empty where the network does not take two images, or makes other calls then.
    """
    if not among:
        return frozenset()
    try:
        pair = trace(module, forward, torch.cat([image, image])).calls
    except Exception as error:  # whatever an unknown network raises
        log.info("The network does not take two images at once: %s", one_line(error, 200))
        return frozenset()
    one, two = ([(n, c) for n, c in enumerate(every) if c.function is functional.batch_norm] for every in (calls, pair))
    if len(one) != len(two):
        return frozenset()
    return frozenset(
        index
        for (index, alone), (_, both) in zip(one, two, strict=True)
        if index in among and alone.shape is not None and both.shape is not None and both.shape[1] == 2 * alone.shape[1]
    )
