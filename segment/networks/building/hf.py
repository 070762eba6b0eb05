"""Segmentation networks of transformers (the extra `hf`): from a folder that `save_pretrained` wrote, or from the hub.

Must not know a card.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from segment.errors import ModelRefused, first_of, imported, one_line
from segment.networks.building.uris import REMOTE_CODE, Uri
from segment.networks.modules import Wrapper

log = logging.getLogger(__name__)

CONFIG = "preprocessor_config.json"
WHERE = ("cache_dir", "revision", "subfolder", "token")
"""Arguments that say where files of a network are, for its image processor too."""
INEXPRESSIBLE = ("do_binarize", "do_color_quantize", "do_grayscale", "do_offset", "offset", "rescale_offset")
"""Steps of image processors that change values in a way that no InputSpec says."""


class UpsampledLogits(Wrapper):
    """A network of transformers, whose logits are smaller than the image: upsampled as its family does.

    The names of its layers stay.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N K' H W
        logits: Tensor = self.network(pixel_values=x).logits
        if logits.shape[-2:] == x.shape[-2:]:
            return logits
        return functional.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def hf_network(parsed: Uri) -> nn.Module:
    """The network, its logits upsampled to the image's size; from a folder nothing is downloaded."""
    transformers = imported("transformers", extra="hf", what="hf: networks")
    folder = Path(parsed.target).expanduser()
    local = folder.is_dir()
    automatic: Any = transformers.AutoModelForSemanticSegmentation
    try:
        network, loaded = automatic.from_pretrained(
            str(folder) if local else parsed.target,
            local_files_only=local,
            output_loading_info=True,
            **{REMOTE_CODE: False, **parsed.arguments},  # unsaid, transformers asks on the terminal
        )
    except (OSError, ValueError) as error:
        kind = "a folder that save_pretrained wrote" if local else "a network of the hub"
        raise ModelRefused(
            f"'hf:{parsed.target}' is not {kind} with semantic segmentation: {one_line(error, 200)}"
        ) from None
    random = sorted({*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])})
    random = [key for key in random if not key.endswith("num_batches_tracked")]
    if random:
        log.warning(
            "'hf:%s' lacks %d weights of %s, %s: they are random, unless a file of weights gives them.",
            parsed.target,
            len(random),
            type(network).__name__,
            first_of(random),
        )
    if not local and _processor(parsed, ask_hub=False) is None:
        _processor(parsed, ask_hub=True)  # it is kept beside the network then, where `hf_input` reads it
    return UpsampledLogits(network)


def hf_input(parsed: Uri) -> dict[str, Any] | None:
    """How images become the input, as values of an InputSpec; it asks no hub.

    By the image processor of the folder, or of the hub where the network has been loaded before. Its resizing is left
    out: images keep their size. None where there is none, or it does what no InputSpec says.

    >>> hf_input(Uri(scheme="hf", target="./nowhere")) is None
    True
    """
    steps = _processor(parsed, ask_hub=False) or _steps_in(Path(parsed.target).expanduser() / CONFIG)
    return None if steps is None else _as_input(steps)


def _processor(parsed: Uri, *, ask_hub: bool) -> Any:
    """The image processor beside the network; None where there is none that runs without code of its own."""
    try:
        automatic: Any = imported("transformers", extra="hf", what="hf: networks").AutoImageProcessor
        folder = Path(parsed.target).expanduser()
        return automatic.from_pretrained(
            str(folder) if folder.is_dir() else parsed.target,
            local_files_only=not ask_hub,
            trust_remote_code=False,
            **{key: value for key, value in parsed.arguments.items() if key in WHERE},
        )
    except Exception as error:  # what it raises depends on the library's version, and on the file
        log.info("'hf:%s' has no image processor that can be read: %s", parsed.target, one_line(error, 200))
        return None


def class_names_in(module: nn.Module) -> tuple[str, ...]:
    """The classes that a network of transformers names, in the order of its outputs; none where it only counts them.

    None either where two have one name, or some none: a card names each.
    """
    known = getattr(getattr(getattr(module, "network", module), "config", None), "id2label", None)
    if not isinstance(known, dict) or {*known} != {*range(len(known))}:
        return ()
    names = tuple(str(known[index]).strip() for index in range(len(known)))
    told = len(set(names)) == len(names) and all(names)
    return names if told and any(name != f"LABEL_{index}" for index, name in enumerate(names)) else ()


def _steps_in(path: Path) -> Any:
    """What the file states, where no class of transformers reads it; None where there is no such file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    usual = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": "image_mean" in config}
    return SimpleNamespace(**usual | config)


def _as_input(steps: Any) -> dict[str, Any] | None:
    """What an image processor does, as values of an InputSpec; None where they cannot say it."""
    if not hasattr(steps, "do_rescale") or any(getattr(steps, name, None) for name in INEXPRESSIBLE):
        return None
    mean, std = _three(()), _three(())
    if getattr(steps, "do_normalize", None):
        mean, std = (_three(getattr(steps, name, None)) for name in ("image_mean", "image_std"))
        if not mean or not std:
            return None
    flipped = bool(getattr(steps, "do_flip_channel_order", None))
    if flipped and len({*zip(mean, std, strict=True)}) > 1:  # transformers' processors differ in which comes first
        return None
    try:
        scale = round(1 / float(steps.rescale_factor), 6) if steps.do_rescale else 1.0
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
    return {"scale": scale, "mean": mean, "std": std, "channels": "BGR" if flipped else "RGB"}


def _three(numbers: Any) -> tuple[float, ...]:
    """One number for each of three channels; none where it is something else."""
    values = [numbers] * 3 if isinstance(numbers, int | float) else numbers
    if not isinstance(values, list | tuple) or len(values) != 3:
        return ()
    return tuple(map(float, values)) if all(isinstance(value, int | float) for value in values) else ()
