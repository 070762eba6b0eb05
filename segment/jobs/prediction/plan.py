"""What a predict run is asked for (`PredictPlan`), and how it is carried out (`Execution`): kept in run.json.

A run that goes on is carried out as it began, so that the same images give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch

from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.recording import Precision
from segment.errors import WrongUse, integer, near
from segment.estimation.background import WORKERS, checked_workers
from segment.estimation.batching import Batch, checked_batch
from segment.estimation.memory_budget import MemoryBudget, memory_budget, resident
from segment.estimation.plan import Draws, resolve_draws
from segment.estimation.precision import known_precision, resolve_precision
from segment.estimation.tiling.tiler import TILE_MODES, TileMode, Tiling
from segment.files.exports.formats import FORMATS, HOLDS_PROBABILITY, checked
from segment.guarantees.triage import Triage
from segment.jobs.tuning.tuned import Tuned
from segment.networks.load import Network
from segment.passes.passes import Engine, PassPlan, check_engine
from segment.runners.process import memory_for
from segment.runners.runner import LOCAL, Runner
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan

MAPS = ("prediction", "variance", "predictive_entropy", "mutual_information")
"""Written by default."""


@dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """What to predict with and what to write.

    draws: the first N of the bank; "auto": as many as each image needs for a standard error of `tolerance`; None: all
    precision: "auto", "fp32", "bf16" or "fp16"
    maps: measures, "prediction" and "probability" (npz only); heat: the measure shown; heat_max: its last colour
    border: pixels at each side of an image where the measures are hidden, and counted in no mean
    formats: of `files.exports.formats.FORMATS`, and those that they are made from; fold: draws in one pass
    tile: "auto": images that do not fit in memory go through in overlapping tiles; "off": never; N: tiles of N x N
    tile_mode: "exact": the maps of the whole image; "blended": tiles that overlap less, mixed there, and the
    difference measured
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    triage: also which pixels and images are accepted, and whether the run is like the validation images
    tuned: a setting of `segment tune`, in place of MCBN under the bank
    batch: images of one size in a pass; "auto": as many as are measured to be fastest at the first image's size
    workers: threads that decode images, and as many that encode results, beside the network; 0: all in line
    engine: what runs the passes: "torch", or "openvino" on a CPU
    """

    draws: Draws = None
    tolerance: float = StopPlan.tolerance
    precision: str = "auto"
    maps: tuple[str, ...] = MAPS
    heat: str = "predictive_entropy"
    heat_max: float | None = None
    border: int = 0
    formats: tuple[str, ...] = ("png", "npz")
    fold: int = 1
    tile: Tiling = "auto"
    tile_mode: TileMode = "exact"
    memory: int | str | None = None
    triage: Triage | None = None
    tuned: Tuned | None = None
    batch: Batch = 1
    workers: int = WORKERS
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise WrongUse(f"--engine is {' or '.join(get_args(Engine))}, not {self.engine!r}.")
        if self.tuned is not None and (self.draws is not None or self.fold != 1 or self.engine != "torch"):
            raise WrongUse("--tuned has its own draws and engine: leave --draws, --fold and --engine out.")
        checked_workers(self.workers)
        checked_batch(self.batch)
        StopPlan(tolerance=self.tolerance)  # refuses what is out of range
        PassPlan(fold=self.fold, engine=self.engine)
        known = (*MEASURES, "prediction", "probability")
        for name in self.maps:
            if name not in known:
                raise WrongUse(f"No map is called {name!r}.{near(name, known)} Known: {', '.join(known)}.")
        if self.heat not in MEASURES:
            hint = near(self.heat, MEASURES)
            raise WrongUse(f"--heat shows a measure, not {self.heat!r}.{hint} Known: {', '.join(MEASURES)}.")
        object.__setattr__(self, "formats", checked(self.formats))
        if self.heat_max is not None and not 0 < self.heat_max < math.inf:
            raise WrongUse(f"--heat-max is a number above 0, the value of the last colour, not {self.heat_max}.")
        object.__setattr__(self, "border", integer("border", self.border))
        if "probability" in self.maps and not set(HOLDS_PROBABILITY) & set(self.formats):
            raise WrongUse(f"probability is written by {', '.join(HOLDS_PROBABILITY)} only; add one to --format.")
        if self.tile not in ("auto", "off") and not (isinstance(self.tile, int) and self.tile > 0):
            raise WrongUse(f"--tile is auto, off or a number of pixels from 1 up, not {self.tile}.")
        if self.triage is not None and self.tile_mode != "exact":
            raise WrongUse("--triage needs exact maps, as its thresholds were chosen on: leave --tile-mode out.")
        if self.tile_mode not in TILE_MODES:
            raise WrongUse(f"--tile-mode is {' or '.join(TILE_MODES)}, not {self.tile_mode!r}.")

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures that are computed: shown, of the triage, or for the expected accuracy of regions."""
        accuracy = ("one_minus_max",) if any(FORMATS[name].regions for name in self.formats) else ()
        return tuple(dict.fromkeys([*self.shown, *accuracy, *(self.triage.measures if self.triage else ())]))

    @property
    def shown(self) -> tuple[str, ...]:
        """Measures that have files."""
        return tuple(dict.fromkeys([*(name for name in self.maps if name in MEASURES), self.heat]))

    @property
    def needs_probability(self) -> bool:
        return "probability" in self.maps or (self.triage is not None and self.triage.sets is not None)

    def settings(self, network: Network, bank: Bank, source: str) -> dict[str, Any]:
        """The keys of run.json that must be equal for a resume, of a run over `source` (in words)."""
        card = network.card.settings()
        if "png" not in self.formats:
            del card["palette"]  # no file shows it
        return {
            "model": network.name,
            "card": card,
            "source": source,
            "bank": bank_fingerprint(bank),
            "draws": self.draws,
            "tolerance": self.tolerance if self.draws == "auto" else None,
            "precision": self.precision,
            "maps": list(self.maps),
            "heat": self.heat,
            "heat_max": self.heat_max,
            "border": self.border,
            "formats": list(self.formats),
            "fold": self.fold,
            "tile": self.tile,
            **({} if self.tile_mode == "exact" else {"tile_mode": self.tile_mode}),
            **({} if self.engine == "torch" else {"engine": self.engine}),
            **({} if self.batch == 1 else {"batch": self.batch}),
            **({} if self.triage is None else {"triage": self.triage.digest}),
            **({} if self.tuned is None else {"tuned": self.tuned.settings()}),
        }


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run's images are estimated: `plan` of run.json.

    bank: the draws that may be used; stop: when an image has enough of them, None: it gets all
    draws: passes that an image takes at most: all of the bank, or those of the tuned setting
    why: the reason for the precision. threads: of torch. fold: draws in one pass
    budget: memory that may be taken; budget_recorded: whether run.json says how much, as it does where it decided
    something. batch: images in a pass; batch_area: pixels of the image that it was measured at, 0: it was asked for
    workers: as in the plan; results do not depend on it. engine: what runs the passes; torch once openvino's differed
    """

    bank: Bank
    stop: StopPlan | None
    draws: int
    precision: Precision
    why: str
    fold: int
    tile: Tiling
    tile_mode: TileMode
    threads: int
    device: torch.device
    budget: MemoryBudget
    budget_recorded: bool
    batch: Batch = 1
    batch_area: int = 0
    workers: int = WORKERS
    engine: Engine = "torch"

    @classmethod
    def of(cls, plan: PredictPlan, bank: Bank, device: torch.device, runner: Runner = LOCAL) -> Execution:
        """What a plan asks, in each process of a runner. Errors: WrongUse for draws, precision or memory it lacks."""
        used, stop = resolve_draws(plan.draws, bank, StopPlan(tolerance=plan.tolerance))
        check_engine(plan.engine, device)
        precision, why = resolve_precision(plan.precision, bank, device, plan.engine)
        PassPlan(fold=plan.fold, precision=precision, engine=plan.engine)  # refuses what is out of range
        given = plan.memory is not None
        threads = runner.threads(torch.get_num_threads())
        budget = memory_budget(memory_for(runner, plan.memory, device), device)
        budget = MemoryBudget(budget.free, resident() if given else 0)
        return cls(
            bank=used,
            stop=stop,
            draws=len(used) if plan.tuned is None else plan.tuned.draws,
            precision=precision,
            why=why,
            fold=plan.fold,
            tile=plan.tile,
            tile_mode=plan.tile_mode,
            threads=threads,
            device=device,
            budget=budget,
            budget_recorded=given,
            batch=plan.batch,
            workers=plan.workers,
            engine=plan.engine,
        )

    def as_begun(self, record: Mapping[str, Any]) -> Execution:
        """The execution with what `plan` of an earlier run.json has; an empty one changes nothing."""
        if not record:
            return self
        recorded = "memory_free" in record
        return replace(
            self,
            precision=known_precision(record["precision"]),
            why=record["precision_why"],
            fold=record.get("fold", self.fold),
            engine=record.get("engine", self.engine),
            batch=record.get("images", self.batch),
            batch_area=record.get("images_measured_at", self.batch_area),
            tile=record.get("tile", self.tile),
            threads=record.get("threads", self.threads),
            budget=replace(self.budget, free=record["memory_free"]) if recorded else self.budget,
            budget_recorded=recorded or self.budget_recorded,
        )

    def record(self) -> dict[str, Any]:
        """`plan` of run.json."""
        record: dict[str, Any] = {
            "draws": self.draws,
            "precision": self.precision,
            "precision_why": self.why,
            "fold": self.fold,
            "engine": self.engine,
            "images": self.batch,
            **({"images_measured_at": self.batch_area} if self.batch_area else {}),
            "tile": self.tile,
            "tile_mode": self.tile_mode,
            "threads": self.threads,
            "device": str(self.device),
        }
        if self.stop is not None:
            record["stop"] = asdict(self.stop)
        if self.budget_recorded:
            record["memory_free"] = self.budget.free
        return record
