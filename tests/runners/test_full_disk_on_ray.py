"""Where Ray has room neither in memory nor on the disk, a run ends in words, whichever process meets it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from heaping import PART, Heaping, small_ray

from segment.errors import WrongUse
from segment.runners.on_ray import RayRunner
from segment.runners.quiet import QUIET


@pytest.fixture(scope="module")
def no_room() -> Iterator[None]:
    """A Ray whose store is full, and that takes its disk for full."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init("local", **small_ray(full=0.0))
        held = [ray.put(np.zeros(PART, np.uint8)) for _ in range(5)]
        yield
        assert len(held) == 5
        ray.shutdown()


class Large(Heaping):
    """What makes its worker is large."""

    def factory(self, units: Sequence[int]) -> Callable[[], Heaping]:
        bulk = np.random.default_rng(0).bytes(4 * PART)

        def make() -> Heaping:
            assert bulk
            return Heaping()

        return make


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("heaping", [Large, Heaping])
def test_a_full_disk_ends_a_run_in_words(heaping: type[Any]) -> None:
    with RayRunner(actors=2) as runner, pytest.raises(WrongUse, match=r"Free some of the disk .* RAY_TMPDIR"):
        runner(heaping(), range(12))
