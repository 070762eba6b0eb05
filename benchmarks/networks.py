"""Which networks the engine runs, and how: fast passes beside a plain loop, architecture by architecture.

    python -m benchmarks.measure networks

writes docs/measured/networks.json; `python -m benchmarks.tables` writes the table of docs/networks.md. A row is kept
after each network in outputs/measured/networks.json, so that a run that was stopped continues. Weights are random,
nothing is downloaded; BN statistics are those of a mini-batch of noise, so that activations stay in range.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.architectures import NETWORKS
from benchmarks.plain_loop import DRAWS, SIZES, largest_difference, noise_images, plain, random_bank, settle
from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import SegmentError, one_line
from segment.files.versions import versions
from segment.files.writing import write_json
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST, Passes

ALLOWED, TIMES_NOISE = 1e-4, 4.0
"""Largest difference in probability that counts as none; or so many times what float32 costs, where that is more."""

NOISY = 1e-3
"""Float32's own cost in probability from which on a comparison shows little: dynamic weights amplify a draw's shift."""

Outcome = Literal["equal", "different", "refused", "not built", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one network did in the survey.

    outcome: fast passes equal the plain loop, or not; the engine refuses the network; its library does not build it; or
    something else was raised
    stochastic, fixed, refused: BN layers
    way: how passes ran in the end, see `segment.passes.passes.Passes.way`
    difference: largest in probability, fast passes against the plain loop; noise: that loop against float64
    seconds, plain_seconds: of a pass
    message: what was refused, raised or logged
    """

    network: str
    outcome: Outcome
    stochastic: int = 0
    fixed: int = 0
    refused: int = 0
    way: str = ""
    difference: float | None = None
    noise: float | None = None
    seconds: float | None = None
    plain_seconds: float | None = None
    message: str = ""


def examine(uri: str) -> Row:
    """Build the network with random weights, and compare its fast passes with a plain loop."""
    logged: list[str] = []
    try:
        with _collect_log(logged):
            network = _build(uri)
            settle(network)
    except SegmentError as error:
        return Row(network=uri, outcome="not built", message=one_line(error, 300))
    except Exception as error:  # the survey continues whatever a library raises
        return Row(network=uri, outcome="not built", message=f"{type(error).__name__}: {one_line(error, 300)}")
    logged.clear()
    try:
        with _collect_log(logged):
            row = compare(network)
            if (row.noise or 0) > NOISY:
                row = compare(_build(uri))
                logged.append("With the running statistics it is built with: under others float32 costs too much.")
            return replace(row, network=uri, message=" ".join(dict.fromkeys(logged)))
    except SegmentError as error:
        return replace(_counts_or_none(network), network=uri, outcome="refused", message=one_line(error, 300))
    except Exception as error:  # a defect of ours, which the survey lists
        where = _place_of(error)
        return replace(
            _counts_or_none(network),
            network=uri,
            outcome="failed",
            message=f"{type(error).__name__} at {where}: {one_line(error, 300)}",
        )


def _build(uri: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # libraries draw initial weights from the process's generator
        return load_network(uri)


def compare(network: Network) -> Row:
    """Fast passes and a plain loop over the same images and draws."""
    drawn = bn_network_of(network)
    bank = random_bank(drawn)
    images = noise_images()
    passes = Passes(drawn, bank, FAST)
    outputs = [[output.clone() for output in passes(image)] for image in images]
    fast, _ = _timed(lambda: passes(images[0]))
    slow, first = _timed(lambda: plain(network, bank, images[0]))
    expected = [first, *(list(plain(network, bank, image)) for image in images[1:])]
    difference = largest_difference(outputs, expected)
    noise = 0.0
    for image, of_image in zip(reversed(images), reversed(expected), strict=True):
        noise = max(noise, _float32_noise(network, bank, image, of_image))
        equal = difference <= max(ALLOWED, TIMES_NOISE * noise)  # False for a NaN
        if equal:
            break
    return replace(
        _counts(drawn),
        outcome="equal" if equal else "different",
        way=passes.way,
        difference=_rounded(difference),
        noise=_rounded(noise),
        seconds=_rounded(fast),
        plain_seconds=_rounded(slow),
    )


def _float32_noise(network: Network, bank: Bank, image: Tensor, expected: list[Tensor]) -> float:
    """What float32 costs the plain loop on one image, in the kernels of either layout."""
    exact = [list(plain(network, bank, image, torch.float64))]
    channels_last = list(plain(network, bank, image.contiguous(memory_format=torch.channels_last)))
    return max(largest_difference([outputs], exact) for outputs in (expected, channels_last))


def survey_networks(out: Path, networks: Sequence[str]) -> None:
    """Write a row for each network to `out`; rows that the same versions wrote there before are kept.

    Errors: none for a network that fails, whose row says so.
    """
    installed = versions()
    rows: dict[str, dict[str, Any]] = {}
    if out.is_file():
        kept = json.loads(out.read_text(encoding="utf-8"))
        if kept["versions"] == installed:
            rows = {row["network"]: row for row in kept["networks"]}
    for uri in networks:
        if uri not in rows:
            start = time.perf_counter()
            row = rows[uri] = asdict(examine(uri))
            seconds = time.perf_counter() - start
            sys.stdout.write(
                f"{seconds:5.1f} s  {row['outcome']:9} {row['way']:6} {uri}  {row['difference']}  {row['message']}\n"
            )
            sys.stdout.flush()
            gc.collect()
        measured = [rows[name] for name in networks if name in rows]
        write_json(out, {"versions": installed, "networks": measured})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("outputs/measured/networks.json"))
    parser.add_argument("--only", default="", help="measure only networks whose URI contains one of these, by commas")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)  # seconds in docs/networks.md are those of one core
    parts = arguments.only.split(",")
    survey_networks(arguments.out, [uri for uri in NETWORKS if any(part in uri for part in parts)])


@contextmanager
def _collect_log(lines: list[str]) -> Iterator[None]:
    """What the engine logs in this block, warnings and the reasons behind them."""

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("segment.passes"), Kept()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _counts(network: BatchNormNetwork) -> Row:
    count = Counter(layer.status for layer in network.layers)
    return Row(
        network="", outcome="equal", stochastic=count["stochastic"], fixed=count["fixed"], refused=count["refused"]
    )


def _counts_or_none(network: Network) -> Row:
    try:
        return _counts(survey(network.module, network, torch.zeros((1, 3, *SIZES[0]))))
    except Exception:  # it was refused before its layers could be listed
        return Row(network="", outcome="refused")


def _timed(run: Callable[[], Iterator[Tensor]]) -> tuple[float, list[Tensor]]:
    """Seconds a pass, and the outputs."""
    start = time.perf_counter()
    outputs = [output.clone() for output in run()]
    return (time.perf_counter() - start) / DRAWS, outputs


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _place_of(error: BaseException) -> str:
    import traceback

    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/segment/" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "another library"


if __name__ == "__main__":
    main()
