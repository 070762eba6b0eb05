"""Labelled images: listed with their label maps, read, and the file's values turned into label ids.

Must not know a score.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import size_text
from segment.errors import ImageUnreadable, SegmentError, WrongUse, error_message, first_of, warn_once
from segment.estimation.background import LARGE, WORKERS, prefetch
from segment.estimation.failures import reason_of
from segment.images.contents.hashes import sha256_of, sha256_of_beside
from segment.images.find import Source, in_text
from segment.images.labels.annotations import ANNOTATION_SUFFIXES, annotations_in
from segment.images.labels.pairs import with_label_parts, with_labels
from segment.images.labels.read import read_label_ids, turned_alone
from segment.images.labels.scheme import LabelScheme
from segment.images.listing.parts import Listing
from segment.images.listing.samples import as_array
from segment.images.outside_runs import images_outside_runs
from segment.images.placing.alignment import check_same_place
from segment.images.prepare import normalise
from segment.images.read import read_label, read_source, size_of
from segment.networks.load import Network
from segment.scores.plan import OUTSIDE, ScorePlan
from segment.stores.requests import files_below
from segment.stores.urls import is_url

log = logging.getLogger(__name__)
_warning = Lock()


@dataclass(frozen=True)
class Labelled:
    """A labelled image, read, or why it cannot be used.

    image: pixels H W C; a normalised tensor C H W where a caller gave one. label: ids, H W; multi-label K H W
    contents: SHA-256 of the image's file and of its label maps'. others: the labels of further annotators
    """

    source: Source
    image: NDArray[Any] | Tensor
    label: NDArray[np.int64]
    error: str = ""
    contents: tuple[str, ...] = ()
    others: tuple[NDArray[np.int64], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        height, width = self.image.shape[-2:] if isinstance(self.image, Tensor) else self.image.shape[:2]
        return int(height), int(width)

    def normalised(self, network: Network) -> Tensor:  # -> C H W
        """The image as the network's input, not padded."""
        return self.image if isinstance(self.image, Tensor) else normalise(self.image, network.input)


def score_plan(network: Network, void: int | None = None, unseen: Sequence[int] = ()) -> ScorePlan:
    """What counts when the network is scored. void, unseen: labels in place of the card's."""
    card = network.card
    return ScorePlan(
        classes=network.class_names,
        head=card.head,
        void=card.void if void is None else void,
        unseen=tuple(unseen) or card.unseen,
    )


def labelled(
    images: str | Path, labels: str | Path | None, suffix: str = "", listing: Listing | None = None
) -> tuple[Source, ...]:
    """The images with their label maps; one without keeps None, and is refused when its turn comes.

    suffix: that label maps have after the image's name. listing: which frames of videos and slices of volumes
    Errors: WrongUse where no image has a label.
    """
    listing = listing or Listing()
    sources = with_label_parts(images_outside_runs(images, listing))
    if labels is not None:
        sources = with_labels(sources, labels, suffix, listing)
    if all(source.label is None for source in sources):
        none = f"None of the {len(sources)} images ({first_of(repr(source.id) for source in sources)}) has"
        if suffix:
            raise WrongUse(f"{none} a label map that ends in {suffix!r} in {str(labels)!r}.")
        if labels is not None and Path(labels).suffix.lower() in ANNOTATION_SUFFIXES:
            named = first_of((repr(name) for name in annotations_in(Path(labels))), 1) or "no image"
            raise WrongUse(
                f"{none} annotations in {str(labels)!r}. A name in it is the end of its image's path, with its "
                f"folders: it names {named}, and an image is {in_text(sources[0].path)!r}. Rename a folder, or give "
                "images as a CSV whose column `id` has the names."
            )
        if labels is None:
            raise WrongUse(
                f"{none} a label map. Give --labels (of validation images --validation-labels), a folder of label maps "
                "with the images' names; or as images a text list with image and label a line."
            )
        raise WrongUse(
            f"{none} a label map in {str(labels)!r}. A label map has its image's name, "
            "with any suffix, in the same sub-folder; or give a text list with image and label a line."
        )
    return sources


