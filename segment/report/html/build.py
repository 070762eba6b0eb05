"""A run, and scores beside it → the content and the blocks of its pages.

The one place that knows how much of an image fits: the stride of the kept values follows from the size that is allowed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import SegmentError, WrongUse, count_of, error_message
from segment.pictures.heatmaps import ramp
from segment.pictures.palettes import Picture, no_class_colour, palette
from segment.report.html import charts, sweeps, tables, words
from segment.report.html.details import (
    HIDDEN,
    DetailShape,
    Sums,
    detail,
    measure_entry,
    measures_of,
    picture_or_grey,
    thumbnail,
)
from segment.report.html.page import page_name, page_size, refuse_other_than_page, remove_further_pages, write_page
from segment.report.html.streams import ImageStreams
from segment.report.results import Row
from segment.report.run_files.other_settings import differences
from segment.report.run_files.saved_maps import PREDICTION
from segment.report.run_files.saved_run import SavedImage, SavedRun
from segment.scores.functional.binning import Ints
from segment.stores.requests import size_of_file

COMFORTABLE, MOST = 28.0, 56.0
"""Megabytes of a page: values are kept more coarsely to stay below the first, pages split to stay below the second."""
STRIDES = (1, 2, 3, 4)
TRIED = 5
"""Images that are packed to estimate the size of all."""
UNSHOWN = (SegmentError, OSError, KeyError)
"""What an image raises whose files are missing or damaged."""
BASE64 = 4 / 3
ROUNDED = 1e-5
"""By how much an accuracy that was written may differ from that of the same pixels."""


@dataclass(frozen=True, kw_only=True)
class ReportContents:
    """What a report is made of.

    run: with images; None: scores only. evaluations: scores.json and comparisons.json of each
    sweeps: folder's name and rows of each; others: title and JSON of each further file
    label_of: id of an image -> its label ids, None where it has none; void: the id that is not scored
    draws: id of an image -> the masks (T H W) of its draws, for a flip-book
    """

    run: SavedRun
    title: str
    evaluations: Sequence[SavedRun] = ()
    sweeps: Sequence[tuple[str, Sequence[Row]]] = ()
    others: Sequence[tuple[str, Mapping[str, Any]]] = ()
    label_of: Callable[[str], Ints | None] = lambda _: None
    void: int | None = None
    draws: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report, their size in bytes, how many images they hold, and what a reader must know first."""

    files: tuple[Path, ...]
    size: int
    images: int
    failed: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Packed:
    """An image's streams, its row, what it adds to the sums, and its picture.

    unseen, unlabelled: why the picture, and why the label that it has, is not shown; "" where it is
    """

    block: ImageStreams
    row: dict[str, Any]
    sums: Sums
    picture: Picture
    unseen: str
    unlabelled: str


