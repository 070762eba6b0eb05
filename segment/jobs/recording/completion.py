"""What a recorded bank is completed with: audits of half precision, and the colour scales of its heat maps.

Must not know where a bank is stored.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.image_pool import ImagePool
from segment.errors import SegmentError, error_message
from segment.estimation.colour_scales import IMAGES, colour_scales
from segment.estimation.precision import audit, audit_key
from segment.networks.load import Network
from segment.passes.passes import Engine

log = logging.getLogger(__name__)

AUDIT_IMAGES = 2

SCALES = "colour_scales"
"""Key of a bank's provenance: the last colours of heat maps, so that all runs with it have the same."""


def is_complete(network: Network, bank: Bank, engine: Engine) -> bool:
    return not _audits_missing(network, bank, engine) and SCALES in bank.provenance


def completed(network: Network, bank: Bank, pool: ImagePool, engine: Engine) -> Bank:
    """The bank with its audits, for passes by torch and by this engine, and its colour scales, where it has none."""
    for missing in _audits_missing(network, bank, engine):
        bank = _audited(network, bank, pool, missing)
    return bank if SCALES in bank.provenance else _with_scales(network, bank, pool)


def _audits_missing(network: Network, bank: Bank, engine: Engine) -> list[Engine]:
    """The engines that half precision was not audited for: the fit that recorded it was ended before, or another."""
    known = bank.provenance.get("audit", {})
    engines: tuple[Engine, ...] = ("torch",) if engine == "torch" else ("torch", engine)
    return [each for each in engines if audit_key(network.device, each) not in known]


def _audited(network: Network, bank: Bank, pool: ImagePool, engine: Engine) -> Bank:
    drawn = bn_network_of(network).select_names(bank.layers)
    audited = audit(drawn, bank, pool.examples(AUDIT_IMAGES), network.card.head, engine=engine)
    kept = {**bank.provenance.get("audit", {}), audit_key(network.device, engine): audited}
    return replace(bank, provenance={**bank.provenance, "audit": kept})


def _with_scales(network: Network, bank: Bank, pool: ImagePool) -> Bank:
    """The bank with the colour scales of its spread measures, from some statistics images, evenly chosen."""
    drawn = bn_network_of(network).select_names(bank.layers)
    try:
        images = [pool.prepared(index, index)[None] for index in range(0, len(pool), -(-len(pool) // IMAGES))]
        scales = colour_scales(drawn, bank, images, network.card.head)
    except SegmentError as error:  # a statistics image that no mini-batch holds need not be readable
        log.info("No colour scales: %s", error_message(error))
        scales = {}
    return replace(bank, provenance={**bank.provenance, SCALES: scales})
