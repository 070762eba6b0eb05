"""An image's exports in RUN/<id>/, and those of the whole run.

Must not know how a format is written.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from segment.errors import SegmentError, WrongUse, count_of, error_message
from segment.files.exports import coco, geojson, labelstudio, tables
from segment.files.exports.geotiff import write_tifs
from segment.files.exports.image import ExportedImage
from segment.files.exports.videos import write_videos
from segment.files.exports.volumes import PlacedImage, write_volumes
from segment.files.exports.zarr_group import write_group
from segment.files.runs.run import Run
from segment.images.find import Source
from segment.images.formats.dicom import slices_of
from segment.images.listing.ids import natural_order
from segment.images.placing.geometry import Geometry
from segment.images.placing.of_source import geometry_of
from segment.networks.load import Network
from segment.report.run_files.style import PictureStyle

log = logging.getLogger(__name__)

Named = Callable[[str], Path]
"""A file's name in the image's folder -> its path, which is noted as written."""

EXPORTS: dict[str, Callable[[Named, ExportedImage, str], None]] = {
    "tif": lambda path, image, _: write_tifs(path, image),
    "zarr": lambda path, image, _: write_group(path, image),
    "csv": lambda path, image, _: tables.write_segments_csv(path("segments.csv"), image),
    "parquet": lambda path, image, _: tables.write_segments_parquet(path("segments.parquet"), image),
    "coco": lambda path, image, _: coco.write_coco(path(coco.FILE), image),
    "labelstudio": lambda path, image, model: labelstudio.write_task(path(labelstudio.FILE), image, model),
    "geojson": lambda path, image, _: geojson.write_polygons(path(geojson.FILE), image),
}
"""What is written of each image."""

JOINED: dict[str, tuple[str, Callable[[Path, Sequence[Path]], None]]] = {
    "csv": ("segments.csv", tables.join_csv),
    "parquet": ("segments.parquet", tables.join_parquet),
    "coco": (coco.FILE, coco.join_coco),
    "labelstudio": (labelstudio.FILE, labelstudio.join_tasks),
}
"""Files of a run that are made of its images' files of the same name."""


def where(source: Source) -> Geometry:
    """Where an image lies; nowhere known where that cannot be read, which is logged."""
    try:
        return geometry_of(source)
    except (SegmentError, OSError) as error:
        log.warning("%s: its georeference is not read: %s", source.id, error_message(error))
        return Geometry()


def write_exports(path: Named, image: ExportedImage, formats: Sequence[str], model: str) -> None:
    """The files of an image in every format that is one of `EXPORTS`. model: the network's name."""
    for name in formats:
        if name in EXPORTS:
            EXPORTS[name](path, image, model)


def write_run_exports(
    run: Run, style: PictureStyle, network: Network, formats: Sequence[str], *, in_order: bool = True
) -> list[str]:
    """The files of the whole run, relative to its folder; a resume writes them again, of all images.

    in_order: whether somebody put the images in order, as a list does; the names of files in a folder are only sorted
    A volume or video that cannot be put together is reported in a warning; the others are written.
    """
    done = run.done()
    sources = [source for source in run.sources if source.id in done]
    written: list[Path] = []
    if not sources:
        return []
    for name in formats:
        if name in JOINED:
            file, join = JOINED[name]
            run.bring(f"{source.id}/{file}" for source in sources)
            join(run.folder / file, [run.path(source.id, file) for source in sources])
            written.append(run.folder / file)
        if name in ("csv", "parquet"):
            written.append(run.folder / f"images.{name}")
            tables.write_images(written[-1], (done[source.id] for source in sources))
        if name == "labelstudio":
            written.append(run.folder / labelstudio.INTERFACE)
            labelstudio.write_interface(written[-1], style.classes, style.palette)
    if "nii" in formats or "video" in formats:
        written += _of_sequences(run, sources, style, network, formats, in_order=in_order)
    return [run.relative(path) for path in written]


def _of_sequences(
    run: Run,
    sources: Sequence[Source],
    style: PictureStyle,
    network: Network,
    formats: Sequence[str],
    *,
    in_order: bool,
) -> Iterator[Path]:
    volumes: dict[str, list[PlacedImage]] = defaultdict(list)
    in_series = _places_in_series(run.sources) if "nii" in formats else {}
    frames: dict[str, list[PlacedImage]] = defaultdict(list)
    for source in sources:
        geometry = in_series.get(source.id) or where(source)
        run.bring_image(source.id)
        part = PlacedImage(source.id, run.path(source.id, "maps.npz").parent, geometry)
        if geometry.volume:
            volumes[geometry.volume].append(part)
        else:
            frames[geometry.video or source.id.rpartition("/")[0]].append(part)
    if "nii" in formats:
        if not volumes:
            log.warning("No image is a slice of a volume, so --format nii has written none.")
        if unplaced := [name for name, parts in volumes.items() if parts[0].geometry.affine is None]:
            log.warning(
                "No affine says where the voxels of %s lie (the first is %s): codes of sform and qform are 0 in what "
                "--format nii writes of them, and a voxel has no size in millimetres.",
                count_of(len(unplaced), "volume"),
                unplaced[0],
            )
        folders = Counter(map(_folder_of, volumes.values()))
        for parts in volumes.values():
            parts.sort(key=lambda part: part.geometry.index)
            prefix = f"{parts[0].id.replace('/', '_')}_" if folders[_folder_of(parts)] > 1 else ""
            write = partial(write_volumes, classes=network.class_names, prefix=prefix)
            yield from _written(parts, write)
    if "video" in formats:
        names = ["overlay", "overlay_uncertainty", *style.scales]
        files = {source.id for source in sources if source.part is None}
        for parts in frames.values():
            if parts[0].geometry.video:
                parts.sort(key=lambda part: part.geometry.index)
            elif not in_order and files.issuperset(part.id for part in parts):
                parts.sort(key=lambda part: natural_order(part.id))
            yield from _written(parts, lambda folder, some: write_videos(folder, some, names))


def _places_in_series(sources: Sequence[Source]) -> dict[str, Geometry]:
    """Where the slices of DICOM series lie by all the slices of a run, for series of which some came later: by id."""
    series: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if source.geometry is not None and source.geometry.volume:
            series[source.geometry.volume].append(source)
    places: dict[str, Geometry] = {}
    for slices in series.values():
        known = sorted((source.geometry.index, source.geometry.count) for source in slices if source.geometry)
        if known == [(index, len(slices)) for index in range(len(slices))]:
            continue
        ids = {(source.path, source.part): source.id for source in slices}
        for path, frame, geometry in slices_of({source.path: None for source in slices}):
            if geometry.volume and (path, frame) in ids:
                places[ids[path, frame]] = geometry
    return places


def _folder_of(parts: Sequence[PlacedImage]) -> Path:
    """The folder beside or above those of all parts."""
    return Path(os.path.commonpath([part.folder.parent for part in parts]))


def _written(parts: Sequence[PlacedImage], write: Callable[[Path, Sequence[PlacedImage]], list[Path]]) -> list[Path]:
    """Beside the folders of the parts, or above them. A sequence that does not go together is reported, not raised."""
    try:
        return write(_folder_of(parts), parts)
    except (WrongUse, ValueError) as error:
        log.warning("%s: %s", parts[0].id, error_message(error))
        return []
