"""URI → network with random weights, or those its library ships: smp, torchvision, a saved smp folder, a factory, ours.

Must not know cards. Nothing is downloaded unless the URI asks for it (`encoder_weights=imagenet`, `weights=DEFAULT`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segment.errors import MissingExtra, ModelRefused, UnknownNetwork, near, one_line
from segment.networks.architectures.enet import ENet
from segment.networks.building.hf import hf_network
from segment.networks.building.own_code import imports_from, loaded, own_file
from segment.networks.building.smp import smp_network
from segment.networks.building.uris import SCHEMES, Uri, check_arguments, parse_uri

OWN = ("enet", "tiny")


def build(uri: str, *, beside: Path | None = None) -> nn.Module:
    """The network that the URI names, on the CPU; the state of the process's random generators is restored.

    beside: a folder in which a `py:` factory is looked for, before the working folder
    """
    parsed = parse_uri(uri)
    builders: dict[str, Callable[[Uri], nn.Module]] = {
        "smp": smp_network,
        "smp-dir": smp_network,
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


def _torchvision(parsed: Uri) -> nn.Module:
    from torchvision import models

    known = models.list_models(models.segmentation)
    if parsed.target not in known:
        raise UnknownNetwork(
            f"torchvision has no segmentation network {parsed.target!r}.{near(parsed.target, known)} "
            f"Known: {', '.join(known)}."
        )
    builder = models.get_model_builder(parsed.target)
    check_arguments(parsed.target, parsed.arguments, inspect.signature(builder).parameters)
    module: nn.Module = builder(**{"weights_backbone": None} | dict(parsed.arguments))
    if getattr(module, "aux_classifier", None) is not None:
        del module.aux_classifier  # its output serves the training loss only
        module.register_module("aux_classifier", None)  # torchvision tests for None before every use
    return module


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
        if isinstance(factory, nn.Module):
            raise ModelRefused(
                f"'py:{parsed.target}' is a {type(factory).__name__} that is made already; name a function or a class "
                "that makes one."
            )
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
    from segment.networks.architectures.tiny import TinyUNet

    architecture = ENet if parsed.target == "enet" else TinyUNet
    check_arguments(f"segment:{parsed.target}", parsed.arguments, inspect.signature(architecture).parameters)
    return architecture(**parsed.arguments)


def _error_message(error: BaseException) -> str:
    return one_line(error, 300).rstrip(".") or type(error).__name__
