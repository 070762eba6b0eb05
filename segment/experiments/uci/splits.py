"""Every method on one random split of one UCI set, kept as one JSON file so that a stopped run goes on.

Must not know what is made of the scores.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from segment.errors import WrongUse, one_line
from segment.experiments.kept import refuse_others
from segment.experiments.regression.methods import Protocol, Scored, drawn_methods, folded, scored
from segment.experiments.regression.search import Race
from segment.experiments.regression.stack import standardised
from segment.experiments.reporting import Budget
from segment.experiments.uci.data import Table, random_split, read_table, table_if_there
from segment.files.reading import as_json_values, file_bytes
from segment.files.writing import write_text

SETS = ("yacht", "boston", "energy", "wine", "concrete", "kin8nm", "power", "protein")
LARGEST_BATCH = {"energy": 512}  # the authors cap it: a batch of all rows makes MCBN its own constant
WIDTHS = {"protein": (100, 100)}
TAUS = {  # the authors' ranges of tau, in original units
    "boston": (0.01, 10.0),
    "concrete": (0.001, 10.0),
    "energy": (0.01, 100.0),
    "kin8nm": (10.0, 1000.0),
    "power": (0.01, 10.0),
    "protein": (0.01, 10.0),
    "wine": (0.01, 10.0),
    "yacht": (0.01, 100.0),
}


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """The smaller search of a large set: fewer L2, one fold, and a clock by steps.

    An epoch of a large set has many more steps than one of a small set: a candidate is looked at, and ends, after
    fewer epochs, but after no fewer steps than one of concrete (2000 epochs of 659 rows).
    """

    every: int
    epochs: int
    l2: tuple[float, ...] = tuple(10.0**-power for power in range(1, 7))
    search_folds: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which sets and split seeds, under which protocol.

    reduced: the sets whose search is smaller; finished: whether splits that are not finished are left out, not computed
    """

    sets: tuple[str, ...] = SETS
    splits: tuple[int, ...] = (1, 2, 3, 4, 5)
    protocol: Protocol = field(default_factory=Protocol)
    reduced: Mapping[str, Reduction] = field(default_factory=dict)
    finished: bool = False

    def __post_init__(self) -> None:
        if not self.sets or not self.splits:
            raise ValueError("A plan has one set and one split at least.")


