"""Passes beside other threads: each thread's numbers are its own, and a network is listed as it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from plain import Toy, calibrated, noise, plain_loop, random_bank, seeded, surveyed
from torch import Tensor, nn

import segment
from segment.draws.recording import record
from segment.networks.preserve_state import StateKeeper, preserve_state
from segment.passes.passes import Passes, PassPlan
from segment.tracing import trace as tracing

FAST = PassPlan(channels_last=True, fuse=True)


class Meets(Toy):
    """Calls a function at every pass."""

    meet: Callable[[], object] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.meet is not None:
            self.meet()
        return super().forward(x)


class Random(Toy):
    """Adds noise of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.3 * torch.randn_like(x))


def in_thread(work: Callable[[], object]) -> None:
    """Run it in another thread until its end. Errors: its own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


def test_numbers_that_another_thread_draws_during_a_pass_never_come_again() -> None:
    module = calibrated(seeded(Meets), (32, 32))
    network, image, batch = surveyed(module), noise(1, 3, 32, 32), noise(4, 3, 32, 32, seed=2)
    bank = random_bank(network)
    drawn: list[float] = []
    module.meet = lambda: in_thread(lambda: drawn.append(float(torch.rand(()))))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        list(Passes(network, bank, PassPlan(share=False))(image))
        list(record(network, [batch, batch]))
        torch.default_generator.manual_seed(0)
        assert len(drawn) >= len(bank) + 2
        assert drawn == [float(torch.rand(())) for _ in drawn]


@pytest.mark.parametrize("plan", [PassPlan(share=False), PassPlan(), FAST])
def test_a_network_that_draws_nothing_has_no_generator_seeded(plan: PassPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    network = surveyed(calibrated(seeded(Toy), (32, 32)))
    engine = Passes(network, random_bank(network), plan)

    def forked(*_: object, **__: object) -> None:
        raise AssertionError("a generator was restored")

    monkeypatch.setattr(torch.random, "fork_rng", forked)
    list(engine(noise(1, 3, 32, 32)))
    list(engine(noise(1, 3, 32, 32, seed=1)))


def test_networks_that_draw_have_the_same_numbers_in_threads_as_alone() -> None:
    networks = [surveyed(calibrated(seeded(Random, seed), (32, 32))) for seed in (0, 1)]
    engines = [Passes(network, random_bank(network), PassPlan(share=False)) for network in networks]
    image = noise(1, 3, 32, 32)

    def several(engine: Passes) -> list[Tensor]:
        return [torch.stack(list(engine(image))) for _ in range(20)]

    alone = [several(engine)[0] for engine in engines]
    with ThreadPoolExecutor(2) as threads:
        for made, expected in zip(threads.map(several, engines), alone, strict=True):
            for outputs in made:
                torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


def test_a_number_that_another_thread_draws_makes_no_call_random(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    moved_since = tracing.moved_since  # type: ignore[attr-defined]

    def moved(states: list[Tensor]) -> bool:
        asked.append(None)
        return len(asked) == 5 or moved_since(states)

    module = calibrated(seeded(Toy), (32, 32))
    expected = [(call.random, call.origin) for call in surveyed(module).calls]
    monkeypatch.setattr(tracing, "moved_since", moved)
    assert [(call.random, call.origin) for call in surveyed(module).calls] == expected
    assert len(asked) > len(expected), "what looks random is confirmed by another pass"
    assert any(call.random for call in surveyed(calibrated(seeded(Random), (32, 32))).calls)


def test_a_network_is_listed_while_another_thread_runs_it() -> None:
    module = calibrated(seeded(Meets), (32, 32))
    expected = surveyed(module)

    def meet() -> None:
        if threading.current_thread() is threading.main_thread():
            in_thread(lambda: module(noise(1, 3, 32, 32)))

    module.meet = meet
    listed = surveyed(module)
    assert [(layer.name, layer.call) for layer in listed.layers] == [
        (layer.name, layer.call) for layer in expected.layers
    ]
    assert [call.module for call in listed.calls] == [call.module for call in expected.calls]


class Counting(Toy):
    """Counts its passes in a buffer, and subtracts the count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return super().forward(x - self.count)


def test_a_network_that_writes_to_its_buffers_has_the_same_numbers_in_threads_as_alone() -> None:
    module = calibrated(seeded(Counting), (32, 32))
    module.count.zero_()
    network = segment.load_network(module)
    made = segment.MCBN(network, segment.fit_bank(network, noise(8, 3, 32, 32), batch=4, draws=3), precision="fp32")
    images = [noise(1, 3, 32, 32, seed=seed) for seed in range(4)]
    expected = [made(image).probability for image in images]

    def several(number: int) -> bool:
        return all(torch.equal(made(images[number]).probability, expected[number]) for _ in range(10))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(several, range(4)))
    assert torch.equal(made(images[0]).probability, expected[0])
    assert float(network.module.get_buffer("count").abs().max()) == 0


class Waits(Toy):
    """Lets another thread go on in the middle of a pass."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        time.sleep(0.01)
        return self.head(self.bn2(self.conv2(self.dropout(y))).relu())


def test_a_network_in_train_mode_is_in_eval_mode_until_its_last_pass_has_ended() -> None:
    module = calibrated(seeded(Waits), (32, 32))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    bank = random_bank(network)
    expected = plain_loop(module, bank, image)
    module.train()
    flags = [part.training for part in module.modules()]

    def off(_: int) -> float:
        outputs = torch.stack(list(Passes(network, bank, PassPlan(share=False))(image)))
        return float((outputs - expected).abs().max())

    with ThreadPoolExecutor(3) as threads:
        assert max(threads.map(off, range(9))) < 1e-4
    assert [part.training for part in module.modules()] == flags


class Interrupts(nn.Module):
    """Raises when its flag is set, as Ctrl-C may anywhere."""

    armed = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" and self.armed:
            self.armed = False
            raise KeyboardInterrupt
        super().__setattr__(name, value)


def test_flags_are_restored_where_a_block_was_interrupted_as_it_began_and_in_a_wrapper() -> None:
    module = nn.Sequential(nn.Dropout(), Interrupts(), nn.Dropout()).train()
    module[1].armed = True  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt), preserve_state(module):
        pass
    assert all(part.training for part in module.modules())
    inner, outer = preserve_state(module), preserve_state(nn.Sequential(module))
    with ExitStack() as outside:
        with inner:
            outside.enter_context(outer)
        assert not any(part.training for part in module.modules())
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("values", [torch.zeros(8), torch.zeros(1), torch.full((4,), 0.1, dtype=torch.float64)])
def test_a_buffer_that_got_another_shape_or_type_between_two_blocks_comes_back_as_it_is(values: Tensor) -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(4))
    keeper = StateKeeper(module)
    with keeper():
        pass
    kept = module.get_buffer("kept")
    kept.data = values.clone()
    with keeper():
        kept.add_(1)
    assert kept.dtype == values.dtype
    assert torch.equal(kept, values)
