"""A network as a caller gives it: loaded, named by a URI or a card, or a bare module with what is said of its images.

Must not know what the network is used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from segment.errors import WrongUse
from segment.images.specs import Channels, InputSpec, planes_of
from segment.networks.card_file import channels_stated
from segment.networks.load import Network, load_network
from segment.networks.modules import copied, device_of


def network_of(
    given: Network | nn.Module | str | Path,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Network:
    """The network; a module is copied, so that the caller's stays as it is.

    mean, std: one number a channel, after the division by 255; also an array or a tensor. channels: "RGB", "BGR",
    "grey", a number or names. For a module, or the URI of one, whose preprocessing no card states
    Errors: WrongUse where a card states it, or the numbers do not fit the channels; as `load_network`.
    """
    mean, std = _numbers("mean", mean), _numbers("std", std)
    stated = bool(mean or std or channels is not None)
    if isinstance(given, Network):
        network = given
    elif isinstance(given, nn.Module | str | Path):
        network = load_network(given)
    else:
        raise WrongUse(f"A network is a module, a URI, a card or what load_network gave, not a {type(given).__name__}.")
    if not stated:
        return network
    if not network.card.assumed:
        raise WrongUse(
            f"mean=, std= and channels= are for a network whose preprocessing nobody stated; the card of "
            f"{network.name!r} says: {network.input.sentence}. Change the card."
        )
    wanted: Channels = network.input.channels
    if channels is not None:
        try:
            wanted = channels_stated(channels)
        except ValueError as error:
            raise WrongUse(f"channels={channels!r}: {error}.") from None
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (0, planes_of(wanted)):
            raise WrongUse(f"{name} has {len(numbers)} numbers for {planes_of(wanted)} channels. Give one a channel.")
    if any(number <= 0 for number in std):
        raise WrongUse(f"std = {std}: every number is above 0.")
    spec = replace(network.card.input, mean=mean, std=std, channels=wanted)
    return _with_input(network, spec)


def _numbers(name: str, given: Sequence[float]) -> tuple[float, ...]:
    """One number a channel. Errors: WrongUse for anything else."""
    try:
        return tuple(map(float, given))
    except (TypeError, ValueError):
        raise WrongUse(f"{name} = {given!r}, but it is one number a channel, as (0.5, 0.5, 0.5).") from None


def _with_input(network: Network, spec: InputSpec) -> Network:
    return replace(network, card=replace(network.card, input=spec, assumed=False))


def on_device(network: Network, device: torch.device) -> Network:
    """The network on another device, without what it has cached; the caller's stays where it is.

    On the CPU it can be pickled for another process.
    """
    here = device_of(network.module) == device
    return replace(network, module=network.module if here else copied(network.module).to(device))
