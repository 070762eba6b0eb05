"""A triage in a predict run: what is accepted of each image, and whether the run is like the validation images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from segment.axes import Plane
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import WrongUse
from segment.estimation.estimate import Estimate
from segment.files.runs.places import RunPlaces
from segment.files.runs.run import Run
from segment.files.text_tables import csv_text
from segment.files.triages import TRIAGED, TRIAGED_TABLE
from segment.files.writing import write_json, write_text
from segment.guarantees.sentences import promise
from segment.guarantees.shift import AT_THE_END, check_level, shift_test
from segment.guarantees.triage import Triage, percent
from segment.jobs.evaluation.combinations import TUNED
from segment.jobs.triage.calibration import SHA_DIGITS
from segment.jobs.triage.checking import groups_of_sources, seen_sentence, shift_dict, shift_of, shift_sentence
from segment.jobs.triage.source import refuse_other_source
from segment.jobs.tuning.tuned import Tuned
from segment.networks.load import Network
from segment.report.run_files.triaged_files import TriagedImage, triaged_image

log = logging.getLogger(__name__)

DONE = "done"


def refuse_other_run(
    triage: Triage,
    network: Network,
    bank: Bank,
    *,
    draws: int | None,
    precision: str,
    tuned: Tuned | None = None,
) -> None:
    """Refuse a run whose uncertainty is not made as the triage's was.

    draws: of the bank; None: each image has another number
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
        },
    )


class TriageOfRun:
    """The decisions on each image of a run, and a watch for shift that warns while the run goes on."""

    def __init__(self, triage: Triage, run: RunPlaces) -> None:
        self.triage = triage
        self._reference = np.array(triage.reference.values)
        lines = run.entries().values()
        self._means = [_mean_of(line, triage) for line in lines if line["status"] == DONE]
        self._warned = False

    def of_image(self, estimate: Estimate[Plane], valid: Plane | None = None) -> tuple[TriagedImage, Triage]:
        """The decisions on an image, with the triage, as `render` takes them. valid: as in `triaged_image`."""
        return triaged_image(estimate, self.triage, valid), self.triage

    def watch(self, measures: Mapping[str, Mapping[str, float]]) -> None:
        """Take in an image's means; warn once, at the first check that finds the run so far shifted."""
        measure = self.triage.reference.measure
        self._means.append(measures[measure]["mean"])
        level = None if self.triage.reference.groups else check_level(len(self._means))
        if level is None or self._warned:
            return
        test = shift_test(self._reference, np.array(self._means), level=level)
        if test.shifted:
            self._warned = True
            log.warning("After %d images: %s", len(self._means), shift_sentence(test, self.triage))


def write_triaged_run(run: Run, triage: Triage) -> dict[str, Any]:
    """triaged.csv (a line an image) and triaged.json (the whole run), from the manifest; what the latter holds."""
    entries = run.entries()
    lines = {source.id: entries[source.id] for source in run.sources if source.id in entries}
    done = {id: line for id, line in lines.items() if line["status"] == DONE and "triage" in line}
    means = {id: _mean_of(line, triage) for id, line in done.items()}
    shift = shift_of(means, triage, groups_of_sources(run.sources, triage), level=AT_THE_END)
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
    kind = "groups" if triage.reference.groups else "images"
    text = [sentence, shift_sentence(shift, triage)]
    again = {str(line["sha256"])[:SHA_DIGITS] for line in done.values()} & set(triage.source["sha256"])
    if again:
        text.append(seen_sentence(len(again), len(done)))
    text += triage.warnings
    content = {
        "promise": "void: the run is shifted" if shift.shifted else promise(triage.plan, triage.plan.unit, kind),
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
        rows.append([*row, line[image.measure]["mean"], *(line["triage"][key] for key in sets)])
    columns = ["id", "source", "decision", "accepted", f"mean.{image.measure}", *sets]
    write_text(run.folder / TRIAGED_TABLE, csv_text(columns, rows))
    return content


def _mean_of(line: Mapping[str, Any], triage: Triage) -> float:
    return float(line[triage.reference.measure]["mean"])
