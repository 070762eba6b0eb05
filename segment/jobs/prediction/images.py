"""The images of one predict run: read, estimated, and written as files with a line for the manifest.

Must not know where the network, the bank and the memory budget come from. An image that fails has a line with the
error; the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from segment.axes import Plane
from segment.estimation.batching import BatchedEstimator
from segment.estimation.estimate import Estimate
from segment.estimation.estimator import Estimator
from segment.estimation.failures import IMAGE_ERRORS, estimates_or_reasons, reason_of
from segment.files.runs.manifest import LABEL, Entry
from segment.files.runs.places import RunPlaces
from segment.files.writing import discard, unwritable
from segment.images.contents.copied import by_ranges, image_here
from segment.images.contents.hashes import content_of, sha256_of_beside, sha256_of_mask
from segment.images.display import Display, picture_of
from segment.images.find import Source
from segment.images.prepare import Normalised
from segment.images.read import read_source
from segment.jobs.labelled.labels import read_labelled_image
from segment.jobs.progress import report_image
from segment.jobs.triage.predicting import TriageOfRun
from segment.networks.load import Network
from segment.pictures.palettes import Picture
from segment.report.run_files.image_files import ImageResult, render
from segment.report.run_files.sheet import SheetCandidates, Thumbnails, thumbnails
from segment.report.run_files.style import PictureStyle
from segment.scores.functional.expected import EXPECTED, expected_numbers
from segment.uncertainty.class_sums import class_sums

log = logging.getLogger(__name__)

CHANGED = "it was changed while its windows were estimated; --resume begins it again"
"""Why a raster has failed whose windows are not all of one content."""

NOTHING = np.empty((0, 0, 3), np.uint8)
"""The pixels of an image that could not be read."""


@dataclass(frozen=True)
class ImageRead:
    """An image, read, or why it cannot be.

    pixels: H W C, in memory or by windows; 0 0 C where there is an error. sha256: of the file's bytes, "" of none
    valid: H W, where it holds data; None: everywhere
    version: of a file on a store; mask_sha256: of its region mask, beside_sha256: of what belongs to both, "" without
    error: in one line, "" without
    """

    source: Source
    pixels: Plane
    sha256: str
    valid: Plane | None = None
    version: str = ""
    mask_sha256: str = ""
    beside_sha256: str = ""
    error: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """H and W; 0 without an image."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def is_outdated(self) -> bool:
        """Whether its windows may be of another content than the first ones: its file is another now."""
        if self.error or isinstance(self.pixels, np.ndarray):
            return False
        content = content_of(self.source)
        if not any(content):  # it was taken away: what was read before is whole
            return False
        beside = sha256_of_beside(self.source.path, self.source.mask)
        return (*content, beside) != (self.sha256, self.version, self.beside_sha256)


@dataclass(frozen=True)
class Written:
    """An image whose files are whole: its line, and its row of the contact sheet, if there is to be one."""

    entry: Entry
    row: Thumbnails | None = None


