"""Files decoded in a process of their own (`--isolate`), whose crash, hang or hunger is the failure of one image.

The process is kept from file to file. It may take so much memory and time; one that dies is replaced. What it answers
is taken apart by a reader that makes nothing but arrays, paths and the plain values below.

Must not know a format.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import import_module
from typing import Any, BinaryIO, ParamSpec, TypeVar

from segment import errors
from segment.errors import ImageUnreadable, SegmentError, error_message
from segment.images.contents.states import FileState, state_of
from segment.images.limits import limits, set_limits
from segment.kept_records import KeptRecords, keep_records, log_again
from segment.stores.requests import PATIENCE
from segment.stores.urls import is_url

P = ParamSpec("P")
R = TypeVar("R")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

MEMORY, SECONDS = 4 * 2**30, 60.0
"""What a decoder may take: bytes of address space (where the system limits it), and seconds for a file.

For one on a store the time that the store may fail is added: large rasters are read there a range at a time.
"""

_HEAD = 8
_ANSWERED = {
    "segment.images.read": ("Pixels",),
    "segment.images.formats.raster": ("Raster", "SampleMeaning"),
    "segment.images.formats.georeference": ("Described",),
    "segment.images.placing.geometry": ("Geometry",),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
    "numpy": ("ndarray", "dtype"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
}
"""Classes and functions that an answer may name; text and bytes need none."""


class _Answer(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ANSWERED.get(module, ()):
            raise pickle.UnpicklingError(f"an answer names {module}.{name}")
        return super().find_class(module, name)


class Decoder:
    """A process that calls functions of this program on files."""

    def __init__(self, memory: int, seconds: float) -> None:
        self.memory, self.seconds = memory, seconds
        self.late = threading.Event()
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # each takes address space
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from segment.images.isolation import serve; serve({memory})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
        )

    def call(self, function: Callable[..., Any], arguments: Arguments, name: str) -> Any:
        """What the function returns or refuses. Errors: ImageUnreadable, naming the file, where the process ended."""

        def kill() -> None:
            self.late.set()
            self._process.kill()

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        seconds = self.seconds + (PATIENCE if is_url(name) else 0)
        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            request = function.__module__, function.__qualname__, arguments, limits()
            _send(self._process.stdin, pickle.dumps(request))
            done, answer, said = _Answer(io.BytesIO(_received(self._process.stdout, self.memory))).load()
            records = [(str(name), int(level), str(message), tuple(values)) for name, level, message, values in said]
        except (OSError, EOFError, MemoryError, pickle.UnpicklingError, ValueError, TypeError, AttributeError) as error:
            self.close()
            why = f"was not decoded within {seconds:g} seconds" if self.late.is_set() else self._end(error)
            raise ImageUnreadable(f"{name!r} {why}. Replace or remove it.") from None
        finally:
            timer.cancel()
        log_again(records)
        if done:
            return answer
        kind, message = answer
        raise getattr(errors, kind, ImageUnreadable)(message)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _end(self, error: Exception) -> str:
        if not isinstance(error, OSError | EOFError):
            return f"made its decoder answer what is no image ({type(error).__name__})"
        code = self._process.returncode
        try:
            why = signal.Signals(-code).name
        except ValueError:
            why = f"exit code {code}"
        return f"ended its decoder ({why})"


class _Decoders:
    """Processes that decode, as many as there are threads that decode at a time."""

    def __init__(self, memory: int, seconds: float) -> None:
        self.memory, self.seconds = memory, seconds
        self._idle: list[Decoder] = []
        self._hung: dict[tuple[str, FileState | None], ImageUnreadable] = {}

    def call(self, function: Callable[..., Any], arguments: Arguments, name: str) -> Any:
        """The result of `Decoder.call`. A file that took too long is refused later: runs ask for each several times."""
        file = name, state_of(name)
        if file in self._hung:
            raise ImageUnreadable(str(self._hung[file]))
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = Decoder(self.memory, self.seconds)
        try:
            return decoder.call(function, arguments, name)
        except ImageUnreadable as error:
            if decoder.late.is_set():
                self._hung[file] = error
            raise
        finally:
            if decoder.alive:
                self._idle.append(decoder)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


_decoders: _Decoders | None = None


def isolate(*, memory: int = MEMORY, seconds: float = SECONDS) -> None:
    """Decode files in processes of their own from now on, until `end_isolation`."""
    global _decoders
    end_isolation()
    _decoders = _Decoders(memory, seconds)


def end_isolation() -> None:
    global _decoders
    if _decoders is not None:
        _decoders.close()
    _decoders = None


def isolating() -> bool:
    """Whether files are decoded in processes of their own."""
    return _decoders is not None


@contextmanager
def isolated(*, memory: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """Within the block, files are decoded in a process of their own.

    Args:
        memory: bytes that it may take, on systems that limit address space
        seconds: for one file

    """
    isolate(memory=memory, seconds=seconds)
    try:
        yield
    finally:
        end_isolation()


def contained(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose first argument is a path, or has one, which runs in a decoder where files are isolated."""

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        if _decoders is None:
            return function(*arguments, **named)
        answer: R = _decoders.call(function, (arguments, named), _name(arguments[0]))
        return answer

    return call


def _name(first: Any) -> str:
    return str(getattr(first, "path", first))


def _send(stream: BinaryIO | Any, data: bytes) -> None:
    stream.write(len(data).to_bytes(_HEAD, "little"))
    stream.write(data)
    stream.flush()


def _received(stream: BinaryIO | Any, most: int) -> bytes:
    head = stream.read(_HEAD)
    size = int.from_bytes(head, "little")
    if len(head) < _HEAD or size > most:
        raise EOFError
    data: bytes = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve(memory: int) -> None:
    """The decoder's side: calls what is asked until its input ends. What libraries print goes nowhere."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which lets an image finish
    records = keep_records()
    _limit(memory)
    while len(head := requests.read(_HEAD)) == _HEAD:
        module, name, arguments, most = pickle.loads(requests.read(int.from_bytes(head, "little")))
        set_limits(*most)
        _send(answers, _answer(getattr(import_module(module), name), arguments, memory, records))


def _answer(function: Callable[..., Any], arguments: Arguments, memory: int, records: KeptRecords) -> bytes:
    try:
        made = function(*arguments[0], **arguments[1])
        return pickle.dumps((True, made, records.take()), protocol=5)
    except SegmentError as error:
        refusal = type(error).__name__, str(error)
    except MemoryError:
        name = _name(arguments[0][0])
        message = f"{name!r} needs more memory than its decoder may take ({memory // 2**20} MiB). Cut it into tiles."
        refusal = "ImageUnreadable", message
    except Exception as error:
        refusal = "ImageUnreadable", error_message(error)
    return pickle.dumps((False, refusal, records.take()))


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    with suppress(ValueError, OSError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
