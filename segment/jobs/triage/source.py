"""Whether a run is made as the counts behind a triage were: the same network, bank, draws, precision and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segment.errors import WrongUse
from segment.guarantees.triage import Triage
from segment.jobs.evaluation.combinations import Combination, combination

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
    "shift": "the corruption of the images",
}
"""What a threshold depends on, in words."""
TUNED = "tuned"
"""What an evaluation calls the method of a tuned setting."""
OPTIONS = {"draws": "--draws", "precision": "--precision"}


def settings_of_method(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the uncertainty of a method depends on beside network and bank, of an evaluation's settings."""
    of = Combination() if method == TUNED else combination(method)
    used = ["views"] if of.augmented else []
    used += ["insert_dropout", "seed"] if of.passes == "dropout" else []
    used += ["ensemble"] if of.passes == "ensemble" else []
    used += ["shift"] if settings.get("shift") else []
    return {name: settings.get(name) for name in used}


def refuse_other_source(triage: Triage, run: Mapping[str, Any]) -> None:
    """Refuse a run whose uncertainty is made in another way than that which the thresholds were chosen for.

    run: the keys of MEANT. Errors: WrongUse, naming each difference and the option that removes it.
    """
    differences = []
    for key, words in MEANT.items():
        theirs, ours = triage.source.get(key), run.get(key)
        if theirs != ours:
            named = "" if key == TUNED else f": {_short(theirs)} there, {_short(ours)} here"
            option = f" (give {OPTIONS[key]} {theirs})" if key in OPTIONS else ""
            differences.append(f"{words} differs{named}{option}")
    if differences:
        raise WrongUse(
            f"This triage was calibrated under other conditions, so that its guarantee does not hold here: "
            f"{'; '.join(differences)}. Run the same, or calibrate again."
        )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
