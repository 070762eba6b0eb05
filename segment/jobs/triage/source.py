"""Whether a run is made as the counts behind a triage were: the same network, bank, draws, precision and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segment.errors import BankRefused, WrongUse, one_line
from segment.files.runs.computation import alike, gives
from segment.guarantees.triage import Triage
from segment.jobs.evaluation.combinations import TUNED, Combination, combination
from segment.jobs.labelled.labels import label_options
from segment.networks.load import Network
from segment.uncertainty.scaling import VectorScaling, of_json

MEANT = {
    "network": "the network (weights included)",
    "tuned": "the tuned setting",
    "bank": "the bank",
    "draws": "the number of draws",
    "precision": "the precision",
    "classes": "the classes",
    "views": "the views of test-time augmentation",
    "insert_dropout": "the inserted dropout",
    "seed": "the seed of dropout",
    "ensemble": "the members of the ensemble",
    "calibration": "the fitted temperature or scaling",
    "shift": "the corruption of the images",
    "masks": "whether images have region masks",
}
"""What a threshold depends on, in words."""
PROBE = "probe"
"""Key of a triage's source: what the network computed, as run.json has it."""
LABELS = "labels"
"""Key of a triage's source: `label_options` of the evaluation; a run without labels has none."""
OTHER_COMPUTATION = (
    "This triage was calibrated with a network of the same weights that computes something else (another "
    "interpolation, eps, argument or edited code), so that its guarantee does not hold here. Run that one, or "
    "calibrate again."
)
FIT = 0.01
"""How far apart two fitted temperatures may be."""
OPTIONS = {"draws": "--draws", "precision": "--precision"}


def settings_of_method(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the uncertainty of a method depends on beside network and bank, of an evaluation's settings."""
    of = Combination() if method == TUNED else combination(method)
    used = ["views"] if of.augmented else []
    used += ["insert_dropout", "seed"] if of.passes == "dropout" else []
    used += ["ensemble"] if of.passes == "ensemble" else []
    used += ["shift"] if settings.get("shift") else []
    return {name: settings.get(name) for name in used} | ({"masks": True} if settings.get("masks") else {})


def refuse_other_source(triage: Triage, run: Mapping[str, Any]) -> None:
    """Refuse a run whose uncertainty is made in another way than that which the thresholds were chosen for.

    run: the keys of MEANT. Errors: WrongUse, naming each difference and the option that removes it.
    """
    differences = []
    for key, words in MEANT.items():
        theirs, ours = triage.source.get(key), run.get(key)
        if theirs != ours and not (key == "calibration" and _near(theirs, ours)):
            named = "" if key == TUNED else f": {_short(theirs)} there, {_short(ours)} here"
            option = f" (give {OPTIONS[key]} {theirs})" if key in OPTIONS else ""
            differences.append(f"{words} differs{named}{option}")
    if differences:
        raise WrongUse(
            f"This triage was calibrated under other conditions, so that its guarantee does not hold here: "
            f"{'; '.join(differences)}. Run the same, or calibrate again."
        )


def refuse_edited_network(triage: Triage, network: Network) -> None:
    """Refuse a network of the triage's weights that computes something else. Errors: WrongUse.

    A triage of an evaluation of an earlier version has no probe, and is taken.
    """
    kept = triage.source.get(PROBE)
    if kept is not None and not _asked(gives, network, kept):
        raise WrongUse(OTHER_COMPUTATION)


def refuse_other_probe(triage: Triage, kept: Mapping[str, Any] | None) -> None:
    """Refuse a run whose network computes something else, by the probe in its record; None: it has none.

    Errors: WrongUse.
    """
    theirs = triage.source.get(PROBE)
    if theirs is not None and kept is not None and not _asked(alike, theirs, kept):
        raise WrongUse(OTHER_COMPUTATION)


def other_labels(triage: Triage, settings: Mapping[str, Any]) -> str:
    """How an evaluation's labels are read otherwise than those that calibrated the triage; "" where they are not.

    A triage of an evaluation of an earlier version does not say it.
    """
    theirs, ours = triage.source.get(LABELS), label_options(settings)
    parts = [
        f"{key} is {theirs[key]} there and {ours[key]} here" for key in ours if theirs and theirs[key] != ours[key]
    ]
    if not parts:
        return ""
    return (
        f"THE LABELS DIFFER from those that calibrated the triage: {'; '.join(parts)}. Where other pixels count, the "
        "loss is another than the promise is of."
    )


def _asked(compared: Callable[..., bool], *given: Any) -> bool:
    try:
        return compared(*given)
    except (BankRefused, ValueError) as error:
        raise WrongUse(f"The triage's `source: {PROBE}` is damaged: {one_line(error, 160)}. Calibrate again.") from None


def _near(theirs: Any, ours: Any) -> bool:
    """Whether two fits on the same images are the same; another machine rounds otherwise."""
    if theirs is None or ours is None:
        return False
    first, second = (
        np.hstack([value.factors, value.offsets] if isinstance(value, VectorScaling) else [value])
        for value in map(of_json, (theirs, ours))
    )
    return first.shape == second.shape and np.allclose(first, second, rtol=FIT, atol=FIT)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
