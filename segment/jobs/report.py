"""A run, and scores, sweeps or triages beside it, to one HTML file: `segment report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import WrongUse, near
from segment.files.banks.bank_file import bank_of
from segment.files.reading import read_json
from segment.files.versions import versions
from segment.files.writing import check_writable
from segment.images.find import in_text
from segment.jobs.labelled.of_runs import labels_of_run
from segment.jobs.mcbn import MCBN
from segment.jobs.progress import Progress, silent
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.report.html.build import ReportContents, WrittenReport, write_report
from segment.report.html.page import refuse_other_than_page
from segment.report.results import Condition, Row
from segment.report.run_files.other_settings import differences
from segment.report.run_files.saved_run import SavedRun, load_run
from segment.report.run_files.score_shapes import MethodScores, checked
from segment.uncertainty.class_indices import likeliest_label

CONDITIONS = "condition_*.json"
"""Files in which a sweep keeps its rows."""


def report(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    title: str = "",
    labels: str | Path | None = None,
    flip_book: Sequence[str] = (),
    network: Network | str | Path | None = None,
    bank: Bank | str | Path | None = None,
    progress: Progress = silent,
) -> WrittenReport:
    """Write one self-contained HTML file about a run.

    Args:
        paths: folders of `segment predict`, `evaluate` and `sweep`, and JSON files of triages or comparisons; one of
            them is a run with maps, or scores alone are shown.
        output: the file; further pages are written beside it where one would be too large.
        title: of the page; default: the run's folder and network.
        labels: label maps of the run's images; default: those of an evaluation among the paths.
        flip_book: ids of images whose single draws are shown, as many as the run took; needs the network and the bank.
        network: that of the run, or its URI or card.
        bank: that of the run, or its file.
        progress: called after each image.

    Returns:
        The files, their size, and how many images they hold.

    Raises:
        WrongUse: neither a run nor scores among the paths, two runs, or a flip-book without the run's network and bank.

    """
    output = Path(output)
    check_writable(output)
    refuse_other_than_page(output)
    runs, evaluations, swept, others = _sorted(paths)
    scored = [*evaluations, *(run for run, _ in swept)]
    if len(runs) > 1:
        raise WrongUse(
            f"A report shows one run of `segment predict`, and {len(runs)} of them are: "
            f"{', '.join(str(run.folder) for run in runs)}."
        )
    if not (runs or scored):
        raise WrongUse(f"None of these is a run or holds scores: {', '.join(map(str, paths))}.")
    run = runs[0] if runs else replace(scored[0], entries={})  # scores alone have no pictures
    label_of, void, unlabelled = labels_of_run(run, evaluations, labels)
    warnings = [line for each in scored for line in (each.scores or {}).get("warnings", [])]
    warnings += [line for evaluation in evaluations if runs for line in differences(run, evaluation)]
    warnings += unlabelled
    warnings += [f"{each.folder.name}: {each.missing}" for each in (*runs, *scored) if each.missing]
    sources = ReportContents(
        run=run,
        title=title or f"{run.folder.name}: {run.settings.get('model', 'segmentation')}",
        evaluations=evaluations,
        sweeps=[(each.folder.name, rows) for each, rows in swept],
        others=others,
        label_of=label_of,
        void=void,
        draws=_draws(
            run,
            flip_book,
            None if network is None else network_of(network),
            None if bank is None else bank_of(bank),
        ),
        warnings=warnings,
    )
    version = versions().get("mcbn-segment", "")
    return write_report(sources, output, version, lambda done, total: progress("packing images", done, total))


Sorted = tuple[list[SavedRun], list[SavedRun], list[tuple[SavedRun, list[Row]]], list[tuple[str, Mapping[str, Any]]]]


def _sorted(paths: Sequence[str | Path]) -> Sorted:
    """Runs with maps, evaluations, sweeps with their rows, and other JSON files."""
    runs: list[SavedRun] = []
    evaluations: list[SavedRun] = []
    sweeps: list[tuple[SavedRun, list[Row]]] = []
    others: list[tuple[str, Mapping[str, Any]]] = []
    for path in map(Path, paths):
        if path.is_file() and path.suffix == ".json" and path.name not in ("run.json", "scores.json"):
            others.append((path.name, _read(path)))
            continue
        run = load_run(path.parent if path.name in ("run.json", "scores.json") else path)
        conditions = sorted(run.folder.glob(CONDITIONS))
        if conditions:
            sweeps.append((run, [row for condition in conditions for row in _rows(condition)]))
        elif run.scores is not None:
            evaluations.append(run)
        elif "methods" in run.settings:
            raise WrongUse(f"{in_text(path)!r} has no scores yet: finish it first, with --resume.")
        else:
            runs.append(run)
    return runs, evaluations, sweeps, others


def _rows(condition: Path) -> list[Row]:
    """The rows that a sweep scored. Errors: WrongUse where the file is damaged, or of another version."""
    rows = read_json(condition, Condition, advice="Remove it and resume the sweep, or leave that out.").rows
    for row in rows:
        checked(row.result, MethodScores, condition)
    return rows


def _read(path: Path) -> Mapping[str, Any]:
    return read_json(path, dict[str, Any], advice="Leave it out of the report, or write it again.")


def _draws(
    run: SavedRun, ids: Sequence[str], network: Network | None, bank: Bank | None
) -> dict[str, NDArray[np.int64]]:
    """The mask of each draw (T H W) of the images of a flip-book, as many as the run made of each."""
    if not ids:
        if network is not None or bank is not None:
            raise WrongUse("A network and a bank make the draws of a flip-book: name its images (--flip-book ID).")
        return {}
    if network is None or bank is None:
        raise WrongUse("The draws of a flip-book are made anew: name the network and the bank (--model, --bank).")
    for id in ids:
        if id not in run or run[id].status != "done":
            raise WrongUse(f"The run has no image {id!r} that is done, whose draws are asked for.{near(id, run)}")
    made_by = run.record.get("fingerprints", {})
    if made_by.get("network") != network.fingerprint:
        raise WrongUse(
            f"{network.name!r} is not the network of this run, which is {run.settings.get('model')!r}: name that by "
            "--model, with its weights, for its flip-book."
        )
    if made_by.get("bank") != bank_fingerprint(bank):
        raise WrongUse("--bank is not the bank of this run, so its draws are others: name the run's for a flip-book.")
    masks, of_draws = {}, dict[int, MCBN]()
    for id in ids:
        draws = min(int(run[id].entry["draws"]), len(bank))
        if draws not in of_draws:
            of_draws[draws] = MCBN(network, bank, draws=draws, precision="fp32")
        drawn = of_draws[draws].draws(run[id].image)
        masks[id] = np.stack([_mask_of(draw.cpu().numpy(), run.head) for draw in drawn])
    return masks


def _mask_of(draw: NDArray[Any], head: Head) -> NDArray[np.int64]:  # K H W -> H W
    """The likeliest class, or of a multi-label head the likeliest label that is set; K where none is.

    >>> _mask_of(np.array([[[0.4, 0.6]], [[0.3, 0.7]]]), "multilabel")
    array([[2, 1]])
    """
    return likeliest_label(draw >= 0.5, draw) if head == "multilabel" else draw.argmax(axis=0)
