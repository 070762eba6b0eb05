"""A GPU that is not there: tensors that say they are on one, with numbers that the CPU computes.

What would mix two devices on a GPU raises the error that it raises there, on a machine without one. Not pretended:
speed, memory, streams, cuDNN, and gradients, whose engine asks the driver for a context.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
BETWEEN_DEVICES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
WITH_INDICES_ELSEWHERE = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
"""A GPU takes indices that are on the CPU."""


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU. here: the one on the CPU that holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=GPU,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _computed(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy: Tensor = OnGpu(self.here.clone())
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.here.tolist()

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")


class _Pretending(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes tensors for the GPU where a function is asked for some there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
    _refuse_two_devices(func, args, tensors)
    options = {**kwargs}
    if options.get("device") is not None:
        on_gpu = torch.device(options["device"]).type == "cuda"
        options["device"] = torch.device("cpu")
    if func is torch.ops.aten.copy_.default:
        func(*tree_map(_here, args), **options)
        return args[0]
    known = {id(tensor.here): tensor for tensor in tensors if isinstance(tensor, OnGpu)}
    made = func(*tree_map(_here, args), **tree_map(_here, options))
    if not on_gpu:
        return made
    if func is torch.ops.aten._to_copy.default and made is args[0]:
        made = made.clone()

    def there(value: Any) -> Any:
        return known.get(id(value), OnGpu(value)) if isinstance(value, Tensor) else value

    return tree_map(there, made)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, OnGpu) else value


def _refuse_two_devices(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """As CUDA does: a number (0-dimensional) may be on the CPU, and so may indices, if what they index is not."""
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
    if func in BETWEEN_DEVICES or len(elsewhere) in (0, len(tensors)):
        return
    into_cpu = not isinstance(args[0], OnGpu) and (func._schema.is_mutable or func in WITH_INDICES_ELSEWHERE)
    if func in WITH_INDICES_ELSEWHERE and isinstance(args[0], OnGpu):
        indices = {id(index) for index in tree_leaves(args[1])}
        elsewhere = [tensor for tensor in elsewhere if id(tensor) not in indices]
    if into_cpu or any(tensor.dim() for tensor in elsewhere):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A GPU for torch, also in threads that begin meanwhile."""
    torch._C._ensureCUDADeviceGuardSet()  # a guard that asks no driver
    generator = torch.Generator()
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (4 << 30, 8 << 30),
        "memory_allocated": lambda *_: 1 << 20,
        "get_device_name": lambda *_: "pretended",
        "get_device_capability": lambda *_: (8, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "manual_seed": generator.manual_seed,
        "manual_seed_all": generator.manual_seed,
        "default_generators": (generator,),
    }
    run: Callable[[threading.Thread], None] = threading.Thread.run

    def run_pretending(thread: threading.Thread) -> None:
        with _Pretending():  # type: ignore[no-untyped-call]
            run(thread)

    conversion = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_pretending))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, conversion)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's data takes no other class
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(_Pretending())  # type: ignore[no-untyped-call]
        yield
