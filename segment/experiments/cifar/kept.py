"""Curves of a bank, kept in one file so that a stopped run goes on.

Must not know how a curve is made.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse, one_line
from segment.experiments.cifar.curve import Curve
from segment.experiments.kept import refuse_others
from segment.files.writing import fresh

SETTINGS = "settings"
PARTS = ("draws", "likelihood", "hits", "bank_sd")


def kept_curves(
    path: Path, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Curve]]
) -> Mapping[str, Curve]:
    """The curves that a file keeps; made and kept where it is not there.

    Error: WrongUse for a file that is damaged or that other settings made.
    """
    text = json.dumps(settings, sort_keys=True)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as archive:
                refuse_others(path, json.loads(str(archive[SETTINGS])), json.loads(text))
                names = dict.fromkeys(name.rpartition(".")[0] for name in archive if name != SETTINGS)
                return {name: _curve(*(archive[f"{name}.{part}"] for part in PARTS)) for name in names}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise WrongUse(f"{str(path)!r} is damaged: {one_line(error, 120)}. Remove it to make it anew.") from None
    curves = make()
    arrays: dict[str, Any] = {
        f"{name}.{part}": np.asarray(getattr(curve, part)) for name, curve in curves.items() for part in PARTS
    }
    with fresh(path) as stream:
        np.savez(stream, **arrays | {SETTINGS: np.array(text)})
    return curves


def _curve(draws: Any, likelihood: Any, hits: Any, bank_sd: Any) -> Curve:
    return Curve(draws=tuple(draws.tolist()), likelihood=likelihood, hits=hits, bank_sd=bank_sd)
