"""The scores of an evaluation as a torchmetrics `Metric`.

Must not know a network or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from segment.axes import Head
from segment.errors import MissingExtra, WrongUse
from segment.estimation.estimate import Estimate
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.uncertainty.measures import MEASURES, predictive_entropy

try:
    from torchmetrics import Metric
except ImportError:
    raise MissingExtra("Metrics need torchmetrics: pip install 'mcbn-segment[lightning]'.") from None

MAIN = ("miou", "accuracy", "nll", "brier", "ece")
"""Scores that `compute` gives where none are named; to them come the AUROC and AURC of each measure."""


class UncertaintyScores(Metric):
    """Every score of `segment evaluate`, streaming: `update`, `compute`, `merge`, `reset`.

    Args:
        classes: K, or the K names.
        measures: maps that are scored as rankings of errors; an `Estimate` brings its own, a tensor of probabilities
            only the predictive entropy.
        scores: names of `scores.json` that `compute` gives; empty: the main ones.
        head: softmax, sigmoid or multilabel.
        ignore_index: the label that is not scored.
        **options: those of torchmetrics' `Metric`.

    Example:
        >>> metric = UncertaintyScores(2)
        >>> metric.update(torch.tensor([[[[0.9, 0.4]], [[0.1, 0.6]]]]), torch.tensor([[[0, 0]]]))
        >>> float(metric.compute()["accuracy"])
        0.5

    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(
        self,
        classes: int | Sequence[str],
        *,
        measures: Sequence[str] = ("predictive_entropy",),
        scores: Sequence[str] = (),
        head: Head = "softmax",
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        names = tuple(f"class {k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)
        if strange := set(measures) - set(MEASURES):
            raise WrongUse(f"No measure is called {min(strange)!r}. Known: {', '.join(MEASURES)}.")
        self.plan = ScorePlan(classes=names, head=head, measures=tuple(measures), void=ignore_index)
        ranked = [f"{kind}.{name}" for name in measures for kind in ("error_auroc", "aurc")]
        self.names = tuple(scores) or (*MAIN, *ranked)
        self.board = Scoreboard(self.plan)
        self._count = 0

    def update(self, estimate: Estimate[Any] | Tensor, labels: Tensor) -> None:
        """Count one image or a batch.

        Args:
            estimate: what `MCBN` gives, or probabilities (K, H, W) or (N, K, H, W).
            labels: class ids (H, W) or (N, H, W); multi-label: (K, H, W) or (N, K, H, W).

        Raises:
            WrongUse: another number of labels than of predictions, or a measure that is scored has no map.
            ImageUnreadable: labels of another size, or ids that are no class.

        """
        maps: dict[str, Any]
        if isinstance(estimate, Tensor):
            batch = estimate if estimate.ndim == 4 else estimate[None]
            exact = batch.detach().to(torch.promote_types(batch.dtype, torch.float32))  # in half, off by up to .01
            maps = {"predictive_entropy": predictive_entropy(exact, self.plan.head)}
            masks: Any = [None] * len(batch)
        else:
            one = estimate.single
            batch = estimate.probability[None] if one else estimate.probability
            maps = {name: values[None] if one else values for name, values in estimate.maps.items()}
            masks = estimate.prediction[None] if one else estimate.prediction
        alone = labels.ndim == (3 if self.plan.head == "multilabel" else 2)
        targets = labels[None] if alone else labels
        if len(targets) != len(batch):
            raise WrongUse(
                f"There are {len(batch)} predictions, and label maps for {len(targets)}; give one for each. No image "
                "was counted."
            )
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        for index, label in enumerate(targets):
            of_image = {name: maps[name][index] for name in self.plan.measures if name in maps}
            name = f"{rank}/{self._count}"
            self.board.update(name, batch[index].detach(), of_image, label, masks[index])
            self._count += 1

    def compute(self) -> dict[str, Tensor]:
        """The scores by name, float64; NaN where one is not defined, as `scores.json` says why."""
        board = _gathered(self.board) if self.sync_on_compute else self.board
        values = board.compute()["scores"]
        missing = [name for name in self.names if name not in values]
        if missing:
            raise WrongUse(f"No score is called {missing[0]!r}. Known: {', '.join(values)}.")
        found = {name: values[name]["value"] for name in self.names}
        return {
            name: torch.tensor(float("nan") if value is None else value, dtype=torch.float64)
            for name, value in found.items()
        }

    def forward(self, estimate: Estimate[Any] | Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Count a batch, and give the scores of this batch alone."""
        self.update(estimate, labels)
        alone = UncertaintyScores(
            self.plan.classes,
            measures=self.plan.measures,
            scores=self.names,
            head=self.plan.head,
            ignore_index=self.plan.void,
            sync_on_compute=False,
        )
        alone.update(estimate, labels)
        return alone.compute()

    def merge(self, other: UncertaintyScores) -> None:
        """Add what another metric has counted of other images: equal to one metric over all of them."""
        state = other.board.state()
        merged = Scoreboard.of(state)
        self.board.merge(_renamed(merged, f"merged {self._count}/"))
        self._count += other._count
        self._computed = None  # torchmetrics keeps the value of the last `compute`

    def merge_state(self, incoming_state: Any) -> None:
        """As `merge`, by torchmetrics' name."""
        self.merge(incoming_state)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.board.reset()
        self._count = 0


def _renamed(board: Scoreboard, prefix: str) -> Scoreboard:
    board._rows = {prefix + name: row for name, row in board._rows.items()}
    return board


def _gathered(board: Scoreboard) -> Scoreboard:
    """The boards of all processes as one, where there are several."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return board
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, board.state())
    boards = [Scoreboard.of(state) for state in states]
    for other in boards[1:]:
        boards[0].merge(other)
    return boards[0]
