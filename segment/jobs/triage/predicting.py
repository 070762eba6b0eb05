"""A triage in a predict run: what is accepted of each image, and whether the run is like the validation images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import WrongUse, count_of
from segment.estimation.estimate import Estimate
from segment.files.runs.places import RunPlaces, removed_images
from segment.files.runs.run import Run
from segment.files.text_tables import csv_text
from segment.files.triages import TRIAGED, TRIAGED_TABLE
from segment.files.writing import write_json, write_text
from segment.guarantees.shift import ShiftTest, check_level, shift_test
from segment.guarantees.triage import Triage, percent
from segment.jobs.evaluation.combinations import TUNED
from segment.jobs.triage.calibration import SHA_DIGITS
from segment.jobs.triage.checking import (
    listed_groups,
    numbers_of,
    promise_or_void,
    seen_sentence,
    shift_dict,
    shift_sentence,
    shift_test_of,
)
from segment.jobs.triage.source import refuse_edited_network, refuse_other_source
from segment.jobs.tuning.tuned import Tuned
from segment.networks.load import Network
from segment.report.run_files.triaged_files import TriagedImage, triaged_image

log = logging.getLogger(__name__)

DONE = "done"


def decide(triage: Triage, result: Estimate[Any]) -> NDArray[np.bool_]:
    """Which pixels of a result are accepted, by the triage's unit: an image or a segment as a whole.

    Args:
        triage: As `segment.calibrate_triage` gives it, or `segment.load_triage`.
        result: What `MCBN` gives, made as the images that calibrated the triage: its draws are compared; its method
            (with views and temperature), network, bank and precision are not known to it. All pixels count, those
            without data too.

    Returns:
        H W of one image, N H W of several.

    Raises:
        WrongUse: The result is of other draws, or lacks the measure's map.

    """
    draws = triage.source.get("draws", result.draws)
    if result.draws != draws:
        raise WrongUse(f"The triage is of {count_of(draws, 'draw')}, and this result of {result.draws}.")
    images = [result.image(index).arrays() for index in range(result.images)]
    decided = [triaged_image(image, triage).review[:] == 0 for image in images]
    return decided[0] if result.single else np.stack(decided)


def refuse_other_run(
    triage: Triage,
    network: Network,
    bank: Bank,
    *,
    draws: int | None,
    precision: str,
    tuned: Tuned | None = None,
    masked: bool = False,
) -> None:
    """Refuse a run whose uncertainty is not made as the triage's was.

    draws: of the bank; None: each image has another number. masked: whether its images have region masks
    Errors: WrongUse, with the options to give.
    """
    method = triage.source["method"]
    if method != ("mcbn" if tuned is None else TUNED):
        makes = "mcbn, with --bank" if tuned is None else "what `segment tune` chose, with --tuned"
        raise WrongUse(
            f"This triage is of method {method!r}, and this run makes {makes}. Calibrate with "
            f"--method {'mcbn' if tuned is None else TUNED}."
        )
    if draws is None:
        raise WrongUse(
            f"--draws auto gives each image another number of draws, and the triage is of {triage.source['draws']}: "
            f"give --draws {triage.source['draws']}."
        )
    refuse_other_source(
        triage,
        {
            "network": network.fingerprint,
            "bank": bank_fingerprint(bank),
            "draws": draws if tuned is None else triage.source["draws"],  # the setting has its own
            **({} if tuned is None else {"tuned": tuned.settings()}),
            "precision": precision,
            "classes": list(network.class_names),
            **({"masks": True} if masked else {}),
        },
    )
    refuse_edited_network(triage, network)


class TriageOfRun:
    """The decisions on each image of a run, and a watch for shift that warns while the run goes on.

    The warning decides nothing: images come in the order of their names or of their ends, and the first of a sorted
    folder are often alike. The test of the whole run decides, in `write_triaged_run`.
    """

    def __init__(self, triage: Triage, run: RunPlaces) -> None:
        self.triage = triage
        self._reference = np.array(triage.reference.values)
        removed = removed_images(run.record)
        done = {id: line for id, line in run.entries().items() if line["status"] == DONE and id not in removed}
        # by id: an image that is replaced is made again
        self._means = {id: _mean_of(line, triage.reference.measure) for id, line in done.items()}
        self._checked, self._warned = len(self._means), False

    def of_image(self, estimate: Estimate[Plane], valid: Plane | None = None) -> tuple[TriagedImage, Triage]:
        """The decisions on an image, with the triage, as `render` takes them. valid: as in `triaged_image`."""
        return triaged_image(estimate, self.triage, valid), self.triage

    def watch(self, line: Mapping[str, Any]) -> None:
        """Take in an image's line; warn once, at the first check that finds the run so far shifted."""
        self._means[line["id"]] = _mean_of(line, self.triage.reference.measure)
        images = len(self._means)
        level = None if self.triage.reference.groups else check_level(images)
        if level is None or images <= self._checked or self._warned:
            return
        self._checked = images
        test = shift_test(self._reference, np.array(list(self._means.values())), level=level)
        if test.shifted:
            self._warned = True
            log.warning("%s", so_far(test, self.triage))


