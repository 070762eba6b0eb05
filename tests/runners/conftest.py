"""A small Ray that the tests of a file share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from segment.runners.on_ray import QUIET


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Two cores and a small object store, on this machine alone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        store = {"object_store_memory": 80 * 2**20}
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40, **store)
        yield ray
        ray.shutdown()
