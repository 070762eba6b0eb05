"""How a bank is recorded: `FitPlan`, what is asked of `segment fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from segment.draws.image_pool import ImagePool
from segment.draws.minibatches import DrawPlan
from segment.errors import WrongUse, integer
from segment.networks.load import Network
from segment.passes.passes import Engine

BATCH = 32
"""M, where neither the plan nor the card says one."""


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """T draws, each from M training images.

    batch: M; None: the card's, else 32. draws: T. seed: of the choice of mini-batches
    layers: the BN layers that are drawn: "all", or globs with commas between ("decoder.*")
    size: H, W of images that no training pipeline transforms: shorter side to fit, centre crop; None: as they are
    precision: of recording; statistics of bf16 activations are off by about 4e-3
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    engine: "openvino": half precision is audited for it, too
    """

    batch: int | None = None
    draws: int = 128
    seed: int = 0
    layers: str = "all"
    size: tuple[int, int] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    memory: int | str | None = None
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise WrongUse(f"Draws are recorded in fp32 or bf16, not {self.precision!r}.")
        if self.size is not None:
            try:
                height, width = self.size
            except (TypeError, ValueError):
                raise WrongUse(f"size = {self.size}, but it is the height and the width, as (320, 480).") from None
            object.__setattr__(self, "size", (integer("height", height, least=1), integer("width", width, least=1)))
        if self.engine not in get_args(Engine):
            raise WrongUse(f"--engine is {' or '.join(get_args(Engine))}, not {self.engine!r}.")

    def draw_plan(self, network: Network) -> DrawPlan:
        """With this network's mini-batches. Errors: WrongUse for a size that its card's pipeline sets, or a count."""
        training = network.card.training
        if self.size is not None and training is not None and training.transforms:
            message = f"The card of {network.name!r} has a training pipeline, which sets the size; leave --size out."
            raise WrongUse(message)
        batch = self.batch if self.batch is not None else training.batch if training else BATCH
        return DrawPlan(draws=self.draws, batch=batch, seed=self.seed)

    def settings(self, network: Network, pool: ImagePool) -> dict[str, Any]:
        """What decides the draws of this network and these images, as the bank's provenance says it."""
        plan = self.draw_plan(network)
        return {
            "batch": plan.batch,
            "draws": plan.draws,
            "seed": plan.seed,
            "layers": self.layers,
            "size": pool.size,
            "precision": self.precision,
        }
