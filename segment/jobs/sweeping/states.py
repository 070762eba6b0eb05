"""What a sweep scores: every method of every setting, under one condition of the test images after another.

Must not know a file of test images, nor a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.batching import Batch, checked_batch
from segment.estimation.estimate import ReadOut
from segment.estimation.memory_budget import Memory
from segment.files.reading import read_json
from segment.files.writing import write_json
from segment.guarantees.groups import Groups
from segment.images.find import Source
from segment.images.transforms.corrupt import SEVERITIES, corruption
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import ComparedMethods, MethodPlan, build_methods
from segment.jobs.evaluation.temperatures import temperatures
from segment.jobs.labelled.labels import score_plan
from segment.jobs.progress import Progress
from segment.jobs.sweeping.grid import Banks, Grid, blended, chosen_layers
from segment.networks.load import Network
from segment.report.results import CLEAN, DETERMINISTIC, Setting
from segment.scores.plan import ScorePlan
from segment.stores.urls import url_of
from segment.uncertainty.scaling import Calibration, as_json, of_json

MEASURES = ("predictive_entropy", "mutual_information", "variance")
SWEPT = MethodPlan(methods=(DETERMINISTIC, "mcbn", "mean_statistics"), precision="fp32", measures=MEASURES)


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is varied, and what is scored.

    methods: those without a bank are scored once, the others for every setting; how their passes are made
    banks: files of further banks, distilled ones perhaps, each scored with all of its draws
    shifts: corruptions of the test images, each at every severity; everything is then scored at the largest T
    batch: images of one size in a pass; "auto": as many as are measured to be fastest at the first image's size
    adapt: also with banks whose statistics images go through the same corruption
    groups: what intervals and tests are over, as `segment.guarantees.groups.Groups` says; None: over images
    """

    grid: Grid
    methods: MethodPlan = SWEPT
    banks: tuple[str | Path, ...] = ()
    shifts: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    adapt: bool = False
    void: int | None = None
    batch: Batch = 1
    groups: Groups = None

    def __post_init__(self) -> None:
        checked_batch(self.batch)
        object.__setattr__(self, "banks", tuple(map(url_of, self.banks)))  # a resume compares their texts
        if twice := {name for name in (Path(path).stem for path in self.banks) if self._named(name) > 1}:
            raise WrongUse(f"Several of --bank are called {min(twice)!r}; rows are named by the file's name.")
        if any(combination(name).passes == "ensemble" for name in self.methods.methods):
            raise WrongUse("A sweep has no ensemble: score it by `segment evaluate --ensemble FILE`.")
        for name in self.methods.methods:
            if not self.draws_of(name):
                raise WrongUse(
                    f"Method {name!r} deals its passes out to {len(self.methods.views)} views, and none of --draws "
                    f"{', '.join(map(str, self.grid.draws))} is a multiple of that: add one, or leave the method out."
                )
        for option, values in (("--shift", self.shifts), ("--severities", self.severities)):
            if len(set(values)) != len(values) or (self.shifts and not values):
                raise WrongUse(f"{option} needs one value at least, and none twice; given: {list(values)}.")
        for name in self.shifts:
            for severity in self.severities:
                corruption(name, severity)

    def draws_of(self, method: str) -> tuple[int, ...]:
        """The T that have a row of that method, in the grid's order; all, where its passes are not dealt out to views.

        Where they are, its first T passes are a run of their own only for multiples of the number of views.
        """
        wanted = combination(method)
        views = len(self.methods.views) if wanted.augmented and wanted.prefixed else 1
        return tuple(draws for draws in self.grid.draws if draws % views == 0)

    @property
    def left_out(self) -> dict[str, tuple[int, ...]]:
        """Method -> the T of the grid that have no row of it; only methods with such."""
        left = {name: set(self.grid.draws) - set(self.draws_of(name)) for name in self.methods.methods}
        return {name: tuple(sorted(draws)) for name, draws in left.items() if draws}

    def _named(self, name: str) -> int:
        return sum(Path(path).stem == name for path in self.banks)


@dataclass(frozen=True)
class SweepPoint:
    """Where a read-out stands: method, setting and T are a row, seeds are its banks."""

    method: str
    setting: Setting | None
    draws: int
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, {self.setting}, T={self.draws}, seed={self.seed}"


