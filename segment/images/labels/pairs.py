"""Images and what belongs to each: label maps, of one or more annotators, and region masks, matched by their ids.

Must not know what a label map holds; of a file of annotations only the names of its images are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segment.errors import WrongUse, first_of
from segment.images.find import Source, find_images
from segment.images.labels.annotations import ANNOTATION_SUFFIXES, annotations_in, matching
from segment.images.listing.parts import Listing
from segment.stores.requests import files_below, is_file_there
from segment.stores.urls import is_url

_SHOWN = 5


def with_labels(
    sources: Sequence[Source], labels: str | Path, suffix: str = "", listing: Listing | None = None
) -> tuple[Source, ...]:
    """The sources with their label maps below `labels`; one without keeps None.

    labels: a SRC of label maps of the images' names; or annotations: a file of COCO, Label Studio or CVAT, or a folder
    of LabelMe's files
    suffix: that label maps have after the image's name, as "_manual1". Where no image has the name before the suffix,
    the last parts of an image's name are left out: 21_manual1 belongs to 21_training
    Errors: WrongUse where two images would have the same labels.
    """
    path = Path(labels)
    on_store = is_url(path)
    if path.suffix.lower() in ANNOTATION_SUFFIXES and (is_file_there(path) if on_store else path.is_file()):
        names = list(annotations_in(path))
        found = {source.id: matching(names, source.id) for source in sources}
        _refuse_shared({id: name for id, name in found.items() if name is not None}, str(labels))
        return tuple(
            replace(source, label=None if found[source.id] is None else path, label_part=found[source.id])
            for source in sources
        )
    below = files_below(path) if on_store else path.rglob("*.json") if path.is_dir() else ()
    if drawn := sorted(file for file in below if file.suffix == ".json"):
        by_id = {file.relative_to(path).with_suffix("").as_posix(): file for file in drawn}
        if any(source.id in by_id for source in sources):
            return tuple(replace(source, label=by_id.get(source.id), label_part=None) for source in sources)
    maps_found = find_images(labels, listing or Listing())
    listed = {_place(source): source for source in maps_found if source.label is not None}  # ids may have another root
    maps = partners([source.id for source in sources], maps_found, suffix)
    _refuse_shared({id: label.id for id, label in maps.items()}, str(labels))
    return tuple(_with_label(source, listed.get(_place(source)) or maps.get(source.id)) for source in sources)


def with_known_labels(
    sources: Sequence[Source], labels: str | Path, suffix: str = "", listing: Listing | None = None
) -> tuple[Source, ...]:
    """As `with_labels`. Errors: WrongUse where no image has one."""
    labelled = with_labels(sources, labels, suffix, listing)
    if sources and all(source.label is None for source in labelled):
        named = f" that ends in {suffix!r}" if suffix else ""
        raise WrongUse(f"None of the {len(sources)} images has a label map{named} in {str(labels)!r}.")
    return labelled


def with_annotators(
    sources: Sequence[Source], roots: Sequence[str | Path], suffixes: Sequence[str], listing: Listing | None = None
) -> tuple[Source, ...]:
    """The sources with the label maps of further annotators; one without keeps None for that annotator.

    roots, suffixes: of each, as `with_labels` takes them. Errors: WrongUse where an annotator has labelled no image.
    """
    plain = tuple(replace(source, label=None, label_part=None) for source in sources)
    for root, suffix in zip(roots, suffixes, strict=True):
        labelled = with_known_labels(plain, root, suffix, listing)
        maps = [None if source.label is None else (source.label, source.label_part) for source in labelled]
        sources = tuple(
            replace(source, annotators=(*source.annotators, label)) for source, label in zip(sources, maps, strict=True)
        )
    return tuple(sources)


def with_masks(sources: Sequence[Source], masks: str | Path, listing: Listing | None = None) -> tuple[Source, ...]:
    """The sources with their region masks: files of their names, or of their names and more ("21_training_mask").

    One mask file of one image is that of every image. Errors: WrongUse where an image has none, or two have the same.
    """
    found = find_images(masks, listing or Listing())
    if len(found) == 1 and found[0].path == Path(masks):
        return tuple(replace(source, mask=found[0].path, mask_part=None) for source in sources)
    of = {_split(mask): mask for mask in found}
    chosen: dict[str, Source] = {}
    for source in sources:
        name, part = _split(source)
        longer = [mask for (other, of_part), mask in of.items() if of_part == part and other.startswith(f"{name}_")]
        if (name, part) in of:
            chosen[source.id] = of[name, part]
        elif len(longer) == 1:
            chosen[source.id] = longer[0]
    if missing := [source.id for source in sources if source.id not in chosen]:
        raise WrongUse(
            f"{len(missing)} of {len(sources)} images have no region mask below {str(masks)!r}: "
            f"{first_of(map(repr, missing), _SHOWN)}. A mask has its image's name, or that and more, as a_mask for a."
        )
    _refuse_shared({id: mask.id for id, mask in chosen.items()}, str(masks))
    return tuple(replace(source, mask=chosen[source.id].path, mask_part=chosen[source.id].part) for source in sources)


def _refuse_shared(found: Mapping[str, str], labels: str) -> None:
    """Errors: WrongUse where two images would have the same labels. found: id -> what belongs to it."""
    first: dict[str, str] = {}
    for id, name in found.items():
        if name in first:
            raise WrongUse(
                f"In {labels!r}, {name!r} would belong to two images, {first[name]!r} and {id!r}. Give the labels the "
                "names of the images, with their folders, or name both in a CSV."
            )
        first[name] = id


def partners(ids: Sequence[str], found: Sequence[Source], suffix: str = "") -> Mapping[str, Source]:
    """The file of each id, where there is one; with a suffix, that of the name before it.

    >>> found = [Source("21_manual1", Path("21_manual1.gif")), Source("21_manual2", Path("21_manual2.gif"))]
    >>> partners(["21_training"], found, "_manual1")["21_training"].id
    '21_manual1'
    """
    of: dict[str, Source] = {}
    for source in found:
        name, part = _split(source)
        if suffix:
            if not name.endswith(suffix) or name == suffix:
                continue
            name = name.removesuffix(suffix)
        of[name + part] = source
    matched: dict[str, Source] = {}
    for id in ids:
        folder, slash, name = id.rpartition("/")
        while (candidate := f"{folder}{slash}{name}") not in of and suffix and "_" in name:
            name = name.rpartition("_")[0]
        if candidate in of:
            matched[id] = of[candidate]
    return matched


def _place(source: Source) -> tuple[str, int | str | None]:
    """The image itself, whatever its id."""
    return os.path.abspath(source.path), source.part  # noqa: PTH100 (Path.resolve would follow links)


def _split(source: Source) -> tuple[str, str]:
    """The id of a file, and "/0003" of an image in it."""
    if source.part is None:
        return source.id, ""
    name, slash, part = source.id.rpartition("/")
    return name, slash + part


def _with_label(source: Source, label: Source | None) -> Source:
    if label is None:
        return replace(source, label=None)
    if label.label is not None:  # the second column of a list
        return replace(source, label=label.label, label_part=label.label_part)
    return replace(source, label=label.path, label_part=label.part)
