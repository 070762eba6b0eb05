"""A weights file → the tensors of a network; keys and shapes are strict, and no code in the file is run.

Must not know how a network is built, nor what a card is.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from segment.axes import size_text
from segment.errors import WeightsRefused, first_of, one_line
from segment.images.contents.hashes import sha256_of_file
from segment.networks.building.pickles import not_weights
from segment.stores.copies import here
from segment.stores.requests import is_there
from segment.stores.urls import is_url, url_of

log = logging.getLogger(__name__)

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "network_weights",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
)
"""Keys under which training scripts keep the state dict, beside epochs and optimiser states; the first one is taken."""

KNOWN_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that DataParallel, torch.compile and Lightning add to every key: not worth a warning."""

ExtraKeys = Literal["refuse", "ignore"]

AUXILIARY = "aux_classifier."
"""torchvision's second head, which serves the training loss only."""

_SCALAR: Any = import_module("numpy._core.multiarray").scalar
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
"""What checkpoints hold beside tensors (nnU-Net's and argparse's numbers), and which runs no code when it is read."""

FOLDERS = "SEGMENT_WEIGHTS"
"""Environment variable: folders with weights files, as PATH lists folders."""


def find_weights(path: str | Path) -> Path:
    """The file that a card names; where it is not there, the file of its name in a folder of SEGMENT_WEIGHTS."""
    path = Path(path)
    folders = [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    places = [path, *(Path(folder) / path.name for folder in folders)]
    return next((place for place in places if is_there(place)), path)


def differs_from_card(path: Path, sha256: str) -> str:
    """What to warn of where a file given in place of the card's is another one; empty where it is the card's."""
    if not is_there(path):
        return ""  # refused when it is read
    with here(path) as copy:
        actual = sha256_of_file(copy)
    if actual == sha256:
        return ""
    return f"{path} holds other weights than the card names: SHA-256 {actual[:12]}..., the card says {sha256[:12]}..."


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    sha256: str | None = None,
    prefix: str | None = None,
    extra_keys: ExtraKeys = "refuse",
) -> None:
    """Load a safetensors file, or a state dict that torch reads with `weights_only=True`, into the module.

    Every key and shape of the module must be there; `num_batches_tracked` may be missing (older files have none), and
    torchvision's auxiliary head is skipped where the module has none. The prefix that makes most keys the module's is
    taken off, and a warning names it and what lies outside of it (a loss, an EMA copy).

    sha256: of the file, 64 hexadecimal digits; None: not checked
    prefix: takes the place of the one that fits best, as "ema_model."; one that begins with the key of another copy in
        the file, as "state_dict_ema.", takes that copy; None: it is found
    extra_keys: "ignore" leaves out keys under the prefix that the module does not have; "refuse" lists them
    Errors: WeightsRefused, in one line; the module's weights are undefined after it
    """
    path = Path(path)
    if is_url(path):
        try:
            with here(path) as copy:
                load_weights(module, copy, sha256=sha256, prefix=prefix, extra_keys=extra_keys)
        except OSError as error:
            raise WeightsRefused(f"Weights {url_of(path)!r} cannot be read: {error.strerror or error}.") from None
        return
    _check_file(path, sha256)
    own = module.state_dict()
    state, beside, prefix = _unwrapped(_read(path), path, prefix)
    taken = prefix_of(state, own) if prefix is None else prefix
    if prefix and not any(key.startswith(prefix) for key in state):
        first = sorted({key.partition(".")[0] + "." for key in state})
        raise WeightsRefused(f"Weights {str(path)!r}: no key starts with {prefix!r}. They start with {first_of(first)}")
    outside = [key for key in state if not key.startswith(taken)] + beside
    state = {key.removeprefix(taken): value for key, value in state.items() if key.startswith(taken)}
    if not any(key.startswith(AUXILIARY) for key in own):
        state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    for key, value in state.items():
        fits = key in own and own[key].shape == value.shape  # of a shape that a file only claims, no copy is made
        if fits and (why := _unusable(value, own[key])):
            raise WeightsRefused(f"Weights {str(path)!r}: {key!r} {why}.")
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    extra = [key for key in state if key not in own] if extra_keys == "ignore" else []
    kept = {key: value for key, value in state.items() if key not in extra}
    kept = _of_shared(own, kept) | kept
    try:
        module.load_state_dict(counters | kept, strict=True)  # a network's own method may rename keys of older files
    except RuntimeError as error:
        differences = _differences(own, kept)
        what = "; ".join(differences) or one_line(error)
        only_extra = len(differences) == 1 and "not in the network" in differences[0]
        advice = "Leave them out with --extra-keys ignore, or name" if only_extra else "Name"
        raise WeightsRefused(
            f"Weights {str(path)!r} do not fit {type(module).__name__}: {what}. {advice} the network they were made "
            "with."
        ) from None
    _report(path, taken, [taken + key for key in extra] + outside)


