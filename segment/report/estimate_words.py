"""The estimated accuracy of an unlabelled run in a sentence, with how wrong such estimates were on labelled runs.

Must not know how an accuracy is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping

from segment.errors import count_of
from segment.significance.estimated_accuracy import Estimates


def estimate_words(name: str, e: Estimates, errors: Mapping[str, float | None] | None, checked_on: int) -> list[str]:
    """A sentence; none where nothing could be estimated.

    Args:
        name: Of the run.
        e: Its estimates.
        errors: Method -> its mean error on `checked_on` labelled runs; None where there are none.
        checked_on: How many these are.

    >>> estimate_words("B", Estimates(0.8, None), {"atc": 0.0, "doc": None}, 1)
    ['Estimated accuracy of B: ATC 0.800 of its pixels. The mean error on 1 labelled run was ATC 0.000.']

    """
    estimates = (
        ("ATC", e.atc, "of its pixels", e.truth),
        ("DoC", e.doc, "as the mean over its images", e.mean_truth),
    )
    parts = [
        f"{method} {value:.3f} {of}" + ("" if truth is None else f" (it is {truth:.3f})")
        for method, value, of, truth in estimates
        if value is not None
    ]
    if not parts:
        return []
    line = f"Estimated accuracy of {name}: {', '.join(parts)}"
    if errors is None or not checked_on:
        unknown = "How wrong these estimates are under such a shift is not known: give labelled runs by --known."
        return [f"{line}. {unknown}"]
    known = ((method, errors.get(method.lower())) for method, *_ in estimates)
    wrong = ", ".join(f"{method} {error:.3f}" for method, error in known if error is not None)
    return [f"{line}. The mean error on {count_of(checked_on, 'labelled run')} was {wrong or 'not known'}."]
