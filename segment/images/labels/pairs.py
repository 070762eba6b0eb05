"""Images and what belongs to each: label maps, of one or more annotators, and region masks, matched by their ids.

Must not know what a label map holds; of a file of annotations only the names of its images are read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segment.errors import WrongUse, first_of
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source, find_images
from segment.images.labels.annotations import ANNOTATION_SUFFIXES, annotations_in, matching
from segment.images.labels.series import volumes_of_series, with_slices
from segment.images.listing.ids import folded, safe
from segment.images.listing.parts import Listing
from segment.stores.requests import files_below, is_file_there
from segment.stores.urls import is_url

_SHOWN = 5


def with_labels(
    sources: Sequence[Source], labels: str | Path, suffix: str = "", listing: Listing | None = None
) -> tuple[Source, ...]:
    """The sources with their label maps below `labels`; one without keeps None.

    labels: a SRC of label maps of the images' names; or annotations: a file of COCO, Label Studio or CVAT, or a folder
    of LabelMe's files. A volume called as the folder of a DICOM series is that of its slices
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
            _refuse_two_kinds([source for source in sources if source.id not in by_id], len(sources), labels, listing)
            return tuple(replace(source, label=by_id.get(source.id), label_part=None) for source in sources)
    maps_found = find_images(labels, listing or Listing())
    listed = {_place(source): source for source in maps_found if source.label is not None}  # ids may have another root
    maps = {
        **partners([source.id for source in sources], maps_found, suffix),
        **_of_alike([source for source in sources if _place(source) not in listed], maps_found, suffix, str(labels)),
    }
    _refuse_shared({id: label.id for id, label in maps.items() if label is not None}, str(labels))
    labelled = [_with_label(source, listed.get(_place(source)) or maps.get(source.id)) for source in sources]
    volumes = volumes_of_series(sources, maps_found, suffix)
    return with_slices(
        [
            replace(source, label=volumes[source.id], label_part=None)
            if source.id in volumes and source.label in (None, volumes[source.id])
            else source
            for source in labelled
        ]
    )


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
    chosen |= {id: mask for id, mask in _of_alike(sources, found, "", str(masks)).items() if mask is not None}
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


def _of_alike(
    sources: Sequence[Source], found: Sequence[Source], suffix: str, labels: str
) -> Mapping[str, Source | None]:
    """What belongs to images of one name but for its suffix, as x.jpg and x.png: the files of just their names.

    Their ids do not say which is which: the second got another. Errors: WrongUse where a file could belong to either.
    """
    groups = [
        (name, alike)
        for name, alike in _by_name(sources).items()
        if len({source.id for source in alike}) == len(alike) and len({source.path for source in alike}) > 1
    ]
    of_name = _by_name(found) if groups else {}
    matched: dict[str, Source | None] = {}
    for (name, part), alike in groups:
        files = of_name.get((folded(f"{name}{suffix}"), part), [])
        own = {source.id: next((f for f in files if f.path.name == source.path.name), None) for source in alike}
        if files and None in own.values():
            raise WrongUse(
                f"In {labels!r}, {files[0].path.name!r} could belong to {alike[0].path.name!r} or to "
                f"{alike[1].path.name!r}: without suffix and case of letters, they have one name. Rename one, or "
                "name each image and what belongs to it in a CSV."
            )
        matched |= own
    return matched


def _by_name(sources: Sequence[Source]) -> Mapping[tuple[str, str], list[Source]]:
    """By the id of a file before it was made unique, in one case of letters, and "/0003" of an image in it."""
    groups: dict[tuple[str, str], list[Source]] = defaultdict(list)
    for source in sources:
        name, part = _split(source)
        folder, slash, last = name.rpartition("/")
        own = safe(source.path.name)
        renamed = last.startswith(f"{own}-") and last.removeprefix(f"{own}-").isdecimal()
        groups[folded(f"{folder}{slash}{own}" if renamed else name), part].append(source)
    return groups


def _refuse_two_kinds(without: Sequence[Source], count: int, labels: str | Path, listing: Listing | None) -> None:
    """Errors: WrongUse where images without a JSON file have a label map in the folder. without: those of `count`."""
    try:
        maps = partners([source.id for source in without], find_images(labels, listing or Listing()))
    except WrongUse:  # there are none
        return
    paths = {source.id: source.path for source in without}
    # a file of LabelMe may lie beside its image, or beside a copy of it
    if others := [id for id, label in maps.items() if sha256_of(paths[id]) not in ("", sha256_of(label.path))]:
        raise WrongUse(
            f"{str(labels)!r} holds JSON files, as LabelMe's, for {count - len(without)} of {count} images and label "
            f"maps for others: {first_of(map(repr, others), _SHOWN)}. Keep one kind of labels in the folder."
        )


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
