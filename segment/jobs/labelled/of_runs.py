"""A run's images → their label ids, from the label maps of an evaluation of them, or of a SRC.

Must not know what is shown of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from segment.axes import size_text
from segment.errors import ImageUnreadable, SegmentError, WrongUse, count_of, error_message, first_of
from segment.files.runs.places import place_of
from segment.images.find import Source
from segment.images.labels.pairs import with_annotators, with_labels, with_masks
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme
from segment.images.listing.parts import Listing
from segment.images.read import region_mask
from segment.jobs.labelled.images import HELD
from segment.jobs.labelled.labels import contents_of, labelled
from segment.report.run_files.saved_run import SavedRun
from segment.report.run_files.scored_files import scored_files
from segment.scores.functional.binning import Ints
from segment.scores.plan import OUTSIDE

log = logging.getLogger(__name__)

Part = tuple[Path, int | str | None, int]
"""An image by its file, its part of that, and the axis that slices lie along."""


def labels_of_run(
    run: SavedRun, evaluations: Sequence[SavedRun], labels: str | Path | None
) -> tuple[Callable[[str], Ints | None], int | None, list[str]]:
    """The label ids of an image, by the file that it was read from; the id that is not scored; what is left out.

    OUTSIDE where an evaluation scores nothing: beyond its region masks, and of objects of no trained class.
    labels: a SRC in place of what the evaluations were scored with
    Errors: WrongUse for the labels of a multi-label head, whose pixels are right or wrong label by label.
    """
    if labels is not None and run.head == "multilabel":
        raise WrongUse(
            f"{str(run.folder)!r} is of a multi-label head: a report shows which pixels are right of heads with one "
            "label a pixel only. Leave --labels out; the folder of `segment evaluate` beside the run shows its scores."
        )
    voids = [each.settings.get("void") for each in evaluations]
    void = next((value for value in voids if value is not None), run.card.get("void"))
    unseen = next((ids for each in evaluations if (ids := each.settings.get("unseen"))), run.card.get("unseen", ()))
    by_part, left_out = _evaluated(run, evaluations) if labels is None else (_by_part(_named(run, labels)), [])
    scheme = _scheme(run, evaluations, void)

    def label_of(id: str) -> Ints | None:
        own = run.source_of(run.entries[id])
        source = by_part.get(_part(own))
        if source is None or source.label is None:
            return None
        height, width = run[id].prediction.shape[-2:]
        ids = read_label_ids(source.label, source.label_part, source.axis, (height, width), scheme, image=own)
        if ids.shape != (height, width):
            raise ImageUnreadable(f"The label map is {size_text(ids.shape)}, the mask {height}x{width}.")
        scored = ~np.isin(ids, unseen)
        inside = region_mask(source, (height, width))
        return np.where(scored if inside is None else scored & inside, ids, OUTSIDE)

    return label_of, void, left_out


def _evaluated(run: SavedRun, evaluations: Sequence[SavedRun]) -> tuple[dict[Part, Source], list[str]]:
    """Labelled images of the evaluations, and of the run's own list; sentences on those that are left out.

    Left out are images that an evaluation scored with other files than lie there now: its scores are not of these.
    """
    labels: dict[Part, Source] = {}
    if not run.entries:
        return labels, []
    if run.head == "multilabel":
        which = "Which pixels are right is shown of heads with one label a pixel; that of this run is multi-label."
        return labels, [f"{which} Its scores are under Scores."] if evaluations else []
    source = str(run.settings.get("source", ""))
    if source.endswith(".txt"):
        try:
            labels |= _by_part(labelled(place_of(run.record, source), None))
        except SegmentError as error:  # most lists hold no labels
            log.info("No labels from %s: %s", source, error)
    changed, sentences = set[Part](), list[str]()
    for evaluation in evaluations:
        if evaluation.settings.get(HELD):
            sentences.append(
                f"The labels of {evaluation.folder.name!r} were held in Python: give label files by --labels to show "
                "which pixels are right."
            )
            continue
        try:
            listed = _by_part(_listed(evaluation))
            scored = {_part(evaluation.source_of(evaluation.entries[id])): kept for id, kept in _scored(evaluation)}
        except SegmentError as error:
            sentences.append(f"The labels of {evaluation.folder.name!r} are left out: {error_message(error)}")
            continue
        labels |= listed
        others = {part for part, kept in scored.items() if part not in listed or contents_of(listed[part]) != kept}
        if others:
            sentences.append(
                f"The scores in {evaluation.folder.name!r} are of other files than lie there now: {len(others)} of its "
                f"{count_of(len(scored), 'image')} or their label maps have changed or are gone. Which of their pixels "
                "are right is left out. Evaluate again, or name the label maps by --labels."
            )
        changed |= others
    return {part: source for part, source in labels.items() if part not in changed}, sentences


def _listed(evaluation: SavedRun) -> Sequence[Source]:
    """An evaluation's images with all files that it was scored by. Errors: those of what is not there now."""
    settings, listing = evaluation.settings, Listing.of_settings(evaluation.settings)

    def place(key: str) -> Path | None:
        return None if settings.get(key) is None else place_of(evaluation.record, settings[key])

    suffix = settings.get("label_suffix", "")
    sources: Sequence[Source] = labelled(str(place("images")), place("labels"), suffix, listing)
    annotators = [place_of(evaluation.record, root) for root in settings.get("annotators", ())]
    suffixes = settings.get("annotator_suffixes") or [suffix]
    suffixes = suffixes * len(annotators) if len(suffixes) == 1 else suffixes
    sources = with_annotators(sources, annotators, suffixes, listing)
    masks = place("masks")
    return sources if masks is None else with_masks(sources, masks, listing)


