"""Trustworthy uncertainty for semantic segmentation, from batch-normalised networks people already have.

>>> import segment
>>> network = segment.load_network("segment:tiny?classes=6")
>>> network.classes
6

Names load when they are first used, so that importing segment does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segment.version import __version__ as __version__

if TYPE_CHECKING:
    from segment.cli.screen import progress as progress
    from segment.draws.bank import Bank as Bank
    from segment.errors import SegmentError as SegmentError
    from segment.estimation.estimate import Estimate as Estimate
    from segment.estimation.memory_budget import keep_freed_pages as keep_freed_pages
    from segment.files.banks.bank_file import load_bank as load_bank
    from segment.files.banks.bank_file import save_bank as save_bank
    from segment.files.triages import load_triage as load_triage
    from segment.files.triages import save_triage as save_triage
    from segment.guarantees.triage import Triage as Triage
    from segment.guarantees.triage import TriagePlan as TriagePlan
    from segment.images.isolation import isolated as isolated
    from segment.images.listing.parts import Listing as Listing
    from segment.integrations.lightning import MCBNScores as MCBNScores
    from segment.integrations.metrics import UncertaintyScores as UncertaintyScores
    from segment.jobs.decisions.compare import compare as compare
    from segment.jobs.decisions.select import select as select
    from segment.jobs.distill import distill_bank as distill_bank
    from segment.jobs.evaluate import EvaluatePlan as EvaluatePlan
    from segment.jobs.evaluation.compared_methods import MethodPlan as MethodPlan
    from segment.jobs.fit import fit_bank as fit_bank
    from segment.jobs.from_python import evaluate as evaluate
    from segment.jobs.labelled.images import Labels as Labels
    from segment.jobs.mcbn import MCBN as MCBN
    from segment.jobs.predict import predict as predict
    from segment.jobs.prediction.export import export as export
    from segment.jobs.prediction.plan import PredictPlan as PredictPlan
    from segment.jobs.prediction.watch import WatchPlan as WatchPlan
    from segment.jobs.sweep import sweep as sweep
    from segment.jobs.sweeping.grid import Grid as Grid
    from segment.jobs.sweeping.states import SweepPlan as SweepPlan
    from segment.jobs.triage.calibration import calibrate_triage as calibrate_triage
    from segment.jobs.triage.checking import check_triage as check_triage
    from segment.jobs.triage.predicting import decide as decide
    from segment.jobs.tuning.tuned import read_tuned as read_tuned
    from segment.methods.augmentation import View as View
    from segment.networks.cards import Card as Card
    from segment.networks.cards import read_card as read_card
    from segment.networks.load import Network as Network
    from segment.networks.load import load_network as load_network
    from segment.report.results import Evaluation as Evaluation
    from segment.report.results import Sweep as Sweep
    from segment.report.run_files.saved_run import SavedRun as SavedRun
    from segment.report.run_files.saved_run import load_run as load_run
    from segment.runners.on_ray import RayRunner as RayRunner


_MODULE_OF = {
    "Bank": "segment.draws.bank",
    "Card": "segment.networks.cards",
    "Estimate": "segment.estimation.estimate",
    "EvaluatePlan": "segment.jobs.evaluate",
    "Evaluation": "segment.report.results",
    "Grid": "segment.jobs.sweeping.grid",
    "Labels": "segment.jobs.labelled.images",
    "Listing": "segment.images.listing.parts",
    "MCBN": "segment.jobs.mcbn",
    "MCBNScores": "segment.integrations.lightning",
    "MethodPlan": "segment.jobs.evaluation.compared_methods",
    "Network": "segment.networks.load",
    "PredictPlan": "segment.jobs.prediction.plan",
    "RayRunner": "segment.runners.on_ray",
    "SavedRun": "segment.report.run_files.saved_run",
    "SegmentError": "segment.errors",
    "Sweep": "segment.report.results",
    "SweepPlan": "segment.jobs.sweeping.states",
    "Triage": "segment.guarantees.triage",
    "TriagePlan": "segment.guarantees.triage",
    "UncertaintyScores": "segment.integrations.metrics",
    "View": "segment.methods.augmentation",
    "WatchPlan": "segment.jobs.prediction.watch",
    "calibrate_triage": "segment.jobs.triage.calibration",
    "check_triage": "segment.jobs.triage.checking",
    "compare": "segment.jobs.decisions.compare",
    "decide": "segment.jobs.triage.predicting",
    "distill_bank": "segment.jobs.distill",
    "evaluate": "segment.jobs.from_python",
    "export": "segment.jobs.prediction.export",
    "fit_bank": "segment.jobs.fit",
    "isolated": "segment.images.isolation",
    "keep_freed_pages": "segment.estimation.memory_budget",
    "load_bank": "segment.files.banks.bank_file",
    "load_network": "segment.networks.load",
    "load_run": "segment.report.run_files.saved_run",
    "load_triage": "segment.files.triages",
    "predict": "segment.jobs.predict",
    "progress": "segment.cli.screen",
    "read_card": "segment.networks.cards",
    "read_tuned": "segment.jobs.tuning.tuned",
    "save_bank": "segment.files.banks.bank_file",
    "save_triage": "segment.files.triages",
    "select": "segment.jobs.decisions.select",
    "sweep": "segment.jobs.sweep",
}
__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segment' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
