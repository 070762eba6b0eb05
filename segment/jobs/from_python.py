"""`segment evaluate` from Python: also of a module, a Dataset or a DataLoader.

Must not know how anything is computed: it puts arguments together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from segment.draws.bank import Bank
from segment.errors import WrongUse, names_in
from segment.estimation.memory_budget import Memory
from segment.files.banks.bank_file import bank_of
from segment.guarantees.groups import Groups
from segment.images.find import Source
from segment.images.listing.samples import labelled_samples
from segment.images.specs import Channels
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import HELD, Labels
from segment.jobs.progress import Progress, silent
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.report.results import Evaluation

BankInput = Bank | str | Path | Sequence[Bank | str | Path] | None


@dataclass(frozen=True)
class SampleLabels(Labels):
    """Images and label maps that a caller holds: a Dataset, a DataLoader or an iterable of (image, label)."""

    samples: Any = None

    def settings(self) -> dict[str, Any]:
        return {"images": str(self.images), "labels": None, HELD: True}

    def sources(self, network: Network) -> tuple[Source, ...]:
        held = labelled_samples(self.samples)
        return tuple(
            Source(f"{number:06d}", Path(f"sample {number}"), label=Path(f"label {number}"), sample=sample)
            for number, sample in enumerate(held)
        )


def evaluate(
    network: Network | nn.Module | str | Path,
    images: Any,
    labels: str | Path | None = None,
    *,
    bank: BankInput = None,
    output: str | Path | None = None,
    methods: str | Sequence[str] = (),
    draws: int | None = None,
    validation: Any = None,
    plan: EvaluatePlan | None = None,
    groups: Groups = None,
    memory: Memory = None,
    progress: Progress = silent,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Evaluation:
    """Score methods on labelled images: `segment evaluate` from Python.

    images, labels: two SRCs; or in `images` a `Labels`, a Dataset, a DataLoader or any iterable whose items are (image,
    label) or dictionaries with `image` and `label`: batches of them, or one a time. A label is H W of class indices
    bank: a bank, its file, or several; output: the folder of files; None: a temporary one, which is gone afterwards:
    the result's `folder` is None
    methods, draws: as the command's; plan: takes the place of these and of groups. validation: as `images`, or a pair
    of SRCs
    groups: what intervals and tests are over: "folder" or "sequence" by the ids, a column of the list of images, id to
    group, or of images that the caller holds the name of each one's group, in order; None: over images
    mean, std, channels: as `MCBN` takes them
    Errors: as the command's, each a SegmentError.
    """
    loaded = network_of(network, mean=mean, std=std, channels=channels)
    given = [] if bank is None else [bank] if isinstance(bank, Bank | str | Path) else bank
    banks = [bank_of(each) for each in given]
    data = _data(images, labels)
    if plan is None:
        if not isinstance(groups, str | Mapping | None) and not isinstance(data, SampleLabels):
            raise WrongUse("groups= in order is for images that you hold; of files give a name, or id to group.")
        chosen = MethodPlan(methods=names_in(methods), draws=draws)
        plan = EvaluatePlan(methods=chosen, groups=groups)
    elif methods or draws is not None or groups is not None:
        raise WrongUse("methods=, draws= and groups= are in the plan already; leave them out beside plan=.")
    held_out = None if validation is None else _data(*validation) if _is_pair(validation) else _data(validation, None)

    def scored(folder: Path) -> Evaluation:
        return evaluate_into(
            loaded, data, folder, banks=banks, plan=plan, validation=held_out, memory=memory, progress=progress
        )

    if output is not None:
        return scored(Path(output))
    with tempfile.TemporaryDirectory(prefix="segment-") as folder:
        return replace(scored(Path(folder) / "scores"), folder=None)


def _data(images: Any, labels: str | Path | None) -> Labels:
    if isinstance(images, Labels):
        return images
    if isinstance(images, str | Path):
        return Labels(images, labels)
    if labels is not None:
        raise WrongUse("labels= is a SRC beside a SRC of images; a loader's items hold their labels themselves.")
    if isinstance(images, Mapping):
        raise WrongUse("Labelled images are two SRCs, or an iterable of (image, label), not one dictionary.")
    return SampleLabels(f"a {type(images).__name__}", samples=images)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, str | Path) for each in given)
