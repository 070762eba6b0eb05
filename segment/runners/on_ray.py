"""Units of work in processes of Ray, on this machine or many: the one module that imports Ray (extra `ray`).

Ray Data schedules them: a pool of actors, each of which makes its worker once, takes rows of units and gives back what
it has done. Ray starts an actor that has ended again, and gives its rows to others. Must not know what a unit is.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch

from segment.errors import WrongUse, error_message, imported, one_line
from segment.kept_records import Record, keep_records, log_again
from segment.runners.cores import most_together, shares
from segment.runners.quiet import QUIET, configured, environment, same_signals, silent_stderr
from segment.runners.runner import P, Part, U, Worker

log = logging.getLogger(__name__)

OBJECT_STORE = 256 * 2**20
"""Bytes of the object store of a Ray that is started here: it holds the network, the bank and what is given back."""

ROW = 16
"""Units at most that an actor does for one row: as many are done again where it ends."""

ROWS = 8
"""Rows an actor has at least, where there are enough units, so that none waits long for another at the end."""

BLOCKS = 20_000
"""Blocks of rows at most: Ray Data's own account of one takes about a kilobyte."""

CONNECTING = 10.0
"""Seconds within which a cluster answers."""

RETRIES = 3
"""How often a row is given to another process after one has ended."""

NO_ROOM = (
    "Ray has no room for what its processes exchange: its memory for objects is full, and the disk that it would put "
    "them on is nearly so. Free some of the disk that holds Ray's folder (/tmp/ray), or give "
    "Ray another by RAY_TMPDIR; then give the command again, with --resume where it wrote a run."
)

FAN_IN = 8
"""Parts that are merged into one, again and again, before they come here."""


