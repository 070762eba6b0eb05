"""What makes the scores of a labelled set misleading: images seen before, classes that no label or few images hold."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from segment.errors import WrongUse, count_of, first_of, warn_once
from segment.files.banks.cache import MARK
from segment.images.contents.copied import by_ranges
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source
from segment.images.formats.kinds import IMAGE_SUFFIXES
from segment.images.listing.lists import LIST_SUFFIXES
from segment.images.outside_runs import images_outside_runs
from segment.networks.load import Network
from segment.scores.scoreboard import Scoreboard
from segment.significance.paired import LEAST
from segment.stores.requests import size_of_file

log = logging.getLogger(__name__)

OF_FILE = "of a file that holds images a bank was recorded of ({})"
_SHOWN = 5  # names in one line
_NOT_COMPARED = (
    "The card's `images:` reads as a path, and gives no training images to compare with: %s Correct the path, or write "
    "a description of several words."
)


def shared(sources: Sequence[Source], others: Sequence[Source]) -> list[str]:
    """Ids of the sources that are the same image of the same bytes as one of the others.

    Only files of one size are read.
    """
    size_of = {path: _size(path) for path in {source.path for source in (*sources, *others)}}
    sizes: dict[int | None, list[Source]] = defaultdict(list)
    for other in others:
        sizes[size_of[other.path]].append(other)
    images: dict[int, set[tuple[str, int | str | None, int]]] = {}
    ids = []
    for source in sources:
        size = size_of[source.path]
        if size is None or size not in sizes:
            continue
        if size not in images:
            images[size] = {_content(other) for other in sizes[size]}
        content = _content(source)
        if content[0] and content in images[size]:  # "": of a file that cannot be read
            ids.append(source.id)
    return ids


def copies(sources: Sequence[Source]) -> list[str]:
    """Ids of the sources that hold the same image of the same bytes as an earlier one.

    The images of one file are no copies of each other. Files that cannot be read, or are read by ranges, are none.
    """
    size_of = {path: _size(path) for path in {source.path for source in sources}}  # a request each, on a store
    files_of_size = Counter(size_of.values())
    copied, seen = [], set[tuple[str | Path, int | str | None, int]]()
    for source in sources:
        size = size_of[source.path]
        alike = size is not None and files_of_size[size] > 1 and not by_ranges(source)
        image = (sha256_of(source.path) if alike else "") or source.path, source.part, source.axis
        if image in seen:
            copied.append(source.id)
        seen.add(image)
    return copied


def training_images(
    network: Network, sources: Sequence[Source], seen: Collection[str], statistics: Sequence[Source] = ()
) -> tuple[list[str], list[str]]:
    """Ids of the sources that are training images, and of those of a file that holds training images besides.

    A bank's marks are of files: of a file with several images they do not say which the bank was recorded of.

    Args:
        network: Whose card may name its training images.
        sources: The images in question.
        seen: Marks of banks' statistics images, as `banks.cache.marks_in` gives them.
        statistics: Statistics images themselves.

    Returns:
        Both in the order of the sources.

    """
    sure = set(shared(sources, [*_training_images(network), *statistics]))
    marked = [
        source
        for source in sources
        if seen and _size(source.path) is not None and sha256_of(source.path)[:MARK] in seen
    ]
    sure |= {source.id for source in marked if source.part is None}
    return [source.id for source in sources if source.id in sure], [one.id for one in marked if one.id not in sure]


def refuse_seen(network: Network, sources: Sequence[Source], seen: Collection[str], what: str) -> None:
    """Refuse validation images that the network was trained on: what is fitted on them is fitted to its own mistakes.

    A warning names those of a file that holds training images besides.

    Args:
        network: Whose card may name its training images.
        sources: The validation images.
        seen: Marks of banks' statistics images.
        what: What is fitted, for the message.

    Raises:
        WrongUse: Some of them are training images.

    """
    trained, of_file = training_images(network, sources, seen)
    if of_file:
        log.warning(
            "%d of %d validation images are %s: if they are among these, %s fitted on them makes new images worse.",
            len(of_file),
            len(sources),
            OF_FILE.format(first_of(of_file, _SHOWN)),
            what,
        )
    if trained:
        raise WrongUse(
            f"{len(trained)} of {len(sources)} validation images are training images ({first_of(trained, _SHOWN)}), on "
            f"which the network is more confident than on new ones: {what} fitted on them makes new images worse. Give "
            "images that neither the training nor the bank has seen."
        )


def seen_before(
    network: Network,
    sources: Sequence[Source],
    held_out: Sequence[Source],
    seen: Collection[str] = (),
    statistics: Sequence[Source] = (),
) -> list[str]:
    """A line for test images that are validation images, for training images, and for copies of each other.

    Training images are of the card, of a bank (`seen`, its marks), or `statistics`, which banks are recorded of.
    """
    lines = []
    if twice := shared(sources, held_out):
        lines.append(
            f"{_count(twice, sources)} validation images too ({first_of(twice, _SHOWN)}): what is fitted on validation "
            "images (temperatures, thresholds, the constant uncertainty) scores too well."
        )
    trained, of_file = training_images(network, sources, seen, statistics)
    if of_file:
        lines.append(
            f"{_count(of_file, sources)} {OF_FILE.format(first_of(of_file, _SHOWN))}: if they are among these, the "
            "scores say nothing of new images."
        )
    if trained:
        lines.append(
            f"{_count(trained, sources)} training images ({first_of(trained, _SHOWN)}), which the card's `images:` or "
            "a bank names: the scores say nothing of new images."
        )
    if copied := copies(sources):
        lines.append(
            f"{_count(copied, sources)} copies of others ({first_of(copied, _SHOWN)}): intervals, tests and guarantees "
            "count them as further images, and are too sure. Remove them, or give `segment triage` --groups that hold "
            "copies together."
        )
    return lines


def absent_classes(board: Scoreboard, pixels: Mapping[str, int]) -> list[str]:
    """A line for classes that no label holds, with the share of void, which may be one of them under another id.

    Whether a method predicts them differs from method to method; the line holds for all.
    """
    counts = board.confusion()
    plan = board.plan
    labelled = counts[:, 1].sum(axis=-1) if plan.head == "multilabel" else counts.sum(axis=-1)
    absent = [k for k in range(len(plan.classes)) if not labelled[k]]
    if not absent:
        return []
    names = [repr(plan.classes[k]) if plan.head == "multilabel" else f"{plan.classes[k]!r} (id {k})" for k in absent]
    what = "class" if len(names) == 1 else "classes"
    line = (
        f"No label holds the {what} {first_of(names, _SHOWN)}: the scores do not say how well such pixels are found. "
        "Where a method predicts such a class, its IoU and Dice are 0 and count in mIoU and Dice (`per_class`)."
    )
    if pixels["void"]:
        id = 1 if plan.head == "multilabel" else absent[0]
        line += (
            f" {pixels['void'] / pixels['all']:.1%} of the label pixels are void ({plan.void}): if that id means a "
            f"class, do not name it void, and write `labels: {{{plan.void}: {id}}}` in the card."
        )
    return [line]


def few_hold(boards: Mapping[str, Scoreboard]) -> list[str]:
    """A line for scores of what few of the images, or groups, hold: unseen objects, errors, and the rarest class.

    boards: the methods' scoreboards of the same images.
    """
    lines = []
    over = next(iter(boards.values())).over
    unit = over.removesuffix("s")
    for kind, what in (("unseen_auroc", "unseen pixels"), ("error_auroc", "both wrong and right pixels")):
        held, every = min((board.units_for(kind), board.units) for board in boards.values())
        if 0 < held < min(every, LEAST):
            names = "unseen_*" if kind.startswith("unseen") else "error_*"
            how = f"{count_of(held, unit)} {'holds' if held == 1 else 'hold'}"
            lines.append(
                f"{how} {what}, of {every}: the scores {names} are of so few, and no difference in them can be called "
                f"significant; {LEAST} are the least."
            )
    rarest = min((each for board in boards.values() if (each := board.rarest_class())), default=None)
    if rarest is not None and rarest[0] < min(LEAST, every):
        lines.append(
            f"The rarest class, {rarest[1]}, is in the labels of {count_of(rarest[0], unit)}, of {every}: "
            "differences in mIoU and Dice are tested as if of so few."
        )
    return lines


def _training_images(network: Network) -> Sequence[Source]:
    """What the card's `images:` names where that is a folder, glob or list, and not words; a wrong one is warned of."""
    text = network.card.images
    if text is None:
        return ()
    try:
        return images_outside_runs(text, warn=False)
    except WrongUse as error:
        if _reads_as_path(text):
            warn_once(log, _NOT_COMPARED, error)
        return ()  # words, as in "CamVid street scenes"


def _reads_as_path(text: str) -> bool:
    """Whether a text that leads to no image is one all the same, with a letter or a folder wrong."""
    folders = "/" in text or os.sep in text
    if any(character.isspace() for character in text):  # words, unless a folder begins it
        return folders and Path(*Path(text).parts[:1]).is_dir()
    suffix = Path(text).suffix.lower()
    return folders or glob.has_magic(text) or suffix in IMAGE_SUFFIXES or suffix in LIST_SUFFIXES


def _content(source: Source) -> tuple[str, int | str | None, int]:
    return sha256_of(source.path), source.part, source.axis


def _size(path: Path) -> int | None:
    try:
        return size_of_file(path)
    except OSError:
        return None


def _count(ids: Sequence[str], sources: Sequence[Source]) -> str:
    return f"{len(ids)} of {len(sources)} test images are"
