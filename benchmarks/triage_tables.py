"""The tables of docs/triage.md: what random splits and other sequences gave.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measured_files import made, measured, short
from segment.files.text_tables import markdown

Lines = list[str]


def triage(name: str, unit: str, measures: Sequence[str]) -> Lines:
    """A row a network, promise and limit: what random splits of labelled images gave on the images left over."""
    columns = ("network", "promise", "limit", "mean loss", "violated", "on the rest", "accepted", "oracle accepts")
    result, rows = measured(name)["result"], []
    for network in result["networks"]:
        for row in network["rows"]:
            if row["unit"] != unit or row["measure"] not in measures:
                continue
            most = row["guarantee"] == "images"
            promise = f"{100 * row['share']:.0f} % of images" if most else "in expectation"
            violated = [short(row[key]) if most else "" for key in ("violated", "rest_violated")]
            shares = [f"{100 * row[key]:.1f} %" for key in ("accepted", "oracle")]
            label = (
                f"`{network['model']}`" if network["method"] == "mcbn" else f"`{network['model']}`, {network['method']}"
            )
            rows.append([label, promise, short(row["limit"], 2), short(row["loss"], 4), *violated, *shares])
    right = [column not in ("network", "promise") for column in columns]
    images = " and ".join(dict.fromkeys(str(network["images"]) for network in result["networks"]))
    opening = f"{result['splits']} splits of {images} images, {result['calibration']} to calibrate on:"
    return [opening, "", *markdown(columns, rows, right=right), "", made(name)]


def triage_sequences(name: str, limit: float) -> Lines:
    """A row a network and pair of sequences: the loss where the threshold was calibrated on another sequence."""
    columns = ("network", "calibrated on", "used on", "mean loss", "accepted", "AUROC", "shift")
    rows, above, seen, count = [], 0, 0, 0
    for network in measured(name)["result"]["networks"]:
        for row in network.get("sequences", ()):
            count, exceeds = count + 1, row["loss"] > row["limit"]
            above, seen = above + exceeds, seen + (exceeds and row["shifted"])
            if row["limit"] == limit:
                names = [str(row[key]).rpartition("/")[2] for key in ("calibrated", "used")]
                numbers = [short(row["loss"]), f"{100 * row['accepted']:.1f} %", short(row["auroc"])]
                rows.append([f"`{network['model']}`", *names, *numbers, "seen" if row["shifted"] else "not seen"])
    right = [column not in ("network", "calibrated on", "used on", "shift") for column in columns]
    closing = (
        f"At a limit of {short(limit, 2)}. At all three, the loss exceeds the limit in {above} of {count} cases, "
        f"and the shift is seen in {seen} of these."
    )
    return [*markdown(columns, rows, right=right), "", closing, "", made(name)]
