"""Temperatures and vector scalings, fitted on validation images before anything is scored.

An image counts for every fit or for none, and one that is left out is named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segment.errors import OutOfMemory, WrongUse, first_of, ran_out_of_memory
from segment.estimation.background import WORKERS
from segment.estimation.estimator import Estimator
from segment.estimation.failures import IMAGE_ERRORS, reason_of
from segment.estimation.memory_budget import KERNEL_FACTOR, Memory, bytes_text, memory_budget
from segment.estimation.plan import EstimatePlan
from segment.images.find import Source
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import ComparedMethods, key
from segment.jobs.evaluation.scoring import SCORING
from segment.jobs.labelled.labels import Labelled, read_labelled
from segment.jobs.labelled.leakage import refuse_seen
from segment.jobs.progress import Progress
from segment.methods.method import Method
from segment.methods.temperature import ENDS, Fit, TemperatureFit, update
from segment.methods.vector_scaling import PrefixScalings
from segment.networks.load import Network
from segment.scores.arrays import checked_known
from segment.scores.plan import ScorePlan
from segment.uncertainty.scaling import Calibration

log = logging.getLogger(__name__)

ALL_VOID = "No pixel of the {} validation images has a known label: all of them are void."
MISSED = "none of the pixels that a fit takes, on a regular grid, has a known label"


@dataclass(frozen=True)
class FittedCalibrations:
    """What was fitted, and on what.

    by_draws: `compared_methods.key`, of each method that is fitted -> T -> the calibration of its first T passes
    left_out: id -> why it is in no fit
    """

    by_draws: Mapping[str, Mapping[int, Calibration]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """The calibration of each method that was fitted on its most passes."""
        return {name: of_draws[max(of_draws)] for name, of_draws in self.by_draws.items()}


def left_out_words(left_out: Mapping[str, str], images: int) -> list[str]:
    """A line for validation images that are in no fit.

    >>> left_out_words({"a": "It is blank."}, 6)
    ['1 of 6 validation images is left out of every temperature and scaling (a): It is blank.']
    """
    if not left_out:
        return []
    are = "image is" if images == 1 else "images is" if len(left_out) == 1 else "images are"
    why = next(iter(left_out.values())).rstrip(".")
    first = "" if len(set(left_out.values())) == 1 else "the first of them: "
    return [
        f"{len(left_out)} of {images} validation {are} left out of every temperature and scaling "
        f"({first_of(left_out, 5)}): {first}{why}."
    ]


def at_an_end_words(calibrations: Mapping[str, Calibration], ends: tuple[float, float] = ENDS) -> list[str]:
    """A line for temperatures that are the least or the greatest of the grid.

    >>> at_an_end_words({"temperature": 8.0, "mcbn+temperature": 1.2})
    ["The temperature of 'temperature' is 8, the largest that is tried; the best is larger still."]
    """
    lines = []
    for end, most, still in ((ends[0], "smallest", "smaller"), (ends[1], "largest", "larger")):
        if names := sorted(repr(name) for name, value in calibrations.items() if value == end):
            one = "temperature of" if len(names) == 1 else "temperatures of"
            verb = "is" if len(names) == 1 else "are"
            lines.append(
                f"The {one} {first_of(names, 5)} {verb} {end:g}, the {most} that is tried; the best is {still} still."
            )
    return lines


def temperatures(
    network: Network,
    sources: Sequence[Source],
    methods: ComparedMethods,
    plan: ScorePlan,
    progress: Progress,
    *,
    draws: Mapping[str, Sequence[int]] | None = None,
    memory: Memory = None,
    workers: int = WORKERS,
) -> FittedCalibrations:
    """Fit the temperature or scaling of every method that has one.

    All of them are fitted on the same images. An image that one method cannot pass, or has outputs for that are not
    finite, or whose label scores refuse, is in no fit; a warning names it. An image whose label is void everywhere has
    nothing to fit. Where memory runs out, passes hold fewer draws from now on, as when images are scored; but no image
    is fitted on in tiles.

    Args:
        network: Whose outputs they are.
        sources: The validation images; their order changes rounding only.
        methods: Those that are compared; methods without a scaling are not passed.
        plan: Which labels are known.
        progress: Called after each image.
        draws: Name of a method -> its T, numbers of first passes; a method that is not named has all of its passes.
        memory: A budget for the process, bytes or "4GiB"; None: 80 % of what is free.
        workers: Threads that decode images.

    Returns:
        The fits; empty where no method has one.

    Raises:
        WrongUse: No image can be used, the message says why; or some are training images.
        OutOfMemory: An image does not go through whole within the budget; or no image can be used, and memory ran out.
        FastPathDiffers: As the methods' passes.

    """
    fits: dict[str, TemperatureFit | PrefixScalings] = {}
    wanted: dict[str, Sequence[int]] = {}
    of_method: dict[int, tuple[Method, list[Fit]]] = {}  # fits of the same passes
    for name, of_banks in methods.methods.items():
        scaling = "" if name in methods.fixed else combination(name).scaling
        for index, method in enumerate(of_banks if scaling else ()):
            head, fit_key = network.card.head, key(name, index)
            wanted[fit_key] = counts = (draws or {}).get(name) or (method.draws,)
            fits[fit_key] = (
                TemperatureFit(head, counts) if scaling == "temperature" else PrefixScalings(head, len(sources), counts)
            )
            of_method.setdefault(id(method), (method, []))[1].append(fits[fit_key])
    if not fits:
        return FittedCalibrations()
    refuse_seen(network, sources, methods.seen, "a temperature or a scaling")
    budget = memory_budget(memory, network.device)
    planned = Estimator(network, methods.read_outs({}), EstimatePlan(budget=budget, beside=SCORING))
    left_out: dict[str, str] = {}
    used, too_large = 0, 0
    for number, item in enumerate(read_labelled(sources, network, plan.void, workers=workers), start=1):
        height, width = item.size
        if not item.error and planned.side_for(height, width) is not None:
            raise OutOfMemory(
                f"An image of {height} x {width} pixels does not go through whole, and a temperature is fitted on "
                "whole images: leave its methods out."
            )
        try:
            why = item.error or _added(network, item, list(of_method.values()), plan, planned)
        except OutOfMemory as error:
            why, too_large = str(error), max(too_large, height * width)
        used += why is None
        if why:
            left_out[item.source.id] = why
        progress("fitting temperatures", number, len(sources))
    if not used and too_large:
        needed = bytes_text(too_large * KERNEL_FACTOR * planned.pixel)
        raise OutOfMemory(
            f"{_none_usable(left_out, len(sources))} A pass takes about {needed}: free some memory, give smaller "
            "images, or leave out the methods that are fitted."
        )
    if not used:
        raise WrongUse(_none_usable(left_out, len(sources)))
    best = {name: {count: fit.best(count) for count in wanted[name]} for name, fit in fits.items()}
    log.info("Temperatures: %s", best)
    return FittedCalibrations(best, left_out)


def _added(
    network: Network,
    item: Labelled,
    fits: Sequence[tuple[Method, Sequence[Fit]]],
    plan: ScorePlan,
    planned: Estimator,
) -> str | None:
    """Add one image to all fits: None; or to none, and why that is so, "" where it has no label.

    Errors: OutOfMemory where memory runs out with one draw in a pass.
    """
    height, width = item.size
    while True:
        try:
            known = checked_known(item.source.id, plan, item.label)
            if not known.any():
                return ""
            images = item.normalised(network)[None]
            own = [(method.of(item.source.id), of_method) for method, of_method in fits]  # as when it is scored
            return None if update(own, images, item.label, known) else MISSED
        except IMAGE_ERRORS as error:
            if not ran_out_of_memory(error):
                return f"{height} x {width} image: {reason_of(error)}"
            if not planned.fewer_draws():
                raise OutOfMemory(
                    f"{height} x {width} image: memory runs out in a pass over the whole of it, and fits take no tiles."
                ) from error


def _none_usable(left_out: Mapping[str, str], images: int) -> str:
    if not left_out:
        return ALL_VOID.format(images)
    name, why = next(iter(left_out.items()))
    return f"None of the {images} validation images can be used to fit a temperature or a scaling. {name}: {why}"
