"""The tables of docs/networks.md, from the survey of networks.

Must not measure anything.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.measured_files import made, measured
from segment.experiments.reporting import t_interval
from segment.files.text_tables import markdown

Lines = list[str]


def networks() -> Lines:
    """How many networks of the survey ended how, then a row a network."""
    rows = measured("networks")["result"]["networks"]
    outcomes = Counter(row["outcome"] for row in rows)
    ways = Counter(row["way"] for row in rows if row["way"])
    opening = (
        f"{len(rows)} networks: {', '.join(f'{count} {name}' for name, count in outcomes.most_common())}. "
        f"Passes ran {', '.join(f'{name} in {count}' for name, count in ways.most_common())}."
    )
    columns = (
        "network",
        "stochastic",
        "fixed",
        "refused",
        "passes",
        "difference",
        "float32's own",
        "ms a pass",
        "ms plain",
        "remark",
    )
    right = [column not in ("network", "passes", "remark") for column in columns]
    return [opening, "", *markdown(columns, [_network_cells(row) for row in rows], right=right), "", made("networks")]


def families() -> Lines:
    """A row a decoder: how many of its networks equal a plain loop, and what a pass took beside a plain one."""
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for row in measured("networks")["result"]["networks"]:
        by_family.setdefault(row["network"].partition("?")[0], []).append(row)
    rows = []
    for name, members in by_family.items():
        ran = [row for row in members if row["outcome"] != "not built"]
        ratios = sorted(row["seconds"] / row["plain_seconds"] for row in ran if row["plain_seconds"])
        equal = sum(row["outcome"] == "equal" for row in ran)
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append([f"`{name}`", str(len(ran)), str(equal), f"{statistics.median(ratios):.2f}", span])
    columns = ("network", "ran", "equal to a plain loop", "a pass over a plain one, median", "of all")
    return [*markdown(columns, rows, right=[False, True, True, True, True]), "", _cost()]


def _cost() -> str:
    """A pass beside a plain one over all families, each counted once, for networks of a family are much alike."""
    logs: dict[str, list[float]] = {}
    for row in measured("networks")["result"]["networks"]:
        if row["plain_seconds"]:
            family = row["network"].partition("?")[0]
            logs.setdefault(family, []).append(math.log(row["seconds"] / row["plain_seconds"]))
    means = [statistics.fmean(values) for values in logs.values()]
    low, high = (math.exp(end) for end in t_interval(means))
    mean = math.exp(statistics.fmean(means))
    return f"Geometric mean over the {len(means)} families: {mean:.2f} (95 %: {low:.2f} to {high:.2f})."


def _network_cells(row: Mapping[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("stochastic", "fixed", "refused")]
    numbers = ["" if row[name] is None else f"{row[name]:.1e}" for name in ("difference", "noise")]
    times = ["" if row[name] is None else f"{1000 * row[name]:.0f}" for name in ("seconds", "plain_seconds")]
    message = str(row["message"]).replace("|", "\\|")
    remark = message if row["outcome"] == "equal" else f"{row['outcome']}: {message}".rstrip(": ")
    return [f"`{row['network']}`", *counts, row["way"], *numbers, *times, remark]
