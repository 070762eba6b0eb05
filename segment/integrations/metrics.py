"""The scores of an evaluation as a torchmetrics `Metric`.

Must not know a network or a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from segment.axes import Head
from segment.errors import MissingExtra, WrongUse, names_in
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
        measures: str | Sequence[str] = ("predictive_entropy",),
        scores: str | Sequence[str] = (),
        head: Head = "softmax",
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        names = tuple(f"class {k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)
        measures, scores = names_in(measures), names_in(scores)
        if strange := set(measures) - set(MEASURES):
            raise WrongUse(f"No measure is called {min(strange)!r}. Known: {', '.join(MEASURES)}.")
        few = 2  # replicates of the bootstrap, whose intervals `compute` does not give
        self.plan = ScorePlan(classes=names, head=head, measures=measures, void=ignore_index, replicates=few)
        ranked = [f"{kind}.{name}" for name in measures for kind in ("error_auroc", "aurc")]
        self.names = scores or (*MAIN, *ranked)
        self.board = Scoreboard(self.plan)
        self._count = 0

    def update(self, estimate: Estimate[Any] | Tensor, labels: Tensor) -> None:
        """Count one image or a batch.

        Args:
            estimate: what `MCBN` gives, or probabilities (K, H, W) or (N, K, H, W).
            labels: class ids (H, W) or (N, H, W); multi-label: (K, H, W) or (N, K, H, W).

        Raises:
            WrongUse: another number of labels than of predictions, or a measure that is scored has no map.
            ImageUnreadable: labels of another size, or ids that are no class. No image of the batch was counted then.

        """
        self.board.merge(self._batch(estimate, labels))

    def _batch(self, estimate: Estimate[Any] | Tensor, labels: Tensor) -> Scoreboard:
        """A batch counted on its own."""
        maps: dict[str, Any]
        if isinstance(estimate, Tensor):
            batch = estimate if estimate.ndim == 4 else estimate[None]
            exact = batch.detach().to(torch.promote_types(batch.dtype, torch.float32))  # in half, off by up to .01
            maps = {"predictive_entropy": predictive_entropy(exact, self.plan.head)}
            masks: Any = [None] * len(batch)
        else:
            one = estimate.single
            given = {"": estimate.probability, "mask": estimate.prediction, **estimate.maps}
            maps = {name: torch.as_tensor(values)[None if one else ...] for name, values in given.items()}
            batch, masks = maps.pop(""), maps.pop("mask")
        alone = labels.ndim == (3 if self.plan.head == "multilabel" else 2)
        targets = labels[None] if alone else labels
        if len(targets) != len(batch):
            raise WrongUse(
                f"There are {len(batch)} predictions, and label maps for {len(targets)}; give one for each. No image "
                "was counted."
            )
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        board = Scoreboard(self.plan)
        for index, label in enumerate(targets):
            of_image = {name: maps[name][index] for name in self.plan.measures if name in maps}
            board.update(f"{rank}/{self._count + index}", batch[index].detach(), of_image, label, masks[index])
        self._count += len(targets)
        return board

    def compute(self) -> dict[str, Tensor]:
        """The scores by name, float64; NaN where one is not defined, as `scores.json` says why."""
        return self._scores(_gathered(self.board, self.process_group) if self.sync_on_compute else self.board)

    def _scores(self, board: Scoreboard) -> dict[str, Tensor]:
        values = {name: score.value for name, score in board.estimates().items()}
        ranks = {name: entry["value"] for name, entry in board.image_ranks().items()}
        values |= {name: math.nan if value is None else value for name, value in ranks.items()}
        missing = [name for name in self.names if name not in values]
        if missing:
            raise WrongUse(f"No score is called {missing[0]!r}. Known: {', '.join(values)}.")
        return {name: torch.tensor(values[name], dtype=torch.float64) for name in self.names}

    def forward(self, estimate: Estimate[Any] | Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Count a batch, and give the scores of this batch alone, of this process."""
        board = self._batch(estimate, labels)
        scores = self._scores(board)
        self.board.merge(board)
        self._update_count += 1
        self._computed = None
        return scores

    def merge(self, other: UncertaintyScores) -> None:
        """Add what another metric has counted of other images: equal to one metric over all of them."""
        state = other.board.state()
        merged = Scoreboard.of(state)
        self.board.merge(_renamed(merged, f"merged {self._count}/"))
        self._count += other._count
        self._computed = None  # torchmetrics keeps the value of the last `compute`

    def merge_state(self, incoming_state: Any) -> None:
        """Add what another metric has counted, as `merge` does: torchmetrics' name for it."""
        self.merge(incoming_state)

    def persistent(self, mode: bool = False) -> None:  # noqa: FBT001, FBT002 - torchmetrics' signature
        """Its images are in no `state_dict`. Errors: WrongUse where they are asked to be."""
        if mode:
            raise WrongUse("What UncertaintyScores has counted is in no state_dict: pickle the metric, or count again.")
        super().persistent(mode)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.board.reset()
        self._count = 0


def _renamed(board: Scoreboard, prefix: str) -> Scoreboard:
    board._rows = {prefix + name: row for name, row in board._rows.items()}
    return board


def _gathered(board: Scoreboard, group: Any) -> Scoreboard:
    """The boards of a group's processes as one, where there are several; None: of all processes."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size(group) == 1:
        return board
    states: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(states, board.state(), group=group)
    boards = [Scoreboard.of(state) for state in states]
    for other in boards[1:]:
        boards[0].merge(other)
    return boards[0]
