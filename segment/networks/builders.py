"""URI → network with random weights, or those its library ships: smp, torchvision, a saved smp folder, a factory, ours.

Must not know cards. Nothing is downloaded unless the URI asks for it (`encoder_weights=imagenet`, `weights=DEFAULT`).
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segment.errors import MissingExtra, ModelRefused, UnknownNetwork, near, one_line
from segment.networks.architectures.enet import ENet
from segment.networks.hf import hf_network
from segment.networks.own_code import imports_from, loaded, own_file
from segment.networks.uris import SCHEMES, Uri, parse_uri
from segment.networks.weights import load_weights

logger = logging.getLogger(__name__)

OWN = ("enet", "tiny")
OLD_SMP_ARGUMENTS = ("decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode")


def build(uri: str, *, beside: Path | None = None) -> nn.Module:
    """The network that the URI names, on the CPU; the state of the process's random generators is restored.

    beside: a folder in which a `py:` factory is looked for, before the working folder
    """
    parsed = parse_uri(uri)
    builders: dict[str, Callable[[Uri], nn.Module]] = {
        "smp": _smp,
        "smp-dir": _smp_folder,
        "torchvision": _torchvision,
        "hf": hf_network,
        "py": partial(_factory, beside=beside),
        "segment": _own,
    }
    builder = builders[parsed.scheme]
    cuda_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda_in_use else ()  # asking a GPU for its state would start it
    try:
        with torch.random.fork_rng(devices=devices):
            return builder(parsed)
    except (ModelRefused, MissingExtra):
        raise
    except OSError as error:
        if parsed.scheme not in ("smp", "torchvision", "hf"):
            raise ModelRefused(f"{uri!r} cannot be built: {_error_message(error)}.") from error
        raise ModelRefused(
            f"{uri!r} cannot be built: {_error_message(error)}. Pretrained weights are downloaded once; without a "
            "connection, leave them out of the URI and name a file with --weights."
        ) from error
    except Exception as error:  # whatever a library or the caller's factory raises is a refusal of this URI
        raise ModelRefused(f"{uri!r} cannot be built: {type(error).__name__}: {_error_message(error)}.") from error


def _smp(parsed: Uri) -> nn.Module:
    import segmentation_models_pytorch as smp

    known = {name.__name__.lower(): name for name in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    architecture = known.get(parsed.target.lower())
    if architecture is None:
        names = sorted(built.__name__ for built in known.values())
        raise UnknownNetwork(
            f"smp has no architecture {parsed.target!r}.{near(parsed.target, names)} Known: {', '.join(names)}."
        )
    arguments = {{"encoder": "encoder_name"}.get(key, key): value for key, value in parsed.arguments.items()}
    return _smp_network(architecture, arguments)


def _smp_network(architecture: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    encoder = arguments.get("encoder_name", inspect.signature(architecture).parameters["encoder_name"].default)
    _check_encoder(str(encoder))
    if not str(encoder).startswith("tu-"):  # timm checks its own; smp's encoders drop what they do not know
        known = [*inspect.signature(architecture).parameters, *OLD_SMP_ARGUMENTS]
        _check_arguments(architecture.__name__, arguments, known)
    if arguments.pop("activation", None) is not None:
        logger.info("The activation after %s's last layer is left out: logits are needed.", architecture.__name__)
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


def _smp_folder(parsed: Uri) -> nn.Module:
    """What smp's `save_pretrained` wrote, read from the folder without any download."""
    import segmentation_models_pytorch as smp

    folder = Path(parsed.target).expanduser()
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = smp.MODEL_ARCHITECTURES_MAPPING[str(config["_model_class"]).lower()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownNetwork(
            f"{parsed.target!r} is not a folder that smp's save_pretrained wrote: config.json: {_error_message(error)}."
        ) from None
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    module = _smp_network(architecture, arguments | {"encoder_weights": None} | dict(parsed.arguments))
    files = [folder / "model.safetensors", folder / "pytorch_model.bin"]
    load_weights(module, next((file for file in files if file.exists()), files[0]))
    return module


def _torchvision(parsed: Uri) -> nn.Module:
    from torchvision import models

    known = models.list_models(models.segmentation)
    if parsed.target not in known:
        raise UnknownNetwork(
            f"torchvision has no segmentation network {parsed.target!r}.{near(parsed.target, known)} "
            f"Known: {', '.join(known)}."
        )
    builder = models.get_model_builder(parsed.target)
    _check_arguments(parsed.target, parsed.arguments, inspect.signature(builder).parameters)
    module: nn.Module = builder(**{"weights_backbone": None} | dict(parsed.arguments))
    if getattr(module, "aux_classifier", None) is not None:
        del module.aux_classifier  # its output serves the training loss only
        module.register_module("aux_classifier", None)  # torchvision tests for None before every use
    return module


def _check_arguments(name: str, arguments: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(set(known) - {"kwargs"})
    for key in arguments:
        if key not in known:
            raise ModelRefused(f"{name} has no argument {key!r}.{near(key, known)} Known: {', '.join(known)}.")


def _factory(parsed: Uri, beside: Path | None = None) -> nn.Module:
    name, _, attribute = parsed.target.partition(":")
    if not attribute:
        raise UnknownNetwork(f"'py:{parsed.target}' names no factory. As in {SCHEMES['py']!r}.")
    folders = [folder for folder in (beside, Path.cwd()) if folder is not None]
    with imports_from(folders):
        file = own_file(name, folders)
        try:
            factory: Any = importlib.import_module(name) if file is None else loaded(file)
        except ImportError as error:
            raise _no_factory(parsed, _error_message(error), folders) from None
        for part in attribute.split("."):
            if not hasattr(factory, part):
                raise _no_factory(parsed, f"{file or name} has no attribute {part!r}", folders)
            factory = getattr(factory, part)
        module = factory(**parsed.arguments)
    if not isinstance(module, nn.Module):
        raise ModelRefused(f"'py:{parsed.target}' gave {type(module).__name__}; a torch.nn.Module is needed.")
    return module


def _no_factory(parsed: Uri, why: str, folders: Iterable[Path]) -> UnknownNetwork:
    searched = ", ".join(map(str, folders))
    return UnknownNetwork(f"'py:{parsed.target}' is not to be found: {why}. Searched: {searched}.")


def _own(parsed: Uri) -> nn.Module:
    if parsed.target not in OWN:
        raise UnknownNetwork(
            f"No network is called 'segment:{parsed.target}'.{near(parsed.target, OWN)} Known: {', '.join(OWN)}."
        )
    if parsed.target == "enet":
        return ENet(**parsed.arguments)
    from segment.networks.architectures.tiny import TinyUNet

    return TinyUNet(**parsed.arguments)


def _error_message(error: BaseException) -> str:
    return one_line(error, 300).rstrip(".") or type(error).__name__
