"""A bank: sampled BN statistics, T weighted joint draws of (mean, variance) for each stochastic BN layer.

Must not know how it was recorded, nor where it is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.probe import Probe
from segment.errors import BankRefused, WrongUse, count_of, integer

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""One draw: layer name -> mean, biased variance, each (C) float32."""


@dataclass(frozen=True, repr=False, eq=False)
class Bank:
    """Draws in a random order, so that the first N of a bank are N random draws.

    weights: (T) float32, none negative, sum 1
    mean, var: layer name -> (T, C) float32, in the order in which data reaches the layers; var is biased
    provenance: what it was recorded from, as JSON values; "distilled": true where its draws are no random sample
    probe: what its network computes; None for a bank made by hand (`segment.draws.identity.identified` adds it)
    """

    weights: Tensor
    mean: Mapping[str, Tensor]
    var: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    probe: Probe | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for value in (self.weights, *self.mean.values(), *self.var.values()):
            if value.dtype != torch.float32:
                raise BankRefused(f"A bank holds float32 numbers; this one holds {value.dtype}: record it again.")
        if self.weights.ndim != 1 or len(self.weights) == 0:
            raise BankRefused(f"A bank's weights are one number a draw, not of shape {tuple(self.weights.shape)}.")
        if (
            not torch.isfinite(self.weights).all()
            or self.weights.min() < 0
            or abs(float(self.weights.sum()) - 1) > 1e-4
        ):
            raise BankRefused("A bank's weights are at least 0 and sum to 1; these do not: record it again.")
        if list(self.mean) != list(self.var) or not self.mean:
            raise BankRefused("A bank holds a mean and a variance for each of its layers; here some are missing.")
        for name, mean in self.mean.items():
            var = self.var[name]
            if mean.shape != var.shape or mean.ndim != 2 or len(mean) != len(self.weights):
                raise BankRefused(
                    f"Layer {name!r} of the bank has means {tuple(mean.shape)} and variances {tuple(var.shape)}; "
                    f"both should be ({len(self.weights)}, channels)."
                )
            if not torch.isfinite(mean).all() or not torch.isfinite(var).all() or (var < 0).any():
                raise BankRefused(f"Layer {name!r} of the bank holds a NaN, an infinity or a negative variance.")

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        made = self.provenance
        of = f" of {made['network']}" if "network" in made else ""
        known = {"M": made.get("batch"), "seed": made.get("seed"), "images": made.get("images")}
        parts = [f"T = {len(self)}", *(f"{name} = {value}" for name, value in known.items() if value is not None)]
        kind = ", distilled" if self.distilled else ""
        return f"Bank{of}: {', '.join(parts)}; {count_of(len(self.layers), 'BN layer')} drawn{kind}"

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.mean)

    @property
    def distilled(self) -> bool:
        return bool(self.provenance.get("distilled", False))

    @property
    def effective_draws(self) -> float:
        """T_eff = 1 / sum w^2: T for equal weights."""
        return 1.0 / float((self.weights.double() ** 2).sum())

    def with_draws(self, weights: Tensor, mean: Mapping[str, Tensor], var: Mapping[str, Tensor], **notes: Any) -> Bank:
        """Other draws for the same network; `notes` are added to the provenance."""
        probe = None if self.probe is None else self.probe.of_trained()
        return Bank(weights, mean, var, {**self.provenance, **notes}, probe)

    def first(self, draws: int) -> Bank:
        """The first N draws, weights renormalised. Errors: WrongUse above T, or below it in a distilled bank."""
        draws = integer("draws", draws, least=None)
        if draws == len(self):
            return self
        if not 1 <= draws <= len(self):
            raise WrongUse(
                f"{draws} draws were asked of a bank of {len(self)}; ask for 1 to {len(self)}, or fit a larger one."
            )
        if self.distilled:
            raise WrongUse(
                f"A distilled bank is used whole: its {len(self)} weighted draws belong together. Leave --draws out."
            )
        return self.take(range(draws))

    def take(self, indices: range) -> Bank:
        """The draws of these numbers, in this order, weights renormalised."""
        at = slice(indices.start, indices.stop, indices.step)
        weights = self.weights[at] / self.weights[at].sum()
        return replace(
            self,
            weights=weights,
            mean={name: value[at] for name, value in self.mean.items()},
            var={name: value[at] for name, value in self.var.items()},
        )

    def average(self) -> Bank:
        """One draw: the weighted mean of the means and of the variances (re-estimated BN)."""
        w = self.weights[:, None]
        return self.with_draws(
            torch.ones_like(self.weights[:1]),
            {name: (w * value).sum(dim=0, keepdim=True) for name, value in self.mean.items()},
            {name: (w * value).sum(dim=0, keepdim=True) for name, value in self.var.items()},
            averaged=len(self),
        )

    def layers_only(self, names: Sequence[str]) -> Bank:
        """The same draws, for fewer layers; each was recorded with every BN layer normalised by its mini-batch."""
        missing = [name for name in names if name not in self.mean]
        if missing:
            raise BankRefused(
                f"The bank holds no draws of layer {missing[0]!r}; it was recorded for {len(self.mean)} layers."
            )
        if tuple(names) == self.layers:
            return self
        return self.with_draws(
            self.weights, {name: self.mean[name] for name in names}, {name: self.var[name] for name in names}
        )

    @staticmethod
    def of_draws(draws: Sequence[Statistics], provenance: Mapping[str, Any] | None = None) -> Bank:
        """Equal weights over draws as `recording.record` gives them."""
        if not draws:
            raise WrongUse("A bank needs at least one draw.")
        return Bank(
            torch.full((len(draws),), 1.0 / len(draws), dtype=torch.float32, device="cpu"),
            {name: torch.stack([draw[name][0] for draw in draws]) for name in draws[0]},
            {name: torch.stack([draw[name][1] for draw in draws]) for name in draws[0]},
            dict(provenance or {}),
        )

    @staticmethod
    def of_trained(network: BatchNormNetwork, mean_of: Bank | None = None) -> Bank:
        """One draw that holds the trained running statistics; its pass equals that of `model.eval()`.

        mean_of: the bank whose mean statistics are used for layers that keep none
        Errors: BankRefused where a stochastic layer keeps no running statistics and `mean_of` has none for it.
        """
        average = None if mean_of is None else mean_of.average()
        draw = {}
        for layer in network.stochastic:
            if layer.trained is not None:
                mean, var = layer.trained
                draw[layer.name] = (mean.detach().float().cpu().clone(), var.detach().float().cpu().clone())
            elif average is not None and layer.name in average.mean:
                draw[layer.name] = (average.mean[layer.name][0], average.var[layer.name][0])
            else:
                raise BankRefused(
                    f"Layer {layer.name!r} keeps no running statistics; give a bank that has draws of it."
                )
        return Bank.of_draws([draw], {"trained": True})

    def check_layers(self, network: BatchNormNetwork) -> None:
        """Errors: BankRefused where a layer or its number of channels is not that of the network."""
        known = {layer.name: layer for layer in network.layers if layer.call is not None}
        unknown = [name for name in self.mean if name not in known]
        if unknown:
            raise BankRefused(
                f"The bank has layer {unknown[0]!r} ({len(unknown)} such), which this network does not have; "
                "it was recorded on another network: run `segment fit` again."
            )
        for name, mean in self.mean.items():
            if mean.shape[1] != known[name].channels:
                raise BankRefused(
                    f"Layer {name!r} has {known[name].channels} channels, but {mean.shape[1]} in the bank: "
                    "it was recorded on another network; run `segment fit` again."
                )

    def __iter__(self) -> Iterator[Statistics]:
        for t in range(len(self)):
            yield {name: (self.mean[name][t], self.var[name][t]) for name in self.mean}


def bank_fingerprint(bank: Bank) -> str:
    """SHA-256 over a bank's weights and statistics."""
    digest = hashlib.sha256(bank.weights.numpy().tobytes())
    for name in bank.layers:
        digest.update(name.encode() + bank.mean[name].numpy().tobytes() + bank.var[name].numpy().tobytes())
    return digest.hexdigest()
