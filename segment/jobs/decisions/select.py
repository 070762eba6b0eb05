"""A run to the images to review or label first: `segment select`."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import SegmentError, WrongUse, count_of, first_of, near
from segment.estimation.failures import IMAGE_ERRORS, reason_of
from segment.files.reading import read_json
from segment.files.replacing import refuse_other_file
from segment.files.text_tables import csv_text
from segment.files.writing import write_text
from segment.images.listing.parts import Listing
from segment.images.read import few_pixels
from segment.jobs.decisions.features import BottleneckFeatures
from segment.jobs.decisions.run_table import RunTable, run_table
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.ranking.columns import grows_with_quality, lacks_interior, on_most_images, predicted, ranks_none
from segment.ranking.diversity import POOL, diverse
from segment.ranking.predictor import Predictor
from segment.report.results import DICE_RANK
from segment.report.run_files.run_folder import RunFolder
from segment.report.run_files.saved_run import SavedRun
from segment.stores.urls import url_of
from segment.uncertainty.measures import MEASURES

log = logging.getLogger(__name__)

RANKING = "ranking.json"
OF_EVALUATE = "Give --ranking a folder of `segment evaluate`."
BY = "Name a column by --by."
"""Advice where a file that would choose the column does not read."""
SIDE = 8
"""Cells a side over which an image's colours are pooled, to tell how unlike two images are."""

Ranked = tuple[str, str, float | None]
"""Id, source and value of an image."""


@dataclass(frozen=True)
class Selection:
    """The images from most to least uncertain. by: the column that ranks them; why: how that was chosen.

    images: as many as were asked, (id, source, value) each; rest: all others, in the same order. A value is None where
    the image has none; missing: sentences on these images, and on those of the run that have no result; "" without any
    axis: of volumes, that the run's slices lie along
    """

    by: str
    why: str
    images: tuple[Ranked, ...]
    rest: tuple[Ranked, ...] = ()
    missing: str = ""
    axis: int = Listing.axis

    def csv(self, *, everything: bool = False) -> str:
        """The images that were asked for, as a SRC that other commands take; `everything`: then all others too."""
        images = (*self.images, *self.rest) if everything else self.images
        axis = {} if self.axis == Listing.axis else {"axis": self.axis}
        rows = ([rank, id, source, *axis.values(), value] for rank, (id, source, value) in enumerate(images, start=1))
        return csv_text(["rank", "id", "source", *axis, self.by], rows)


def select(
    folder: str | Path,
    top: int = 50,
    *,
    by: str | None = None,
    method: str | None = None,
    unlike: bool = False,
    ranking: str | Path | None = None,
    network: Network | str | Path | None = None,
) -> Selection:
    """Rank the images of a predict or an evaluate RUN, the most uncertain first.

    Args:
        folder: The run.
        top: How many are wanted.
        by: A column, as "mean.predictive_entropy"; None: in an evaluation the one that ranks images by their Dice best,
            on validation images where it had any; else the mean of the run's heat measure.
        method: Whose numbers, in an evaluation; None: mcbn where it was run.
        ranking: An evaluation, whose validation images say what ranks by Dice best: a predict run is ranked by that.
        unlike: Choose the wanted ones unlike one another (k-centre) among the POOL times as many most uncertain.
        network: That of the run, or its URI or card: images are unlike in its features at the smallest map, averaged
            over the image; they are computed here. None: in their colours, pooled over SIDE x SIDE cells.

    Returns:
        The wanted images and, after them, all others.

    Raises:
        WrongUse: The folder holds no run, there is no such column or method, `top` is below 1, the run lacks numbers
            that the ranking needs, or is another network's; or an argument would be ignored beside another.

    """
    if top < 1:
        raise WrongUse(f"The top {top} images were asked for. Ask for 1 or more.")
    if ranking is not None and by is not None:
        raise WrongUse(f"--ranking chooses the column that ranks, and --by {by} names one: give one of the two.")
    if network is not None and not unlike:
        raise WrongUse("A network gives the features in which images are unlike: ask for that too (--diverse).")
    table = run_table(Path(folder), method if ranking is None else None)
    if ranking is not None:
        table, chosen, why = ranked_as(table, Path(ranking), method)
    else:
        chosen, why = _column(table, by)
    columns = table.columns
    chosen = next((name for name in columns if name.replace(".", "_") == chosen), chosen)  # as images.csv spells it
    if chosen not in columns:
        raise WrongUse(f"No column is called {chosen!r}.{near(chosen, columns)} Known: {', '.join(sorted(columns))}.")
    if (quality := grows_with_quality(chosen)) is None:
        raise WrongUse(
            f"Column {chosen!r} says neither how uncertain an image is nor how good its mask: it ranks none."
        )
    draws = table.run.plan.get("draws", 0) if not table.labelled else 0
    if equal := ranks_none(chosen, [row[chosen] for row in table.rows.values() if chosen in row], draws):
        raise WrongUse(f"{equal}. Name another column by --by, or predict with more draws.")
    ranked, missing = _ranked(table, chosen, -1 if quality else 1)
    missing = " ".join(filter(None, (missing, table.run.missing)))
    selection = Selection(chosen, why, ranked[:top], ranked[top:], missing, table.run.listing.axis)
    given = None if network is None else network_of(network)
    if given is not None:
        _refuse_other_network(table, given)
    return _unlike(selection, top, table.run, given) if unlike else selection