def _scored(evaluation: SavedRun) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Id and hashes of the images that are among the evaluation's."""
    return ((id, kept) for id, kept in scored_files(evaluation.folder).items() if id in evaluation.entries)


def _by_part(sources: Sequence[Source]) -> dict[Part, Source]:
    return {_part(source): source for source in sources}


def _part(source: Source) -> Part:
    return source.path.resolve(), source.part, 0 if source.part is None else source.axis


def _named(run: SavedRun, labels: str | Path) -> Sequence[Source]:
    """The run's images with the label maps of a SRC, by their ids, or by their files' names where no two are alike.

    Errors: WrongUse where none fits, or one fits several images by its name alone.
    """
    images = []
    for entry in run.entries.values():
        with suppress(SegmentError):  # `label_of` says of each image that is gone
            images.append(run.source_of(entry))
    by_id = with_labels(images, labels)
    lacking = [image for image, same in zip(images, by_id, strict=True) if same.label is None]
    by_name = with_labels([replace(image, id=image.path.stem) for image in lacking], labels) if lacking else ()
    named = dict(zip((image.id for image in lacking), by_name, strict=True))
    alike = Counter(image.path.stem for image in images)
    taken = {(image.label, image.label_part) for image in by_id}
    chosen, unclear = [], list[str]()
    for image, first in zip(images, by_id, strict=True):
        second, alone = named.get(image.id, first), alike[image.path.stem] == 1
        if second is not first and not alone and (second.label, second.label_part) not in taken:
            unclear.append(image.id)
        chosen.append(second if alone else first)
    if unclear:
        raise WrongUse(
            f"A label map in {str(labels)!r} fits several images by its name: {first_of(map(repr, unclear), 4)}. Name "
            "label maps as the run's images are, with their folders."
        )
    if all(image.label is None for image in chosen):
        raise WrongUse(
            f"None of the label maps in {str(labels)!r} is called like an image of the run, as "
            f"{next(iter(run), 'none')!r} is."
        )
    return chosen


def _scheme(run: SavedRun, evaluations: Sequence[SavedRun], void: int | None) -> LabelScheme:
    """What label files stand for, as the card says; a run without pictures does not keep the palette."""
    card = run.card
    colours = next((each.card["palette"] for each in (run, *evaluations) if each.card.get("palette")), ())
    labels = {
        int(given) if given.lstrip("-").isdecimal() else given: id for given, id in (card.get("labels") or {}).items()
    }
    palette = tuple((int(red), int(green), int(blue)) for red, green, blue in colours)
    named = run.classes if run.head == "sigmoid" else tuple(card.get("classes") or ())
    return LabelScheme(classes=named, palette=palette, void=void, labels=labels)
