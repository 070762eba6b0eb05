"""Whether batch normalisation alone mixes the images of a batch: the proof that folding and recording by image need.

A pass over images is followed call by call. Each call must be known to treat the batch axis as independent, else
the network counts as mixing images. Must not know a draw, nor what is done with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.errors import error_message, ran_out_of_memory
from segment.networks.preserve_state import moved_since, preserve_state, random_states
from segment.tracing.call_kinds import READS_METADATA, names_in
from segment.tracing.scripted_calls import reported_scripted_values
from segment.tracing.sources import CONSTANT, IMAGE, Sources, constants_of, tensors_in
from segment.tracing.trace_cursor import literals_in

POINTWISE = names_in(
    """
    add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ mul mul_ __mul__ __rmul__ __imul__ div div_
    true_divide __truediv__ __rtruediv__ __itruediv__ __div__ pow pow_ __pow__ __rpow__ neg __neg__ abs exp log sqrt
    rsqrt reciprocal sin cos tanh tanh_ sigmoid sigmoid_ hardsigmoid hardswish silu gelu mish relu relu_ relu6
    hardtanh hardtanh_ leaky_relu leaky_relu_ elu celu selu softplus softsign logsigmoid hardshrink erf clamp clamp_
    clip clamp_min clamp_max maximum minimum where lerp addcmul sign floor ceil round gt ge lt le eq ne __gt__ __ge__
    __lt__ __le__ logical_and logical_or logical_not isnan isfinite nan_to_num masked_fill masked_fill_ contiguous
    clone detach to type float double half bfloat16 type_as dropout dropout2d dropout1d dropout3d alpha_dropout
    feature_alpha_dropout square cos log1p log2 expm1 exp2 rsub remainder fmod addcdiv logit silu_ hardswish_ sigmoid_
    zeros_like ones_like full_like copy_ requires_grad_ threshold __or__ __and__ __xor__ __invert__ __eq__ __ne__
    bitwise_or bitwise_and bitwise_xor bitwise_not
    """
)
"""Calls that work on each value alone; their tensors must have the same number of axes, so that images stay aligned."""

CONVOLUTIONS = names_in(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear prelu layer_norm group_norm
    instance_norm embedding
    """
)
"""Calls that treat their first tensor image by image where all others are constants."""

BY_IMAGE = names_in(
    """
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool2d_with_indices lp_pool2d
    boolean_dispatch interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle max_unpool2d grid_sample
    unfold fold glu local_response_norm
    """
)
"""Calls that treat every image of a batch (N C ...) alone, whatever their other arguments are."""

ALONG_AXES = names_in(
    """
    sum mean amax amin max min argmax argmin softmax log_softmax softmin std var var_mean std_mean norm logsumexp
    cumsum cumprod sort argsort topk prod median any all normalize flip count_nonzero vector_norm
    """
)
"""Calls along named axes, which must not be the batch's."""


BY_INDEX = names_in("gather take_along_dim scatter scatter_ scatter_add scatter_add_")
"""Calls that read or write along one axis where a tensor of indices says, and position by position along the others."""

NEW = frozenset(("new_zeros", "new_ones"))
"""Calls that take no more of an image than how many there are."""

RESHAPING = frozenset(("flatten", "view", "reshape", "unflatten", "expand", "expand_as"))
"""Calls whose arguments may hold the number of images, and whose result shows whether they keep the batch axis."""


class MixesImages(BaseException):
    """A call is not known to treat the batch axis as independent; no Exception, for a network may catch those."""


def mixing_call(
    module: torch.nn.Module, forward: Callable[[Tensor], Any], images: Tensor, *, given_statistics: bool = True
) -> str:
    """The first call that may mix images (N C ..., N >= 2), by name; "" where each is known to keep them apart.

    given_statistics: BN will have statistics of a draw; else one that takes those of the batch at hand mixes
    """
    try:
        several, alone = (
            _proof(module, forward, some, given_statistics=given_statistics) for some in (images, images[:1])
        )
    except MixesImages as error:
        return str(error)
    except Exception as error:  # a network may take one image only
        if ran_out_of_memory(error):
            raise
        return f"a pass over {len(images)} images, which fails ({error_message(error, most=120)}),"
    if len(several) != len(alone):
        return "the number of images, which changes the calls,"
    for (name, literals), (other_name, other_literals) in zip(several, alone, strict=True):
        if name != other_name or literals != other_literals:
            return f"{name}, whose arguments change with the number of images,"
    return ""


