"""The tables and the picture of docs/how-to/sizing.md: what was measured, what is assumed, and what follows.

Must not measure or simulate anything.
"""

from __future__ import annotations

from itertools import pairwise

from benchmarks.measured_files import made, measured
from benchmarks.sizing.__main__ import row_cells
from benchmarks.sizing.model import Fleet, Head, Image, Store, bounds
from benchmarks.sizing.simulation import SHARED
from segment.files.text_tables import markdown
from segment.pictures.plots import new_figure, png_of, quiet

Lines = list[str]
SHOWN = (1, 2, 10, 100, 1000)
STYLES = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#7a3e9d", "D", ":"))
"""Colour, marker and line of a setting: colours that colour-blind readers tell apart, and not by these alone."""


def costs() -> Lines:
    """A row a setting: what an image takes."""
    result = measured("sizing_costs")["result"]
    rows = []
    for name, entry in result["settings"].items():
        seconds = [f"{entry[stage]:.3f}" for stage in ("decode", "network", "write")]
        size = [f"{entry[key] / 1e6:.2f}" for key in ("read", "written")]
        rows.append([name, *seconds, *size, f"{entry['writes']:.0f}"])
    columns = ("setting", "decode, s", "network, s", "write, s", "MB read", "MB written", "files")
    head = result["head"]
    words = (
        f"The head node takes {1000 * head['image']:.2f} ms an image while workers work, "
        f"{1000 * head['serial']:.2f} ms before and after, and {head['polling']:.1%} of a core all the time."
    )
    right = [False, *[True] * (len(columns) - 1)]
    return [*markdown(columns, rows, right=right), "", words, "", made("sizing_costs")]


def check() -> Lines:
    """Simulated against measured wall seconds."""
    result = measured("sizing")["result"]
    rows = [
        [
            row["workers"],
            f"{row['cores_of_others']:.2f}",
            f"{row['predicted']:.0f}",
            f"{row['measured']:.0f}",
            f"{row['error']:+.1%}",
            f"{row['images_per_second']:.2f}",
        ]
        for row in result["check"]
    ]
    here, ray = (result["slower"][where] for where in ("here", "ray"))
    words = (
        f"{measured('sizing_workers')['result']['images']} images, T = 16, on two cores that other programs used too. "
        f"Where another worker has the other core, an image takes {here:.2f} of the processor time that it "
        f"takes alone, and {ray:.2f} where both are of Ray."
    )
    columns = ("workers", "cores that others took", "simulated, s", "measured, s", "error", "images/s, measured")
    return [
        *(words, "", *markdown(columns, rows, right=[False, *[True] * 5]), ""),
        made("sizing_workers", "sizing"),
    ]


def assumed() -> Lines:
    result = measured("sizing")["result"]
    store, fleet = result["assumed"]["store"], result["assumed"]["fleet"]
    rows = [
        ["store, all together", f"{store['bandwidth'] / 1e9:.2f} GB/s, {store['requests']:,.0f} requests/s", "assumed"],
        ["a transfer", f"{store['connection'] / 1e6:.0f} MB/s after {1000 * store['latency']:.0f} ms", "assumed"],
        ["a machine", f"{fleet['cores']} cores, {fleet['each']} workers of a thread", "as measured"],
        ["an image beside another worker", f"{result['slower']['ray']:.2f} of its seconds alone", "measured"],
        ["Ray's own processes", f"{fleet['background']:.2f} cores of a machine", "measured"],
        ["start of a worker", f"{fleet['start']:.0f} s", "measured"],
        ["a worker fails", f"{fleet['failures']:g} times an hour", "assumed"],
        ["seconds of an image", f"± {fleet['spread']:.0%} around their mean", "assumed"],
        ["images given to a worker at a time", f"{fleet['row']}, {fleet['ahead']} times ahead", "as built"],
    ]
    return [*markdown(("part", "value", "from"), rows), "", made("sizing")]


def sizes() -> Lines:
    """A table a setting, a row a number of workers."""
    lines: Lines = []
    columns = ("workers", "images/s", "efficiency", "bottleneck", "hours", "core-hours", "GB in / out")
    for name, entry in measured("sizing")["result"]["settings"].items():
        rows = [row_cells(row) for row in entry["rows"] if row["workers"] in SHOWN]
        lines += [f"{name}:", "", *markdown(columns, rows, right=[name != "bottleneck" for name in columns]), ""]
    return [*lines, made("sizing")]


def limits() -> Lines:
    """A row a setting: images a second of two workers, and those that each shared part allows."""
    result = measured("sizing")["result"]
    store, head = Store(**result["assumed"]["store"]), Head(**result["assumed"]["head"])
    rows = []
    for name, entry in result["settings"].items():
        allowed = bounds(Image(**entry["image"]), Fleet(), store, head)
        two = next(row["images_per_second"] for row in entry["rows"] if row["workers"] == 2)
        rows.append([name, f"{two:.2f}", *(f"{allowed[part]:,.0f}" for part in SHARED)])
    columns = ("images/s", "two workers", *SHARED)
    return [*markdown(columns, rows, right=[False, *[True] * (len(columns) - 1)]), "", made("sizing")]


def picture() -> bytes:
    """Images a second against workers, a line a setting; a ring where another part becomes the busiest."""
    figure = new_figure(7.2, 4.8, 150)
    axes = quiet(figure.add_subplot())
    settings = measured("sizing")["result"]["settings"]
    for number, (name, entry) in enumerate(settings.items()):
        colour, marker, line = STYLES[number % len(STYLES)]
        rows = entry["rows"]
        workers, rates = ([row[key] for row in rows] for key in ("workers", "images_per_second"))
        moves = [after for before, after in pairwise(rows) if before["bottleneck"] != after["bottleneck"]]
        words = "".join(f"; {row['bottleneck']} from {row['workers']:,}" for row in moves)
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.8}
        axes.plot(workers, rates, line, label=name + words, **style)
        axes.plot(
            [row["workers"] for row in moves],
            [row["images_per_second"] for row in moves],
            "o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=1.6,
        )
    first = next(iter(settings.values()))["rows"]
    ideal = [row["workers"] * first[0]["images_per_second"] for row in first]
    axes.plot(
        [row["workers"] for row in first],
        ideal,
        color="#999999",
        linewidth=1,
        zorder=1,
        label="T = 16 if all workers added up",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [row["workers"] for row in first]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.yaxis.set_major_formatter("{x:,.4g}")
    axes.minorticks_off()
    axes.set(xlabel="workers", ylabel="images a second", title="Simulated rate; rings: where another part limits it")
    axes.legend(frameon=False, fontsize=8)
    return png_of(figure)
