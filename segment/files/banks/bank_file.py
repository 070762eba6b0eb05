"""Bank to and from one safetensors file, whole or not at all.

Must not know how a bank was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segment.draws.bank import Bank
from segment.draws.probe import Probe
from segment.errors import BankRefused, WrongUse, one_line
from segment.files.reading import first_error, json_values
from segment.files.writing import write_bytes
from segment.stores.copies import here
from segment.stores.requests import is_there
from segment.stores.urls import url_of

FORMAT, VERSION = "segment-bank", 2
_USUAL = "bank.safetensors"  # a name in messages
PLACES, TRAINED, DRAWN = "probe.places", "probe.trained", "probe.drawn"
"""Tensors of the probe; a layer's end in .mean or .var."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]


class NotABank(BankRefused):
    """A file holds tensors of something else."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Preprocessing(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    scale: float | list[float]
    mean: list[float]
    std: list[float]
    channels: Literal["RGB", "BGR", "grey"] | int | list[str]
    white: float | list[float] | None
    stride: int
    size: list[int] | None = None
    pad: Literal["reflect", "edge", "zero"]
    head: Literal["softmax", "sigmoid", "multilabel"]
    drop_outputs: list[int]


class _Audited(_Strict):
    variance_error: Annotated[float, Field(ge=0)]
    speed: Annotated[float, Field(ge=0)]
    speed_low: Annotated[float, Field(ge=0)]
    speed_high: Annotated[float, Field(ge=0)]


class _NotAudited(_Strict):
    reason: str


class _Provenance(_Strict):
    """What the rest of the program reads of a bank's provenance; more may stand beside it."""

    network: str
    fingerprint: Sha256
    preprocessing: _Preprocessing
    distilled: bool = False
    batch: Count = 1
    draws: Count = 1
    images: Count = 1
    seed: Annotated[int, Field(ge=0)] = 0
    layers: str = "all"
    audit: dict[str, dict[Literal["bf16", "fp16"], _Audited | _NotAudited]] = {}
    colour_scales: dict[str, Annotated[float, Field(gt=0)]] = {}
    distillation: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    recipe: dict[str, str] = {}


class _ProbeSettings(_Strict):
    side: int
    seed: int
    shape: Annotated[list[int], Field(min_length=4, max_length=4)]
    noise: float


def save_bank(bank: Bank, path: str | Path) -> None:
    """Tensors `weights` (T), `<layer>.mean` and `<layer>.var` (T, C) float32, and the probe's; the rest as JSON.

    Errors: WrongUse for another suffix, or a bank that does not say of which network it is.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; {path.name!r} is not: add the suffix.")
    if bank.probe is None:
        raise WrongUse(
            "A bank is written with the probe of its network, and this one has none: add it by "
            "`segment.draws.identity.identified(network, bn_network_of(network), bank)`."
        )
    try:
        _Provenance.model_validate(dict(bank.provenance))
        provenance = json.dumps(dict(bank.provenance), allow_nan=False, sort_keys=True)
    except (ValidationError, ValueError, TypeError) as error:
        raise WrongUse(f"The provenance of this bank cannot be written: {_reason(error)}.") from None
    probe = bank.probe
    tensors: dict[str, Tensor] = {"weights": _written(bank.weights)}
    for name in bank.layers:
        tensors[f"{name}.mean"] = _written(bank.mean[name])
        tensors[f"{name}.var"] = _written(bank.var[name])
    tensors |= {PLACES: probe.places, TRAINED: probe.trained}
    if probe.drawn is not None:
        tensors[DRAWN] = probe.drawn
    settings = {"side": probe.side, "seed": probe.seed, "shape": list(probe.shape), "noise": probe.noise}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "layers": json.dumps(list(bank.layers)),
        "probe": json.dumps(settings, sort_keys=True),
        "provenance": provenance,
    }
    write_bytes(path, _in_one_order(save(tensors, metadata)))


def _written(values: Tensor) -> Tensor:
    """In memory of its own: safetensors refuses two names for one tensor."""
    return values.float().contiguous().clone()


def _in_one_order(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: safetensors orders the metadata at random."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its tensors
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def load_bank(path: str | Path) -> Bank:
    """Read a bank back. Errors: BankRefused where the file is missing, damaged or no bank."""
    path = Path(path)
    if path.is_dir():
        raise BankRefused(f"{str(path)!r} is a folder. A bank is a file that `segment fit` wrote, as {path / _USUAL}.")
    if not is_there(path):
        name = path.name if path.suffix == ".safetensors" else _USUAL
        raise BankRefused(f"No bank at {url_of(path)!r}. Record one: segment fit MODEL --images SRC -o {name}")
    if path.suffix in (".yaml", ".yml"):
        raise BankRefused(
            f"{url_of(path)!r} is no bank: perhaps a model card? `segment fit` records a bank (.safetensors); `segment "
            "distill` takes the bank before the model."
        )
    try:
        with here(path) as copy, safe_open(copy, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {} if metadata.get("format") != FORMAT else {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        if metadata.get("format") != FORMAT:
            raise NotABank(f"{str(path)!r} is no bank: perhaps a weights file? `segment fit` records a bank.")
        if metadata.get("version") != str(VERSION):
            raise BankRefused(
                f"{str(path)!r} is a bank of format {metadata.get('version')!r}, this version reads {VERSION}; "
                "record it anew with `segment fit`."
            )
        return _bank_of(metadata, tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise BankRefused(
            f"{str(path)!r} does not read as a bank ({_reason(error)}); record it anew with `segment fit`."
        ) from None


def bank_of(given: Bank | str | Path) -> Bank:
    """A bank as a caller gives it: itself, or its file. Errors: as `load_bank`; WrongUse for anything else."""
    if isinstance(given, Bank):
        return given
    if not isinstance(given, str | Path):
        raise WrongUse(f"A bank is what fit_bank or load_bank gave, or its file, not a {type(given).__name__}.")
    return load_bank(given)


def _bank_of(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Bank:
    layers = json_values(metadata["layers"])
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise TypeError("its layers are no list of names")
    ours = {"weights", PLACES, TRAINED, DRAWN, *(f"{name}.{which}" for name in layers for which in ("mean", "var"))}
    if others := sorted(tensors.keys() - ours):
        raise ValueError(f"it holds {others[0]!r}, which is no part of a bank")
    provenance = json_values(metadata["provenance"])
    _Provenance.model_validate(provenance)
    settings = _ProbeSettings.model_validate(json_values(metadata["probe"]))
    images, outputs, height, width = settings.shape
    shape = (images, outputs, height, width)
    probe = Probe(
        settings.side, settings.seed, shape, tensors[PLACES], tensors[TRAINED], tensors.get(DRAWN), settings.noise
    )
    mean = {name: tensors[f"{name}.mean"] for name in layers}
    var = {name: tensors[f"{name}.var"] for name in layers}
    return Bank(tensors["weights"], mean, var, provenance, probe)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_error(error)
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"[:160]
    return one_line(error, 120)
