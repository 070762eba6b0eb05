"""Bank to and from one safetensors file, whole or not at all.

Must not know how a bank was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segment.draws.bank import Bank
from segment.errors import BankRefused, WrongUse, one_line
from segment.files.writing import fresh

FORMAT, VERSION = "segment-bank", 1


def save_bank(bank: Bank, path: str | Path) -> None:
    """Tensors `weights` (T), `<layer>.mean` and `<layer>.var` (T, C) float32; provenance as JSON in the metadata."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; {path.name!r} is not: add the suffix.")
    tensors: dict[str, Tensor] = {"weights": bank.weights.float().contiguous()}
    for name in bank.layers:
        tensors[f"{name}.mean"] = bank.mean[name].float().contiguous()
        tensors[f"{name}.var"] = bank.var[name].float().contiguous()
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "layers": json.dumps(list(bank.layers)),
        "provenance": json.dumps(dict(bank.provenance), allow_nan=False, sort_keys=True),
    }
    with fresh(path) as stream:
        stream.write(_in_one_order(save(tensors, metadata)))


def _in_one_order(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: safetensors orders the metadata at random."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its tensors
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def load_bank(path: str | Path) -> Bank:
    """Read a bank back. Errors: BankRefused where the file is missing, damaged or no bank."""
    path = Path(path)
    if not path.is_file():
        raise BankRefused(f"No bank at {str(path)!r}. Record one: segment fit MODEL --images SRC -o {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BankRefused(f"{str(path)!r} is no bank: perhaps a weights file? `segment fit` records a bank.")
            if metadata.get("version") != str(VERSION):
                raise BankRefused(
                    f"{str(path)!r} is a bank of format {metadata.get('version')!r}, this version reads {VERSION}; "
                    "record it anew with `segment fit`."
                )
            layers = json.loads(metadata["layers"])
            weights = file.get_tensor("weights")
            mean = {name: file.get_tensor(f"{name}.mean") for name in layers}
            var = {name: file.get_tensor(f"{name}.var") for name in layers}
            provenance = json.loads(metadata["provenance"])
            if not isinstance(provenance, dict):
                raise ValueError("its provenance is no JSON object")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        why = one_line(error, 120)
        raise BankRefused(
            f"{str(path)!r} does not read as a bank ({why}); record it anew with `segment fit`."
        ) from None
    return Bank(weights, mean, var, provenance)
