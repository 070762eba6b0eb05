"""What differs between two runs beside their images: the labels that they are measured by, and what predicted.

Must not know which numbers are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segment.errors import WrongUse
from segment.jobs.decisions.run_table import RunTable
from segment.jobs.evaluation.combinations import TUNED
from segment.jobs.labelled.labels import label_options
from segment.jobs.triage.source import MEANT, settings_of_method


def other_labels(a: RunTable, b: RunTable, pairs: Sequence[str]) -> str:
    """What differs between the labels of two evaluations, in a sentence or two; "" where nothing does.

    Args:
        a: Run A.
        b: Run B.
        pairs: The ids that are compared image by image.

    """
    if not (a.labelled and b.labelled):
        return ""
    in_a, in_b = (label_options(table.run.settings) for table in (a, b))
    parts = [f"{name} is {in_a[name]} in A and {in_b[name]} in B" for name in in_a if in_a[name] != in_b[name]]
    pixels = sum(a.rows[name].get("pixels") != b.rows[name].get("pixels") for name in pairs)
    if pixels:
        parts.append(f"{pixels} of {len(pairs)} pairs have another number of scored pixels")
    first, second = a.label_files(), b.label_files()
    files = sum(name in first and name in second and first[name] != second[name] for name in pairs)
    if files:
        parts.append(f"{files} of {len(pairs)} pairs have other label files")
    if not parts:
        return ""
    return (
        f"THE LABELS DIFFER: {'; '.join(parts)}. Accuracy, NLL and all other numbers by labels compare the labels too: "
        "no difference in them says that one run is better."
    )


def other_predictor(a: RunTable, b: RunTable) -> str:
    """By what other than A B was predicted, so that A's labels tell nothing of B's accuracy; "" for nothing."""
    first, second = _predictor(a), _predictor(b)
    parts = [what for what, value in first.items() if None not in (value, second[what]) and value != second[what]]
    return f"another {' and another '.join(parts)}" if parts else ""


def _predictor(table: RunTable) -> dict[str, Any]:
    """What decides a run's confidences, by words; None where it is not known or has no part in them."""
    settings = table.run.settings
    method, _, number = table.method.partition("#")
    tuned = settings.get("tuned") if method in ("", TUNED) else None
    method = method or ("mcbn" if tuned is None else TUNED)
    banks = settings.get("banks") or [settings.get("bank")]
    drawn = method != TUNED and ("mcbn" in method or "mean_statistics" in method)
    used = settings_of_method(method, settings)
    return {
        "network": table.run.network,
        "method": method,
        "tuned setting": tuned,
        "bank": banks[int(number or 1) - 1] if drawn else None,
        "number of draws": _passes(table, method) if "mcbn" in method else None,
        "fitted temperature or scaling": table.run.record.get("calibrations", {}).get(table.method),
        **{MEANT[key].removeprefix("the "): used.get(key) for key in ("views", "insert_dropout", "seed", "ensemble")},
    }


def _passes(table: RunTable, method: str) -> int | None:
    """Draws of an image; None where they are not one number, or not recorded."""
    try:
        if table.labelled:
            return int((table.run.scores or {})["methods"][method]["passes_per_image"])
        return int(table.run.plan["draws"])
    except (WrongUse, LookupError, TypeError, ValueError):
        return None
