"""Images and what belongs to each: label maps, of one or more annotators, and region masks, matched by their ids.

Must not know what a label map holds; of a file of annotations only the names of its images are read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from segment.errors import ImageUnreadable, WrongUse, first_of
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source, find_images
from segment.images.formats.arrays import LABEL_KEYS
from segment.images.labels.annotations import ANNOTATION_SUFFIXES, annotations_in
from segment.images.labels.names import (
    by_name,
    matching,
    original_id,
    refuse_several,
    refuse_shared,
    split,
    unclear,
)
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
        return _annotated(sources, path)
    below = files_below(path) if on_store else path.rglob("*.json") if path.is_dir() else ()
    if drawn := sorted(file for file in below if file.suffix == ".json"):
        by_id = {safe(file.relative_to(path).as_posix()): file for file in drawn}
        if files := _of_labelme(sources, by_id, str(labels)):
            _refuse_two_kinds([source for source in sources if source.id not in files], len(sources), labels, listing)
            return tuple(replace(source, label=files.get(source.id), label_part=None) for source in sources)
    maps_found = _maps_in(labels, listing)
    listed = {_place(source): source for source in maps_found if source.label is not None}  # ids may have another root
    others = [source for source in sources if _place(source) not in listed]
    maps = _of_same_names(others, maps_found, suffix, str(labels))
    labelled = [_with_label(source, listed.get(_place(source)) or maps.get(source.id)) for source in sources]
    volumes = volumes_of_series(sources, maps_found, suffix)
    return with_label_parts(
        [
            replace(source, label=volumes[source.id], label_part=None)
            if source.id in volumes and source.label in (None, volumes[source.id])
            else source
            for source in labelled
        ]
    )


def with_label_parts(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources, each with its part of the label file that a list names: a volume's slice, or the annotated name.

    A file of one annotation belongs to each row that names it. Of several, one that does not fit a row is asked for by
    the image's id, which is reported where it is read.
    Errors: WrongUse where two images would have the same labels, or images of one file one label map.
    """
    sources, of_file = with_slices(sources), defaultdict[Path, list[Source]](list)
    for source in sources:
        path = source.label if source.label_part is None else None
        if path is not None and path.suffix.lower() in ANNOTATION_SUFFIXES:
            of_file[path].append(source)
    parts: dict[str, str] = {}
    for path, rows in of_file.items():
        with suppress(ImageUnreadable):  # reported where it is read
            if len(rows) > 1 and len(annotations_in(path)) > 1:  # the file of one row is opened where it is read
                part_of = {source.id: source.label_part for source in _annotated(rows, path)}
                parts |= {id: id if part is None else str(part) for id, part in part_of.items()}
    _refuse_one_for_several([source for source in sources if source.label not in of_file])
    return tuple(replace(source, label_part=parts[source.id]) if source.id in parts else source for source in sources)


def with_known_labels(
    sources: Sequence[Source], labels: str | Path, suffix: str = "", listing: Listing | None = None
) -> tuple[Source, ...]:
    """The sources with their labels, as `with_labels` gives them. Errors: WrongUse where no image has one."""
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

    One mask file of one image is that of every image. Errors: WrongUse where an image has none, or several.
    """
    maps = _maps_in(masks, listing)
    if len(maps) == 1 and maps[0].path == Path(masks):
        return tuple(replace(source, mask=maps[0].path, mask_part=None) for source in sources)
    chosen = {id: mask for id, mask in _of_alike(sources, maps, "", str(masks)).items() if mask is not None}
    chosen |= _of_longer_names([source for source in sources if source.id not in chosen], maps, str(masks))
    if missing := [source.id for source in sources if source.id not in chosen]:
        raise WrongUse(
            f"{len(missing)} of {len(sources)} images have no region mask below {str(masks)!r}: "
            f"{first_of(map(repr, missing), _SHOWN)}. A mask has its image's name, or that and more, as a_mask for a."
        )
    return tuple(replace(source, mask=chosen[source.id].path, mask_part=chosen[source.id].part) for source in sources)


def partners(ids: Sequence[str], candidates: Sequence[Source], suffix: str = "") -> Mapping[str, Source]:
    """The file of each id, where there is one; with a suffix, that of the name before it.

    >>> maps = [Source("21_manual1", Path("21_manual1.gif")), Source("21_manual2", Path("21_manual2.gif"))]
    >>> partners(["21_training"], maps, "_manual1")["21_training"].id
    '21_manual1'
    """
    of: dict[str, Source] = {}
    for source in candidates:
        name, part = split(source)
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


def _of_same_names(
    sources: Sequence[Source], candidates: Sequence[Source], suffix: str, labels: str
) -> Mapping[str, Source]:
    """The label map of each image's name. Errors: WrongUse where an image has several, or two have the same."""
    alike = _of_alike(sources, candidates, suffix, labels)
    maps = partners([source.id for source in sources if source.id not in alike], candidates, suffix)
    of_name = by_name(candidates)
    for id, label in maps.items():
        name, part = original_id(label)
        refuse_several(id, of_name[folded(name), part], labels)
    both = {**maps, **{id: label for id, label in alike.items() if label is not None}}
    refuse_shared({id: label.id for id, label in both.items()}, sources, labels)
    return both


