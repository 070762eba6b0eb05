"""The methods that an evaluation compares, by the names that --methods, tables and files use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from segment.axes import size_text
from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of, calls_of
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.draws.recording import Precision
from segment.errors import ModelRefused, NoBatchNorm, WrongUse, first_of, near
from segment.estimation.estimate import ReadOut
from segment.estimation.precision import known_precision, resolve_precision
from segment.files.banks.cache import marks_in
from segment.jobs.evaluation.combinations import TUNED, Combination, combination
from segment.methods.augmentation import View, augmented, dropout_augmented, mcbn_augmented
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout, dropouts, inserted
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn, mean_statistics
from segment.methods.method import Method
from segment.networks.load import Network
from segment.passes.passes import FAST, PassPlan
from segment.tracing.trace import Call
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.scaling import Calibration

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
    "mcbn+tta+temperature",
)
"""Run where none is named and they can be; --methods takes any combination."""
WITHOUT_BANK = 16
"""T of MC dropout where there is no bank to be as large as."""
SCORED = tuple(name for name in MEASURES if name != "standard_error")
ONE_DRAW = ("predictive_entropy", "one_minus_max", "margin")
"""Of one draw, the other measures are 0, or equal the predictive entropy."""


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """Which methods, and how their passes are made.

    methods: combinations, and TUNED for a tuned setting; empty: all of METHODS that can be
    draws: T, the first of each bank; None: all
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
        names = [name if name == TUNED else combination(name).name for name in self.methods]
        object.__setattr__(self, "methods", tuple(names))  # one name for one method, in whatever order its parts stand
        if twice := {name for name in names if names.count(name) > 1}:
            raise WrongUse(f"Method {min(twice)!r} is named twice.")
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
    seen: marks of the banks' statistics images, as `banks.cache.marks_of` gives them
    """

    network: Network
    methods: Mapping[str, tuple[Method, ...]]
    plan: MethodPlan
    precision: Precision
    why: str
    notes: Mapping[str, str]
    seen: frozenset[str] = frozenset()
    fixed: Mapping[str, Calibration] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.methods)

    def read_outs(self, temperatures: Mapping[str, Calibration]) -> dict[str, ReadOut]:
        """One for each method and bank, by the name that `key` gives."""
        read_outs = {}
        for name, methods in self.methods.items():
            for index, method in enumerate(methods):
                measures = self.plan.measures if method.draws > 1 else self._of_one_draw()
                temperature = self.fixed.get(name, temperatures.get(key(name, index), 1.0))
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
    possible = plan.methods or _possible(network, banks, plan, calls, members=members, validated=validated)
    names = tuple(name for name in possible if name != TUNED)  # added by `with_tuned`
    _refuse_lacking(names, banks, members, validated=validated)
    precision, why = _precision(plan, banks, network)
    passes = replace(FAST, precision=precision)
    maker = _Maker(network, banks, plan, passes, drawn, calls, members)
    methods = {name: maker.methods(combination(name)) for name in names}
    notes = {name: _noted(of_banks[0]) for name, of_banks in methods.items() if of_banks[0].note}
    seen = frozenset(mark for bank in banks for mark in marks_in(bank.provenance))
    return ComparedMethods(network, methods, plan, precision, why, notes, seen)


def _noted(method: Method) -> str:
    """A method's note for a reader of its scores: of passes that are no random sample, what follows."""
    return method.note if method.random or method.draws == 1 else f"no standard error is given, for {method.note}"