def _ranked(table: RunTable, column: str, sign: int) -> tuple[tuple[Ranked, ...], str]:
    """All images, the most uncertain first, and a sentence on those that lack the column. sign: -1 of a quality.

    An image whose mask has no interior comes first, for such a mask is the most fragmented. Any other that lacks the
    column comes last: a class that the image does not show, say, gives no reason to look at it.
    """
    first = [name for name, row in table.rows.items() if lacks_interior(row, column)]
    last = [name for name, row in table.rows.items() if column not in row and name not in first]
    known = sorted((-sign * row[column], name) for name, row in table.rows.items() if column in row)
    order = (*sorted(first), *(name for _, name in known), *sorted(last))
    sentences = []
    for names, reason, place in ((first, ", for no region of the mask has an interior", "most"), (last, "", "least")):
        if names:
            count, shown = count_of(len(names), "image"), first_of(sorted(names))
            sentences.append(f"{count} without {column}{reason}, listed as the {place} uncertain: {shown}.")
    images = tuple((name, table.run.path_of(name), table.rows[name].get(column)) for name in order)
    return images, " ".join(sentences)


def _column(table: RunTable, by: str | None) -> tuple[str, str]:
    """The column that ranks, and why."""
    if by is not None:
        return by, f"asked for, of {table.method}" if table.method else "asked for"
    if not table.labelled:
        return f"mean.{table.run.heat}", "the mean of the measure that the run shows as heat"
    try:
        best = _methods(table.run.folder / RANKING, BY)[table.method]["best"]["dice"]
        if best is not None and best["column"] in table.columns:
            return str(best["column"]), f"of {table.method}, {best['why']}"
    except (WrongUse, KeyError, TypeError) as error:
        log.info("%s is not used: %s", table.run.folder / RANKING, error)
    return _by_scores(table)


def ranked_as(table: RunTable, evaluation: Path, method: str | None = None) -> tuple[RunTable, str, str]:
    """A predict run's numbers with what an evaluation says of them; the column that ranks, and why.

    Args:
        table: Of a predict run.
        evaluation: A folder of `segment evaluate`, with validation images.
        method: Of the evaluation; None: tuned where the run is of a tuned setting, else mcbn.

    Returns:
        The table, with a predictor's column where the evaluation fitted one; the column; why.

    Raises:
        WrongUse: The run is an evaluation, the folder has no ranking of the method, or the run lacks a number.

    """
    if table.labelled:
        raise WrongUse("--ranking is for what `segment predict` wrote; an evaluation has its own.")
    name = method or ("tuned" if "tuned" in table.run.settings else "mcbn")
    path = evaluation / RANKING
    try:
        methods = _methods(path, OF_EVALUATE)
        other = RunFolder.read(evaluation)
        if None not in (other.network, table.run.network) and other.network != table.run.network:
            raise WrongUse(
                f"--ranking {str(evaluation)!r} is of another network, {other.settings['model']!r}, whose ranking "
                "says nothing of this run's. Evaluate the run's network on labelled images."
            )
        if name not in methods:
            raise WrongUse(f"{str(path)!r} has no method {name!r}.{near(name, methods)} It has {', '.join(methods)}.")
        best, predictors = methods[name]["best"]["dice"], methods[name]["predictors"]
        if best is None:
            raise WrongUse(f"{str(path)!r} found no number that ranks images.")
        column, why = str(best["column"]), f"of {name}, {best['why']}"
        predictor = Predictor.of(predictors["dice"]) if column == predicted("dice") else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongUse(
            f"--ranking {str(evaluation)!r} holds no ranking ({type(error).__name__}). It is a folder of `evaluate`."
        ) from None
    needed = [column] if predictor is None else predictor.features
    missing = [feature for feature in needed if feature not in table.columns]
    if missing:
        measures = dict.fromkeys(name for feature in missing if (name := feature.partition(".")[2]) in MEASURES)
        give = f" Predict with these among --maps: {', '.join(measures)}." if measures else ""
        raise WrongUse(f"The run lacks {len(missing)} numbers that rank its images, as {missing[0]!r}.{give}")
    if table.border and (means := [feature for feature in needed if feature.partition(".")[2] in MEASURES]):
        raise WrongUse(
            f"The run leaves a border of {table.border} pixels out of its measures (--border), and --ranking knows "
            f"{means[0]!r} of whole images. Predict without --border, or name a column with --by."
        )
    if predictor is None:
        return table, column, why
    rows = {name: dict(row) for name, row in table.rows.items()}
    for row, value in zip(rows.values(), predictor(list(rows.values())), strict=True):
        row[column] = float(value)
    return replace(table, rows=rows), column, why


