"""The memory of a process: freed pages, sizes in words, free memory, a plan's budget, and the bytes of an image.

Must not know a network, nor how an image is estimated.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from segment.errors import OutOfMemory, WrongUse, near

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of the GNU C library

UNITS = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}

FREE_SHARE = 0.8
"""Share of the free memory that is the budget where none is given."""

KERNEL_FACTOR = 2.0
"""Memory of a pass over the bytes of its tensors: work memory of kernels, and gaps between blocks."""

FIRST_PASS_BYTES = 96 * 2**20
"""Bytes that the first passes add once: compiled kernels, threads, a picture that is being written."""

BYTES_ANY_NETWORK_TAKES = 4096
"""Bytes a pixel and read-out above what any network takes: where they are free, an image is not tiled nor measured."""

BYTES_BESIDE_PASSES = 48
"""Bytes a pixel beside the passes: this image and the next as read and as floats, and its pictures."""

BYTES_DECODED = 4
"""Bytes a pixel, of these, of an image of three 8-bit channels and where it holds data: before tiles three times."""

BYTES_OF_WRITING = 192 * 2**20
"""Bytes beside the passes that the pictures and the cloud-optimised copy of an image in windows take."""


def keep_freed_pages() -> bool:
    """Keep freed memory in this process from now on, for the passes to come; False where the C library cannot.

    The GNU C library returns every large block to the system and takes it again for the next activation, and the system
    fills it with zeros page by page: a quarter of an fp32 pass on a CPU. The peak does not change. The command line
    calls it; a process of one's own is changed only where its code does, for memory that a peak took stays with it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    libc.mallopt(M_ARENA_MAX, 2)  # threads that decode and write would each keep pages of their own
    atexit.register(release_freed_pages)  # taking torch down reads 120 MiB of its libraries
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))


def release_freed_pages() -> None:
    """Return freed memory to the system: blocks of another size do not fit into its gaps."""
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class KeptPages:
    """Limits the freed pages that a process keeps to about what one piece of work needs.

    Blocks that live longer than a piece of work lie in the gaps, so that the next piece takes new pages beside them:
    without this, 32 mini-batches that need 1.4 GiB each end at 4 GiB.
    """

    def __init__(self) -> None:
        self._needed = 0

    def settle(self) -> None:
        """After each piece: release all where a quarter more is held than after the first piece since a release."""
        now = resident()
        if not self._needed:
            self._needed = now
        elif now > 1.25 * self._needed:
            release_freed_pages()
            self._needed = 0


def bytes_of(text: str) -> int:
    """A size in words to bytes; units with iB are powers of 1024, the others of 1000.

    >>> bytes_of("4GiB"), bytes_of("1.5 MB"), bytes_of("512mib")
    (4294967296, 1500000, 536870912)
    """
    written = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    units = {name.upper(): factor for name, factor in UNITS.items()}
    if written is None or written[2].upper() not in units:
        close = near(written[2], UNITS) if written else ""
        raise WrongUse(
            f"--memory {text!r} is not a size: write a number and a unit, as 4GiB.{close} Known: {', '.join(UNITS)}."
        )
    size = int(float(written[1]) * units[written[2].upper()])
    if size < 1:
        raise WrongUse(f"--memory {text!r} is no memory at all; write a number and a unit, as 4GiB.")
    return size


def bytes_text(size: float) -> str:
    """Bytes for people.

    >>> bytes_text(1536 * 2**20), bytes_text(200 * 2**20)
    ('1.5 GiB', '200 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{-(-size // 2**20):.0f} MiB"


def _step(size: float) -> float:
    """The smallest difference that `bytes_text` shows at that size."""
    return 2**30 / 10 if size >= 2**30 else float(2**20)


def resident() -> int:
    """Bytes of this process in memory now; 0 where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take: of the GPU, or of the machine and its control groups (Linux).

    4 GiB where the system does not report them.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [left for left in (_available(), *_left_in_groups()) if left is not None]
    return max(min(limits), 0) if limits else 4 * 2**30


def _available() -> int | None:
    try:
        line = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(line[1]) * 1024 if line else None


def _left_in_groups() -> list[int]:
    """Bytes left in each control group of this process, version 1 and 2; its file cache counts as free."""
    lefts: list[int] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return lefts
    root = Path("/sys/fs/cgroup")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        at = (root / controllers / path.lstrip("/")) if controllers else root / path.lstrip("/")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        for folder in (at, *at.parents):
            if not folder.is_relative_to(root):
                break
            left = _left(folder, *names)
            if left is not None:
                lefts.append(left)
    return lefts


