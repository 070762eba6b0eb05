"""Fixtures that more than one test module uses."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from console import fitted, training
from golden_pictures import Golden
from hypothesis import settings
from plain import Toy, calibrated, noise, random_bank, seeded
from small_networks import Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.estimation.estimator import Estimator
from segment.jobs.progress import EVENTS
from segment.networks.load import Network, load_network
from segment.passes.fused import onednn
from segment.runners.quiet import QUIET

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no question to the network when it is imported

# no deadline: a busy machine is no defect; in CI the same examples each time, so that a change is judged by itself
settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steady")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds a bank that an earlier run of the tests, or the user, has kept."""
    os.environ["SEGMENT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _what_a_command_sets_for_its_process() -> Iterator[None]:
    """Torch's threads and the levels of our loggers, set back: many tests run commands in this process."""
    threads, loggers = torch.get_num_threads(), [logging.getLogger(name) for name in ("segment", EVENTS.name)]
    levels = [logger.level for logger in loggers]
    yield
    torch.set_num_threads(threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that has its instructions; on others torch gives such numbers too, slowly."""
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: True)


@pytest.fixture
def toy() -> Toy:
    """Two BN layers, K = 4, running statistics of a few random batches, eval mode."""
    return calibrated(seeded(Toy), (32, 32))


@pytest.fixture
def image() -> Tensor:
    """One image as a network gets it: 1 3 32 32."""
    return noise(1, 3, 32, 32, seed=1)


@pytest.fixture(scope="module")
def network() -> Network:
    """`scenes`; each module has its own, so that a change to it goes no further."""
    return load_network("scenes")


@pytest.fixture(scope="module")
def small_and_bank() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(Small), (32, 32)))
    return network, random_bank(bn_network_of(network))


@pytest.fixture(scope="session")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of statistics images; no test writes there."""
    return training(tmp_path_factory.mktemp("statistics"))


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory, statistics: Path) -> Path:
    """The file of a bank of `scenes`, recorded by the command line; no test writes to it."""
    return fitted(tmp_path_factory.mktemp("bank") / "bank.safetensors", statistics)


@pytest.fixture
def no_fast_path_given_up(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the trace says was right: no comparison with plain passes had to find that a fast path was wrong."""
    yield
    messages = [record.getMessage() for record in caplog.get_records("call")]
    assert not [message for message in messages if "other numbers than a plain pass" in message]


@pytest.fixture
def batches_timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that `auto` has timed; two images at once are best: one takes 1 s, 0.6 s, 0.59 s."""
    sizes: list[int] = []

    def seconds(_: Estimator, images: Tensor) -> float:
        sizes.append(len(images))
        return {1: 1.0, 2: 1.2, 4: 2.35}[len(images)]

    monkeypatch.setattr("segment.estimation.batching._seconds", seconds)
    return sizes


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    """The pictures beside the tests that pictures are compared with."""
    return Golden(Path(__file__).parent / "pictures" / "golden", tmp_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server that speaks S3, with a bucket `bucket`."""
    from s3_server import s3_server

    with s3_server() as started:
        yield started


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two cores and a small object store, on this machine alone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init("local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()
