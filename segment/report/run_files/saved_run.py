"""A run's folder → its images, maps, pictures and tables, each read when it is asked for; writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segment.errors import ImageUnreadable, WrongUse, count_of, near
from segment.estimation.estimate import Estimate
from segment.estimation.view import PictureContext
from segment.files.runs.places import SOURCES, place_of
from segment.files.writing import FULL
from segment.images.contents.hashes import refuse_changed
from segment.images.display import Display, display_of, picture_of
from segment.images.find import ALONG, Source, find_images, in_text, part_in_text
from segment.images.listing.ids import folded, wanted_id
from segment.images.listing.parts import Listing
from segment.images.read import few_pixels, read_image, read_source
from segment.images.specs import InputSpec
from segment.pictures.palettes import Picture, palette
from segment.report.run_files.run_folder import RunFolder
from segment.report.run_files.saved_maps import PREDICTION, PROBABILITY, Maps
from segment.uncertainty.measures import MEASURES


@dataclass(frozen=True, repr=False)
class SavedImage:
    """One image of a run; everything is read when it is asked for.

    entry: its line of the manifest
    """

    run: SavedRun = field(compare=False)
    entry: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def status(self) -> str:
        """`done` or `failed`."""
        return str(self.entry["status"])

    @property
    def error(self) -> str | None:
        return None if self.entry.get("error") is None else str(self.entry["error"])

    @property
    def source(self) -> Path:
        return Path(str(self.entry["source"]))

    @property
    def measures(self) -> dict[str, Mapping[str, float]]:
        """Measure -> its mean and 95th percentile over the image."""
        return {name: self.entry[name] for name in MEASURES if name in self.entry}

    @cached_property
    def maps(self) -> Maps:
        """By name, as written: measures, `prediction`, `probability`."""
        failed = "" if self.status == "done" else f"The image {self.id!r} failed: {self.error}"
        return Maps(self.run.folder, tuple(self.entry["files"]), failed)

    @property
    def prediction(self) -> NDArray[Any]:  # H W
        return self.maps[PREDICTION]

    @property
    def probability(self) -> NDArray[Any]:  # K H W
        return self.maps[PROBABILITY]

    @property
    def image(self) -> Picture:
        """The source image, uint8 (H, W, 3). Errors: ImageUnreadable, also where its file has changed since the run."""
        source, spec = self.run.unchanged_source(self.id), self.run.input
        few = (few_pixels(one, spec) for one in (source,))  # not read for RGB, which is shown as it is
        display = self.run.display or display_of(few, spec)
        return picture_of(read_source(source, spec).pixels, display)

    def picture(self, name: str) -> Picture:
        """A picture of the run by its file's name without suffix, as `overlay` or `variance`, uint8 (H, W, 3)."""
        for file in self.entry["files"]:
            path = self.run.folder / file
            if path.stem == name and path.suffix in (".png", ".jpg", ".webp"):
                return picture_of(read_image(path, white=FULL))
        raise WrongUse(f"{self.id!r} has no picture {name!r}; its files: {', '.join(self.entry['files']) or 'none'}.")

    def estimate(self) -> Estimate[Any]:
        """The image as an Estimate, which plots and saves itself."""
        maps = {name: self.maps[name] for name in self.maps if name in MEASURES}
        mean = self.maps.get(PROBABILITY, None)
        return Estimate(self.prediction, mean, maps, int(self.entry["draws"]), view=self.run.view([lambda: self.image]))

    def _repr_png_(self) -> bytes:
        return self.estimate()._repr_png_()

    def __repr__(self) -> str:
        if self.status != "done":
            return f"SavedImage({self.id!r}, failed: {self.error})"
        means = ", ".join(f"{name} {numbers['mean']:.3g}" for name, numbers in self.measures.items())
        return f"SavedImage({self.id!r}, T = {self.entry['draws']}{f'; means: {means}' if means else ''})"