@dataclass(frozen=True)
class _Maker:
    """Makes the passes of combinations; those that differ by their scaling alone share them.

    drawn: the network with its BN layers, None where it has none; calls: of a pass; members: of an ensemble
    """

    network: Network
    banks: Sequence[Bank]
    plan: MethodPlan
    passes: PassPlan
    drawn: BatchNormNetwork | None
    calls: Sequence[Call]
    members: Sequence[Network]
    made: dict[Combination, tuple[Method, ...]] = field(default_factory=dict)

    def methods(self, wanted: Combination) -> tuple[Method, ...]:
        """One for every bank, or one."""
        unscaled = replace(wanted, scaling="")
        if unscaled not in self.made:
            plain = replace(unscaled, augmented=False)
            self.made[unscaled] = self._plain(plain) if plain == unscaled else self._augmented(plain)
        return self.made[unscaled]

    def _plain(self, wanted: Combination) -> tuple[Method, ...]:
        spec, first = self.network.card.input, self.banks[0] if self.banks else None
        if wanted.banked and self.drawn is not None:
            make = mcbn if wanted.passes == "mcbn" else mean_statistics
            return tuple(make(self.drawn, bank, self.passes, spec) for bank in self._used_banks)
        if wanted.passes == "dropout":
            return (self._dropout(first),)
        if self.drawn is not None:
            single: Method = deterministic(self.drawn, first, self.passes, spec)
        else:
            single = Plain(self.network.module, self.network, self.passes, spec)
        if wanted.passes == "ensemble":
            return (Ensemble((single, *(self._member(member) for member in self.members))),)
        return (single,)

    def _augmented(self, plain: Combination) -> tuple[Method, ...]:
        views, spec = self.plan.views, self.network.card.input
        if spec.size is not None and any(view.scale != 1 for view in views):
            raise WrongUse(
                f"The card resizes every image to {size_text(spec.size)}, so that a view at another scale is the same "
                "image: leave the scales out of --views."
            )
        if plain.passes == "mcbn" and self.drawn is not None:
            return tuple(mcbn_augmented(self.drawn, bank, views, self.passes, spec) for bank in self._used_banks)
        methods = self.methods(plain)
        if isinstance(methods[0], Dropout):
            return (dropout_augmented(methods[0], views),)
        name = replace(plain, augmented=True).name
        return tuple(augmented(method, views, name) for method in methods)

    def _member(self, network: Network) -> Method:
        """With its own trained statistics, and so without a bank. Errors: ModelRefused where it has none."""
        plain = Plain(network.module, network, self.passes, network.card.input)
        try:
            drawn = bn_network_of(network)
        except NoBatchNorm:
            return plain
        if drawn.untracked and self.banks:
            raise ModelRefused(
                f"A member of the ensemble keeps no running statistics in {first_of(drawn.untracked, 3)}, and the bank "
                "holds those of another network: leave `ensemble` out."
            )
        return plain if drawn.untracked else deterministic(drawn, None, self.passes, network.card.input)

    def _dropout(self, bank: Bank | None) -> Dropout:
        network, asked, layers = self.network, self.plan.insert_dropout, dropouts(self.calls, self.network.module)
        if not layers and asked is None:
            raise ModelRefused(
                f"{network.name!r} has no dropout, so MC dropout is refused: leave `dropout` out of --methods, or give "
                "--insert-dropout P, which drops channels after each decoder stage (or before the last layer) of a "
                "network that was not trained with it."
            )
        if layers and asked is not None:
            raise WrongUse(f"{network.name!r} has {len(layers)} dropout layers of its own; leave --insert-dropout out.")
        alone = replace(self.passes, share=False, fold=1)  # two passes differ by their masks: nothing can be shared
        spec, used, drawn = network.card.input, self._used_banks, self.drawn
        inner = deterministic(drawn, bank, alone, spec) if drawn else Plain(network.module, network, alone, spec)
        insert = None if asked is None else inserted(self.calls, network.module, asked)
        draws = self.plan.draws or (len(used[0]) if used else WITHOUT_BANK)
        return Dropout(inner, draws, seed=self.plan.seed, insert=insert)

    @property
    def _used_banks(self) -> list[Bank]:
        draws = self.plan.draws
        return [bank if draws is None else bank.first(draws) for bank in self.banks]


def _traced(network: Network, banks: Sequence[Bank]) -> tuple[BatchNormNetwork | None, tuple[Call, ...]]:
    """The network with its BN layers, None where it has none; and the calls of a pass."""
    if banks:
        networks = [network_of_bank(network, bank) for bank in banks]
        if len({bank.layers for bank in banks}) > 1:
            raise WrongUse("The banks hold draws of different layers; compare such by `segment sweep --layers`.")
        return networks[0], networks[0].calls
    try:
        drawn = bn_network_of(network)
    except NoBatchNorm:
        return None, calls_of(network)
    return None if drawn.untracked else drawn, drawn.calls  # else eval mode as it is: nothing has their statistics


def _possible(
    network: Network,
    banks: Sequence[Bank],
    plan: MethodPlan,
    calls: Sequence[Call],
    *,
    members: Sequence[Network],
    validated: bool,
) -> tuple[str, ...]:
    drops = bool(dropouts(calls, network.module)) or plan.insert_dropout is not None
    lacking = [name for name, there in (("dropout", drops), ("ensemble", bool(members))) if not there]
    every = {name: combination(name) for name in METHODS if name not in lacking}
    return tuple(name for name, c in every.items() if (banks or not c.banked) and (validated or not c.fitted))


def _refuse_lacking(
    names: Sequence[str], banks: Sequence[Bank], members: Sequence[Network], *, validated: bool
) -> None:
    for name in names:
        wanted = combination(name)
        if wanted.banked and not banks:
            raise WrongUse(f"Method {name!r} needs a bank: give --bank, or record one with `segment fit`.")
        if wanted.fitted and not validated:
            raise WrongUse(
                f"Method {name!r} fits a {wanted.scaling.replace('_', ' ')}: give --validation-images and "
                "--validation-labels, which are neither the test images nor training images."
            )
        if wanted.passes == "ensemble" and not members:
            raise WrongUse("An ensemble needs further weights of the same network: --ensemble FILE for each.")


def _precision(plan: MethodPlan, banks: Sequence[Bank], network: Network) -> tuple[Precision, str]:
    if banks:
        return resolve_precision(plan.precision, banks[0], network.device)
    if plan.precision == "auto":
        return "fp32", "without a bank there is no audit"
    return known_precision(plan.precision), "asked for"