def write_report(
    sources: ReportContents, output: Path, version: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> WrittenReport:
    """Write the report, in several pages where one would be too large."""
    run = sources.run
    done = [image for image in run.values() if image.status == "done"]
    if not done and run.entries:
        raise WrongUse(f"{str(run.folder)!r} has no image that is done; there is nothing to show.")
    measures = _measures(run, done)
    done.sort(key=lambda image: -float(image.measures.get(measures[0], {}).get("mean", 0.0)) if measures else 0.0)
    shape = _shape(sources, done, measures) if done else DetailShape(measures=(), stride=1)
    thumbs: list[bytes] = []
    sums, rows, blocks = Sums(), [], list[bytes]()
    failed = [(image.id, str(image.error)) for image in run.values() if image.status != "done"]
    top: dict[str, int] = {}
    unseen, unlabelled = dict[str, str](), dict[str, str]()
    for number, image in enumerate(done):
        try:
            packed = _packed(sources, image, shape)
        except UNSHOWN as error:
            failed.append((image.id, error_message(error)))
            continue
        block, row = packed.block, packed.row
        unseen |= {image.id: packed.unseen} if packed.unseen else {}
        unlabelled |= {image.id: packed.unlabelled} if packed.unlabelled else {}
        sums.merge(packed.sums)
        if image.id in sources.draws:
            for t, mask in enumerate(sources.draws[image.id]):
                block.plane(f"draw {t}", mask[:: row["factor"], :: row["factor"]])
        for name, (_, _, *levels) in block.streams.items():
            if name.startswith("counts "):
                top[name[7:]] = max(top.get(name[7:], 0), levels[0] - 1)
        thumbs.append(thumbnail(run, image, packed.picture, shape))
        rows.append({"id": image.id, "source": image.source.name, "streams": block.streams, **row})
        blocks.append(block.bytes())
        progress(number + 1, len(done))
    if done and not rows:
        id, why = next(pair for pair in failed if run[pair[0]].status == "done")
        raise WrongUse(f"{str(run.folder)!r} has no image that can be shown. {id}: {why}")
    pages = _pages(blocks, sum(map(len, thumbs)))
    for page, numbers in enumerate(pages):
        for index in numbers:
            rows[index]["page"] = page
    names = [page_name(output, page) for page in range(1, len(pages) + 1)]
    for name in names:
        refuse_other_than_page(output.with_name(name))
    warnings = (*sources.warnings, *words.left_out(unseen, unlabelled, len(rows)))
    content = _content(sources, rows, failed, shape, sums, top) | {"pages": names, "warnings": list(warnings)}
    files, total = [], 0
    for page, numbers in enumerate(pages):
        path = output.with_name(names[page])
        shown = [thumb if page == 0 or index in numbers else b"" for index, thumb in enumerate(thumbs)]
        held = {index: blocks[index] for index in numbers}
        expected = page_size(content | {"page": page}, shown, held, version) / 1e6
        parts = [count_of(len(rows), "image")] if rows else []
        parts += [f"{expected:.1f} MB"] + ([f"page {page + 1} of {len(pages)}"] if len(pages) > 1 else [])
        size = ", ".join(parts)
        write_page(path, content | {"page": page, "size": size}, shown, held, version)
        files.append(path)
        total += size_of_file(path)
    remove_further_pages(output, len(pages) + 1)
    return WrittenReport(tuple(files), total, len(rows), len(failed), warnings)


def _measures(run: SavedRun, done: Sequence[SavedImage]) -> tuple[str, ...]:
    """The maps of the first image whose files read."""
    for image in done:
        with suppress(*UNSHOWN):
            return measures_of(run, image)
    return ()


def _packed(sources: ReportContents, image: SavedImage, shape: DetailShape) -> _Packed:
    """What is shown of one image; nothing is added to the sums where a map does not read."""
    if PREDICTION not in image.maps:
        raise WrongUse(
            "It has no mask, which a report shows: predict with prediction among --maps, and npz or png among --format."
        )
    sums, (picture, unseen), (label, unlabelled) = Sums(), picture_or_grey(image), _label(sources, image)
    block, row = detail(sources.run, image, picture, shape, label, sources.void, sums)
    return _Packed(block, row, sums, picture, unseen, unlabelled)


def _label(sources: ReportContents, image: SavedImage) -> tuple[Ints | None, str]:
    try:
        return sources.label_of(image.id), ""
    except (SegmentError, OSError) as error:
        return None, error_message(error)


def _shape(sources: ReportContents, done: Sequence[SavedImage], measures: Sequence[str]) -> DetailShape:
    """The finest stride that keeps the report comfortable, by packing a few images at each."""
    tried = done[:: max(1, len(done) // TRIED)][:TRIED]
    for stride in STRIDES:
        shape = DetailShape(measures=tuple(measures), stride=stride)
        sizes = []
        for image in tried:
            with suppress(*UNSHOWN):  # it is named when its turn comes
                sizes.append(_packed(sources, image, shape).block.size)
        mean = float(np.mean(sizes or [0])) + 3500
        if mean * len(done) * BASE64 / 1e6 <= COMFORTABLE:
            break
    quality = shape.quality if mean * len(done) * BASE64 / 1e6 <= MOST else 55
    return replace(shape, quality=quality)


def _pages(blocks: Sequence[bytes], thumbs: int) -> list[list[int]]:
    """Which images each page holds, in order."""
    pages: list[list[int]] = [[]]
    size = thumbs * BASE64 / 1e6
    for index, block in enumerate(blocks):
        more = len(block) * BASE64 / 1e6
        if pages[-1] and size + more > MOST:
            pages.append([])
            size = 0.0
        pages[-1].append(index)
        size += more
    return pages


def _content(
    sources: ReportContents,
    rows: Sequence[Mapping[str, Any]],
    failed: Sequence[tuple[str, str]],
    shape: DetailShape,
    sums: Sums,
    top: Mapping[str, int],
) -> dict[str, Any]:
    run = sources.run
    measures = []
    for name in shape.measures:
        start, above = sums.start(name)
        measures.append(measure_entry(run, name) | {"top": top.get(name, 1), "start": start, "above": above})
    colours = palette(len(run.classes), run.card.get("palette") or ())
    evaluated = [evaluation.scores or {} for evaluation in sources.evaluations]
    titles = {measure["name"]: measure["title"] for measure in measures}
    plots = charts.risk_coverage(sums, titles, _scored(sources, sums)) + charts.reliability(sums, evaluated)
    shown: list[tables.Table] = []
    for evaluation, scores in zip(sources.evaluations, evaluated, strict=True):
        shown += tables.score_tables(scores, f"Scores in {evaluation.folder.name}")
        shown += tables.gain_tables(evaluation.comparisons or {})
    for name, of_sweep in sources.sweeps:
        plots += charts.sweep_charts(of_sweep)
        shown += sweeps.sweep_tables(of_sweep, name)
    shown += [tables.table_of_file(content, title) for title, content in sources.others]
    pairs = words.settings(run)
    if shape.stride > 1:
        pairs.append(("values", f"of each {shape.stride}th row and column; shares and accuracies of all pixels"))
    if rows and "percent 0" not in rows[0]["streams"]:
        missing = "not among the maps of this run; to see them here, predict with probability among --maps"
        pairs.append(("class probabilities", missing))
    return {
        "title": sources.title,
        "finding": words.finding(rows, measures[0] if measures else None, sums) if rows else _finding(sources),
        "settings": pairs,
        "classes": list(run.classes),
        "palette": colours.tolist(),
        "no_class_colour": no_class_colour(colours),
        "shades": base64.b64encode(ramp().tobytes()).decode(),
        "measures": measures,
        "stride": shape.stride,
        "hidden": HIDDEN,
        "several": run.head == "multilabel",
        "no_class": "no label" if run.head == "multilabel" else "no data",
        "labelled": sums.images,
        "images": list(rows),
        "failed": [list(pair) for pair in failed],
        "triage": list((run.triaged or {}).get("text", [])),
        "charts": plots,
        "tables": shown,
    }


def _finding(sources: ReportContents) -> list[str]:
    """What a report without images begins with."""
    gains = words.gains([evaluation.comparisons or {} for evaluation in sources.evaluations])
    found = gains + [line for _, rows in sources.sweeps for line in sweeps.sweep_finding(rows)]
    return found or ["The report holds scores, and no images."]


def _scored(sources: ReportContents, sums: Sums) -> Mapping[str, Any]:
    """The scores of the very pixels that the run shows, by their images, settings, number and accuracy; {} without."""
    for evaluation in sources.evaluations:
        content = evaluation.scores or {}
        scores: Mapping[str, Any] = content.get("methods", {}).get("mcbn", {}).get("scores", {})
        accuracy = (scores.get("accuracy") or {}).get("value")
        same = all(
            counts.sum() == content["pixels"] and abs(counts[:, 0].sum() / counts.sum() - accuracy) < ROUNDED
            for counts in sums.ranked.values()
            if accuracy is not None
        )
        if accuracy is not None and same and not differences(sources.run, evaluation):
            return scores
    return {}
