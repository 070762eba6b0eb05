"""Quality against cost from a sweep: a table, a verdict and a picture for each network of docs/results.md.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segment.files.text_tables import markdown
from segment.pictures.plots import Line, plot

Lines = list[str]
Scores = Mapping[str, Mapping[str, Any]]
FROM = 4
"""Passes from which on methods are compared at equal cost."""


def by_passes(result: Mapping[str, Any]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Method -> passes -> its scores, of a sweep over T with one setting of the draws."""
    methods: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, row in result["methods"].items():
        methods.setdefault(name.partition(",")[0], {})[int(row["passes_per_image"])] = row["scores"]
    return methods


def curves_table(result: Mapping[str, Any], score: str = "nll") -> Lines:
    """A row a method, a column a number of passes; the spread over banks after the value."""
    methods = by_passes(result)
    passes = sorted({count for of in methods.values() for count in of})
    rows = []
    for name, of in methods.items():
        rows.append([f"`{name}`", *(_cell(of[count][score]) if count in of else "" for count in passes)])
    return markdown(("method", *map(str, passes)), rows, right=[False, *[True] * len(passes)])


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "–"
    spread = entry.get("bank_sd")
    return f"{entry['value']:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def verdict(result: Mapping[str, Any], score: str = "nll") -> Lines:
    """Whether MCBN is best at equal cost from FROM passes on, alone and with views, and by how much.

    A method that takes fewer passes competes at every larger number too, for it is as cheap or cheaper.
    """
    methods = by_passes(result)
    counts = sorted({count for of in methods.values() for count in of if count >= FROM})
    lines, rows = [], []
    for words, own in (("MCBN", _alone), ("MCBN with views", _with_views)):
        won = 0
        for count in counts:
            best = {name: _at(of, count, score) for name, of in methods.items() if min(of) <= count}
            ours, other = (
                min((name for name in best if kind(name)), key=lambda name: best[name][0]) for kind in (own, _without)
            )
            (value, spread), (rival, _) = best[ours], best[other]
            won += value < rival
            difference = f"{value - rival:+.4f}" + ("" if spread is None else f" ± {spread:.4f}")
            rows.append([f"{count}", f"`{ours}`", f"{value:.4f}", f"`{other}`", f"{rival:.4f}", difference])
        answer = "yes" if won == len(counts) else "no" if not won else f"at {won} of {len(counts)} numbers of passes"
        lines.append(f"- {words}: best at equal cost from {FROM} passes on: **{answer}**.")
    columns = ("passes", "best with MCBN", "NLL", "best without", "NLL", "difference")
    return [*lines, "", *markdown(columns, rows, right=[True, False, True, False, True, True])]


def _at(of: Mapping[int, Mapping[str, Any]], count: int, score: str) -> tuple[float, float | None]:
    """The value with the most passes that are not more than so many, and its spread over banks."""
    entry = of[max(each for each in of if each <= count)][score]
    return float(entry["value"]), entry.get("bank_sd")


def _alone(name: str) -> bool:
    return name.startswith("mcbn") and "tta" not in name


def _with_views(name: str) -> bool:
    return name.startswith("mcbn") and "tta" in name


def _without(name: str) -> bool:
    return not name.startswith("mcbn")


METHODS = (
    *("mcbn", "dropout", "deterministic", "tta", "mean_statistics", "temperature", "mcbn+tta", "tta+temperature"),
    *("mcbn+temperature", "mcbn+tta+temperature", "vector_scaling"),
)
"""In the order of the colours, so that a method has one colour in all pictures."""


def _colour(name: str) -> int | None:
    return METHODS.index(name) if name in METHODS else None


def picture(result: Mapping[str, Any], title: str, score: str = "nll") -> bytes:
    """NLL against passes, a line a method; dashed where it takes one number of passes only, up to the largest."""
    methods = by_passes(result)
    ticks = sorted({count for of in methods.values() for count in of})
    lines = []
    for name, of in methods.items():
        counts = sorted(count for count in of if of[count][score]["value"] is not None)
        values = [float(of[count][score]["value"]) for count in counts]
        if len(counts) == 1:
            lines.append(Line(name=name, x=[counts[0], ticks[-1]], y=values * 2, dashed=True, colour=_colour(name)))
        else:
            lines.append(Line(name=name, x=counts, y=values, colour=_colour(name)))
    lines.sort(key=lambda line: -line.y[-1])  # as the ends of the lines stand
    words = "NLL, nats a pixel"
    return plot(lines, title=title, x="passes an image", y=words, logarithmic=True, ticks=[int(t) for t in ticks])


NAMES = {"unet_lite0_camvid": "CamVid U-Net", "enet_camvid": "CamVid ENet"}
"""Models as tables call them."""


