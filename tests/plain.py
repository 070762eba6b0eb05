"""MCBN the plain way, which the engine is held to: statistics swapped in by hand, T passes stacked, NumPy in float64.

Nothing here uses segment's passes, moments or measures, but `passes`, which runs what is compared.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.draws.bank import Bank
from segment.passes.passes import Passes, PassPlan

Floats = NDArray[np.float64]
Forward = Callable[[nn.Module, Tensor], Tensor]
M = TypeVar("M", bound=nn.Module)


class Toy(nn.Module):
    """Two BN layers, dropout between them, K = 4."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N K H W
        x = self.dropout(self.bn1(self.conv1(x)).relu())
        return self.head(self.bn2(self.conv2(x)).relu())


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise_without_ties(run: Callable[[Tensor], object], *shape: int, seed: int = 0) -> Tensor:  # -> N C H W
    """Noise where no pool that gives positions has a second value just below its largest.

    Rounding, which is another on another processor, then moves no position, and so no value that is put back there.
    run: the passes that an image goes through
    """
    images, most = [], 100
    for seed_of_image in range(1000 * seed, 1000 * seed + most * shape[0]):
        image = noise(1, *shape[1:], seed=seed_of_image)
        with _NearTies() as near:
            run(image)
        if not near.found:
            images.append(image)
        if len(images) == shape[0]:
            return torch.cat(images)
    raise AssertionError(f"{len(images)} of {shape[0]} images without ties")


