"""Segmentation networks of transformers (the extra `hf`): from a folder that `save_pretrained` wrote, or from the hub.

Must not know a card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from segment.errors import ModelRefused, imported, one_line
from segment.networks.resized import Upsampled
from segment.networks.uris import REMOTE_CODE, Uri

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def hf_network(parsed: Uri) -> nn.Module:
    """The network, its logits upsampled to the image's size; from a folder nothing is downloaded."""
    transformers = imported("transformers", extra="hf", what="hf: networks")
    folder = Path(parsed.target).expanduser()
    local = folder.is_dir()
    automatic: Any = transformers.AutoModelForSemanticSegmentation
    try:
        network = automatic.from_pretrained(
            str(folder) if local else parsed.target,
            local_files_only=local,
            **{REMOTE_CODE: False, **parsed.arguments},  # unsaid, transformers asks on the terminal
        )
    except (OSError, ValueError) as error:
        kind = "a folder that save_pretrained wrote" if local else "a network of the hub"
        raise ModelRefused(
            f"'hf:{parsed.target}' is not {kind} with semantic segmentation: {one_line(error, 200)}"
        ) from None
    return Upsampled(network)


def hf_input(target: str) -> dict[str, Any]:
    """Mean and std by the folder's preprocessor_config.json; ImageNet's where it has none. Networks take strides of 32.

    >>> hf_input("nowhere")["stride"]
    32
    """
    path = Path(target).expanduser() / "preprocessor_config.json"
    usual: dict[str, Any] = {**IMAGENET, "stride": 32}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return usual
    if not config.get("do_normalize", True):
        return {"mean": (), "std": (), "stride": 32}
    mean, std = config.get("image_mean"), config.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        return usual
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std)), "stride": 32}
