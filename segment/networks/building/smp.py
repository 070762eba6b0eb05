"""Networks of segmentation_models_pytorch, by their URI or from the folder that `save_pretrained` wrote.

Must not know a card.
"""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from segment.axes import Head
from segment.errors import ModelRefused, UnknownNetwork, error_message, near
from segment.networks.building.uris import Uri, check_arguments
from segment.networks.building.weights import load_weights

log = logging.getLogger(__name__)

OLD_ARGUMENTS = ("decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode")
_IN_URI = {"encoder_name": "encoder"}
CONFIG = "config.json"
MULTICLASS = ("softmax", "softmax2d", "logsoftmax")
"""smp's names of activations over all classes."""
OWN_NUMBERS = {"dpn": "dpn68", "inception": "inception_v4", "xception": "legacy_xception"}
"""Start of the names of smp's own encoders whose mean and std are not ImageNet's -> timm's encoder with the same."""


def smp_network(parsed: Uri) -> nn.Module:
    """The network of an smp: or smp-dir: URI, without the activation after its last layer."""
    return _of_folder(parsed) if parsed.scheme == "smp-dir" else _by_name(parsed)


def arguments_of(parsed: Uri) -> dict[str, Any]:
    """What smp's constructor gets, by its own names; of a folder that is not smp's, what the URI says alone."""
    given = {"encoder_name" if key == "encoder" else key: value for key, value in parsed.arguments.items()}
    if parsed.scheme != "smp-dir":
        return given
    try:
        config = _config(parsed)
    except UnknownNetwork:
        return given
    return {key: value for key, value in config.items() if not key.startswith("_")} | given


def trained_head(parsed: Uri) -> Head | None:
    """What the outputs are by the activation that smp's constructor gets; None where it gets none, or another."""
    arguments = arguments_of(parsed)
    activation = arguments.get("activation")
    if activation == "sigmoid":
        return "sigmoid" if arguments.get("classes", 1) == 1 else "multilabel"
    return "softmax" if activation in MULTICLASS else None


def pretrained_numbers(parsed: Uri) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std by which the encoder was pretrained, as timm states them; None: ImageNet's, or not known."""
    arguments = arguments_of(parsed)
    name = _name_in_timm(str(arguments.get("encoder_name", "")), arguments.get("encoder_weights"))
    if not name:
        return None
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except (RuntimeError, ValueError):  # building it says which are known
        return None
    return None if config is None else (tuple(map(float, config.mean)), tuple(map(float, config.std)))


def _name_in_timm(encoder: str, weights: object) -> str:
    """The name in timm of an encoder, or of one with its mean and std; "" for those of smp that have ImageNet's."""
    if weights == "advprop":
        return "tf_efficientnet_b0.ap_in1k"
    if encoder.startswith(("tu-", "timm-")):
        name = encoder.removeprefix("tu-").removeprefix("timm-")
        return f"tf_{name}" if encoder.startswith("timm-mobilenetv3") else name  # as smp itself renames it
    return next((other for start, other in OWN_NUMBERS.items() if encoder.startswith(start)), "")


def _by_name(parsed: Uri) -> nn.Module:
    import segmentation_models_pytorch as smp

    known = {name.__name__.lower(): name for name in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    architecture = known.get(parsed.target.lower())
    if architecture is None:
        names = sorted(built.__name__ for built in known.values())
        raise UnknownNetwork(
            f"smp has no architecture {parsed.target!r}.{near(parsed.target, names)} Known: {', '.join(names)}."
        )
    return _built(architecture, arguments_of(parsed))


def _built(architecture: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    encoder = arguments.get("encoder_name", inspect.signature(architecture).parameters["encoder_name"].default)
    _check_encoder(str(encoder))
    if not str(encoder).startswith("tu-"):  # timm checks its own; smp's encoders drop what they do not know
        known = [*inspect.signature(architecture).parameters, *OLD_ARGUMENTS]
        named = [_IN_URI.get(key, key) for key in arguments], [_IN_URI.get(key, key) for key in known]
        check_arguments(architecture.__name__, *named)
    activation = arguments.pop("activation", None)
    if activation not in (None, "identity", "sigmoid", *MULTICLASS):
        raise ModelRefused(
            f"{architecture.__name__} was asked for with activation={activation}, whose outputs are neither those of a "
            "softmax nor of a sigmoid. Train it without, or with one of these."
        )
    if activation is not None:
        log.info("The activation after %s's last layer is left out: logits are needed.", architecture.__name__)
    return architecture(**{"encoder_weights": None} | arguments)


def _check_encoder(encoder: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if encoder.startswith("tu-"):
        if not timm.is_model(encoder.removeprefix("tu-").split(".")[0]):
            close = near(encoder, [f"tu-{name}" for name in timm.list_models()])
            raise UnknownNetwork(
                f"timm has no encoder {encoder!r}.{close} Known: `timm.list_models()`, with 'tu-' before."
            )
    elif encoder not in encoders and not encoder.startswith("timm-"):
        names = sorted(encoders)
        raise UnknownNetwork(
            f"smp has no encoder {encoder!r}.{near(encoder, names)} "
            f"Known: {', '.join(names)}; and timm's, with 'tu-' before."
        )


def _config(parsed: Uri) -> dict[str, Any]:
    path = Path(parsed.target).expanduser() / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config | {"_model_class": str(config["_model_class"]).lower()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownNetwork(
            f"{parsed.target!r} is not a folder that smp's save_pretrained wrote: {CONFIG}: {error_message(error)}."
        ) from None


def _of_folder(parsed: Uri) -> nn.Module:
    """What smp's `save_pretrained` wrote, read from the folder without any download."""
    import segmentation_models_pytorch as smp

    folder, name = Path(parsed.target).expanduser(), _config(parsed)["_model_class"]
    if name not in smp.MODEL_ARCHITECTURES_MAPPING:
        known = smp.MODEL_ARCHITECTURES_MAPPING
        raise UnknownNetwork(
            f"{parsed.target!r}: {CONFIG} names {name!r}, which smp does not have.{near(name, known)} Known: "
            f"{', '.join(sorted(known))}."
        )
    module = _built(smp.MODEL_ARCHITECTURES_MAPPING[name], arguments_of(parsed) | {"encoder_weights": None})
    files = [folder / "model.safetensors", folder / "pytorch_model.bin"]
    load_weights(module, next((file for file in files if file.exists()), files[0]))
    return module
