"""Settings of a whole process, copied to worker processes so that they read and compute as this one does.

Must not know what it computes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from segment.errors import WrongUse
from segment.estimation.memory_budget import Memory, MemoryBudget, keep_freed_pages, memory_budget
from segment.files.versions import versions, warn_of_versions_here
from segment.images.isolation import isolate, isolating
from segment.images.limits import asked, set_most_pixels
from segment.runners.runner import Runner
from segment.stores.urls import is_url


@dataclass(frozen=True)
class ProcessSettings:
    """folder: that relative paths are of; None: there are none. threads: of torch.

    most_pixels, isolate: as `--max-pixels`, `--isolate`. versions: of the software, as `files.versions` gives them
    """

    folder: str | None
    threads: int
    most_pixels: int | None
    isolate: bool
    versions: Mapping[str, str]

    @classmethod
    def here(cls, threads: int, paths: Sequence[Path]) -> ProcessSettings:
        """The settings of this process, with another number of threads.

        paths: what the other process reads and writes; without any it may be anything
        """
        folder = None if paths and all(map(is_url, paths)) else str(Path.cwd())
        return cls(folder, threads, asked(), isolating(), versions())

    def apply(self) -> None:
        """Set them in this process. Errors: WrongUse where the folder is not on this machine."""
        try:
            if self.folder is not None:
                os.chdir(self.folder)
        except OSError as error:
            raise WrongUse(
                f"A worker on another machine does not see the folder {self.folder!r} ({error.strerror}). Start the "
                "command in a folder that all machines share, or read and write URLs of a store."
            ) from error
        warn_of_versions_here(self.versions)
        torch.set_num_threads(self.threads)
        keep_freed_pages()
        set_most_pixels(self.most_pixels)
        if self.isolate:
            isolate()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_for(runner: Runner, memory: Memory, device: torch.device) -> Memory:
    """The budget of each process of a runner: as asked; else those of a machine, or of a GPU, share what is free."""
    if memory is not None or runner.processes == 1:
        return memory
    return MemoryBudget(memory_budget(None, device).free // runner.processes)
