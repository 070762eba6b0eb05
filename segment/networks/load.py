"""URI, card or module → `Network`: logits of the input's size, in eval mode, on one device.

Must not know what its logits are used for.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segment.axes import Head, classes_of, size_text
from segment.errors import (
    ModelRefused,
    NotTrusted,
    PredictionFailed,
    UnknownNetwork,
    WrongUse,
    near,
    one_line,
    warn_once,
)
from segment.images.accept import Accept
from segment.images.specs import InputSpec
from segment.networks.building.builders import build
from segment.networks.building.hf import class_names_in
from segment.networks.building.uris import SCHEMES, is_random, is_uri, parse_uri, runs_code
from segment.networks.building.weights import ExtraKeys, differs_from_card, find_weights, load_weights
from segment.networks.cards import UNSTATED, Card, completed, default_card, known_cards, read_card
from segment.networks.channels import channels_of, takes
from segment.networks.devices import device_named
from segment.networks.modules import Wrapper, copied, device_of, named_modules, to_eval_mode
from segment.networks.outputs import logits_of
from segment.networks.preserve_state import preserve_state
from segment.networks.resized import Resized
from segment.networks.trial_images import at_smallest_side, trial_image

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Network:
    """A network with its card, callable: images N C H W to logits N K' H W.

    K' is the number of outputs without the card's `drop_outputs`: K, or 1 for a sigmoid head.
    """

    module: nn.Module
    card: Card

    def __post_init__(self) -> None:
        if why := self.card.input.contradiction:
            raise WrongUse(f"The input of {self.name!r} cannot be meant: {why}")

    def __repr__(self) -> str:
        layers = sum(isinstance(part, BatchNorm) for _, part in named_modules(self.module))
        classes = f"{len(self.card.classes)} classes, " if self.card.classes else ""
        made = f"{type(self.module).__name__} on {self.device}, {classes}{self.card.head} head, {layers} BN modules"
        return f"Network {self.name}: {made}\n  input: {self.card.input.sentence}"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def device(self) -> torch.device:
        """The device of its parameters; the CPU for a network without any."""
        return device_of(self.module)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The card's classes; else "background" and "foreground" for a sigmoid head, or "class 0" and so on."""
        names = self.card.classes
        if self.card.head == "sigmoid":
            return names if len(names) == 2 else ("background", "foreground")
        return names or tuple(f"class {k}" for k in range(self.classes))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, types and values of the state dict, as 64 hexadecimal digits.

        Computed anew each time, 70 ms for 100 MB: the module may have been trained further since.
        """
        digest = hashlib.sha256()
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def classes(self) -> int:
        """K: two for a sigmoid head; else the number of the card's classes, or of outputs for a small image."""
        outputs = 1 if self.card.head == "sigmoid" else len(self.card.classes) or self._outputs()
        return classes_of(self.card.head, outputs)

    @cached_property
    def channels(self) -> int:
        """C of the images that it takes: the card's number where that works, else what `channels_of` determines."""
        return channels_of(self.module, self.card.input.planes, self.card.input.stride)

    def takes(self, channels: int) -> bool:
        """Whether it takes images of `channels` channels."""
        if channels not in self._taken:
            self._taken[channels] = takes(self.module, channels, self.card.input.stride)
        return self._taken[channels]

    @cached_property
    def _taken(self) -> dict[int, bool]:
        return {self.channels: True}

    @cached_property
    def accept(self) -> Accept:
        """The arrays and tensors that it accepts from a caller."""
        return Accept(
            spec=self.card.input,
            channels=self.channels,
            takes=self.takes,
            name=self.name,
            before_pixels=self.log_preprocessing,
        )

    @property
    def input(self) -> InputSpec:
        """How its images become its input: the card's, with the channels that it takes where the card's are others."""
        return self.accept.file_spec

    def log_preprocessing(self) -> None:
        """Warn, once a process, where pixels go through a preprocessing that nobody has stated."""
        if self.card.assumed:
            warn_once(
                log,
                "Nothing says how the images of %s were prepared in training. They are taken as %s. If it was trained "
                "with others, its maps are wrong: give mean=, std= and channels= from Python, or a card with `input:`.",
                self.name,
                self.input.sentence,
            )

    def __call__(self, x: Tensor) -> Tensor:  # N C H W -> N K' H W
        """Logits of the input's size.

        Errors: ModelRefused where the output is no map of the card's classes, PredictionFailed where its size differs,
        ValueError where an assertion of the network fails on its input.
        """
        try:
            output = self.module(x)
        except AssertionError as error:
            raise ValueError(f"the network asserts {one_line(error) or 'another input'}") from error
        logits = self._without_dropped(logits_of(output, self.name, self.card.outputs))
        if logits.shape[-2:] != x.shape[-2:]:
            raise PredictionFailed(
                f"{self.name!r} gave {size_text(logits.shape)} for an input of {size_text(x.shape)}; say its `input: "
                "stride:` in a card, or let a py: factory resize the output."
            )
        return logits

    def _without_dropped(self, logits: Tensor) -> Tensor:  # N K'' H W -> N K' H W
        given, drop = logits.shape[1], self.card.drop_outputs
        if drop and max(drop) >= given:
            raise ModelRefused(
                f"{self.name!r} has {given} outputs, 0 to {given - 1}; drop_outputs asks for {max(drop)}."
            )
        if drop:
            kept = [index for index in range(given) if index not in drop]
            if not kept:
                raise ModelRefused(f"drop_outputs of {self.name!r} drops all {given} outputs; leave some.")
            logits = logits[:, kept]
        self._check_channels(logits.shape[1])
        return logits

    def _check_channels(self, outputs: int) -> None:
        head, named = self.card.head, len(self.card.classes)
        if head == "sigmoid" and outputs != 1:
            raise ModelRefused(
                f"{self.name!r} has {outputs} outputs; a sigmoid head has one. Keep the foreground's alone by the "
                "card's `drop_outputs:`, [0] of background and foreground, or say head softmax or multilabel."
            )
        if head == "softmax" and outputs == 1:
            raise ModelRefused(
                f"{self.name!r} has one output, of which a softmax is always 1. Say `head: sigmoid` in the card, "
                'head=sigmoid in the URI, or from Python load_network(..., head="sigmoid").'
            )
        if head != "sigmoid" and named not in (0, outputs):
            raise ModelRefused(
                f"{self.name!r} gives {outputs} outputs for the {named} classes of its card; correct `classes:` or "
                "`drop_outputs:`."
            )

    def _outputs(self) -> int:
        def outputs(side: int) -> int:
            with torch.no_grad(), preserve_state(self.module):
                output = self.module(trial_image(self.module, self.channels, side))
            return self._without_dropped(logits_of(output, self.name, self.card.outputs)).shape[1]

        advice = "Name the `classes:` in a card: how many it has is not known."
        return at_smallest_side(self.name, self.card.input.stride, outputs, advice)