def prefix_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The prefix under which most keys and shapes of a network are in a state dict; "" where none is better.

    Of several that fit alike, the one that is no average of weights ("ema"), then the shortest.

    >>> prefix_of({"net.a": torch.ones(1), "loss.weight": torch.ones(1)}, {"a": torch.ones(1)})
    'net.'
    """
    fits: Counter[str] = Counter({"": 0})
    for key, value in state.items():
        starts = [0, *(place + 1 for place, letter in enumerate(key) if letter == ".")]
        for start in starts:
            if (mine := own.get(key[start:])) is not None and mine.shape == value.shape:
                fits[key[:start]] += 1
    return max(fits, key=lambda prefix: (fits[prefix], not _is_average(prefix), -len(prefix)))


def _is_average(prefix: str) -> bool:
    return "ema" in prefix.lower() or "averag" in prefix.lower() or "teacher" in prefix.lower()


def _report(path: Path, prefix: str, left_out: Sequence[str]) -> None:
    usual = prefix
    while start := next((each for each in KNOWN_PREFIXES if usual.startswith(each)), ""):
        usual = usual.removeprefix(start)
    if usual or left_out:
        stripped = f"prefix {prefix!r} taken off" if prefix else "no prefix taken off"
        rest = f"; left out: {len(left_out)} keys, {first_of(left_out)}" if left_out else ""
        log.warning("Weights %r: %s%s.", str(path), stripped, rest)


def _check_file(path: Path, sha256: str | None) -> None:
    if not path.exists():
        raise WeightsRefused(
            f"Weights {str(path)!r} are not there; name the file with --weights FILE, or its folder in "
            f"the environment variable {FOLDERS}."
        )
    if path.is_dir():
        raise WeightsRefused(f"Weights {str(path)!r} are a folder; what smp saved is asked for as 'smp-dir:{path}'.")
    if path.stat().st_size == 0:
        raise WeightsRefused(f"Weights {str(path)!r} are empty (0 bytes); copy the file again.")
    if sha256 is None:
        return
    actual = sha256_of_file(path)
    if actual != sha256:
        raise WeightsRefused(
            f"Weights {str(path)!r} are not the card's: SHA-256 {actual[:12]}..., the card says {sha256[:12]}...; "
            "copy the file again, or correct the card."
        )


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise WeightsRefused(
                f"Weights {str(path)!r} are not a whole safetensors file ({error}); copy it again."
            ) from None
    if start[:2] not in (b"PK", b"\x80\x02") and start[:1] != b"\x80":
        raise WeightsRefused(
            f"Weights {str(path)!r} are neither safetensors nor a torch file; they start with {start[:8]!r}."
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file is not trusted: any failure is a refusal
        raise not_weights(path, error) from None


def _unwrapped(contents: Any, path: Path, prefix: str | None) -> tuple[dict[str, Tensor], list[str], str | None]:
    """The tensors of a state dict by name; other copies of the weights beside it, by their key; and the prefix in it.

    A prefix that begins with the key of another copy, as "state_dict_ema.", takes that one.
    """
    copies: list[str] = []
    while isinstance(contents, Mapping):
        inner = [key for key in WRAPPERS if isinstance(contents.get(key), Mapping)]
        if not inner:
            break
        named = [key for key in inner[1:] if prefix is not None and prefix.startswith(f"{key}.")]
        taken = named[0] if named else inner[0]
        if named:
            prefix = str(prefix).removeprefix(f"{taken}.") or None
        copies += [key for key in inner if key != taken]
        contents = contents[taken]
    if not isinstance(contents, Mapping) or not contents:
        raise WeightsRefused(
            f"Weights {str(path)!r} hold {type(contents).__name__}, not a state dict (names and tensors)."
        )
    others = [str(key) for key, value in contents.items() if not isinstance(value, Tensor)]
    if len(others) == len(contents):
        raise WeightsRefused(
            f"Weights {str(path)!r} hold {first_of(others)} beside or instead of tensors; save `network.state_dict()`, "
            f"alone or under {', '.join(map(repr, WRAPPERS[:4]))}."
        )
    tensors = {str(key): value for key, value in contents.items() if isinstance(value, Tensor)}
    return tensors, others + copies, prefix


def _of_shared(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of tensors that a network has under two names, by the name that safetensors' `save_model` left out."""
    held = {_place(own[key]): value for key, value in state.items() if key in own}
    return {
        key: held[_place(value)]
        for key, value in own.items()
        if key not in state and value.data_ptr() and _place(value) in held
    }


def _place(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _unusable(value: Tensor, own: Tensor) -> str:
    """Why the values of a tensor cannot take the place of the network's own; "" where they can."""
    if value.is_meta:
        return "has a shape and no values; save the weights after they are loaded"
    if value.layout != torch.strided or value.is_quantized:
        return "is stored sparse or quantised; save it as `.to_dense()` or `.dequantize()` gives it"
    if own.is_floating_point() and own.ndim > 1 and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        return f"is {kind}, as of quantised weights, whose scale is elsewhere; save it as float32"
    if value.is_floating_point() and not value.float().isfinite().all():  # torch has no isfinite for 8 bits
        return "holds values that are not finite; the file is of no use"
    return ""


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {_shape(state[key])} for {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    differences = (("missing", missing), ("not in the network", unexpected), ("of another shape", shapes))
    return [f"{len(keys)} of {len(own)} keys {what}, {first_of(keys)}" for what, keys in differences if keys]


def _shape(tensor: Tensor) -> str:
    return size_text(tensor.shape) or "scalar"