class _NearTies(TorchFunctionMode):
    """Whether the two largest values of a pool that gives positions lay nearer than rounding should bring them."""

    found = False

    def __torch_function__(
        self,
        called: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if called is functional.max_pool2d_with_indices:
            x = args[0]
            size, stride, padding = args[1], given["stride"], given["padding"]
            padded = functional.pad(x, (padding,) * 4, value=float("-inf"))
            largest = padded.unfold(2, size, stride).unfold(3, size, stride).flatten(-2).topk(2).values
            apart = (largest[..., 0] - largest[..., 1]) / x.abs().amax()
            self.found |= bool(((apart > 0) & (apart < 1e-5)).any())  # equal ones were made of equal values
        return called(*args, **given)


def two_images(side: int = 64) -> Tensor:  # -> 2 3 H W
    """Uniform in 0..1; wider than high, so that exchanged axes show."""
    return torch.rand(2, 3, side, side + 32, generator=torch.Generator().manual_seed(1))


def seeded(build: Callable[[], M], seed: int = 0) -> M:
    """A module whose parameters come from a seed (He's scale) and whose process-wide RNG use leaves no trace."""
    with torch.random.fork_rng(devices=[]):
        module = build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, value in part.named_parameters(recurse=False):
                if isinstance(part, nn.PReLU):
                    continue
                fan_in = value[0].numel() if value.ndim > 1 else 0
                drawn = torch.randn(value.shape, generator=generator)
                value.copy_(drawn * (2 / fan_in) ** 0.5 if fan_in else 0.1 * drawn + float(name == "weight"))
    return module


def calibrated(module: M, size: tuple[int, int] = (64, 64), channels: int = 3) -> M:
    """The module in eval mode, its running statistics those of a few random batches."""
    layers = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # a plain average of the batches
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module.train()
        for seed in range(2):
            module(noise(4, channels, *size, seed=100 + seed))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return module.eval()


def surveyed(module: nn.Module, size: tuple[int, int] = (32, 32), channels: int = 3) -> BatchNormNetwork:
    return survey(module, module, noise(1, channels, *size, seed=7))


def in_eval_mode(module: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(module).eval()(image)


def random_bank(network: BatchNormNetwork, draws: int = 3, seed: int = 0, spread: float = 0.3) -> Bank:
    """Statistics around the trained ones (or around 0 and 1), weights not all equal."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(draws):
        draw = {}
        for layer in network.stochastic:
            zeros = torch.zeros(layer.channels)
            mean, var = layer.trained or (zeros, zeros + 1)
            shift, scale = torch.randn((2, layer.channels), generator=generator)
            draw[layer.name] = (
                mean.float() + spread * var.float().sqrt() * shift,
                var.float() * (spread * scale).exp(),
            )
        made.append(draw)
    equal = Bank.of_draws(made)
    weights = torch.arange(1.0, draws + 1)
    return Bank(weights / weights.sum(), equal.mean, equal.var)


def plain_loop(
    module: nn.Module, bank: Bank, image: Tensor, forward: Forward | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:  # T N K ...
    """Running statistics replaced by each draw's in turn, eval mode, every output kept."""
    swapped = copy.deepcopy(module).to(dtype)
    for part in swapped.modules():
        part.training = False
    outputs = []
    for t in range(len(bank)):
        for name in bank.layers:
            layer: Any = swapped if name == "(root)" else swapped.get_submodule(name)
            layer.running_mean = bank.mean[name][t].to(dtype)
            layer.running_var = bank.var[name][t].to(dtype)
        with torch.inference_mode(mode=False), torch.no_grad():
            given = image.to(dtype).clone()
            outputs.append(swapped(given) if forward is None else forward(swapped, given))
    return torch.stack(outputs)


def passes(network: BatchNormNetwork, bank: Bank, images: Tensor, plan: PassPlan | None = None) -> Iterator[Tensor]:
    """The outputs (N K ...) of the network under each draw of the bank, in order."""
    yield from Passes(network, bank, plan)(images)


def probabilities_of(logits: NDArray[Any], head: str = "softmax") -> Floats:  # T N K' ... -> T N K ...
    z = np.asarray(logits, np.float64)
    if head == "softmax":
        e = np.exp(z - z.max(axis=2, keepdims=True))
        return e / e.sum(axis=2, keepdims=True)
    p = 1 / (1 + np.exp(-z))
    return np.concatenate([1 - p, p], axis=2) if head == "sigmoid" else p


def xlogx(p: Floats) -> Floats:
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)


def plain_measures(p: Floats, weights: Sequence[float], head: str = "softmax") -> dict[str, Floats]:
    """All nine measures (N ...) of T draws' probabilities (T N K ...), by their definitions, all draws at hand."""
    if head == "multilabel":
        labels = [
            plain_measures(np.stack([1 - p[:, :, k], p[:, :, k]], axis=2), weights, "sigmoid")
            for k in range(p.shape[2])
        ]
        return {name: np.mean([label[name] for label in labels], axis=0) for name in labels[0]}
    w = np.asarray(weights, np.float64) / np.sum(np.asarray(weights, np.float64))
    mean = np.einsum("t,t...->...", w, p)  # N K ...
    var = np.einsum("t,t...->...", w, (p - mean) ** 2)
    mask = mean.argmax(axis=1)[:, None]
    predictive = -xlogx(mean).sum(axis=1)
    expected = np.einsum("t,t...->...", w, -xlogx(p).sum(axis=2))
    ordered = np.sort(mean, axis=1)
    votes = np.stack([np.einsum("t,t...->...", w, p.argmax(axis=2) == k) for k in range(p.shape[2])], axis=1)
    spread = np.take_along_axis(var, mask, axis=1)[:, 0]
    effective = 1 / (w**2).sum()
    return {
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": predictive - expected,
        "variance": var.mean(axis=1),
        "predicted_std": np.sqrt(spread),
        "one_minus_max": 1 - mean.max(axis=1),
        "margin": 1 - (ordered[:, -1] - ordered[:, -2]),
        "variation_ratio": 1 - votes.max(axis=1),
        "standard_error": np.sqrt(spread / (effective - 1)) if effective > 1 else np.full_like(spread, np.nan),
    }


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything about a module and the process that a borrower must give back: values, identities, flags, hooks."""
    state: dict[str, Any] = {}
    for name, part in module.named_modules():
        state[f"{name} training"] = part.training
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{name} {kind}"] = tuple(getattr(part, kind))
        for kind in ("_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
            state[f"{name} {kind}"] = tuple(getattr(part, kind))
        state[f"{name} type"] = (type(part), part.__dict__.get("forward"), part.__dict__.get("train"))
    for name, value in (*module.named_buffers(remove_duplicate=False), *module.named_parameters()):
        state[name] = (id(value), value.dtype, value.device, value.requires_grad, value.detach().clone())
        state[f"{name} gradient"] = value.grad is None
    state["torch RNG"] = torch.get_rng_state()
    state["numpy RNG"] = str(np.random.get_state())  # noqa: NPY002 - the process-wide one is what must not move
    state["python RNG"] = random.getstate()
    state["modes"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
    state["torch function modes"] = torch._C._len_torch_function_stack()
    return state


def assert_same_state(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    assert list(before) == list(after)
    for name, value in before.items():
        for first, two in zip(_parts(value), _parts(after[name]), strict=True):
            same = torch.equal(first, two) if isinstance(first, Tensor) else first == two
            assert same, f"{name}: {first} was given back as {two}"


def _parts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple) else (value,)