def load_network(
    model: str | Path | nn.Module,
    *,
    weights: Path | str | None = None,
    card: Card | None = None,
    head: Head | None = None,
    classes: Sequence[str] = (),
    device: str | None = None,
    prefix: str | None = None,
    extra_keys: ExtraKeys = "refuse",
    trust: bool = False,
) -> Network:
    """The network that a URI, a card (its file or its name) or a module stands for.

    A module is copied, so that the caller's keeps its flags, its device and its weights. The copy has those weights,
    or those of the file `weights`; a file that its card names is not read.

    weights: a file that replaces the card's; a warning says so where its bytes are others than the card names
    card: for a URI or a module: what it expects and what its outputs mean; None: `cards.default_card`, which also says
        what the card of a URI leaves out: its input, or its head
    head, classes: of a URI or a module without a card: what its outputs mean ("softmax", "sigmoid", "multilabel"; a
        head is never guessed), and the names of the classes
    prefix, extra_keys: of the weights' names, see `weights.load_weights`
    device: as torch names it, or "auto": CUDA where there is one; None: the CPU, or where a module given directly is
    trust: whether a card's file may name code (`py:`, or `hf:` with remote code), which then runs
    Errors: UnknownNetwork, WeightsRefused, NotTrusted, ModelRefused or WrongUse, in one line
    """
    name = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    if weights is not None and not isinstance(weights, str | os.PathLike):
        raise WrongUse(
            f"weights= is a file of weights, not a {type(weights).__name__}. Load a state dict by the module's own "
            "`load_state_dict`, and give the module."
        )
    if head is not None or classes:
        if card is not None:
            raise WrongUse(f"head= and classes= are for a network without a card; write them in {card.name!r}.")
        card = Card(name=name, network=name, head=head or "softmax", classes=classes)  # type: ignore[arg-type]
    if isinstance(model, nn.Module):
        card = card or Card(name=name, network=name)
        if card.input is UNSTATED:
            card = replace(card, assumed=True)
        if weights is None:  # its own may have been trained further since the card's file was written
            card = replace(card, weights=None, sha256=None)
        module = copied(model)
    elif not isinstance(model, str | Path):
        raise WrongUse(
            f"A network is a torch module, a URI or a card, not a {type(model).__name__}. Give the module or its URI, "
            "and a file of its weights by weights=FILE."
        )
    else:
        given, card = card, _card_of(model, card)
        if head is not None and card.head != head:
            raise WrongUse(f"head={head!r} was given, and {name!r} says {card.head!r}: correct one of them.")
        if card.folder is not None and not trust and runs_code(card.network):
            raise NotTrusted(
                f"The card {str(model)!r} names {card.network!r}, which runs code. Where you trust it, say --trust "
                f"(from Python: load_network(..., trust=True)), or name the code yourself in place of the card."
            )
        module = build(card.network, beside=card.folder)
        if parse_uri(card.network).scheme == "hf":
            card = _card_of(model, given)  # what was loaded with the network may say how its images are prepared
            card = _with_classes(card, class_names_in(module))
    own = module.network if isinstance(module, Wrapper) else module  # whose names a file has
    if weights is not None:
        load_weights(own, weights, prefix=prefix, extra_keys=extra_keys)
        if card.sha256 is not None and (difference := differs_from_card(Path(weights), card.sha256)):
            log.warning("%s: %s", card.name, difference)
    elif card.weights is not None:
        file = find_weights(card.weights)
        load_weights(own, file, sha256=card.sha256, prefix=prefix, extra_keys=extra_keys)
    elif not isinstance(model, nn.Module) and is_random(card.network):
        log.warning("%s has random weights: no weights file was named.", card.name)
    _set_epsilons(module, card)
    if card.input.size is not None:
        module = Resized(module, card.input.size, card.outputs)
    to_eval_mode(module)
    return Network(module=module if device is None else module.to(device_named(device)), card=card)


