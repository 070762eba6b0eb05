"""Which files an evaluation scored: of each image the SHA-256 of its file and of its label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segment.files.reading import json_values
from segment.images.formats.arrays import ARRAY_ERRORS

STATE = "state.npz"
"""Where an evaluation keeps what it has counted, and of which files."""


def scored_files(folder: Path, state: str = STATE) -> dict[str, tuple[str, ...]]:
    """Id -> the hashes, the image's own first, as `labels.contents_of` gives them; empty where none was kept.

    state: the file's name; a sweep has one for each condition
    """
    try:
        with np.load(folder / state, allow_pickle=False) as archive:
            contents = json_values(str(archive["progress"]).encode())["contents"]
        return {name: tuple(hashes) for name, hashes in contents.items()}
    except (*ARRAY_ERRORS, LookupError, TypeError, AttributeError):
        return {}
