"""The methods that an evaluation compares, by the names that --methods, tables and files use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from segment.draws.bank import Bank
from segment.draws.identity import fitted
from segment.draws.recording import Precision
from segment.errors import ModelRefused, NoBatchNorm, WrongUse, near
from segment.estimation.estimate import ReadOut
from segment.estimation.mcbn import known_precision, resolve_precision
from segment.methods.augmentation import View, augmented, mcbn_augmented
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout, dropouts, inserted
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn, mean_statistics
from segment.methods.method import Method
from segment.networks.channels import SIDES
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.tracing.bn_layers import BatchNormNetwork
from segment.tracing.bn_network import drawable
from segment.tracing.trace import Call, trace
from segment.uncertainty.measures import MEASURES

log = logging.getLogger(__name__)

METHODS = (
    "mcbn",
    "deterministic",
    "temperature",
    "mean_statistics",
    "dropout",
    "tta",
    "ensemble",
    "mcbn+tta",
    "mcbn+temperature",
)
BANKED = ("mcbn", "mean_statistics", "mcbn+tta", "mcbn+temperature")
FITTED = {"temperature": "deterministic", "mcbn+temperature": "mcbn"}
"""A method with a temperature -> the one whose passes it reads."""
WITHOUT_BANK = 16
"""T of MC dropout where there is no bank to be as large as."""
SCORED = tuple(name for name in MEASURES if name != "standard_error")
ONE_DRAW = ("predictive_entropy", "one_minus_max", "margin")
"""Of one draw, the other measures are 0, or equal the predictive entropy."""


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """Which methods, and how their passes are made.

    methods: empty: every one that can be. draws: T, the first of each bank; None: all. precision: as for MCBN
    views: of test-time augmentation. insert_dropout: None, or p for a network without dropout
    seed: of the dropout masks. measures: scored for methods of several draws
    """

    methods: tuple[str, ...] = ()
    draws: int | None = None
    precision: str = "auto"
    views: tuple[View, ...] = (View(), View(flip=True))
    insert_dropout: float | None = None
    seed: int = 0
    measures: tuple[str, ...] = SCORED

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise WrongUse(f"No method is called {name!r}.{near(name, METHODS)} Known: {', '.join(METHODS)}.")
        for name in self.measures:
            if name not in SCORED:
                raise WrongUse(
                    f"No measure to score is called {name!r}.{near(name, SCORED)} Known: {', '.join(SCORED)}."
                )
        if not self.measures:
            raise WrongUse("Scores need a measure at least: --measures predictive_entropy.")


@dataclass(frozen=True)
class ComparedMethods:
    """The methods of an evaluation by name, one for every bank (or one), how their passes run, and notes.

    precision: of all passes; why: the reason for it. notes: method -> what a reader of its scores has to know
    """

    network: Network
    methods: Mapping[str, tuple[Method, ...]]
    plan: MethodPlan
    precision: Precision
    why: str
    notes: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.methods)

    def read_outs(self, temperatures: Mapping[str, float]) -> dict[str, ReadOut]:
        """One for each method and bank, by the name that `key` gives."""
        read_outs = {}
        for name, methods in self.methods.items():
            for index, method in enumerate(methods):
                measures = self.plan.measures if method.draws > 1 else self._of_one_draw()
                temperature = temperatures.get(key(name, index), 1.0)
                read_outs[key(name, index)] = ReadOut(method=method, measures=measures, temperature=temperature)
        return read_outs

    def _of_one_draw(self) -> tuple[str, ...]:
        return tuple(name for name in self.plan.measures if name in ONE_DRAW) or ("predictive_entropy",)


def key(method: str, bank: int) -> str:
    """The name of a method's run under one of several banks.

    >>> key("mcbn", 0), key("mcbn", 1)
    ('mcbn', 'mcbn#2')
    """
    return method if bank == 0 else f"{method}#{bank + 1}"


def build_methods(
    network: Network,
    banks: Sequence[Bank],
    plan: MethodPlan,
    *,
    members: Sequence[Network] = (),
    validated: bool = False,
) -> ComparedMethods:
    """The methods of a plan, or every one that can be.

    members: further networks of an ensemble, whose first member is `network`. validated: there are validation images
    Errors: WrongUse for a method that lacks its bank, validation images or weights; ModelRefused for dropout in a
    network without it.
    """
    drawn, calls = _traced(network, banks)
    names = plan.methods or _possible(network, banks, plan, calls, members=members, validated=validated)
    _refuse_lacking(names, banks, members, validated=validated)
    precision, why = _precision(plan, banks, network)
    passes = PassPlan(precision=precision, channels_last=True, fuse=True)
    used_banks = [bank if plan.draws is None else bank.first(plan.draws) for bank in banks]
    spec = network.card.input
    first_bank = banks[0] if banks else None
    single = deterministic(drawn, first_bank, passes, spec) if drawn else Plain(network.module, network, passes, spec)
    # mcbn and mcbn+temperature share their passes
    sampled = tuple(mcbn(drawn, bank, passes, spec) for bank in used_banks) if drawn else ()
    methods: dict[str, tuple[Method, ...]] = {}
    for name in names:
        if name in ("deterministic", "temperature"):
            methods[name] = (single,)
        elif name in ("mcbn", "mcbn+temperature"):
            methods[name] = sampled
        elif name == "mean_statistics" and drawn:
            methods[name] = tuple(mean_statistics(drawn, bank, passes, spec) for bank in used_banks)
        elif name == "mcbn+tta" and drawn:
            methods[name] = tuple(mcbn_augmented(drawn, bank, plan.views, passes, spec) for bank in used_banks)
        elif name == "tta":
            methods[name] = (augmented(single, plan.views),)
        elif name == "ensemble":
            methods[name] = (Ensemble((single, *(_member(member, first_bank, passes) for member in members))),)
        elif name == "dropout":
            methods[name] = (_dropout(network, drawn, calls, first_bank, plan, passes, used_banks),)
    notes = {name: of_banks[0].note for name, of_banks in methods.items() if of_banks[0].note}
    return ComparedMethods(network, methods, plan, precision, why, notes)


def _traced(network: Network, banks: Sequence[Bank]) -> tuple[BatchNormNetwork | None, tuple[Call, ...]]:
    """The network with its BN layers, None where it has none; and the calls of a pass."""
    if banks:
        networks = [fitted(network, bank) for bank in banks]
        if len({bank.layers for bank in banks}) > 1:
            raise WrongUse("The banks hold draws of different layers; compare such by `segment sweep --layers`.")
        return networks[0], networks[0].calls
    try:
        drawn = drawable(network)
    except NoBatchNorm:
        side = -(-SIDES[1] // network.card.input.stride) * network.card.input.stride
        return None, trace(network.module, network, torch.zeros(1, network.channels, side, side)).calls
    if any(layer.trained is None for layer in drawn.stochastic):
        return None, drawn.calls  # eval mode as it is: no bank has statistics for these layers
    return drawn, drawn.calls


def _possible(
    network: Network,
    banks: Sequence[Bank],
    plan: MethodPlan,
    calls: Sequence[Call],
    *,
    members: Sequence[Network],
    validated: bool,
) -> tuple[str, ...]:
    names = ["deterministic", "tta", *BANKED[:3]] if banks else ["deterministic", "tta"]
    if validated:
        names += ["temperature", *(["mcbn+temperature"] if banks else [])]
    if dropouts(calls, network.module) or plan.insert_dropout is not None:
        names.append("dropout")
    if members:
        names.append("ensemble")
    return tuple(name for name in METHODS if name in names)


def _refuse_lacking(
    names: Sequence[str], banks: Sequence[Bank], members: Sequence[Network], *, validated: bool
) -> None:
    for name in names:
        if name in BANKED and not banks:
            raise WrongUse(f"Method {name!r} needs a bank: give --bank, or record one with `segment fit`.")
        if name in FITTED and not validated:
            raise WrongUse(
                f"Method {name!r} fits a temperature: give --validation-images and --validation-labels, which are "
                "not the test images."
            )
        if name == "ensemble" and not members:
            raise WrongUse("An ensemble needs further weights of the same network: --ensemble FILE for each.")


def _precision(plan: MethodPlan, banks: Sequence[Bank], network: Network) -> tuple[Precision, str]:
    if banks:
        return resolve_precision(plan.precision, banks[0], network.device)
    if plan.precision == "auto":
        return "fp32", "without a bank there is no audit"
    return known_precision(plan.precision), "asked for"


def _member(network: Network, bank: Bank | None, passes: PassPlan) -> Method:
    """Each member with its own trained statistics, and so without a bank."""
    try:
        return deterministic(drawable(network), bank, passes, network.card.input)
    except NoBatchNorm:
        return Plain(network.module, network, passes, network.card.input)


def _dropout(
    network: Network,
    drawn: BatchNormNetwork | None,
    calls: Sequence[Call],
    bank: Bank | None,
    plan: MethodPlan,
    passes: PassPlan,
    used_banks: Sequence[Bank],
) -> Dropout:
    layers = dropouts(calls, network.module)
    if not layers and plan.insert_dropout is None:
        raise ModelRefused(
            f"{network.name!r} has no dropout, so MC dropout is refused: leave `dropout` out of --methods, or give "
            "--insert-dropout P, which drops channels after each decoder stage (or before the last layer) of a network "
            "that was not trained with it."
        )
    if layers and plan.insert_dropout is not None:
        raise WrongUse(f"{network.name!r} has {len(layers)} dropout layers of its own; leave --insert-dropout out.")
    alone = replace(passes, share=False, fold=1)  # two passes differ by their masks, so nothing can be shared
    spec = network.card.input
    inner = deterministic(drawn, bank, alone, spec) if drawn else Plain(network.module, network, alone, spec)
    insert = None if plan.insert_dropout is None else inserted(calls, network.module, plan.insert_dropout)
    draws = plan.draws or (len(used_banks[0]) if used_banks else WITHOUT_BANK)
    return Dropout(inner, draws, seed=plan.seed, insert=insert)
