"""What the paper's table says of MCBN and MC dropout, to stand beside the scores measured here.

Must not know how a score is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segment.experiments.reporting import Row

NORMALISED = {  # CRPS and PLL between constant (0) and optimum (100): Teye et al. 2018, table 2
    "boston": {"mcbn": (8.50, 10.49), "mcdo": (3.06, 5.51)},
    "concrete": {"mcbn": (3.91, -36.36), "mcdo": (0.93, 10.92)},
    "energy": {"mcbn": (5.75, 10.89), "mcdo": (1.37, -14.28)},
    "kin8nm": {"mcbn": (2.85, 1.68), "mcdo": (1.82, -0.26)},
    "power": {"mcbn": (0.24, 0.33), "mcdo": (-0.44, 3.52)},
    "protein": {"mcbn": (2.66, 2.56), "mcdo": (0.99, 6.23)},
    "wine": {"mcbn": (0.26, 0.19), "mcdo": (2.00, 2.91)},
    "yacht": {"mcbn": (-56.39, 45.58), "mcdo": (21.42, -41.54)},
}
NOTE = """
The paper's table 2 has means over 5 splits with 5 seeds each; ours has one seed a split. Its significance is a
one-sample t-test, which takes splits that share rows as independent: "t-test" is the one-sided p of that test on our
normalised scores, "corrected" that of the test that our verdicts use (Nadeau & Bengio), on the differences from the
constant.
""".strip()


def beside(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Normalised scores here (rows of the table of scores) and in the paper, with the p-values of both tests."""
    return [
        {
            "set": row["set"],
            "method": row["method"],
            "CRPS": row["normalised_crps"],
            "CRPS in the paper": NORMALISED[row["set"]][row["method"]][0],
            "p CRPS, t-test": _p(row["t_test_crps"]),
            "corrected": _p(row["p_crps"]),
            "PLL": row["normalised_pll"],
            "PLL in the paper": NORMALISED[row["set"]][row["method"]][1],
            "p PLL, t-test": _p(row["t_test_pll"]),
            "corrected ": _p(row["p_pll"]),
        }
        for row in rows
        if row["method"] in NORMALISED[row["set"]]
    ]


def _p(value: float | None) -> str:
    """A p-value, or a dash where there is none: one split, or a method that is its own constant."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