@dataclass(frozen=True)
class Swept:
    """Everything that a sweep scores, made anew for each condition of the test images.

    memory: a budget for the process, bytes or "4GiB", that temperatures are fitted within; None: 80 % of what is free
    made: the methods of the condition by setting, seed and T, whose passes know whether their fast path may be used
    """

    network: Network
    banks: Banks
    given: Mapping[str, Bank]
    plan: SweepPlan
    held_out: Sequence[Source]
    temperatures: Path
    progress: Progress
    memory: Memory = None
    made: dict[tuple[Setting | None, int, int | None], ComparedMethods] = field(default_factory=dict)

    def scored(self) -> ScorePlan:
        return score_plan(self.network, self.plan.void)

    def read_outs(self, condition: str, severity: int) -> dict[SweepPoint, ReadOut]:
        """On the test images as they are, or as one corruption leaves them."""
        clean = condition == CLEAN
        worse = None if clean else corruption(condition, severity)
        settings = self.plan.grid.settings() + (
            self.plan.grid.settings(adapted=True) if self.plan.adapt and not clean else ()
        )
        read_outs: dict[SweepPoint, ReadOut] = {}
        whole = bn_network_of(self.network)
        for setting in settings:
            for seed in self.plan.grid.seeds:
                bank = self.banks.bank(setting, seed, worse)
                if not read_outs:
                    read_outs |= self._read(None, seed, bank, clean=clean)
                stochastic_bank = blended(bank, chosen_layers(whole, setting.layers), setting.alpha)
                read_outs |= self._read(setting, seed, stochastic_bank, clean=clean)
        for name, bank in self.given.items():
            setting = Setting(batch=int(bank.provenance.get("batch") or 0), file=name)
            read_outs |= self._read(setting, 0, bank, clean=clean)
        return read_outs

    def _read(self, setting: Setting | None, seed: int, bank: Bank, *, clean: bool) -> dict[SweepPoint, ReadOut]:
        plan = self.plan.methods
        names = tuple(name for name in plan.methods if combination(name).banked == (setting is not None))
        if setting is not None and setting.adapted:
            names = tuple(
                name for name in names if not combination(name).fitted
            )  # what could be fitted on is not corrupted
        read_outs: dict[SweepPoint, ReadOut] = {}
        for name in names:
            counts = self._counts(name, setting)
            same = tuple(other for other in names if self._most(other, setting) == self._most(name, setting))
            compared = self._compared(setting, seed, bank, same, self._most(name, setting))
            calibrations = self._fitted(compared, setting, seed).get(name, {})
            (method, *_) = compared.methods[name]
            for draws in (counts if clean else (max(counts),)) if counts else (method.draws,):
                read_outs[SweepPoint(name, setting, draws, seed)] = ReadOut(
                    method=method,
                    measures=plan.measures if draws > 1 else plan.measures[:1],
                    draws=draws,
                    temperature=calibrations.get(draws, 1.0),
                )
        return read_outs

    @property
    def left_out(self) -> dict[str, str]:
        """Validation images that are in none of the fits of some setting so far: id -> why, in the first of them."""
        return self._stored().left_out

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """All that were fitted so far: method, setting, seed and T -> the calibration."""
        return {
            f"{name}, {place}, T = {draws}": of_json(value)
            for place, of_place in self._stored().calibrations.items()
            for name, of_method in of_place.items()
            for draws, value in of_method.items()
        }

    def _stored(self) -> _StoredCalibrations:
        """The calibrations of each setting, and what was left out of them, as they were kept."""
        if not self.temperatures.exists():
            return _StoredCalibrations()
        return read_json(self.temperatures, _StoredCalibrations, advice="Remove it to fit the temperatures again.")

    def _counts(self, name: str, setting: Setting | None) -> tuple[int, ...]:
        """The T of a method's rows; empty where it has one row, with all of its passes."""
        given = setting is not None and setting.file
        return () if given or not combination(name).prefixed else self.plan.draws_of(name)

    def _most(self, name: str, setting: Setting | None) -> int | None:
        """The draws that are divided among views, where these are not all of the bank's; else None."""
        most = max(self._counts(name, setting), default=None)
        return None if most == max(self.plan.grid.draws) else most

    def _compared(
        self, setting: Setting | None, seed: int, bank: Bank, names: tuple[str, ...], most: int | None
    ) -> ComparedMethods:
        """The methods of these names with at most `most` draws (None: all), made once in a condition."""
        if (setting, seed, most) not in self.made:
            plan = replace(self.plan.methods, methods=names)
            plan = plan if most is None else replace(plan, draws=most)
            self.made[setting, seed, most] = build_methods(self.network, [bank], plan, validated=True)
        return self.made[setting, seed, most]

    def _fitted(
        self, compared: ComparedMethods, setting: Setting | None, seed: int
    ) -> dict[str, dict[int, Calibration]]:
        """Method -> T -> the calibration of its first T passes, fitted once on the clean validation images and kept."""
        fitted = [name for name in compared.names if combination(name).fitted]
        if not fitted:
            return {}
        stored = self._stored()
        of_place = stored.calibrations.setdefault(f"{setting}, seed={seed}", {})
        wanted = {name: self._counts(name, setting) or (compared.methods[name][0].draws,) for name in fitted}
        if any(set(counts) - set(of_place.get(name, ())) for name, counts in wanted.items()):
            fits = temperatures(
                self.network,
                self.held_out,
                compared,
                self.scored(),
                self.progress,
                draws=wanted,
                memory=self.memory,
            )
            of_place |= {name: {T: as_json(fit) for T, fit in of.items()} for name, of in fits.by_draws.items()}
            kept = _StoredCalibrations(stored.calibrations, {**fits.left_out, **stored.left_out})
            write_json(self.temperatures, asdict(kept))
        return {name: {draws: of_json(value) for draws, value in of_place[name].items()} for name in fitted}


@dataclass(frozen=True)
class _StoredCalibrations:
    """The file of calibrations: setting and seed -> method -> T -> as JSON; left_out: id -> why it is in no fit."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # files of older versions had one calibration for all T

    calibrations: dict[str, dict[str, dict[int, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
