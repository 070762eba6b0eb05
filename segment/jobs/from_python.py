"""What Python callers get beside the commands' jobs: MCBN with a bank's file, and scores of a DataLoader.

Must not know how anything is computed: it puts arguments together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from segment.draws.bank import Bank
from segment.errors import WrongUse, names_in
from segment.estimation.mcbn import MCBN as EngineMCBN
from segment.estimation.mcbn import Draws
from segment.estimation.memory_budget import Memory
from segment.files.banks.bank_file import bank_of
from segment.images.find import Source
from segment.images.listing.samples import labelled_samples
from segment.images.specs import Channels
from segment.jobs.evaluate import EvaluatePlan
from segment.jobs.evaluate import evaluate as evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.progress import Progress, silent
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.report.results import Evaluation
from segment.uncertainty.stopping import StopPlan

Banks = Bank | str | Path | Sequence[Bank | str | Path] | None


class MCBN(EngineMCBN):
    """Monte Carlo batch normalisation (Teye et al. 2018) of one network under one bank.

    network: what `load_network` gave, a URI, a card, or any torch module with BN (copied: the caller's stays as it is)
    bank: a bank, or its file
    draws: the first N of the bank; None: all; "auto": as many as an image needs for a standard error of `tolerance`,
    one image a call
    precision: "auto", "fp32", "bf16", "fp16". device: as `load_network` takes it; None: where the network is
    memory: a budget for the process, bytes or "4GiB": images go one after the other, in tiles where one does not fit.
    None: no plan at all, where jobs take 80 % of what is free: images go through whole, those of a call together
    mean, std, channels: how the images of a module were prepared in training, where no card says so

    Called with an image (uint8 H W 3, a Pillow image, a path, or a normalised float tensor) it gives an `Estimate`.
    """

    def __init__(
        self,
        network: Network | nn.Module | str | Path,
        bank: Bank | str | Path,
        *,
        draws: Draws = None,
        tolerance: float = StopPlan.tolerance,
        precision: str = "auto",
        device: str | Literal["auto"] | None = None,
        plan: PassPlan | None = None,
        memory: Memory = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        channels: Channels | Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            network_of(network, mean=mean, std=std, channels=channels),
            bank_of(bank),
            draws=draws,
            tolerance=tolerance,
            precision=precision,
            device=device,
            plan=plan,
            memory=memory,
        )


@dataclass(frozen=True)
class SampleLabels(Labels):
    """Images and label maps that a caller holds: a Dataset, a DataLoader or an iterable of (image, label)."""

    samples: Any = None

    def settings(self) -> dict[str, Any]:
        return {"images": str(self.images), "labels": None}

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
    bank: Banks = None,
    output: str | Path | None = None,
    methods: str | Sequence[str] = (),
    draws: int | None = None,
    validation: Any = None,
    plan: EvaluatePlan | None = None,
    memory: Memory = None,
    progress: Progress = silent,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Evaluation:
    """Score methods on labelled images: `segment evaluate` from Python.

    images, labels: two SRCs; or in `images` a `Labels`, a Dataset, a DataLoader or any iterable whose items are (image,
    label) or dictionaries with `image` and `label`: batches of them, or one a time. A label is H W of class indices
    bank: a bank, its file, or several; output: the folder of files; None: a temporary one, which is gone afterwards
    methods, draws: as the command's; plan: takes their place. validation: as `images`, or a pair of SRCs
    mean, std, channels: as `MCBN` takes them
    Errors: as the command's, each a SegmentError.
    """
    loaded = network_of(network, mean=mean, std=std, channels=channels)
    given = [] if bank is None else [bank] if isinstance(bank, Bank | str | Path) else bank
    banks = [bank_of(each) for each in given]
    if plan is None:
        plan = EvaluatePlan(methods=MethodPlan(methods=names_in(methods), draws=draws))
    elif methods or draws is not None:
        raise WrongUse("methods= and draws= are in the plan already; leave them out beside plan=.")
    data = _data(images, labels)
    held_out = None if validation is None else _data(*validation) if _is_pair(validation) else _data(validation, None)

    def scored(folder: Path) -> Evaluation:
        return evaluate_into(
            loaded, data, folder, banks=banks, plan=plan, validation=held_out, memory=memory, progress=progress
        )

    if output is not None:
        return scored(Path(output))
    with tempfile.TemporaryDirectory(prefix="segment-") as folder:
        return scored(Path(folder) / "scores")


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
