"""Builds the ImagePredictor of a predict run; it can be pickled, so that every process builds the same one.

Must not know which process it is in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.identity import network_of_bank
from segment.estimation.batching import BatchedEstimator
from segment.estimation.estimate import ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.plan import EstimatePlan
from segment.files.lazy_arrays import FileArray
from segment.files.runs.places import RunPlaces
from segment.jobs.prediction.images import ImagePredictor
from segment.jobs.prediction.plan import Execution, PredictPlan
from segment.jobs.triage.predicting import TriageOfRun
from segment.jobs.tuning.tuned import method_of
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.networks.given import on_device
from segment.networks.load import Network
from segment.passes.openvino_passes import copied_bytes
from segment.passes.passes import FAST, held_passes
from segment.report.run_files.style import PictureStyle


@dataclass(frozen=True, kw_only=True)
class PredictRecipe:
    """The network and how it is used, which pictures are made and in which colours; it can be pickled.

    plan: as asked. execution: as it is carried out, with the bank
    """

    network: Network
    plan: PredictPlan
    execution: Execution
    style: PictureStyle

    def predictor(self, run: RunPlaces, drawn: BatchNormNetwork | None = None) -> ImagePredictor:
        """What reads, estimates and writes an image of the run.

        drawn: the network with the bank's layers stochastic; None: it is made, and compared with the bank's probe
        """
        network, plan, execution = self.network, self.plan, self.execution
        engine, precision = execution.engine, execution.precision
        passes = replace(FAST, fold=execution.fold, precision=precision, engine=engine)
        likely = plan.needs_probability or network.card.head == "multilabel"  # whose pictures show the likeliest label
        if plan.tuned is None:
            drawn = drawn or network_of_bank(network, execution.bank)
            method: Method = mcbn(drawn, execution.bank, passes, network.input)
        else:
            method, _ = method_of(plan.tuned, network, precision)
        read_out = ReadOut(
            method=method,
            measures=plan.measures,
            temperature=1.0 if plan.tuned is None else plan.tuned.calibration,
            probability=likely,
            sums=True,
        )
        estimator = Estimator(
            network,
            {"": read_out},
            EstimatePlan(
                tile=execution.tile,
                mode=execution.tile_mode,
                budget=execution.budget.without(0 if engine == "torch" else copied_bytes(network.module)),
                held_passes=held_passes(passes),
                blank=partial(FileArray, run.folder),
                stop=execution.stop,
            ),
        )
        return ImagePredictor(
            run,
            network,
            BatchedEstimator(estimator, execution.batch, execution.batch_area),
            self.style,
            plan.maps,
            plan.formats,
            border=plan.border,
            triage=None if plan.triage is None else TriageOfRun(plan.triage, run),
        )

    def on(self, device: torch.device) -> PredictRecipe:
        """The recipe with its network on a device; on the CPU it can be pickled for another process."""
        return replace(self, network=on_device(self.network, device))
