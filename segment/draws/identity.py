"""Whether a network is the one that a bank was recorded on: its probe is recorded in the bank, and compared.

Weights alone do not determine the output: an interpolation, an epsilon, a factory's argument or a helper function in
another file changes it and no weight. Must not know how a bank is recorded, nor where it is stored.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from torch import Tensor

from segment.axes import size_text
from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank, Statistics
from segment.draws.probe import Probe, largest_difference
from segment.draws.probe_passes import probabilities_under, probe_inputs, probe_of
from segment.draws.recording import layers_in_order
from segment.draws.reference import warn_of_equal_draws
from segment.errors import BankRefused, ModelRefused, one_line
from segment.networks.load import Network

log = logging.getLogger(__name__)

AGAIN = "Use the network and the card that it was recorded with, or record it again with `segment fit`."


def preprocessing_of(network: Network) -> dict[str, Any]:
    """The settings of the card that change the network's output, as JSON values."""
    card, spec = network.card, network.card.input
    return {
        "scale": _json(spec.scale),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "channels": _json(spec.channels),
        "white": _json(spec.white),
        "stride": spec.stride,
        **({"size": list(spec.size)} if spec.size is not None else {}),
        "pad": spec.pad,
        "head": card.head,
        "drop_outputs": sorted(set(card.drop_outputs)),
    }


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def identified(network: Network, drawn: BatchNormNetwork, bank: Bank) -> Bank:
    """The bank with its network's name, fingerprint, preprocessing and probe.

    Errors: ModelRefused where the network gives other outputs for the same images a second time.
    """
    identity = {
        "network": network.name,
        "fingerprint": network.fingerprint,
        "preprocessing": preprocessing_of(network),
    }
    probe = probe_of(network, drawn, next(iter(bank)))
    if not _gives(network, probe):
        raise ModelRefused(
            f"{network.name} gives other outputs for the same images a second time, so no bank could be told to be its "
            "own: it keeps something from pass to pass, as an attribute that `forward` writes and reads. Let `forward` "
            "begin anew with each image."
        )
    return replace(bank, provenance={**bank.provenance, **identity}, probe=probe)


def network_of_bank(network: Network, bank: Bank) -> BatchNormNetwork:
    """The network with the bank's layers stochastic. Errors: BankRefused where the bank is not this network's."""
    check_provenance(network, bank)
    drawn = bn_network_of(network)
    bank.check_layers(drawn)
    drawn = drawn.select_names(bank.layers)
    warn_of_equal_draws(bank)
    if bank.probe is not None:
        _check_probe(network, drawn, bank, bank.probe)
    return drawn


def check_provenance(network: Network, bank: Bank) -> None:
    """Refuse another network's bank, or one recorded with another preprocessing, naming what differs.

    A bank made by hand holds no fingerprint, and is accepted.
    """
    fingerprint, recorded = bank.provenance.get("fingerprint"), bank.provenance.get("preprocessing")
    if fingerprint is not None and fingerprint != network.fingerprint:
        raise BankRefused(
            f"The bank was recorded on network {bank.provenance.get('network', '?')!r} ({fingerprint[:12]}), this one "
            f"is {network.fingerprint[:12]}: other weights or layers. Run `segment fit` on this network."
        )
    current = preprocessing_of(network)
    if recorded is not None and recorded != current:
        differs = [
            f"{key}: {recorded.get(key)} in the bank, {current.get(key)} now"
            for key in dict.fromkeys([*current, *recorded])
            if recorded.get(key) != current.get(key)
        ]
        raise BankRefused(f"The bank was recorded with another preprocessing ({'; '.join(differs)}). {AGAIN}")
    if fingerprint is not None and bank.probe is None:
        raise BankRefused("The bank has no probe of what its network computes: record it again with `segment fit`.")


def is_bank_of(network: Network, drawn: BatchNormNetwork, bank: Bank) -> bool:
    """Whether a bank would be recorded again as it is: of the layers that are drawn, on a network of its numbers.

    The probe is compared under the bank's first draw too: code may differ under the statistics of mini-batches alone.
    """
    try:
        check_provenance(network, bank)
        bank.check_layers(drawn)
        if bank.probe is None or set(bank.layers) != {layer.name for layer in drawn.stochastic}:
            return False
        _check_probe(network, drawn, bank, bank.probe)
    except BankRefused as error:
        log.info("Another network's bank: %s", error)
        return False
    return True


def computes_the_same(network: Network, probe: Probe) -> bool:
    """Whether the network gives the probe's numbers in eval mode."""
    try:
        return _gives(network, probe)
    except Exception as error:  # an unknown network may raise anything
        log.info("The network does not accept the probe: %s", one_line(error, 160))
        return False


def _gives(network: Network, probe: Probe) -> bool:
    outputs = probabilities_under(network, probe_inputs(network, probe.side, probe.seed))
    same_shape = tuple(outputs.shape) == probe.shape
    return same_shape and largest_difference(outputs.flatten()[probe.places], probe.trained) <= probe.tolerance


def _check_probe(network: Network, drawn: BatchNormNetwork, bank: Bank, probe: Probe) -> None:
    inputs = probe_inputs(network, probe.side, probe.seed)
    references: list[tuple[str, Tensor, Statistics | None]] = [("the trained statistics", probe.trained, None)]
    if probe.drawn is not None:
        references.append(("the bank's first draw", probe.drawn, next(iter(bank))))
    for under, recorded, draw in references:
        try:
            outputs = probabilities_under(network, inputs, layers_in_order(drawn), draw)
        except Exception as error:  # whatever an unknown network raises, it did not when the bank was recorded
            raise BankRefused(
                f"The network has the bank's weights, but does not accept the probe's {probe.side}x{probe.side} inputs "
                f"under {under} ({type(error).__name__}: {one_line(error, 160)}). {AGAIN}"
            ) from error
        if tuple(outputs.shape) != probe.shape:
            raise BankRefused(
                f"The network has the bank's weights, but gives outputs {size_text(outputs.shape)} on the probe, where "
                f"it gave {size_text(probe.shape)}: another argument or edited code. {AGAIN}"
            )
        difference = largest_difference(outputs.flatten()[probe.places], recorded)
        if difference > probe.tolerance:
            raise BankRefused(
                f"The network has the same weights, but another output (up to {difference:.2g} in probability on the "
                f"probe, under {under}): another interpolation, eps, argument or edited code. {AGAIN}"
            )
