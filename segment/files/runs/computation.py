"""What the networks of a run compute, in run.json as their probes: a run that goes on is of networks that do the same.

Neither weights nor draws say it: an edit behind the last BN layer changes none of them.
"""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from segment.draws.identity import computes_the_same
from segment.draws.probe import Probe, largest_difference
from segment.draws.probe_passes import probe_of
from segment.errors import BankRefused, WrongUse, one_line
from segment.files.reading import first_error
from segment.images.find import in_text
from segment.networks.load import Network

log = logging.getLogger(__name__)

PROBES = "probes"
"""Section of the record: the probe of each network, null for one that takes none of its inputs."""


class _Kept(BaseModel):
    """A probe in run.json; places and trained: little-endian, int32 and float32, in base64 (numbers may be NaN)."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    side: int
    seed: int
    shape: list[int]
    noise: float
    places: str
    trained: str


def probes_of(networks: Sequence[Network], probe: Probe | None = None) -> list[dict[str, Any] | None]:
    """The section of a new run. probe: of the first network, where a bank of it has one; None: it is made."""
    made = [_probe_of(network) if number or probe is None else probe for number, network in enumerate(networks)]
    return [None if each is None else _kept(each).model_dump() for each in made]


def refuse_other_computation(place: Path, record: Mapping[str, Any], networks: Sequence[Network]) -> None:
    """Refuse to go on with networks that compute something else. Errors: WrongUse, also for a damaged record.

    Of a run of an earlier version, without the section, it is not known: a warning.
    """
    if PROBES not in record:
        if networks:
            log.warning(
                "%s was begun by an earlier version, which kept no probe of its network: whether this one computes the "
                "same is not checked.",
                in_text(place),
            )
        return
    try:
        kept = TypeAdapter(list[_Kept | None]).validate_python(record[PROBES])
        probes = [None if each is None else _as_probe(each) for each in kept]
    except (ValidationError, BankRefused, ValueError) as error:
        why = first_error(error) if isinstance(error, ValidationError) else one_line(error, 160)
        raise WrongUse(f"run.json of {in_text(place)!r} is damaged: {PROBES}: {why} Choose another folder.") from None
    for network, probe in zip(networks, probes, strict=False):  # how many there are, the settings say
        if probe is not None and not computes_the_same(network, probe):
            raise WrongUse(
                f"{in_text(place)!r} was made with a network of the same weights as {network.name!r} that computes "
                "something else: another interpolation, eps, argument or edited code. Go on with that one, or choose "
                "another folder."
            )


def kept_probe(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The probe of a run's first network as its record has it; None where it has none."""
    kept: Mapping[str, Any] | None = next(iter(record.get(PROBES, ())), None)
    return kept


def gives(network: Network, kept: Mapping[str, Any]) -> bool:
    """Whether a network gives the numbers of such a probe. Errors: BankRefused, ValueError for what is none."""
    return computes_the_same(network, _as_probe(_Kept.model_validate(kept)))


def alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two such probes are of networks that compute the same. Errors: as `gives`."""
    one, other = (_as_probe(_Kept.model_validate(kept)) for kept in (first, second))
    same = (one.side, one.seed, one.shape) == (other.side, other.seed, other.shape)
    same = same and torch.equal(one.places, other.places)
    return same and largest_difference(one.trained, other.trained) <= max(one.tolerance, other.tolerance)


def _probe_of(network: Network) -> Probe | None:
    try:
        return probe_of(network)
    except Exception as error:  # whatever an unknown network raises, it may still take the run's images
        log.info("%s has no probe: %s", network.name, one_line(error, 160))
        return None


def _kept(probe: Probe) -> _Kept:
    def text(values: torch.Tensor, kind: str) -> str:
        return b64encode(values.numpy().astype(kind).tobytes()).decode()

    places, trained = text(probe.places, "<i4"), text(probe.trained, "<f4")
    return _Kept(
        side=probe.side, seed=probe.seed, shape=list(probe.shape), noise=probe.noise, places=places, trained=trained
    )


def _as_probe(kept: _Kept) -> Probe:
    """Errors: BankRefused, ValueError where it is no probe."""
    images, outputs, height, width = kept.shape
    places = torch.from_numpy(np.frombuffer(b64decode(kept.places, validate=True), "<i4").astype(np.int64))
    trained = torch.from_numpy(np.frombuffer(b64decode(kept.trained, validate=True), "<f4").astype(np.float32))
    return Probe(kept.side, kept.seed, (images, outputs, height, width), places, trained, None, kept.noise)
