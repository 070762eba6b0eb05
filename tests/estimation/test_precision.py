"""Half precision is taken where its rounding is small and it is faster beyond the noise of its pairs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain import Toy, calibrated, noise, random_bank, seeded, surveyed
from small_networks import InNumpy
from torch import Tensor

import segment.estimation.precision as precision_module
from segment.batch_norm.layers import BatchNormNetwork
from segment.estimation.precision import LIMIT, NOT_AUDITED, NOT_IN_FP32, ONE_DRAW, audit, choose
from segment.passes.fused import onednn


def network_of(build: type[Toy] = Toy) -> BatchNormNetwork:
    return surveyed(calibrated(seeded(build), (32, 32)))


def figures(error: float, low: float, middle: float, high: float) -> dict[str, Any]:
    return {"bf16": {"variance_error": error, "speed": middle, "speed_low": low, "speed_high": high}}


def test_a_processor_without_bfloat16_is_not_audited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    monkeypatch.setattr(precision_module, "mcbn", None)  # no pass is made
    network = network_of()
    audited = audit(network, random_bank(network), [noise(1, 3, 32, 32)], "softmax")
    assert choose(audited) == ("fp32", NOT_AUDITED)


def test_a_bank_of_one_draw_says_why_it_was_not_audited() -> None:
    network = network_of()
    audited = audit(network, random_bank(network, draws=1), [noise(1, 3, 32, 32)], "softmax")
    assert audited == {"bf16": {"reason": ONE_DRAW}}
    assert choose(audited) == ("fp32", ONE_DRAW)


@pytest.mark.usefixtures("bfloat16")
def test_whatever_a_network_raises_in_half_precision_is_the_reason() -> None:
    network = network_of(InNumpy)
    audited = audit(network, random_bank(network), [noise(1, 3, 32, 32)], "softmax")
    reason = audited["bf16"]["reason"]
    assert reason.startswith("this network does not work in bf16: TypeError: ")
    assert "BFloat16" in reason
    assert choose(audited) == ("fp32", reason)


class Overflowing(Toy):
    """Its outputs are NaN in every precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0 * 0


@pytest.mark.usefixtures("bfloat16")
def test_an_output_that_is_not_finite_in_fp32_is_not_blamed_on_half_precision() -> None:
    network = network_of(Overflowing)
    audited = audit(network, random_bank(network), [noise(1, 3, 32, 32)], "softmax")
    reason = audited["bf16"]["reason"]
    assert reason.startswith(NOT_IN_FP32)
    assert "not finite" in reason
    assert choose(audited) == ("fp32", reason)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("draws", [2, 3, 12])
def test_each_half_precision_has_its_error_and_the_spread_of_its_speed(draws: int) -> None:
    network = network_of()
    images = [noise(1, 3, 32, 32, seed=seed) for seed in range(2)]
    (result,) = audit(network, random_bank(network, draws=draws), images, "softmax").values()
    assert 0 < result["variance_error"] < 1
    assert 0 < result["speed_low"] <= result["speed"] <= result["speed_high"]


@given(st.floats(0, 0.2), st.lists(st.floats(0.1, 4), min_size=3, max_size=3))
def test_a_format_is_faster_only_where_three_quarters_of_its_pairs_say_so(error: float, speeds: list[float]) -> None:
    low, middle, high = sorted(speeds)
    chosen, why = choose(figures(error, low, middle, high))
    assert (chosen == "bf16") == (error < LIMIT and low > 1.05)
    assert "variance map" in why


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(("half", "expected"), [(0.5, "bf16"), (1.0, "fp32"), (2.0, "fp32")])
@pytest.mark.parametrize("busy", [1.0, 7.0])
def test_the_choice_is_the_same_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, half: float, expected: str, busy: float
) -> None:
    """Passes take turns; in the second half of the audit all of them take `busy` times as long."""
    calls = itertools.count()

    def now(device: object) -> float:
        now.clock += 0.0  # type: ignore[attr-defined]
        call = next(calls)
        if call % 2:  # the end of a pass
            seconds = (half if call // 2 % 2 else 1.0) * (busy if call > 20 else 1.0)
            now.clock += seconds  # type: ignore[attr-defined]
        return now.clock  # type: ignore[attr-defined]

    now.clock = 0.0  # type: ignore[attr-defined]
    monkeypatch.setattr(precision_module, "_now", now)
    network = network_of()
    audited = audit(network, random_bank(network, draws=8), [noise(1, 3, 32, 32)] * 2, "softmax")
    audited["bf16"]["variance_error"] = 0.01
    assert choose(audited)[0] == expected