def multilabels(
    images: str | Path, labels: str | Path, classes: Sequence[str], listing: Listing | None = None
) -> tuple[Source, ...]:
    """The images of a multi-label head, whose label maps lie in a folder a label: LABELS/<label>/<id>.png, 0 and 1."""
    folders = [Path(labels) / name for name in classes]
    missing = [folder.name for folder in folders if not (files_below(folder) if is_url(folder) else folder.is_dir())]
    if missing:
        raise WrongUse(
            f"A multi-label head needs one folder of label maps (0 and 1) a label below {str(labels)!r}, named "
            f"{', '.join(classes)}; missing: {', '.join(missing)}."
        )
    sources = images_outside_runs(images, listing)
    of_labels = zip(*(with_labels(sources, folder, listing=listing) for folder in folders), strict=True)
    masks = [tuple(map(_map_of_label, labelled, folders)) for labelled in of_labels]
    return tuple(
        replace(source, label=Path(labels), masks=of_source) for source, of_source in zip(sources, masks, strict=True)
    )


def _map_of_label(labelled: Source, folder: Path) -> Path:
    """The map of one label; where there is none, what it would be called, for the message."""
    label = labelled.label if labelled.label_part is None else None
    return folder / f"{labelled.id}.png" if label is None else label


def contents_of(source: Source) -> tuple[str, ...]:
    """SHA-256 of the image's file, of its label maps' and region mask's, and of what belongs to these where it does."""
    if source.sample is not None:
        return (source.id,)
    labels = source.masks or ((source.label,) if source.label is not None else ())
    labels += tuple(label[0] for label in source.annotators if label is not None)
    regions = () if source.mask is None else (source.mask,)
    files = (source.path, *labels, *regions)
    sums = tuple(map(sha256_of, files))
    beside = sha256_of_beside(*files)
    return (*sums, beside) if beside else sums


def read_labelled(
    sources: Sequence[Source],
    network: Network,
    void: int | None = None,
    *,
    workers: int = WORKERS,
    waiting_pixels: int = LARGE,
) -> Generator[Labelled]:
    """Labelled images in order, read while those before are in use. workers, waiting_pixels: as in `prefetch`.

    void: in place of the card's

    Samples of a caller are read one after the other: a Dataset that augments draws from the process's generators.
    """
    if any(source.sample is not None for source in sources):
        workers = 0

    def pixels(source: Source) -> int:
        return math.prod(size_of(source) or ())

    return prefetch(
        sources,
        partial(read_labelled_image, network=network, void=void),
        workers=workers,
        waiting_pixels=waiting_pixels,
        pixels=pixels,
    )


def read_labelled_image(source: Source, network: Network, void: int | None = None) -> Labelled:
    nothing = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.int64)
    if source.label is None:
        return Labelled(source, *nothing, error="It has no label map: no file of its name was found.")
    if source.sample is not None:
        return _sampled(source, source.sample, network)
    contents = contents_of(source)  # before they are read: a file that is replaced in between is scored again
    try:
        read = read_source(source, network.input)
        image, scheme = read.pixels, scheme_of(network, void)
        size = (image.shape[0], image.shape[1])
        if source.masks:
            files: list[tuple[Path, int | str | None]] = [(path, None) for path in source.masks]
            labels = [scheme.ids(_stacked(source))]
            if labels[0].shape[1:] == size:
                for path in source.masks:
                    check_same_place(source, path, None, size, "label map")
        else:
            files = [(source.label, source.label_part), *annotated(source)]
            labels = [read_label_ids(path, part, source.axis, size, scheme, image=source) for path, part in files]
    except (ImageUnreadable, OSError, MemoryError) as error:
        return Labelled(source, *nothing, error=error_message(error))
    turned = turned_alone(source.path, [path for path, _ in files])
    for label in labels:
        if label.shape[-2:] != image.shape[:2]:
            rows, columns = label.shape[-2:]
            return Labelled(
                source,
                *nothing,
                error=(
                    f"The label map is {rows}x{columns}, its image {image.shape[0]}x{image.shape[1]}. Labels are "
                    f"compared pixel by pixel: give the label at the image's size.{' ' * bool(turned)}{turned}"
                ),
            )
    if turned and size_of(source) == size:  # else the label map's size says that it is of the turned image
        _warn(turned)
    if read.valid is not None:
        labels = [np.where(read.valid[:], label, OUTSIDE) for label in labels]
    return Labelled(source, image, labels[0], contents=contents, others=tuple(labels[1:]))