REDUCED = {
    "kin8nm": Reduction(every=4, epochs=400),
    "power": Reduction(every=4, epochs=400),
    "protein": Reduction(every=1, epochs=100),
}
PLANS: Mapping[Budget, Plan] = {
    "paper": Plan(reduced=REDUCED),
    "quick": Plan(
        sets=("yacht", "boston"),
        splits=(1, 2, 3),
        protocol=Protocol(
            l2=(1e-1, 1e-3),
            batches=(32, 128),
            dropouts=(0.05, 0.005),
            precisions=(10.0, 100.0),
            folds=3,
            flow_rate=3e-3,
            flow_steps=2000,
            race=Race(epochs=300, patience=4, rungs={60: 0.5}, draws=10),
            draws=200,
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """All methods on one split; rows: the test rows' numbers in the table; seconds: what it took (not reproducible)."""

    name: str
    split: int
    train_rows: int
    rows: list[int]
    methods: dict[str, Scored]
    seconds: float


def run_splits(
    plan: Plan, *, data: Path, kept: Path, seed: int, say: Callable[[str], None]
) -> dict[str, list[SplitResult]]:
    """For each set its splits, read from `kept` where they are finished, else computed and kept.

    Where the plan takes finished splits only, those made with other settings, another seed or other data are left out,
    and so is a set without any.
    Error: WrongUse where a kept split is damaged or made with other settings, a set's data are missing, or no split is
    finished; before anything is computed.
    """
    tables = {name: table_if_there(data, name) for name in plan.sets}
    settings = {name: {"seed": seed, **as_json_values(asdict(protocol_of(plan, name)))} for name in plan.sets}
    order = [(split, name) for split in plan.splits for name in plan.sets]  # stopped early, every set has some splits
    held = {
        (split, name): _read(_path(kept, name, split), settings[name], tables[name], finished=plan.finished)
        for split, name in order
    }
    results: dict[str, list[SplitResult]] = {name: [] for name in plan.sets}
    if not plan.finished:
        tables |= {name: tables[name] or read_table(data, name) for (_, name), found in held.items() if found is None}
    for split, name in order:
        result, table = held[split, name], tables[name]
        if result is None and not plan.finished:
            assert table is not None
            result = _run_split(table, split, protocol_of(plan, name), seed, say)
            content = {"settings": settings[name], "data": table.digest, "result": asdict(result)}
            write_text(_path(kept, name, split), json.dumps(content))
        if result is not None:
            results[name].append(result)
    finished = {name: splits for name, splits in results.items() if splits}
    if not finished:
        raise WrongUse(f"{str(kept)!r} holds no finished split of {', '.join(plan.sets)}. Run some without --finished.")
    return finished


def seeds_in(results: Mapping[str, Sequence[SplitResult]]) -> str:
    """The splits' seeds in words: those of the set with the most, and of every set with others, which is named."""
    words = {name: ", ".join(str(split.split) for split in splits) for name, splits in results.items()}
    most = words[max(results, key=lambda name: len(results[name]))]
    others = [f"{name}: {seeds}" for name, seeds in words.items() if seeds != most]
    return f"{most} ({'; '.join(others)})" if others else most


def protocol_of(plan: Plan, name: str) -> Protocol:
    """The protocol of one set."""
    protocol, most = plan.protocol, LARGEST_BATCH.get(name)
    batches = tuple(batch for batch in protocol.batches if most is None or batch <= most)
    if (reduced := plan.reduced.get(name)) is not None:
        race = replace(protocol.race, every=reduced.every, epochs=reduced.epochs)
        protocol = replace(protocol, l2=reduced.l2, search_folds=reduced.search_folds, race=race)
    return replace(protocol, batches=batches, hidden=WIDTHS.get(name, protocol.hidden), taus=TAUS[name])


def _run_split(table: Table, split: int, protocol: Protocol, seed: int, say: Callable[[str], None]) -> SplitResult:
    name = table.name
    train, test = random_split(table.rows, split)
    final = standardised(table.x, table.y, train[None], test[None])
    own = zlib.crc32(f"{name} {split} {seed}".encode()) % 10**7  # a seed no other set or split has
    start = time.monotonic()
    folds = folded(train, table.x, table.y, protocol, own)
    methods = {}
    for drawn in drawn_methods(folds, final, protocol, own, lambda message: say(f"{name}, split {split}, {message}")):
        methods[drawn.method] = scored(drawn, final, protocol.taus)
    return SplitResult(
        name=name,
        split=split,
        train_rows=len(train),
        rows=test.tolist(),
        methods=methods,
        seconds=time.monotonic() - start,
    )


def _path(kept: Path, name: str, split: int) -> Path:
    return kept / f"{name}-{split}.json"


def _read(path: Path, settings: Mapping[str, Any], table: Table | None, *, finished: bool) -> SplitResult | None:
    """A kept split; None where there is none, or for `finished` where it was made with other settings or data."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(file_bytes(path))
        if not isinstance(kept["settings"], dict):
            raise TypeError("its settings are none")
        made_with, wanted = dict(kept["settings"]), dict(settings)
        if "data" in kept and table is not None:  # a split from elsewhere may lack one or the other
            made_with["data"], wanted["data"] = kept["data"], table.digest
        if finished and made_with != wanted:
            return None
        refuse_others(path, made_with, wanted)
        return TypeAdapter(SplitResult).validate_python(kept["result"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongUse(f"{str(path)!r} is damaged: {one_line(error, 120)}. Remove it to make its split anew.") from None