def _card_of(model: str | Path, card: Card | None) -> Card:
    text = str(model)
    if is_uri(text) and not Path(text).is_file():
        return completed(card, text) if card is not None else default_card(text)
    if Path(text).suffix not in (".yaml", ".yml") and text not in known_cards():
        known = [*known_cards(), *SCHEMES.values()]
        hint = near(text, known)
        if Path(text).is_dir():
            hint = f" What smp saved in a folder is asked for as 'smp-dir:{text}'."
        elif Path(text).is_file():
            hint = f" Weights need their network named too: MODEL --weights {text}."
        raise UnknownNetwork(f"No network is called {text!r}.{hint} Known: {', '.join(known)}.")
    if card is not None:
        raise WrongUse(f"{text!r} is a card already: what card=, head= and classes= say is written there.")
    return read_card(model)


def _with_classes(card: Card, names: tuple[str, ...]) -> Card:
    """The card with a network's own class names, where it names none and its head has a class for each output."""
    stated = card.classes or card.drop_outputs or card.head != "softmax"
    of_other_number = card.palette and len(card.palette) != len(names)
    return card if not names or stated or of_other_number else replace(card, classes=names)


def _set_epsilons(module: nn.Module, card: Card) -> None:
    layers = {name: layer for name, layer in named_modules(module) if isinstance(layer, BatchNorm)}
    for glob, epsilon in card.batchnorm_eps.items():
        matching = [layer for name, layer in layers.items() if fnmatchcase(name, glob)]
        if not matching:
            raise ModelRefused(
                f"batchnorm_eps of {card.name!r}: {glob!r} matches no BN layer.{near(glob, layers)} "
                f"Known: {', '.join(list(layers)[:3])}, ..."
            )
        for layer in matching:
            layer.eps = epsilon
