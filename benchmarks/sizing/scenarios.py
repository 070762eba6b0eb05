"""Fleets of more and more workers, and what the simulation foretells of runs that were measured.

Must not know where a figure comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.sizing.model import MILLION, Fleet, Head, Image, Store, bounds
from benchmarks.sizing.simulation import Simulated, simulated

WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SERIAL = "head node, before and after"
ROWS, MANY_ROWS = 12, 4
"""Rows of each worker that are simulated: of few workers, and of more than a hundred."""


def fleets(
    image: Image, fleet: Fleet, store: Store, head: Head, workers: Sequence[int] = WORKERS, images: int = MILLION
) -> list[dict[str, Any]]:
    """A row for each number of workers: rate, efficiency, bottleneck, hours and what so many images take.

    Efficiency is the hours of one worker over those of all workers together, with the start and the head's own time.
    """
    alone = _run(image, replace(fleet, workers=1), store, head).hours(images, head.serial)
    return [_row(image, replace(fleet, workers=count), store, head, alone, images) for count in workers]


def _run(image: Image, fleet: Fleet, store: Store, head: Head) -> Simulated:
    rows = ROWS if fleet.workers <= 100 else MANY_ROWS
    return simulated(fleet.workers * fleet.row * rows, image, fleet, store, head)


def _row(image: Image, fleet: Fleet, store: Store, head: Head, alone: float, images: int) -> dict[str, Any]:
    run = _run(image, fleet, store, head)
    hours, serial = run.hours(images, head.serial), images * head.serial / 3600
    again = 1 + run.repeated / run.images
    return {
        "workers": fleet.workers,
        "images_per_second": run.rate,
        "at_best": min(bounds(image, fleet, store, head).values()),
        "efficiency": alone / hours / fleet.workers,
        "bottleneck": SERIAL if serial > hours / 2 else run.bottleneck,
        "busy": run.busy,
        "hours": hours,
        "core_hours": hours * fleet.machines * fleet.cores,
        "read_gb": images * image.read * again / 1e9,
        "written_gb": images * image.written * again / 1e9,
        "in_hand": run.in_hand,
        "done_again": again - 1,
    }


def foretold(measured: Mapping[str, Any], image: Image, cores: int, head: Head) -> list[dict[str, Any]]:
    """Wall seconds of one worker, of two side by side, and of as many of Ray, as simulated and as measured.

    The run of few images, with the start, is taken as it was measured; the rest is simulated. Other programs of the
    machine took a part of its cores, which was measured and which the workers do not get here either.

    measured: result of `benchmarks.runners`. image: its costs, of one worker alone. cores: of that machine
    """
    images, actors = measured["images"], measured["actors"]
    beside, on_ray = (replace_work(image, slower(measured, where)) for where in ("here", "ray"))
    half, row = -(-images // actors) - FEW, max(1, min(16, images // (8 * actors)))
    rows = []
    for key, words, started, costs, fleet, node in (
        ("here", "1, here", 1, image, Fleet(row=images), Head()),
        ("side_by_side", f"{actors}, side by side", actors, beside, Fleet(workers=actors, row=half), Head()),
        ("ray", f"{actors}, on Ray", 1, on_ray, Fleet(workers=actors, row=row), head),
    ):
        few, whole = measured["ray_starting" if key == "ray" else "here_starting"], measured[key]
        taken = (whole["others"] + whole["ray"]) / whole["wall"]
        fleet = replace(fleet, each=fleet.workers, cores=cores, background=min(taken, cores - 0.1))
        run = simulated(images - FEW * started, costs, fleet, head=node)
        predicted = few["wall"] + run.seconds
        rows.append(
            {
                "workers": words,
                "images_per_second": (images - FEW * started) / (whole["wall"] - few["wall"]),
                "cores_of_others": whole["others"] / whole["wall"],
                "predicted": predicted,
                "measured": whole["wall"],
                "error": predicted / whole["wall"] - 1,
            }
        )
    return rows


FEW = 2
"""Images of the run that tells the start: `benchmarks.runners.STARTING`."""


def slower(measured: Mapping[str, Any], where: str) -> float:
    """Processor seconds of an image with a worker on each core, over those with one alone: they share caches.

    where: "here", of commands side by side, or "ray"
    """
    alone = (measured["here"]["work"] - measured["here_starting"]["work"]) / (measured["images"] - FEW)
    return float(measured["seconds_an_image"][where]) / alone


def replace_work(image: Image, factor: float) -> Image:
    """The image with so many times the processor seconds."""
    return replace(image, **{name: factor * asdict(image)[name] for name in ("decode", "network", "write")})
