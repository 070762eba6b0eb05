"""Hours and core-hours of a million images on 1 to 1,000 workers: `python -m benchmarks.sizing`.

Without `--seconds`, of what docs/measured/sizing_costs.json and sizing_workers.json hold, as JSON; with it, of your own
figures, as a table. docs/how-to/sizing.md says what is simulated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any

from benchmarks.measured_files import measured
from benchmarks.sizing.model import MILLION, Fleet, Head, Image, Store
from benchmarks.sizing.scenarios import FEW, WORKERS, fleets, foretold, replace_work, slower
from segment.files.text_tables import markdown

STORE = Store(bandwidth=1.25e9, connection=5e7, requests=3500, latency=0.03)
"""Assumed: ten gigabits a second in all, and the writes a second that S3 documents for a prefix."""

FAILURES, SPREAD = 0.01, 0.1
"""Assumed: of a worker, an hour; of an image's seconds, around the mean."""


def documented() -> dict[str, Any]:
    """The settings of docs/how-to/sizing.md, from what was measured."""
    costs, runners, machine = measured("sizing_costs")["result"], *_runners()
    settings = {name: _image(entry, costs["settings"].values()) for name, entry in costs["settings"].items()}
    head = Head(image=costs["head"]["image"], serial=costs["head"]["serial"])
    first = next(iter(settings.values()))
    fleet = Fleet(
        each=runners["actors"],
        cores=machine["cores"],
        background=runners["cores_of_ray"],
        start=max(0.0, runners["ray_starting"]["wall"] - FEW * runners["seconds_an_image"]["ray"]),
        failures=FAILURES,
        spread=SPREAD,
    )
    factor = {where: slower(runners, where) for where in ("here", "ray")}
    return {
        "slower": factor,
        "check": foretold(runners, first, machine["cores"], head),
        "assumed": {"store": asdict(STORE), "head": asdict(head), "fleet": asdict(fleet)},
        "settings": {
            name: {
                "image": asdict(image),
                "rows": fleets(replace_work(image, factor["ray"]), fleet, STORE, head),
            }
            for name, image in settings.items()
        },
    }


def _runners() -> tuple[dict[str, Any], dict[str, Any]]:
    contents = measured("sizing_workers")
    return contents["result"], contents["machine"]


def _image(entry: dict[str, Any], entries: Collection[dict[str, Any]]) -> Image:
    """A setting; what does not depend on the files is the least of those measured, for other programs only add to it.

    `writes` counts a line of the manifest too.
    """
    known = {field.name: entry[field.name] for field in fields(Image) if field.name in entry}
    network = min(each["network"] for each in entries if each["passes"] == entry["passes"])
    decode = min(each["decode"] for each in entries)
    return Image(**known | {"network": network, "decode": decode, "writes": round(entry["writes"]) + 1})


def own(arguments: argparse.Namespace) -> list[str]:
    """A table of the figures that were given. Errors: ValueError for one that cannot be."""
    image = Image(
        decode=arguments.decode,
        network=arguments.seconds * arguments.passes,
        write=arguments.write,
        passes=arguments.passes,
        read=arguments.read,
        written=arguments.written,
        writes=arguments.files,
    )
    fleet = Fleet(
        each=arguments.each,
        cores=arguments.cores,
        background=arguments.background,
        start=arguments.start,
        failures=arguments.failures,
        spread=SPREAD,
    )
    store = Store(
        bandwidth=arguments.bandwidth,
        connection=arguments.connection,
        requests=arguments.requests,
        latency=arguments.latency,
    )
    head = Head(image=arguments.head, serial=arguments.serial)
    workers = [int(count) for count in arguments.workers.split(",")]
    rows = fleets(image, fleet, store, head, workers, arguments.images)
    columns = ["workers", "images/s", "efficiency", "bottleneck", "hours", "core-hours", "GB in / out"]
    cells = [row_cells(row) for row in rows]
    if arguments.price is not None:
        columns.append("price")
        cells = [[*cell, f"{row['core_hours'] * arguments.price:,.2f}"] for cell, row in zip(cells, rows, strict=True)]
    return markdown(columns, cells, right=[name != "bottleneck" for name in columns])


def row_cells(row: dict[str, Any]) -> list[str]:
    """A row of `fleets` as the page and the command show it."""
    return [
        f"{row['workers']:,}",
        f"{row['images_per_second']:,.3g}" if row["images_per_second"] < 1000 else f"{row['images_per_second']:,.0f}",
        f"{row['efficiency']:.0%}",
        row["bottleneck"],
        f"{row['hours']:,.2f}" if row["hours"] < 10 else f"{row['hours']:,.0f}",
        f"{row['core_hours']:,.0f}",
        f"{row['read_gb']:,.0f} / {row['written_gb']:,.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, help="of a pass on one core")
    add("--passes", type=int, default=16, help="of an image: T, or K of a distilled bank")
    add("--decode", type=float, default=0.0, help="seconds of reading an image on one core")
    add("--write", type=float, default=0.0, help="seconds of encoding its files on one core")
    add("--read", type=float, default=0.0, help="bytes of an image file")
    add("--written", type=float, default=0.0, help="bytes of an image's results")
    add("--files", type=int, default=1, help="of an image's results: requests to the store")
    add("--workers", default=",".join(map(str, WORKERS)), help="with commas")
    add("--each", type=int, default=1, help="workers of a machine")
    add("--cores", type=int, default=1, help="of a machine")
    add("--background", type=float, default=0.0, help="cores of a machine that Ray takes")
    add("--start", type=float, default=0.0, help="seconds until a worker has its network")
    add("--failures", type=float, default=0.0, help="of a worker, an hour")
    add("--bandwidth", type=float, default=STORE.bandwidth, help="of the store, bytes a second")
    add("--connection", type=float, default=STORE.connection, help="of one transfer, bytes a second")
    add("--requests", type=float, default=STORE.requests, help="of the store, a second")
    add("--latency", type=float, default=STORE.latency, help="of a request, seconds")
    add("--head", type=float, default=0.0, help="seconds of the head for an image, while others work")
    add("--serial", type=float, default=0.0, help="seconds of the head for an image, while they wait")
    add("--images", type=int, default=MILLION)
    add("--price", type=float, help="of a core-hour")
    arguments = parser.parse_args()
    if arguments.seconds is None:
        sys.stdout.write(json.dumps(documented(), indent=2) + "\n")
        return
    try:
        lines = own(arguments)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
