"""The tables of docs/how-to/many-images.md: runs that were killed, a run of many images, and how busy the network was.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.measured_files import made, measured
from segment.files.text_tables import markdown

Lines = list[str]
KINDS = {"kill": "SIGKILL", "term": "SIGTERM", "interrupt": "Ctrl-C", "full": "disk full"}


def kills(names: Sequence[str]) -> Lines:
    """A row a command: how often it was ended in each way, the runs that ended in the end, and what differs there."""
    rows = []
    for name in names:
        for command, kinds in measured(name)["result"]["commands"].items():
            ended = [str(kinds[kind]["kills"]) for kind in KINDS]
            completed = sum(kind["completed"] for kind in kinds.values())
            different = sum(len(kind["different"]) for kind in kinds.values())
            rows.append([f"`{command}`", *ended, str(completed), str(different)])
    columns = ("command", *KINDS.values(), "runs ended", "files that differ")
    return [*markdown(columns, rows), "", made(*names)]


def endurance() -> Lines:
    result = measured("endurance")["result"]
    least, most = result["open_files_least"], result["open_files_most"]
    rows = [
        ["images", f"{result['images']:,}"],
        ["growth of the resident memory, MiB per 1,000 images", f"{result['rss_mib_per_1000_images']:.2f}"],
        ["open files", f"{least} to {most}"],
        ["new runs beside it", f"{result['new_runs']}"],
    ]
    for clock, name in (("processor", "of processor time"), ("clock", "by the clock")):
        beside = result["beside_new_runs"][clock]
        rows.append(
            [
                f"images a second {name} over those of new runs, end over start",
                f"{beside['last_over_first']:.3f} ({beside['low']:.3f} to {beside['high']:.3f})",
            ]
        )
    return [*markdown(("many images", ""), rows), "", made("endurance")]


def on_ray() -> Lines:
    """A row a pair: processor seconds of an image by commands side by side, and by actors of Ray."""
    result = measured("runners_pairs")["result"]
    rows = [[f"{pair['here']:.2f}", f"{pair['ray']:.2f}", f"{pair['overhead']:+.1%}"] for pair in result["pairs"]]
    words = (
        f"{result['images']} images in {len(rows)} parts, T = 16, {result['actors']} processes of one thread: the "
        f"median is {result['overhead_of_work']:+.1%}, and {len(result['differing_files']) or 'no'} files differ."
    )
    columns = ("commands side by side, s", "actors of Ray, s", "more")
    return [*markdown(columns, rows, right=[True] * 3), "", words, "", made("runners_pairs")]


def scoring() -> Lines:
    """A row a network: what an image takes, in passes and in scoring."""
    result = measured("scoring")["result"]
    names = {"light": "smp.Unet resnet18, 4 classes, 256 x 320", "camvid": "CamVid U-Net, 11 classes, 360 x 480"}
    rows = [
        [names[name], f"{of['passes_seconds']:.2f}", f"{of['scoring_seconds']:.3f}", f"{of['ratio']:.3f}"]
        for name, of in ((name, result[name]) for name in names)
    ]
    columns = ("network", f"{result['draws']} passes, s", "scoring, s", "both over passes")
    return [*markdown(columns, rows, right=[False, True, True, True]), "", made("scoring")]


def busy(names: Mapping[str, str]) -> Lines:
    """A row a run: the share of the time in which the network ran."""
    rows = []
    for words, name in names.items():
        timings = measured(name)["result"]["timings"]
        parts = [timings[part] for part in ("network", "waiting_for_images", "waiting_for_files")]
        shares = [f"{part / sum(parts):.1%}" for part in parts]
        rows.append([words, str(timings["images"]), *shares])
    columns = ("run", "images", "network", "waiting for images", "waiting for files")
    return [*markdown(columns, rows), "", made(*names.values())]