@dataclass(frozen=True, repr=False)
class SavedRun(RunFolder, Mapping[str, SavedImage]):
    """A run on disk: a mapping from image id to image; maps, pictures and tables are read when they are asked for."""

    @cached_property
    def input(self) -> InputSpec:
        """How an image became the network's input."""
        given: dict[str, Any] = self.card.get("input", {})
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        return InputSpec(**values)

    @cached_property
    def display(self) -> Display | None:
        """How bands became pictures; None for RGB, and for a run without pictures."""
        record = self.record.get("display")
        return Display.of(record) if record else None

    def source_of(self, entry: Mapping[str, Any]) -> Source:
        """An image's file, and which part of it where the file holds several: of earlier versions' runs by its id.

        Errors: ImageUnreadable where the file is not there, or has no such part.
        """
        id, path = str(entry["id"]), place_of(self.record, entry["source"])
        known = self.record.get(SOURCES, {}).get(id)
        part = "" if known is None else str(known).removeprefix(str(entry["source"]))
        if not part and self._of_path[entry["source"]] == 1 and (known is not None or "listing" not in self.settings):
            return Source(id, path, wanted=wanted_id(id, path.name, self._ids))
        listed = self._images_of(path, part)
        names = {source.id.rpartition("/")[2]: source for source in listed}
        same = {part_in_text(source): source for source in listed} if part else names
        wanted = part or id.rpartition("/")[2]
        if wanted not in same and (part or len(listed) > 1):
            raise ImageUnreadable(f"{in_text(path)!r} has no image {id!r} any more.")
        source = same.get(wanted, listed[0])
        return replace(source, id=id, wanted=wanted_id(id, source.id.rpartition("/")[2], self._ids))

    def unchanged_source(self, id: str) -> Source:
        """As `source_of`, where the file is still the one that the run read. Errors: ImageUnreadable."""
        if id not in self.entries:
            raise ImageUnreadable(f"The manifest of {in_text(self.folder)!r} has no line of {id!r}.")
        source = self.source_of(self.entries[id])
        refuse_changed(source, self.entries[id])
        return source

    def _images_of(self, path: Path, part: str) -> tuple[Source, ...]:
        """The images of a file, along the axis that a part of it names; each file is looked into once."""
        _, _, axis = part.partition(ALONG)
        listing = replace(self.listing, axis=int(axis) if axis else Listing.axis) if part else self.listing
        if (path, listing.axis) not in self._listed:
            try:
                self._listed[path, listing.axis] = find_images(path, listing)
            except WrongUse:
                raise ImageUnreadable(f"{in_text(path)!r} is not there any more.") from None
        return self._listed[path, listing.axis]

    @cached_property
    def _listed(self) -> dict[tuple[Path, int], tuple[Source, ...]]:
        return {}

    @cached_property
    def _ids(self) -> set[str]:
        return set(map(folded, self.entries))

    @cached_property
    def _of_path(self) -> Counter[str]:
        return Counter(entry["source"] for entry in self.entries.values())

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes. Error: WrongUse for a run that does not record them."""
        names = self.record.get("classes") or self.card.get("classes")
        if not names:
            raise WrongUse(
                f"The run in {str(self.folder)!r} does not record the classes of its network, as runs of earlier "
                "versions did not where the card names none: run it again."
            )
        return tuple(names)

    @property
    def highs(self) -> dict[str, float]:
        """Measure -> the value of its last colour in the run's pictures."""
        return {name: float(entry["high"]) for name, entry in self.record.get("colours", {}).items()}

    def view(self, images: list[Any]) -> PictureContext:
        """What the pictures of this run share."""
        colours = palette(len(self.classes), self.card.get("palette") or ())
        name = str(self.settings.get("model", "network"))
        return PictureContext(
            name=name, classes=self.classes, palette=colours, head=self.head, images=tuple(images), highs=self.highs
        )

    def table(self) -> list[dict[str, Any]]:
        """A row for each image, for `pandas.DataFrame`: id, source, status, draws, seconds, and each measure's mean."""
        keys = ("id", "source", "status", "error", "draws", "seconds")
        rows = []
        for image in self.values():
            row: dict[str, Any] = {key: image.entry.get(key) for key in keys}
            for name, numbers in image.measures.items():
                row |= {f"{kind}.{name}": value for kind, value in numbers.items()}
            rows.append(row)
        return rows

    def __getitem__(self, id: str) -> SavedImage:
        if id not in self.entries:
            raise KeyError(f"The run has no image {id!r}.{near(id, self.entries)}")
        return SavedImage(self, self.entries[id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _repr_png_(self) -> bytes | None:
        path = self.folder / "sheet.png"
        return path.read_bytes() if path.is_file() else None

    def __repr__(self) -> str:
        failed = sum(line["status"] == "failed" for line in self.entries.values())
        parts = [
            f"{count_of(len(self), 'image')}, {failed} failed" + (f", {self.left} not made yet" if self.left else "")
        ]
        parts += [f"T = {self.plan['draws']}"] if "draws" in self.plan else []
        parts += [f"{len(self.record['classes'])} classes"] if self.record.get("classes") else []
        parts += [f"scores of {', '.join(self.scores.get('methods', {}))}"] if self.scores else []
        return f"SavedRun of {self.settings.get('model', 'a network')} in {self.folder}: {'; '.join(parts)}"


def load_run(folder: str | Path) -> SavedRun:
    """Open the folder that `segment predict`, `evaluate` or `sweep` wrote.

    Args:
        folder: the run's folder.

    Returns:
        A mapping from image id to image; nothing but the manifest is read yet.

    Raises:
        WrongUse: the folder holds no run, or its files are damaged.

    """
    return SavedRun.read(Path(folder), whole=True)
