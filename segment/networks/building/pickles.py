"""Why a torch file is not read as weights: what is pickled in it, found without running it.

Must not know a network.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import torch

from segment.errors import WeightsRefused, first_of, one_line

_UNSUPPORTED = re.compile(r"GLOBAL (\S+) was not an allowed global")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_START = 1000
"""Bytes of a pickle that name its class."""


def not_weights(path: Path, error: Exception) -> WeightsRefused:
    """The refusal of a file that torch does not read as weights, with the way out. error: torch's own."""
    load = f"`import torch; saved = torch.load({str(path)!r}, weights_only=False)`"
    objects = _objects_in(path) or _UNSUPPORTED.findall(str(error))
    if _root_of(path) in objects and any(name.startswith("torch.nn.") for name in objects):
        return WeightsRefused(
            f"Weights {str(path)!r} holds a whole pickled module, not weights: reading it runs its code "
            f"({first_of(sorted(objects))}). If you trust where it comes from, save its state_dict, once, where the "
            f"network's own code is: {load}, then `torch.save(saved.state_dict(), 'weights.pt')`."
        )
    if objects:
        reason = f"it holds objects of {first_of(sorted(objects))}"
    else:
        reason = one_line(_ESCAPES.sub("", str(error)).split("\n")[0], 160) or type(error).__name__
    return WeightsRefused(
        f"Weights {str(path)!r} cannot be read without running code from the file, or are damaged ({reason}). "
        "If you trust where they come from, save the state dict alone, once, where the network's own code is: "
        f"{load}, then `torch.save(saved['state_dict'], 'weights.pt')`, or saved.state_dict() where it is a whole "
        "network."
    )


def _objects_in(path: Path) -> list[str]:
    """The classes and functions that a torch file names and that are not weights; none where it is no such file."""
    try:
        return [str(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(str(path))]
    except Exception:  # the file is not trusted: what is in it is not known then
        return []


def _root_of(path: Path) -> str:
    """The class of what a torch file holds, as `torch.nn.modules.container.Sequential`; "" where it is not known."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(pickled) as file:
                start = file.read(_START)
    except (zipfile.BadZipFile, StopIteration, OSError, RuntimeError, NotImplementedError, zlib.error):
        return ""
    if start[2:3] != b"c":  # after the protocol's two bytes, the opcode GLOBAL: a module, a name
        return ""
    return ".".join(part.decode(errors="replace") for part in start[3:].split(b"\n")[:2])