def _left(folder: Path, limit: str, used: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if not most.isdecimal() or int(most) >= 2**60:  # "max", or version 1's number for it
            return None
        cache = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        return int(most) - int((folder / used).read_text()) + (int(cache[1]) if cache else 0)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that work may take.

    free: bytes beyond what the process holds already; held: those, where the budget was given for the whole process
    """

    free: int
    held: int = 0

    def without(self, taken: int) -> MemoryBudget:
        """What is left where `taken` more bytes are held."""
        return MemoryBudget(self.free - taken, self.held + taken)

    def too_small(self, needed: float, advice: str) -> OutOfMemory:
        """The refusal of a smallest plan that takes `needed` bytes, rounded so that the budget it names is enough.

        >>> print(MemoryBudget(1.27 * 2**30).too_small(1.31 * 2**30, "Give more."))
        Even the smallest plan needs 1.4 GiB of memory; 1.2 GiB may be taken. Give more.
        """
        most, least = needed + self.held, self.free + self.held
        enough = math.ceil(most / _step(most)) * _step(most)
        there = math.floor(least / _step(least)) * _step(least)
        return OutOfMemory(
            f"Even the smallest plan needs {bytes_text(enough)} of memory; {bytes_text(there)} may be taken. {advice}"
        )


Memory = int | str | MemoryBudget | None
"""A budget for the whole process (on a CUDA device, for its tensors there), in bytes or words; None: 80 % of what is
free; a MemoryBudget: used as it is."""


def memory_budget(memory: Memory, device: torch.device) -> MemoryBudget:
    """The budget, with the memory that the process holds already subtracted.

    Errors: WrongUse for what is no size; OutOfMemory where the process alone holds more.
    """
    if isinstance(memory, MemoryBudget):
        return memory
    if memory is None:
        return MemoryBudget(int(FREE_SHARE * free_bytes(device)))
    budget = bytes_of(memory) if isinstance(memory, str) else memory
    if budget < 1:
        raise WrongUse(f"memory = {memory}, but it is a number of bytes from 1 up, or a size as '4GiB'.")
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()
    if held >= budget:
        raise OutOfMemory(
            f"{bytes_text(budget)} of memory were allowed, but the program and the network alone take "
            f"{bytes_text(held)}. Give more --memory."
        )
    return MemoryBudget(budget - held, held)


@dataclass(frozen=True)
class Parts:
    """How a mini-batch is passed: images at once, and bytes of results kept between sweeps.

    whole_fits: all of it fits into one pass
    """

    at_once: int
    keep_bytes: int
    whole_fits: bool


def parts_of(batch: int, image_bytes: int, pass_bytes: int, budget: MemoryBudget, *, one_by_one: bool = False) -> Parts:
    """All M images at once where they fit, else half of the budget for a part and the rest for results that are kept.

    image_bytes: of one image as the network's input; pass_bytes: of tensors alive at once in a pass over one image
    one_by_one: one image at a time also where all fit, which is fastest on a processor with caches
    Errors: OutOfMemory where two images do not fit (a pair is passed to check that images do not mix).

    >>> parts_of(64, 2**20, 2**25, MemoryBudget(2**33)), parts_of(64, 2**20, 2**25, MemoryBudget(2**30)).at_once
    (Parts(at_once=64, keep_bytes=0, whole_fits=True), 5)
    """
    images = 3 * batch * image_bytes  # the current ones, the next ones, and these before they are stacked
    left = budget.free - images - FIRST_PASS_BYTES
    per_image = KERNEL_FACTOR * pass_bytes
    whole_fits = batch * per_image <= left
    if whole_fits and (batch == 1 or not one_by_one):
        return Parts(batch, 0, whole_fits)
    if left < 2 * per_image:
        raise budget.too_small(
            images + FIRST_PASS_BYTES + 2 * per_image, "Give more --memory, smaller images or a smaller --batch."
        )
    at_once = 1 if one_by_one else max(1, int(left / 2 // per_image))
    keep_bytes = int(0.8 * (left - at_once * per_image))  # blocks that stay leave gaps between them
    return Parts(at_once, keep_bytes, whole_fits)