@dataclass
class ImagePredictor:
    """Reads, estimates and writes the images of one run.

    maps, formats: what is written. border: pixels at each side where the measures are hidden
    triage: what accepts pixels and images, and compares them with validation images
    candidates: images that the contact sheet may show
    display: how bands become a picture; None: RGB, as it is
    take: what is done with a written image once its line is on the disk; None: `take_in`
    single: whether the run has one image, where `run` does not know
    """

    run: RunPlaces
    network: Network
    batched: BatchedEstimator
    style: PictureStyle
    maps: Sequence[str]
    formats: Sequence[str]
    border: int = 0
    triage: TriageOfRun | None = None
    candidates: SheetCandidates = field(default_factory=SheetCandidates)
    display: Display | None = None
    take: Callable[[Written], object] | None = None
    single: bool | None = None

    @property
    def estimator(self) -> Estimator:
        return self.batched.estimator

    def picture(self, source: Source) -> Picture:
        """The image as people see it. Errors: ImageUnreadable."""
        return picture_of(read_source(source, self.network.input).pixels, self.display)

    def read(self, source: Source) -> ImageRead:
        sha256, version = "", ""
        try:
            with (  # copied once
                nullcontext() if by_ranges(source) else image_here(source.path),
                nullcontext() if source.mask is None else image_here(source.mask),
            ):
                sha256, version = content_of(source)
                beside = sha256_of_beside(source.path, source.mask)
                image, mask = read_source(source, self.network.input), sha256_of_mask(source)
            return ImageRead(source, image.pixels, sha256, image.valid, version, mask, beside)
        except (*IMAGE_ERRORS, OSError) as error:
            return ImageRead(source, NOTHING, sha256, error=reason_of(error))

    def estimate(self, images: Sequence[ImageRead]) -> list[Estimate[Plane] | str]:
        """The estimates of images of one size, or the reason why there is none.

        Errors: WrongUse where no map can be written; OutOfMemory.
        """
        if images[0].error:
            return [image.error for image in images]
        try:
            return estimates_or_reasons(images, self._estimates)
        except OSError as error:  # of the files that hold its maps
            raise unwritable(self.run.folder, error) from error

    def _estimates(self, images: Sequence[ImageRead]) -> list[Estimate[Plane]]:
        normalised = [Normalised(image.pixels, self.network.input) for image in images]
        partly = any(image.valid is not None and one.in_memory for image, one in zip(images, normalised, strict=True))
        with self._probabilities(wanted=partly):
            made = self.batched(normalised, [image.source.id for image in images])
        return [estimates[""].arrays(self.network.classes) for estimates in made]

    @contextmanager
    def _probabilities(self, *, wanted: bool) -> Iterator[None]:
        """Within the block probabilities are kept where they are wanted: their sums are of some pixels only."""
        before = self.estimator.read_outs
        if wanted:
            self.estimator.read_outs = {name: replace(each, probability=True) for name, each in before.items()}
        try:
            yield
        finally:
            self.estimator.read_outs = before

    def write(self, image: ImageRead, estimate: Estimate[Plane] | str, seconds: float) -> Written:
        """The files of an image; several may be written at once. seconds: wall time of its estimate."""
        if isinstance(estimate, str):
            return failed(image.source, estimate, image.sha256, seconds)
        style, id = self.style, image.source.id
        picture = picture_of(image.pixels, self.display)
        result = ImageResult(
            image.source,
            picture,
            estimate,
            style,
            self.maps,
            border=self.border,
            valid=image.valid,
            model=self.network.name,
            folder=self.run.folder,
        )
        try:
            triaged = None if self.triage is None else self.triage.of_image(estimate, image.valid)
            files, measures = render(self.run, result, self.formats, triaged)
            alone = len(self.run.sources) == 1 if self.single is None else self.single
            truth, unlike = self._label(image.source) if "png" in self.formats else (None, "")
            row = thumbnails(result, truth, alone=alone) if "png" in self.formats else None
        except IMAGE_ERRORS as error:
            return failed(image.source, f"its pictures: {reason_of(error)}", image.sha256, seconds)
        if image.is_outdated():
            discard((self.run.folder / name for name in files), self.run.folder)
            return failed(image.source, CHANGED, image.sha256, seconds)
        entry = Entry(
            id=id,
            source=str(image.source.path),
            sha256=image.sha256,
            version=image.version,
            mask_sha256=image.mask_sha256,
            beside_sha256=image.beside_sha256,
            files=files,
            seconds=round(seconds, 4),
            draws=estimate.draws,
            reached_error=estimate.reached_error,
            blending=None if estimate.blending is None else estimate.blending.record(),
            measures=measures,
            notes={**estimate.withheld, **({LABEL: unlike} if unlike else {})},
            triage=None if triaged is None else triaged[0].line(),
            expected=self._expected(estimate, image.valid),
        )
        return Written(entry, row)

    def add(self, written: Written) -> None:
        """Count a written image as done, or failed: in the manifest, and in what the process keeps, in order."""
        self.run.add(written.entry)
        (self.take or self.take_in)(written)

    def take_in(self, written: Written) -> None:
        """Count an image that has its line: in the sheet and the watch for shift."""
        entry = written.entry
        report_image(entry.id, entry.seconds, entry.error, stage="predicting")
        if written.row is not None:
            self.candidates.add(entry.id, entry.measures.get(self.style.heat, {}).get("mean", 0.0), written.row)
        if self.triage is not None and entry.status == "done":
            self.triage.watch(entry.line())

    def _expected(self, estimate: Estimate[Plane], valid: Plane | None) -> dict[str, float]:
        """How right the mask is by its own probabilities, under the columns that per_image.csv has for it.

        Nothing for a raster in windows with pixels without data: its probabilities are not kept.
        """
        sums, head = estimate.class_sums, self.network.card.head
        if valid is not None:
            inside = valid[:]
            mean, mask = estimate.mean, estimate.prediction
            if not isinstance(mean, np.ndarray) or not isinstance(mask, np.ndarray):
                return {}
            parts = (torch.from_numpy(each[..., inside].astype(kind)) for each, kind in ((mean, "f4"), (mask, "i8")))
            p, labels = (part[None, ..., None, :] for part in parts)  # one row of pixels
            sums = class_sums(p, labels, head)[0]
        if sums is None:
            return {}
        names = (*EXPECTED, *(f"soft_dice.{name}" for name in self.network.class_names))
        numbers = expected_numbers(list(sums.cpu().numpy()), head)
        return {name: float(number) for name, number in zip(names, numbers, strict=True) if np.isfinite(number)}

    def truth(self, source: Source) -> NDArray[np.int64] | None:
        """The label ids of a source (H W), to be shown; None without a label that can be."""
        return self._label(source)[0]

    def _label(self, source: Source) -> tuple[NDArray[np.int64] | None, str]:
        """The label ids of a source, as `truth`, and why a label that is there cannot be shown."""
        if source.label is None or self.network.card.head == "multilabel":
            return None, ""
        labelled = read_labelled_image(source, self.network)
        return (None, labelled.error) if labelled.error else (labelled.label, "")

    def redo(self, sources: Sequence[Source]) -> None:
        """Write images again whose fast passes were wrong; until then their lines say "failed", for a resume."""
        log.warning(
            "A fast way to make passes gave other numbers than plain passes (%s); plain ones are made from now on, and "
            "for %s before this one again.",
            self.estimator.why,
            f"the {len(sources)} images" if sources else "the windows",
        )
        self.estimator.to_redo = 0
        self.run.settle()  # files on their way have the names of those that are made now
        for source in sources:
            self.run.add(Entry(id=source.id, source=str(source.path), status="failed", error="to be made again"))
        for source in sources:
            begun = time.perf_counter()
            image = self.read(source)
            (estimate,) = self.estimate([image])
            self.add(self.write(image, estimate, time.perf_counter() - begun))


def failed(source: Source, error: str, sha256: str = "", seconds: float = 0.0) -> Written:
    """The line of an image that failed; the error in one line."""
    log.warning("%s: %s", source.id, error)
    return Written(
        Entry(id=source.id, source=str(source.path), sha256=sha256, status="failed", error=error, seconds=seconds)
    )