def distilled(results: Sequence[Mapping[str, Any]]) -> Lines:
    """A row a bank: its passes, the error of its variance map, and the plain draws that are as good.

    The error of T plain draws falls as 1 / sqrt(T), from the largest T that was measured.
    """
    plain: dict[str, dict[int, float]] = {}
    for result in results:
        of_network = plain.setdefault(NAMES[result["settings"]["model"]], {})
        of_network |= {
            int(name.split()[3].rstrip(",")): error
            for name, error in result["errors"].items()
            if name.startswith("plain")
        }
    rows: list[list[str]] = []
    for result in results:
        errors, settings = result["errors"], result["settings"]
        views = settings.get("views_from", "None")
        views = f"{settings['views']} of {'training' if views == 'None' else 'other test'} images"
        network = NAMES[settings["model"]]
        rows += [
            [network, f"{draws} plain", str(draws), "", f"{error:.3f}", f"{draws}"]
            for draws, error in sorted(plain[network].items())
        ]
        most = max(plain[network])
        for name, error in errors.items():
            draws = name.removeprefix("distilled, K = ")
            if draws.isdecimal():
                worth, held_out = most * (plain[network][most] / error) ** 2, errors[f"{name}, on held-out views"]
                rows.append(
                    [network, f"{draws} distilled", draws, f"{views}: {held_out:.3f}", f"{error:.3f}", f"{worth:.0f}"]
                )
    rows = [row for index, row in enumerate(rows) if row not in rows[:index]]  # plain draws of one network, twice
    columns = ("network", "bank", "passes", "on views that took no part", "on test images", "as good as plain draws")
    errors_of = {NAMES[r["settings"]["model"]]: r["errors"]["the reference itself, estimated"] for r in results}
    own = " and ".join(f"{error:.3f} ({network})" for network, error in errors_of.items())
    images, draws = len(results[0]["images"]), results[0]["settings"]["reference"]
    words = (
        f"Relative L1 error of the variance map, on {images} test images. The reference, {draws} draws of another "
        f"seed, has an error of {own} itself by its halves, which is part of each number."
    )
    return [words, "", *markdown(columns, rows, right=[False, False, True, True, True, True])]


def trained_heads(results: Sequence[Mapping[str, Any]]) -> Lines:
    """A row a head: how near its maps come to those of draws, its price, and what it loses on unseen objects."""
    parts = ("variance", "mutual_information")
    first = results[0]
    settings, draws = first["settings"], first["unseen AUROC"]
    rows = [[f"{settings['bank']} draws", "", "", "", *(f"{draws[part]['draws']:.3f}" for part in parts)]]
    for result in results:
        told = int(result["settings"]["told"])
        off, unseen, spent = result["test scenes"], result["unseen AUROC"], result["seconds"]
        if told:
            rows.append([f"{told} distilled draws", f"{off['the few draws alone, variance']:.3f}", *[""] * 4])
        name = f"a head that reads {told} distilled draws" if told else "a head"
        errors, aurocs = [f"{off[part]:.3f}" for part in parts], [f"{unseen[part]['head']:.3f}" for part in parts]
        rows.append([name, *errors, f"{spent['the head'] / spent['a pass']:.2f}", *aurocs])
    columns = ("maps of", "relative L1 error, variance", "MI", "head over a pass", "unseen AUROC, variance", "MI")
    words = (
        f"{settings['test']} generated scenes with unseen objects; trained on {settings['train']} without, in "
        f"{settings['steps']} steps."
    )
    return [words, "", *markdown(columns, rows, right=[False, True, True, True, True, True])]


def beside_others(result: Mapping[str, Any]) -> Lines:
    """A row an implementation: its median seconds, and over those of the one that the ratios are over."""
    reference = next(name for name, ratio in result["ratios"].items() if ratio == 1)
    rows = [[name, f"{seconds:.2f}", f"{result['ratios'][name]:.2f}"] for name, seconds in result["median"].items()]
    return markdown(("implementation", "median, s", f"over {reference}"), rows, right=[False, True, True])


def as_good(result: Mapping[str, Any]) -> Lines:
    """A row an implementation: seconds an image, over those of distilled draws, and the error of its variance maps."""
    distilled = next(name for name, ratio in result["ratios"].items() if ratio == 1)
    rows = [
        [name, f"{seconds:.2f}", f"{result['ratios'][name]:.2f}", f"{result['errors'][name]:.3f}"]
        for name, seconds in result["median"].items()
    ]
    columns = ("implementation", "median of an image, s", f"over {distilled}", "relative L1 error")
    words = f"{result['images']} test images, each once after a first one to warm up."
    return [words, "", *markdown(columns, rows, right=[False, True, True, True])]
