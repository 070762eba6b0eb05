"""A draw is the joint batch statistics of one random training mini-batch; a bank keeps draws to the bit."""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Toy, assert_same_state, calibrated, noise, passes, random_bank, seeded, state_of, surveyed
from safetensors.torch import load, save
from small_networks import Backwards
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.identity import identified
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import biased_statistics, record
from segment.errors import BankRefused, ModelRefused, PredictionFailed, WrongUse
from segment.files.banks.bank_file import load_bank, save_bank
from segment.networks.load import load_network


def by_hand(toy: Toy, batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Both layers' inputs in float64 when each BN normalises with the batch, and the logits, without dropout."""
    toy = copy.deepcopy(toy).double().eval()
    with torch.no_grad():
        first = toy.conv1(batch.double())
        x = functional.batch_norm(first, None, None, toy.bn1.weight, toy.bn1.bias, training=True).relu()
        two = toy.conv2(x)
        x = functional.batch_norm(two, None, None, toy.bn2.weight, toy.bn2.bias, training=True).relu()
        return {"bn1": first, "bn2": two}, toy.head(x)


# --- recording (law 1) ---


def test_a_draw_replayed_on_its_own_mini_batch_reproduces_train_mode(toy: Toy) -> None:
    batch, network = noise(4, 3, 20, 28), surveyed(toy)
    (replayed,) = passes(network, Bank.of_draws(list(record(network, [batch]))), batch)
    training = copy.deepcopy(toy).train()
    training.dropout.eval()
    with torch.no_grad():
        torch.testing.assert_close(replayed, training(batch), rtol=0, atol=1e-5)


def test_a_draw_holds_the_biased_variance_of_already_normalised_activations(toy: Toy) -> None:
    batch = noise(3, 3, 4, 4)  # 48 values a channel: n and n - 1 differ by 2 %
    (draw,) = record(surveyed(toy), [batch])
    inputs, _ = by_hand(toy, batch)
    for name, x in inputs.items():
        flat = x.transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(draw[name][0], flat.mean(axis=1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(draw[name][1], flat.var(axis=1, ddof=0), rtol=1e-5)
        assert (np.abs(draw[name][1].numpy() / flat.var(axis=1, ddof=1) - 1) > 0.01).all()
        assert draw[name][0].dtype == draw[name][1].dtype == torch.float32


def test_dropout_stays_off_while_recording(toy: Toy) -> None:
    batch = noise(4, 3, 16, 16)
    toy.train()
    (first,), (two,) = record(surveyed(toy), [batch]), record(surveyed(toy), [batch])
    inputs, _ = by_hand(toy, batch)
    for name in first:
        assert torch.equal(first[name][0], two[name][0])
        torch.testing.assert_close(first[name][0].double(), inputs[name].mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_dropout_that_asks_its_modules_flag_stays_off_too() -> None:
    class Flagged(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(functional.dropout(x, 0.5, self.training))

    module = calibrated(seeded(Flagged))
    (first,) = record(surveyed(module), [noise(4, 3, 16, 16)])
    (two,) = record(surveyed(calibrated(seeded(Toy))), [noise(4, 3, 16, 16)])
    assert torch.equal(first["bn1"][0], two["bn1"][0])


def test_a_layer_left_out_still_normalises_by_its_mini_batch_while_the_others_are_recorded(toy: Toy) -> None:
    batch, network = noise(4, 3, 16, 16), surveyed(toy)
    (everything,), (part,) = record(network, [batch]), record(network.select("bn2"), [batch])
    assert list(part) == ["bn2"]
    assert torch.equal(part["bn2"][0], everything["bn2"][0])


def test_a_draw_depends_on_its_own_mini_batch_only(toy: Toy) -> None:
    network = surveyed(toy)
    batches = [noise(3, 3, 16, 16, seed=seed) for seed in range(3)]
    together = list(record(network, batches))
    for batch, draw in zip(reversed(batches), reversed(together), strict=True):
        (alone,) = record(network, [batch])
        assert all(torch.equal(alone[name][part], draw[name][part]) for name in draw for part in (0, 1))


def test_the_order_of_a_mini_batch_changes_a_draw_by_rounding_only(toy: Toy) -> None:
    batch, network = noise(5, 3, 16, 16), surveyed(toy)
    (first,), (two,) = record(network, [batch]), record(network, [batch.flip(0)])
    for name in first:
        torch.testing.assert_close(first[name][0], two[name][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_keep_their_digits_where_the_mean_is_far_above_the_deviation(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    x = 1000 + noise(*shape)
    x = x.contiguous(memory_format=layout) if x.ndim == 4 else x
    mean, var = biased_statistics(x)
    flat = x.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(mean, flat.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(var, flat.var(axis=1), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_taken_in_float32(dtype: torch.dtype) -> None:
    x = (100 + noise(64, 2, 16, 16)).to(dtype)
    mean, var = biased_statistics(x)
    assert mean.dtype == var.dtype == torch.float32
    flat = x.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(mean, flat.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(var, flat.var(axis=1), rtol=1e-4)


def test_recording_in_bf16_gives_float32_statistics_near_those_of_fp32(toy: Toy) -> None:
    batch, network = noise(4, 3, 16, 16), surveyed(toy)
    (exact,), (rounded,) = record(network, [batch]), record(network, [batch], precision="bf16")
    for name in exact:
        assert rounded[name][0].dtype == torch.float32
        torch.testing.assert_close(rounded[name][1], exact[name][1], rtol=0.05, atol=0)
        assert not torch.equal(rounded[name][1], exact[name][1])


def test_statistics_that_are_not_finite_are_refused_by_layer(toy: Toy) -> None:
    batch = noise(2, 3, 16, 16)
    batch[0, 0, 0, 0] = float("nan")
    with pytest.raises(PredictionFailed, match="statistics of BN layer 'bn1' are not finite"):
        list(record(surveyed(toy), [batch]))


def test_a_network_that_calls_its_layers_in_another_order_is_refused() -> None:
    class Forked(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[-1] > 20 else self.head(self.bn1(self.conv1(x)))

    network = surveyed(calibrated(seeded(Forked)))
    with pytest.raises(ModelRefused, match="another way"):
        list(record(network, [noise(2, 3, 16, 16)]))


def recorded_with(toy: Toy, forward: Callable[[Tensor], Tensor]) -> Iterator[Any]:
    return record(replace(surveyed(toy), forward=forward), [noise(3, 3, 16, 16, seed=seed) for seed in range(3)])


def test_recording_gives_the_network_back_between_its_draws(toy: Toy) -> None:
    toy.train()
    before = state_of(toy)
    for _ in recorded_with(toy, toy):
        assert_same_state(before, state_of(toy))
    assert_same_state(before, state_of(toy))


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_recording_that_ends_halfway_restores_the_network(raised: type[BaseException]) -> None:
    fails: list[type[BaseException]] = []

    class Failing(Toy):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x + torch.rand(1))
            for each in fails:
                raise each
            return y

    module = seeded(Failing).train()
    network, before = surveyed(module), state_of(module)
    fails.append(raised)
    with pytest.raises(raised):
        list(record(network, [noise(3, 3, 16, 16)]))
    with pytest.raises(raised):
        surveyed(module)
    assert_same_state(before, state_of(module))


# --- mini-batches (law 1, law 4) ---


@given(st.integers(1, 12), st.integers(0, 8), st.integers(0, 2**40), st.integers(1, 6))
def test_no_image_comes_twice_within_a_mini_batch(batch: int, more: int, seed: int, draws: int) -> None:
    for choice in choices(DrawPlan(draws=draws, batch=batch, seed=seed), batch + more):
        assert len(set(choice.images)) == len(choice.seeds) == batch
        assert set(choice.images) <= set(range(batch + more))


def test_more_images_than_there_are_cannot_be_a_mini_batch() -> None:
    with pytest.raises(WrongUse, match=r"mini-batch of 9 images was asked of 8.*mini-batches of 8 or fewer"):
        choices(DrawPlan(batch=9), 8)
    with pytest.raises(WrongUse, match="There are no statistics images"):
        choices(DrawPlan(batch=1), 0)


@pytest.mark.parametrize(("name", "value"), [("draws", 0), ("batch", 0), ("seed", -1)])
def test_a_draw_plan_out_of_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(WrongUse, match=rf"{name} = {value}, but it is an integer from"):
        DrawPlan(**{name: value})


def test_the_first_8_choices_of_16_are_the_choices_of_8() -> None:
    plan = DrawPlan(draws=16, batch=4, seed=5)
    assert choices(plan, 40)[:8] == choices(replace(plan, draws=8), 40)
    assert choices(plan, 40) != choices(replace(plan, seed=6), 40)
    assert len(set(choices(plan, 40))) == 16


def finite_population(toy: Toy, images: Tensor, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """What law 4 says of bn1, in NumPy: variance over draws of the mean, and E[biased variance], each (C)."""
    with torch.no_grad():
        x = toy.conv1(images).double().numpy()  # N C H W
    count = len(x)
    sigma2 = x.mean(axis=(2, 3)).var(axis=0, ddof=0)
    of_mean = sigma2 / batch * (count - batch) / (count - 1)
    return of_mean, x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1).var(axis=1) - of_mean


def test_over_all_mini_batches_the_means_spread_as_a_finite_population_does(toy: Toy) -> None:
    """Every choice of 3 of 6 images once, so that nothing is left to chance."""
    images = noise(6, 3, 12, 12) * torch.arange(1.0, 7).view(6, 1, 1, 1) + torch.arange(6.0).view(6, 1, 1, 1)
    subsets = [list(chosen) for chosen in itertools.combinations(range(6), 3)]
    bank = Bank.of_draws(list(record(surveyed(toy), [images[chosen] for chosen in subsets])))
    of_mean, expected = finite_population(toy, images, 3)
    np.testing.assert_allclose(bank.mean["bn1"].double().var(dim=0, correction=0), of_mean, rtol=1e-4)
    np.testing.assert_allclose(bank.var["bn1"].double().mean(dim=0), expected, rtol=1e-5)


def test_chosen_mini_batches_spread_as_a_finite_population_does(toy: Toy) -> None:
    """T = 600 seeded choices: the standard error of a variance is about sqrt(2 / T) = 6 % of it."""
    images = noise(10, 3, 6, 6) + 0.5 * noise(10, 1, 1, 1, seed=9)
    picks = choices(DrawPlan(draws=600, batch=4, seed=1), 10)
    bank = Bank.of_draws(list(record(surveyed(toy), (images[list(pick.images)] for pick in picks))))
    of_mean, expected = finite_population(toy, images, 4)
    np.testing.assert_allclose(bank.mean["bn1"].double().var(dim=0, correction=0), of_mean, rtol=0.25)
    np.testing.assert_allclose(bank.var["bn1"].double().mean(dim=0), expected, rtol=0.02)


# --- banks ---


@cache
def bank_of_toy(draws: int = 3, build: type[Toy] = Toy) -> Bank:
    """With everything that says whose it is."""
    network = load_network(seeded(build).eval())
    drawn = bn_network_of(network)
    return identified(network, drawn, random_bank(drawn, draws=draws))


def test_a_bank_comes_back_from_its_file_bit_for_bit(tmp_path: Path) -> None:
    bank = bank_of_toy(5)
    bank = replace(bank, mean={name: value.clone() for name, value in bank.mean.items()})
    bank.mean["bn1"][0, :3] = torch.tensor([-0.0, 1e-42, 3e38])  # a negative zero, a subnormal number, a large one
    bank = replace(bank, provenance={**bank.provenance, "network": "Größe", "seed": 3, "size": None, "mine": [0.1]})
    save_bank(bank, tmp_path / "bank.safetensors")
    loaded = load_bank(tmp_path / "bank.safetensors")
    assert loaded.layers == ("bn1", "bn2")
    assert loaded.provenance == bank.provenance
    pairs = [(loaded.weights, bank.weights), *((loaded.mean[n], bank.mean[n]) for n in bank.layers)]
    pairs += [(loaded.var[n], bank.var[n]) for n in bank.layers]
    assert loaded.probe is not None
    assert bank.probe is not None
    assert bank.probe.drawn is not None
    assert loaded.probe.drawn is not None
    pairs += [(loaded.probe.trained, bank.probe.trained), (loaded.probe.drawn, bank.probe.drawn)]
    assert torch.equal(loaded.probe.places, bank.probe.places)
    settings = ("side", "seed", "shape", "noise")
    assert [getattr(loaded.probe, name) for name in settings] == [getattr(bank.probe, name) for name in settings]
    for first, two in pairs:
        assert first.dtype == torch.float32
        assert first.numpy().tobytes() == two.numpy().tobytes()


def test_the_same_bank_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_bank(bank_of_toy.__wrapped__(), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_order_of_layers_is_the_networks_not_the_alphabets(tmp_path: Path) -> None:
    save_bank(bank_of_toy(build=Backwards), tmp_path / "b.safetensors")
    assert load_bank(tmp_path / "b.safetensors").layers == ("bn2", "bn1")


def test_a_bank_is_written_as_safetensors_only(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(WrongUse, match=r"'bank\.pt' is not: add the suffix"):
        save_bank(bank_of_toy(), tmp_path / "bank.pt")
    with pytest.raises(WrongUse, match="written with the probe of its network, and this one has none"):
        save_bank(random_bank(surveyed(toy)), tmp_path / "bank.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_bank_that_is_not_there_is_refused_with_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(BankRefused, match=r"No bank at .*segment fit .*-o none.safetensors"):
        load_bank(tmp_path / "none.safetensors")
    with pytest.raises(BankRefused, match=r"No bank at .*segment fit .*-o bank.safetensors"):
        load_bank("scenes")


def test_a_folder_and_a_card_that_are_given_as_a_bank_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(BankRefused, match="is a folder"):
        load_bank(tmp_path)
    (tmp_path / "card.yaml").write_text("network: smp:Unet\n")
    with pytest.raises(BankRefused, match=r"perhaps a model card\?.*`segment distill` takes the bank before the model"):
        load_bank(tmp_path / "card.yaml")


def written(tmp_path: Path) -> Path:
    save_bank(bank_of_toy(), tmp_path / "bank.safetensors")
    return tmp_path / "bank.safetensors"


def test_a_bank_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BankRefused, match=r"does not read as a bank|is no bank") as refusal:
            load_bank(path)
        assert "\n" not in str(refusal.value)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_bank_with_an_altered_byte_is_refused_or_is_a_whole_bank(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder))
        whole = bytearray(path.read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(whole))
        try:
            assert len(load_bank(path)) == 3
        except BankRefused as refusal:
            message = str(refusal)
        else:
            message = ""
        assert "\n" not in message


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    metadata = json.loads(whole[8 : 8 + size])["__metadata__"]
    tensors = load(whole)
    change(tensors, metadata)
    path.write_bytes(save(tensors, metadata))


def changed_json(metadata: dict[str, str], key: str, **changes: Any) -> None:
    metadata[key] = json.dumps(json.loads(metadata[key]) | changes)


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, str]], Any], str]] = {
    "another version": (lambda _, m: m.update(version="1"), "a bank of format '1', this version reads 2"),
    "another file": (lambda _, m: m.pop("format"), "is no bank: perhaps a weights file"),
    "a layer missing": (lambda t, _: t.pop("bn1.mean"), "does not read as a bank"),
    "no weights": (lambda t, _: t.pop("weights"), "does not read as a bank"),
    "no provenance": (lambda _, m: m.pop("provenance"), "does not read as a bank"),
    "provenance is a list": (lambda _, m: m.update(provenance="[]"), "does not read as a bank"),
    "layers is a number": (lambda _, m: m.update(layers="3"), "does not read as a bank"),
    "layers hold a number": (lambda _, m: m.update(layers='["bn1", 2]'), "does not read as a bank"),
    "no layers": (
        lambda t, m: (m.update(layers="[]"), [t.pop(k) for k in list(t) if k.startswith("bn")]),
        "a mean and a variance for each",
    ),
    "a layer left out": (lambda _, m: m.update(layers='["bn1"]'), "'bn2.mean', which is no part of a bank"),
    "no probe": (lambda _, m: m.pop("probe"), "it has no 'probe'"),
    "no numbers of the probe": (lambda t, _: t.pop("probe.trained"), "it has no 'probe.trained'"),
    "a probe cut short": (lambda t, _: t.update({"probe.drawn": t["probe.drawn"][:5]}), "one number for each"),
    "places outside": (lambda t, _: t["probe.places"][0].fill_(10**9), "outside the outputs"),
    "a probe in float64": (lambda t, _: t.update({"probe.drawn": t["probe.drawn"].double()}), "float32 numbers"),
    "a noise of words": (lambda _, m: changed_json(m, "probe", noise="much"), "noise: Input should be a valid number"),
    "an endless noise": (
        lambda _, m: m.update(probe=m["probe"].replace('"noise": ', '"noise": 1e999, "n": ')),
        "noise: Input should be a finite number",
    ),
    "a gigantic input": (lambda _, m: changed_json(m, "probe", side=10**6), "inputs of 1 to 4096 rows"),
    "an audit that is a list": (lambda _, m: changed_json(m, "provenance", audit=[]), "audit: Input should be a"),
    "an audit of nothing": (lambda _, m: changed_json(m, "provenance", audit={"cpu": {"bf16": {}}}), "audit.cpu.bf16"),
    "another fingerprint": (lambda _, m: changed_json(m, "provenance", fingerprint=3), "fingerprint: Input should be"),
    "a card of words": (lambda _, m: changed_json(m, "provenance", preprocessing="RGB"), "preprocessing: Input should"),
    "distilled perhaps": (lambda _, m: changed_json(m, "provenance", distilled="yes"), "distilled: Input should be a"),
    "endless nesting": (lambda _, m: m.update(provenance="[" * 100_000), "does not read as a bank"),
    "a NaN that JSON has not": (lambda _, m: m.update(provenance='{"seed": NaN}'), "NaN is no number of JSON"),
    "a NaN": (lambda t, _: t["bn1.mean"][0].fill_(float("nan")), "'bn1' of the bank holds a NaN"),
    "an infinity": (lambda t, _: t["bn2.var"][0].fill_(float("inf")), "'bn2' of the bank holds a NaN, an infinity"),
    "a negative variance": (lambda t, _: t["bn2.var"][0, :1].fill_(-1e-9), "negative variance"),
    "a negative weight": (lambda t, _: t["weights"].copy_(torch.tensor([1.5, -0.5, 0])), "at least 0 and sum to 1"),
    "weights of another sum": (lambda t, _: t["weights"].fill_(0.5), "at least 0 and sum to 1"),
    "weights that are NaN": (lambda t, _: t["weights"].fill_(float("nan")), "at least 0 and sum to 1"),
    "weights in two axes": (lambda t, _: t.update(weights=t["weights"][None]), "one number a draw"),
    "no draws": (lambda t, _: t.update({k: v[:0] for k, v in t.items() if "probe" not in k}), "one number a draw"),
    "fewer draws": (lambda t, _: t.update({"bn1.var": t["bn1.var"][:2]}), r"should be \(3, channels\)"),
    "float64": (lambda t, _: t.update({"bn1.mean": t["bn1.mean"].double()}), "float64"),
    "whole numbers": (lambda t, _: t.update({"bn2.var": t["bn2.var"].long()}), "int64"),
    "half weights": (lambda t, _: t.update(weights=t["weights"].half()), "float16"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_bank_is_refused_with_what_is_wrong(tmp_path: Path, what: str) -> None:
    path = written(tmp_path)
    change, message = DAMAGE[what]
    rewritten(path, change)
    with pytest.raises(BankRefused, match=message) as refusal:
        load_bank(path)
    assert "\n" not in str(refusal.value)


def test_the_first_n_draws_have_renormalised_weights(toy: Toy) -> None:
    bank = random_bank(surveyed(toy), draws=4)
    cut = bank.first(2)
    torch.testing.assert_close(cut.weights, torch.tensor([1 / 3, 2 / 3]))
    assert torch.equal(cut.mean["bn1"], bank.mean["bn1"][:2])
    assert torch.equal(cut.var["bn2"], bank.var["bn2"][:2])
    assert bank.first(4) is bank
    for asked in (5, 0, -1):
        with pytest.raises(WrongUse, match=rf"{asked} draws were asked of a bank of 4; ask for 1 to 4"):
            bank.first(asked)
    for wrong in (2.0, 1.5, "2"):
        with pytest.raises(WrongUse, match=rf"draws = {wrong}, but it is an integer"):
            bank.first(wrong)  # type: ignore[arg-type]
    assert torch.equal(bank.first(np.int64(2)).weights, cut.weights)  # type: ignore[arg-type]


def test_a_distilled_bank_is_used_whole(toy: Toy) -> None:
    bank = replace(random_bank(surveyed(toy)), provenance={"distilled": True})
    assert bank.first(3) is bank
    with pytest.raises(WrongUse, match="distilled bank is used whole"):
        bank.first(2)


def test_the_average_of_a_bank_is_one_draw_of_weighted_means(toy: Toy) -> None:
    bank = random_bank(surveyed(toy), draws=4)
    average = bank.average()
    assert len(average) == 1
    w = bank.weights.double().numpy()
    for name in bank.layers:
        np.testing.assert_allclose(average.mean[name][0], w @ bank.mean[name].double().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(average.var[name][0], w @ bank.var[name].double().numpy(), rtol=1e-5)


def test_the_effective_number_of_draws_is_t_for_equal_weights(toy: Toy) -> None:
    draws = list(random_bank(surveyed(toy), draws=7))
    assert Bank.of_draws(draws).effective_draws == pytest.approx(7)
    assert random_bank(surveyed(toy), draws=3).effective_draws == pytest.approx(36 / 14)


def test_a_bank_of_other_layers_or_widths_is_refused_by_name(toy: Toy) -> None:
    network = surveyed(toy)
    bank = random_bank(network)
    bank.check_layers(network)
    renamed = replace(
        bank, mean={f"net.{n}": v for n, v in bank.mean.items()}, var={f"net.{n}": v for n, v in bank.var.items()}
    )
    with pytest.raises(BankRefused, match=r"layer 'net.bn1' \(2 such\), which this network does not have"):
        renamed.check_layers(network)
    narrow = replace(
        bank, mean={n: v[:, :5] for n, v in bank.mean.items()}, var={n: v[:, :5] for n, v in bank.var.items()}
    )
    with pytest.raises(BankRefused, match="'bn1' has 8 channels, but 5 in the bank"):
        narrow.check_layers(network)


def test_a_bank_needs_a_draw() -> None:
    with pytest.raises(WrongUse, match="at least one draw"):
        Bank.of_draws([])


def test_iterating_a_bank_gives_back_what_it_was_made_of(toy: Toy) -> None:
    draws = list(record(surveyed(toy), [noise(2, 3, 16, 16, seed=seed) for seed in range(3)]))
    for draw, stored in zip(draws, Bank.of_draws(draws), strict=True):
        assert all(torch.equal(draw[name][part], stored[name][part]) for name in draw for part in (0, 1))


def test_a_layer_of_the_deep_part_only_can_be_kept(toy: Toy) -> None:
    bank = random_bank(surveyed(toy))
    assert bank.layers_only(["bn2"]).layers == ("bn2",)
    with pytest.raises(BankRefused, match="no draws of layer 'bn9'; it was recorded for 2 layers"):
        bank.layers_only(["bn9"])


def test_a_frozen_encoder_that_overrides_train_is_recorded_and_restored(toy: Toy) -> None:
    class Overriding(Toy):
        def train(self, mode: bool = True) -> Overriding:  # noqa: FBT001, FBT002 - torch's own signature
            super().train(mode)
            self.bn1.training = False
            return self

    module: nn.Module = calibrated(seeded(Overriding))
    module.train()
    before = state_of(module)
    (draw,) = record(surveyed(module), [noise(3, 3, 16, 16)])
    assert_same_state(before, state_of(module))
    assert list(draw) == ["bn1", "bn2"]


@pytest.mark.parametrize(
    "values",
    [
        noise(2**20, 3, seed=3),
        noise(8, 3, 16, 80, 80, seed=3).contiguous(memory_format=torch.channels_last_3d),
        noise(3, 64, 64, 64, seed=3).contiguous(memory_format=torch.channels_last),
        noise(3, 5, 9, 19, seed=3).contiguous(memory_format=torch.channels_last),
    ],
    ids=["N C", "N C D H W", "N C H W", "two groups and one value"],
)
def test_statistics_of_any_layout_are_those_of_float64(values: Tensor) -> None:
    values = values * 2 + 5
    mean, var = biased_statistics(values)
    axes = [axis for axis in range(values.ndim) if axis != 1]
    exact_var, exact_mean = torch.var_mean(values.double(), dim=axes, correction=0)
    assert float(((mean - exact_mean).abs() / exact_var.sqrt()).max()) < 1e-6
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-6, atol=0)


def test_statistics_of_a_million_values_a_channel_are_those_of_float64() -> None:
    values = (noise(40, 3, 160, 160, seed=3) * 2 + 5).contiguous(memory_format=torch.channels_last)
    mean, var = biased_statistics(values)
    exact_var, exact_mean = torch.var_mean(values.double(), dim=(0, 2, 3), correction=0)
    assert float(((mean - exact_mean).abs() / exact_var.sqrt()).max()) < 1e-6
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-6, atol=0)
    narrow = values[:, :, :, :101]  # channels do not lie innermost in memory without gaps
    exact_var = torch.var_mean(narrow.double(), dim=(0, 2, 3), correction=0)[0]
    torch.testing.assert_close(biased_statistics(narrow)[1].double(), exact_var, rtol=1e-6, atol=0)
    torch.testing.assert_close(biased_statistics(narrow.clone())[1].double(), exact_var, rtol=1e-6, atol=0)