@dataclass
class RowOutcome:
    """What came of some rows.

    rows: their numbers. part: what was done; None after an error. error: what ended the row, with its traceback
    records: what was logged
    """

    rows: list[int]
    part: Part | None = None
    error: BaseException | None = None
    records: list[Record] = field(default_factory=list)

    def merge(self, other: RowOutcome) -> None:
        """Add other rows; not those beside one that is counted here already: they are missing, and done again."""
        self.error = self.error or other.error
        if not set(self.rows).isdisjoint(other.rows):
            return
        self.rows += other.rows
        self.records += other.records
        if self.part is None or other.part is None:
            self.part = self.part or other.part
        else:
            self.part.merge(other.part)


ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Of an actor's environment. It computes in a thread, to which the GNU C library else gives memory of its own that it
takes back after each pass: a sixth of the actor's time went into clearing pages.
"""
FULL_DISK = {"RAY_local_fs_capacity_threshold": "0.99"}
"""Of a Ray that is started here: the share of the disk that may be in use before it puts no more objects there. Ray's
own 95 % leaves tens of gigabytes of a large disk out, which no run of a machine alone takes.
"""
ACTOR: dict[str, Any] = {"runtime_env": {"env_vars": ONE_ARENA}}
"""What an actor is asked of Ray with."""


class RowActor:
    """Does rows of units; its worker is made at the first, so that what refuses it comes back as an outcome."""

    def __init__(self, made: Sequence[Any], path: Sequence[str]) -> None:
        """made: a reference to what makes the worker, in a list so that Ray does not replace it. path: `sys.path`."""
        _import_from(path)
        self._made = made
        self._worker: Any = None
        self._records = keep_records()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
        outcomes = [
            self._outcome(int(number), pickle.loads(units))
            for number, units in zip(batch["number"], batch["units"], strict=True)
        ]
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}

    def _outcome(self, number: int, units: Sequence[Any]) -> RowOutcome:
        outcome = RowOutcome([number])
        try:
            if self._worker is None:
                ray = imported("ray", extra="ray", what="Runs on Ray")
                pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
                self._worker = pickle.loads(ray.get(self._made[0]))()
            self._worker(units)
            outcome.part = self._worker.take_part()
        except Exception as error:  # whatever ends the job there ends it here
            error.add_note(traceback.format_exc())
            outcome.error = _sendable(error)
        outcome.records = self._records.take()
        return outcome


def merged(batch: dict[str, Any], path: Sequence[str]) -> dict[str, list[bytes]]:
    """Some outcomes as one."""
    _import_from(path)
    pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
    first, *others = (pickle.loads(outcome) for outcome in batch["outcome"])
    for other in others:
        first.merge(other)
    return {"outcome": [pickle.dumps(first)]}


def _import_from(path: Sequence[str]) -> None:
    """Networks may be made by code that lies beside the command, on a file system that all machines share."""
    sys.path += [folder for folder in path if folder not in sys.path]


class RayRunner:
    """A runner that is open from `with` on; a Ray that was started here ends with it.

    Args:
        actors: Processes that do units; None: as many as have the threads, or the GPU, of this one.
        address: Of a cluster, as Ray takes it; "auto": the one that runs on this machine; "": RAY_ADDRESS, else a Ray
            on this machine alone.
        gpus: GPUs of an actor, which may be a part of one; 0: it has none; None: those there are, shared.
        device: Type of the device that the actors compute on, "cpu" or "cuda".

    Raises:
        MissingExtra: Ray is not installed.
        WrongUse: No Ray is there, or none can be started.

    """

    def __init__(
        self, actors: int | None = None, address: str = "", *, gpus: float | None = None, device: str = "cpu"
    ) -> None:
        if actors is not None and actors < 1:
            raise WrongUse(f"--actors {actors}: give a number of processes from 1 up.")
        self._asked, self._address, self._gpus, self._device = actors, address, gpus, device
        self.actors, self._cpus, self._cores, self._started = actors or 1, 1.0, [1], False
        self._actor = ACTOR

    def __repr__(self) -> str:
        named = f"address={self._address!r}, gpus={self._gpus}, device={self._device!r}"
        return f"RayRunner(actors={self._asked}, {named})"

    def __enter__(self) -> Self:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._ray = imported("ray", extra="ray", what="Runs on Ray")
        self._data = imported("ray.data", extra="ray", what="Runs on Ray")
        self._no_room = self._ray.exceptions.OutOfDiskError, self._ray.exceptions.ObjectStoreFullError
        if not self._ray.is_initialized():
            self._connect()
        try:
            self._look_at_machines()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _look_at_machines(self) -> None:
        """How many processes there are, and what each has. Errors: WrongUse without a GPU."""
        resources = self._ray.cluster_resources()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
        if self._device == "cuda":
            gpus = float(resources.get("GPU", 0))
            if not gpus:
                raise WrongUse("No machine of this Ray has a GPU: take --device cpu.")
            self.actors = self._asked or max(1, int(gpus / (self._gpus or 1)))
            self._gpus = self._gpus or 1 / max(1, math.ceil(self.actors / gpus))
        self.threads(torch.get_num_threads())  # `processes` is asked for before anything is run

    def _connect(self) -> None:
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address == "local" else {}
        # its own processes have the environment of this one; those of a cluster are asked for with theirs
        self._actor = {} if address == "local" else ACTOR
        with same_signals(), silent_stderr(), environment(ONE_ARENA | FULL_DISK if address == "local" else {}):
            try:
                check_answers(address)
                self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except (OSError, ValueError, RuntimeError) as error:
                raise WrongUse(
                    f"No Ray answers at {address!r} ({one_line(error, 160)}). Start one with `ray start --head`, or "
                    "leave --ray-address out for one on this machine."
                ) from None
        self._started = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._started:
            self._ray.shutdown()

    @property
    def processes(self) -> int:
        if self._device == "cuda":
            return max(1, min(self.actors, int(1 / (self._gpus or 1) + 1e-6)))
        return most_together(self._cores, self.actors, self._cpus)

    @property
    def workers(self) -> int:
        return self.actors

    def threads(self, here: int) -> int:
        if self._device == "cuda":
            return here
        self.actors, self._cpus = shares(self._cores, here, self._asked)
        return max(1, int(self._cpus))

    def __call__(self, worker: Worker[U, P], units: Sequence[U]) -> None:
        if not units:
            return
        pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
        try:
            made = pickle.dumps(worker.factory(units))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise WrongUse(
                f"The network cannot be sent to another process ({one_line(error, 160)}). Name a factory that makes "
                "it: py:package.module:factory."
            ) from error
        with self._full_disk_in_words():
            reference = self._ray.put(made)
        step = max(1, min(ROW, len(units) // (ROWS * self.actors)))
        step = -(-step // worker.units_per_call) * worker.units_per_call
        rows = [units[start : start + step] for start in range(0, len(units), step)]
        lost = [unit for row in self._missing(worker, rows, reference) for unit in row]
        if lost:  # each alone: most of them only shared a process with the one that ended it
            log.warning("%d units are given out again, each alone: their processes ended.", len(lost))
        for (unit,) in self._missing(worker, [[unit] for unit in lost], reference):
            worker.count_failed(unit, "the process that did it ended, each time it was tried")

    @contextmanager
    def _full_disk_in_words(self) -> Iterator[None]:
        """Errors: WrongUse where Ray had no room for an object, in memory or on the disk."""
        try:
            yield
        except self._no_room as error:
            raise WrongUse(NO_ROOM) from error

    def _missing(self, worker: Worker[U, Any], rows: Sequence[Sequence[U]], reference: Any) -> list[Sequence[U]]:
        """Does the rows; those of which nothing came back."""
        left = dict(enumerate(rows))
        if not left:
            return []
        for outcome in self._outcomes(rows, reference):
            log_again(outcome.records)
            if outcome.error is not None:
                raise outcome.error
            if not left.keys() >= set(outcome.rows):  # one of them was counted; the others are done again
                continue
            if outcome.part is not None:
                worker.merge(outcome.part)
            for number in outcome.rows:
                del left[number]
        return list(left.values())

    def _outcomes(self, rows: Sequence[Sequence[Any]], reference: Any) -> Iterator[RowOutcome]:
        pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
        items = [{"number": number, "units": pickle.dumps(list(row))} for number, row in enumerate(rows)]
        actors, path = min(self.actors, len(rows)), [folder or os.getcwd() for folder in sys.path]  # noqa: PTH109
        resources = {"num_cpus": 1, "num_gpus": self._gpus} if self._device == "cuda" else {"num_cpus": self._cpus}
        with configured(self._data.DataContext.get_current()) as errors, self._full_disk_in_words():
            done = self._data.from_items(items, override_num_blocks=min(len(rows), BLOCKS)).map_batches(
                RowActor,
                fn_constructor_args=([reference], path),
                batch_size=1,
                compute=self._data.ActorPoolStrategy(size=actors),
                max_task_retries=RETRIES,
                **resources,
                **self._actor,
            )
            count = len(rows)
            while count > FAN_IN**2:  # a tree, whose last branches are merged here
                done = done.map_batches(merged, fn_kwargs={"path": path}, batch_size=FAN_IN, num_cpus=0)
                count //= FAN_IN
            for row in done.iter_rows():
                yield pickle.loads(row["outcome"])
            for error in errors:  # of rows that gave nothing back: those for want of room would fail again
                if isinstance(error, self._no_room):
                    raise error


def check_answers(address: str) -> None:
    """Nothing where something answers at HOST:PORT, or it is another kind of address. Errors: OSError.

    Ray itself waits there for minutes, without a word.
    """
    if (parts := re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d+)", address)) is not None:
        socket.create_connection((parts[1], int(parts[2])), timeout=CONNECTING).close()


def _sendable(error: Exception) -> Exception:
    """The error without its traceback and the errors behind it; in words where it does not outlive a pickle."""
    pickle = imported("ray.cloudpickle", extra="ray", what="Runs on Ray")
    error.__cause__ = error.__context__ = None
    error = error.with_traceback(None)
    try:
        same = str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:  # a class of anybody's, with a constructor or a value of its own
        same = False
    if same:
        return error
    in_words = RuntimeError(error_message(error))
    for note in getattr(error, "__notes__", ()):
        in_words.add_note(note)
    return in_words