def _proof(
    module: torch.nn.Module, forward: Callable[[Tensor], Any], images: Tensor, *, given_statistics: bool
) -> list[tuple[str, Any]]:
    """The name of each call, and its literal arguments unless it reshapes. Errors: MixesImages."""
    sources = Sources(constants_of(module))
    with torch.inference_mode(mode=False), torch.no_grad(), preserve_state(module):
        images = images.clone()
        sources.note([images], IMAGE)
        proof = _Proof(sources, len(images), given_statistics=given_statistics)
        with proof, reported_scripted_values(_refuse_scripted):
            output = forward(images)
    with torch._C.DisableTorchFunction():
        outputs = list(tensors_in(output))
        if not outputs or not all(proof.of_images(tensor) for tensor in outputs):
            raise MixesImages("the output, which does not come from the images by calls that are known,")
    return proof.calls


def _refuse_scripted(function: Callable[..., Any]) -> None:
    raise MixesImages(f"{function.__name__}, which gives values to Python,")


class _Proof(TorchFunctionMode):
    """Follows which tensors have the batch as their first axis; errors: MixesImages at a call that may mix it."""

    def __init__(self, sources: Sources, batch: int, *, given_statistics: bool) -> None:
        super().__init__()
        self._given_statistics = given_statistics
        self._sources = sources
        self._batch = batch
        self.calls: list[tuple[str, Any]] = []
        self._of_images: list[bool] = []  # of each call, whether its results depend on the images

    def of_images(self, tensor: Tensor) -> bool:
        source = self._sources.of(tensor)
        return source == IMAGE or (source >= 0 and self._of_images[source])

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        with torch._C.DisableTorchFunction():
            tensors = list(tensors_in((args, kwargs)))
            sources = [self._sources.of(tensor) for tensor in tensors]
            if any(source < CONSTANT for source in sources):
                raise MixesImages(f"{name}, which reads a tensor of unknown origin")
            depends = [self.of_images(tensor) for tensor in tensors]
        states = random_states()
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            results = list(tensors_in(result))
            random = isinstance(kwargs.get("generator"), torch.Generator)
            if random or moved_since(states):
                raise MixesImages(f"{name}, which is random,")
            if any(depends) and not (name in READS_METADATA and not results):
                known = self._keeps_apart(func, name, args, kwargs, tensors, depends, results)
                if not known or any(not _batched(tensor, self._batch) for tensor in results):
                    raise MixesImages(name)
            self._of_images.append(any(depends))
            counts = name in RESHAPING or name in NEW
            self.calls.append((name, None if counts and any(depends) else literals_in((args, kwargs))))
            written = tensors if name.endswith("_") or name == "__setitem__" else ()
            self._sources.note((*results, *written), len(self._of_images) - 1, sources)
        return result

    def _keeps_apart(
        self,
        func: Callable[..., Any],
        name: str,
        args: Any,
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        depends: Sequence[bool],
        results: Sequence[Tensor],
    ) -> bool:
        first = args[0] if args else next(iter(kwargs.values()))
        axes = tensors[0].ndim
        if func is functional.batch_norm and not self._given_statistics and _of_batch(args, kwargs):
            return False
        if func is functional.batch_norm or name in CONVOLUTIONS:
            return depends[0] and not any(depends[1:]) and axes >= 2 and _whole_axes(name, args, kwargs, axes)
        if name in BY_IMAGE:
            return depends[0] and axes >= 3
        if name in POINTWISE:
            most = max(tensor.ndim for tensor in tensors)
            if name == "where" and len(args) + len(kwargs) != 3:
                return False
            return all(
                tensor.ndim == most if image else tensor.ndim < most or tensor.shape[0] == 1
                for tensor, image in zip(tensors, depends, strict=True)
            )
        if name in NEW:
            return True
        if name in BY_INDEX:
            return (
                all(depends)
                and all(tensor.ndim == axes for tensor in tensors)
                and self._along(name, args, kwargs, axes)
            )
        if name in ALONG_AXES:
            return depends[0] and not any(depends[1:]) and _axes_without_batch(args, kwargs, axes)
        if name in ("cat", "concat", "concatenate", "stack"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            return all(depends) and isinstance(dim, int) and dim % (axes + (name == "stack")) != 0
        if name in ("matmul", "__matmul__", "bmm"):
            return all(depends) and len(tensors) == 2 and axes >= 3 and tensors[1].ndim == axes
        if name in ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "narrow", "select", "index_select"):
            return depends[0] and not any(depends[1:]) and self._along(name, args, kwargs, axes)
        if name in RESHAPING and not name.startswith("expand"):
            return depends[0] and results[0].shape[0] == self._batch  # rows stay in order
        if name in ("permute", "transpose", "swapaxes", "movedim"):
            return _first_axis_stays(name, args, kwargs)
        if name in ("squeeze", "unsqueeze"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return isinstance(dim, int) and dim % (axes + (name == "unsqueeze")) != 0
        if name in ("expand", "expand_as"):
            return results[0].ndim == axes and results[0].shape[0] == self._batch
        if name == "pad":
            widths = args[1] if len(args) > 1 else kwargs.get("pad", ())
            return len(widths) // 2 < axes
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return isinstance(first, Tensor) and len(tensors) == 1 and _keeps_first(index, axes)
        return False

    @staticmethod
    def _along(name: str, args: Any, kwargs: Mapping[str, Any], axes: int) -> bool:
        place = 2 if name in ("chunk", "split", "split_with_sizes", "tensor_split", "take_along_dim") else 1
        dim = kwargs.get("dim", args[place] if len(args) > place else 0)
        return isinstance(dim, int) and dim % axes != 0


def _of_batch(args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a batch norm takes the statistics of the batch at hand: torch's sixth argument."""
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


def _batched(tensor: Tensor, batch: int) -> bool:
    return tensor.ndim >= 1 and tensor.shape[0] == batch


def _whole_axes(name: str, args: Any, kwargs: Mapping[str, Any], axes: int) -> bool:
    if name == "layer_norm":
        shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
        return len(shape) < axes
    return not name.startswith("conv") or axes == int(name[-2]) + 2  # with one axis less, the images are its channels


def _axes_without_batch(args: Any, kwargs: Mapping[str, Any], axes: int) -> bool:
    """Whether a call names its axes and the first is not among them."""
    named = kwargs.get("dim", kwargs.get("axis", kwargs.get("dims")))
    if named is None:
        rest = [value for value in args[1:] if isinstance(value, int | list | tuple) and not isinstance(value, bool)]
        named = rest[-1] if rest else None
    if named is None:
        return False
    if all(isinstance(value, int) for value in args[1:]) and len(args) > 2:
        named = args[1:]  # x.flip(0, 1)
    each = [named] if isinstance(named, int) else list(named)
    return bool(each) and all(isinstance(axis, int) and axis % axes != 0 for axis in each)


def _first_axis_stays(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    arguments = [*args[1:], *kwargs.values()]
    nested = (list(each) if isinstance(each, list | tuple | torch.Size) else [each] for each in arguments)
    axes = [axis for each in nested for axis in each]
    if not axes or not all(isinstance(axis, int) for axis in axes):
        return False
    total = args[0].ndim
    return axes[0] % total == 0 if name == "permute" else all(axis % total != 0 for axis in axes)


def _keeps_first(index: Sequence[Any], axes: int) -> bool:
    """Whether an index of a tensor of so many axes leaves the first axis as it is."""
    if not index:
        return True
    first, others = index[0], index[1:]
    if first is Ellipsis:
        return len(others) < axes and all(type(each) is int or isinstance(each, slice) for each in others)
    return isinstance(first, slice) and first == slice(None)