def _methods(path: Path, advice: str) -> Any:
    """What a file of an evaluation says of each method. Errors: as `read_json`; KeyError."""
    return read_json(path, dict[str, Any], advice=advice)["methods"]


def _by_scores(table: RunTable) -> tuple[str, str]:
    """For an evaluation without `ranking.json`, what ranked its own images best."""
    try:
        methods = _methods(table.run.folder / "scores.json", BY)
        scores = methods[table.method.partition("#")[0]]["scores"]
        ranks = {
            name.removeprefix(DICE_RANK): float(entry["value"])
            for name, entry in scores.items()
            if name.startswith(DICE_RANK) and entry["value"] is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongUse(f"{url_of(table.run.place / 'scores.json')!r} does not read: {error}. {BY}") from None
    if not ranks:
        return "mean.predictive_entropy", f"of {table.method}; too few images to find which column ranks them best"
    best = max(on_most_images(ranks, list(table.rows.values())), key=lambda name: ranks[name])
    return best, f"of {table.method}, it ranks images by their Dice best (Spearman {ranks[best]:.2f})"


def _refuse_other_network(table: RunTable, network: Network) -> None:
    if table.run.network != network.fingerprint:
        model = table.run.settings.get("model")
        raise WrongUse(
            f"{network.name!r} is not the network of this run, which is {model!r}: name that, with its weights, or "
            "leave the model out to compare colours."
        )


def _unlike(selection: Selection, top: int, run: SavedRun, network: Network | None) -> Selection:
    """The selection with its first images chosen unlike one another. run: how its images were read."""
    ranked = (*selection.images, *selection.rest)
    pool, features, why = [], [], ""
    of_network = None if network is None else BottleneckFeatures(network)
    for image in ranked[: POOL * top]:
        try:
            source = run.unchanged_source(image[0])
            if of_network is not None:
                features.append(of_network(source))
            else:
                features.append(pooled_colours(few_pixels(source, run.input)[0]))
            pool.append(image)
        except (SegmentError, OSError, *IMAGE_ERRORS) as error:
            reason = reason_of(error)
            why = why or f"{image[0]}: {reason}"
            log.warning("%s is left out of the choice: %s", image[0], reason)
    if not pool:
        raise WrongUse(
            f"No image of this run can be read, so none can be compared with another: leave --diverse out. {why}"
        )
    chosen = [pool[index] for index in diverse(np.stack(features), top)]
    rest = tuple(image for image in ranked if image not in chosen)
    by = "colours" if of_network is None else f"the network's features at {of_network.layer!r}"
    why = f"{selection.why}; unlike one another in {by} among the {len(pool)} most uncertain"
    return replace(selection, why=why, images=tuple(chosen), rest=rest)


def pooled_colours(image: NDArray[Any]) -> NDArray[np.float64]:  # H W 3 -> D
    """Mean colour of SIDE x SIDE cells of an image; a smaller one repeats pixels.

    >>> pooled_colours(np.zeros((1, 20, 3))).shape
    (192,)
    """
    rows, columns = (_cells(length) for length in image.shape[:2])
    cells = [image[r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(0, 1)) for r in rows for c in columns]
    return np.asarray(cells, dtype=np.float64).ravel()


def _cells(length: int) -> list[NDArray[np.int64]]:
    places = np.arange(length) if length >= SIDE else np.arange(SIDE) * length // SIDE
    return np.array_split(places, SIDE)


def _beside_selection(path: Path) -> Path:
    """The file of all images beside that of the images that were asked for."""
    return path.with_name(f"{path.stem}_all{path.suffix}")


def refuse_other_than_selection(path: Path) -> None:
    """Refuse to write a selection over a file that is none, or under another suffix. Errors: WrongUse."""
    for file in (path, _beside_selection(path)):
        refuse_other_file(file, "selection of images", (".csv",), _is_selection)


def write_selection(selection: Selection, path: Path) -> Path:
    """The images that were asked for, and beside them all others in their order, as NAME_all.csv, which is returned.

    Errors: WrongUse where one of the two would replace a file that is no selection.
    """
    refuse_other_than_selection(path)
    everything = _beside_selection(path)
    write_text(path, selection.csv())
    write_text(everything, selection.csv(everything=True))
    return everything


def _is_selection(path: Path) -> bool:
    """Whether the first line is that of `Selection.csv`."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            columns = next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error):
        return False
    return columns[:3] == ["rank", "id", "source"] and (len(columns) == 4 or columns[3:-1] == ["axis"])