def _warn(message: str) -> None:
    with _warning:  # threads that read images come to it at the same time
        warn_once(log, "%s", message)


def annotated(source: Source) -> list[tuple[Path, int | str | None]]:
    """The label maps of further annotators. Errors: ImageUnreadable where one has none of this image."""
    labels = [label for label in source.annotators if label is not None]
    if len(labels) < len(source.annotators):
        number = source.annotators.index(None) + 2
        raise ImageUnreadable(f"Annotator {number} has no label map of it; leave the image out, or that annotator.")
    return labels


def scheme_of(network: Network, void: int | None = None) -> LabelScheme:
    """What label files stand for, as the network's card says. void: in place of the card's."""
    card = network.card
    named = network.class_names if card.head == "sigmoid" else card.classes
    void = card.void if void is None else void
    return LabelScheme(classes=named, palette=card.palette, void=void, labels=card.labels)


def _sampled(source: Source, sample: Callable[[], tuple[Any, Any]], network: Network) -> Labelled:
    """An image and a label map that a caller holds."""
    nothing = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.int64)
    try:
        given_image, given_label = sample()
        image = network.accept.image(given_image)
        label = index_map(given_label)
    except (SegmentError, TypeError, ValueError, LookupError, OSError) as error:
        return Labelled(source, *nothing, error=reason_of(error))
    size = tuple(image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2])
    turned = turned_alone(given_image, [None])  # a caller's label map is never turned
    if label.shape[-2:] != size:
        why = f"The label map is {size_text(label.shape)}, its image {size_text(size)}.{' ' * bool(turned)}{turned}"
        return Labelled(source, *nothing, error=why)
    if turned:
        _warn(turned)
    sums = tuple(hashlib.sha256(np.ascontiguousarray(as_array(each)).tobytes()).hexdigest() for each in (image, label))
    return Labelled(source, image, scheme_of(network).ids(label), contents=sums)


def index_map(given: Any) -> NDArray[np.int64]:  # H W (K H W)
    """Class indices from an array, a tensor or a grey or palette picture. Errors: WrongUse for anything else."""
    label = np.asarray(given if not isinstance(given, Tensor) else given.detach().cpu().numpy())
    if label.ndim == 3 and 1 in (label.shape[0], label.shape[2]):
        label = label.squeeze(0 if label.shape[0] == 1 else 2)
    whole = label.dtype.kind in "iub" or (label.dtype.kind == "f" and bool((label == np.rint(label)).all()))
    if label.ndim not in (2, 3) or not whole:
        raise WrongUse(f"A label map is H W of class indices; this one is {label.dtype}, shape {label.shape}.")
    return label.astype(np.int64)


def _stacked(source: Source) -> NDArray[np.int64]:  # -> K H W
    masks = [read_label(path) for path in source.masks]
    if len({mask.shape for mask in masks}) > 1:
        raise ImageUnreadable(f"The label maps of {source.id!r} differ in size: {[mask.shape for mask in masks]}.")
    return np.stack(masks)


def label_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which pixels of an evaluation count and what their ids mean, of its settings, else of its card.

    >>> label_options({"void": None, "unseen": [4], "card": {"void": 255, "labels": {}}})
    {'void': 255, 'unseen': [4], "the card's `labels`": 'none'}
    """
    card = settings.get("card")
    card = card if isinstance(card, Mapping) else {}
    given = {
        "void": settings["void"] if settings.get("void") is not None else card.get("void"),
        "unseen": settings.get("unseen") or card.get("unseen"),
        "the card's `labels`": card.get("labels"),
    }
    return {name: "none" if value in (None, [], {}) else value for name, value in given.items()}