def so_far(test: ShiftTest, triage: Triage) -> str:
    """What a check during a run says that found its images unlike those of validation."""
    return (
        f"{triage.reference.measure} of the first {test.images} images differs from the validation images' "
        f"({numbers_of(test, triage)}). If they come in no order, the guarantee is void; sorted names may put like "
        "images first. The test of all images, at the end, decides."
    )


def write_triaged_run(run: Run, triage: Triage) -> dict[str, Any]:
    """triaged.csv (a line an image) and triaged.json (the whole run), from the manifest; what the latter holds."""
    entries = run.entries()
    lines = {source.id: entries[source.id] for source in run.sources if source.id in entries}
    done = {id: line for id, line in lines.items() if line["status"] == DONE and "triage" in line}
    means = {id: _mean_of(line, triage.reference.measure) for id, line in done.items()}
    shift = shift_test_of(means, triage, listed_groups(run.sources, triage))
    image = triage.decisions["image"]
    accepted = [float(line["triage"]["accepted"]) for line in done.values()]
    passing = [id for id, line in done.items() if line["triage"]["decision"] == "accept"]
    mean = float(np.mean(accepted)) if accepted else None
    sentence = "No image is done, so nothing is accepted."
    if mean is not None:
        sentence = (
            f"{len(passing)} of {len(done)} images are accepted whole, {len(done) - len(passing)} are for review; "
            f"{percent(mean)} of the pixels of an image are accepted on average (by {triage.plan.unit})."
        )
    promised = promise_or_void(triage, shifted=shift.shifted)
    text = [f"Guarantee: {promised}.", sentence, shift_sentence(shift, triage)]
    again = {str(line["sha256"])[:SHA_DIGITS] for line in done.values()} & set(triage.source["sha256"])
    if again:
        text.append(seen_sentence(len(again), len(done)))
    text += triage.warnings
    content = {
        "promise": promised,
        "images": len(done),
        "accepted_images": len(passing),
        "accepted_pixels": mean,
        "shift": shift_dict(shift, triage),
        "text": text,
    }
    write_json(run.folder / TRIAGED, content)
    rows = []
    sets = [] if triage.sets is None else ["set_size"]
    for id, line in done.items():
        row = [id, line["source"], line["triage"]["decision"], line["triage"]["accepted"]]
        rows.append([*row, _mean_of(line, image.measure), *(line["triage"][key] for key in sets)])
    columns = ["id", "source", "decision", "accepted", f"mean.{image.measure}", *sets]
    write_text(run.folder / TRIAGED_TABLE, csv_text(columns, rows))
    return content


def _mean_of(line: Mapping[str, Any], measure: str) -> float:
    """Over all pixels with data, as the triage's own; the line's mean leaves a border out."""
    means = line["triage"].get("means", {})  # runs of before had none
    return float(means.get(measure, line[measure]["mean"]))
