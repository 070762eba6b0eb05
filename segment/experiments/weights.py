"""The trained networks that experiments measure: their files in the folder of data.

Must not know a network.
"""

from __future__ import annotations

from pathlib import Path

from segment.errors import WeightsRefused
from segment.networks.building.weights import FOLDERS, find_weights


def weights_in(data: Path, name: str) -> Path:
    """`weights/<name>.safetensors` below the folder of data, or in a folder of SEGMENT_WEIGHTS.

    Error: WeightsRefused where it is in neither.
    """
    path = find_weights(data / "weights" / f"{name}.safetensors")
    if not path.is_file():
        raise WeightsRefused(
            f"Weights {str(path)!r} are not there; name the folder that holds weights/ with --data DIR, or the folder "
            f"of the file in the environment variable {FOLDERS}."
        )
    return path