def _of_alike(
    sources: Sequence[Source], candidates: Sequence[Source], suffix: str, labels: str
) -> Mapping[str, Source | None]:
    """What belongs to images of one name but for its suffix, as x.jpg and x.png: the files of just their names.

    Their ids do not say which is which: the second got another. Errors: WrongUse where a file could belong to either.
    """
    groups = [
        (name, alike)
        for name, alike in by_name(sources).items()
        if len({source.id for source in alike}) == len(alike) and len({source.path for source in alike}) > 1
    ]
    of_name = by_name(candidates) if groups else {}
    matched: dict[str, Source | None] = {}
    for (name, part), alike in groups:
        files = of_name.get((folded(f"{name}{suffix}"), part), [])
        own = {source.id: next((f for f in files if f.path.name == source.path.name), None) for source in alike}
        if files and None in own.values():
            raise unclear(files[0].path, alike, labels)
        matched |= own
    return matched


def _of_longer_names(sources: Sequence[Source], masks: Sequence[Source], root: str) -> Mapping[str, Source]:
    """The mask of each image's name, else that of the name and more: of the longest name that the mask's begins with.

    Errors: WrongUse where an image has several.
    """
    ids = {split(source): source.id for source in sources}
    exact, longer = defaultdict[str, list[Source]](list), defaultdict[str, list[Source]](list)
    for mask in masks:
        own, part = original_id(mask)
        name = own
        while (name, part) not in ids and "_" in name.rpartition("/")[2]:
            name = name.rpartition("_")[0]
        if (name, part) in ids:
            (exact if name == own else longer)[ids[name, part]].append(mask)
    of_image = {**longer, **exact}
    for id, files in of_image.items():
        refuse_several(id, files, root)
    return {id: files[0] for id, files in of_image.items()}


def _of_labelme(sources: Sequence[Source], files: Mapping[str, Path], root: str) -> Mapping[str, Path]:
    """LabelMe's file of each image's name; of images alike but for the suffix, it is of that which it names itself.

    files: by the ids of what they are called. Errors: WrongUse where one names none of those.
    """
    owners: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        if file := files.get("".join(original_id(source))):
            owners[file].append(source)
    for file, alike in owners.items():
        if len({source.path for source in alike}) > 1:
            said = {PurePath(name).name for name in annotations_in(file)}
            owners[file] = [source for source in alike if source.path.name in said]
            if not owners[file]:
                raise unclear(file, alike, root)
    return {source.id: file for file, owned in owners.items() for source in owned}


def _annotated(sources: Sequence[Source], path: Path) -> tuple[Source, ...]:
    """The sources, each with its part of a file of annotations; one that this does not name has no label."""
    name_of = matching(list(annotations_in(path)), sources)
    refuse_shared(name_of, sources, str(path))
    return tuple(
        replace(source, label=path if source.id in name_of else None, label_part=name_of.get(source.id))
        for source in sources
    )


def _maps_in(root: str | Path, listing: Listing | None) -> tuple[Source, ...]:
    """The label maps or masks of a SRC. An .npz with an array called so is one of them, whatever else it holds."""
    sources = find_images(root, listing or Listing())
    single = {one.path for one in sources if one.part in LABEL_KEYS}
    first = {one.path: one for one in reversed(sources) if one.path in single}
    return tuple(
        replace(one, id=split(one)[0], part=None) if one.path in single else one
        for one in sources
        if one.path not in single or one is first[one.path]
    )


def _refuse_one_for_several(sources: Sequence[Source]) -> None:
    """Errors: WrongUse where a label file is given to several images of one file, and does not hold one for each."""
    of_files = defaultdict[tuple[Path, Path], list[Source]](list)
    for source in sources:
        if source.part is not None and source.label is not None and source.label_part is None:
            of_files[source.path, source.label].append(source)
    for (path, label), images in of_files.items():
        if len(images) > 1 and (is_url(label) or label.is_file()):  # one that is missing is reported where it is read
            raise WrongUse(
                f"{str(label)!r} is given as the label map of {len(images)} images of {str(path)!r}, and does not hold "
                "one for each. Give a file with a label map for each, in their order; or name the image that it labels "
                f"by the column `id` of a CSV, as {images[0].id!r}."
            )


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


def _with_label(source: Source, label: Source | None) -> Source:
    if label is None:
        return replace(source, label=None)
    if label.label is not None:  # the second column of a list
        return replace(source, label=label.label, label_part=label.label_part)
    return replace(source, label=label.path, label_part=label.part)
