"""A tuned setting in its folder: the bank, how its passes are made and calibrated, and what it was chosen on.

Must not know how it was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import BankRefused, WrongUse
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.banks.cache import MARK, marks_in
from segment.files.banks.output import SHOWN, bank_there
from segment.files.reading import read_json
from segment.files.writing import write_json
from segment.images.contents.hashes import sha256_of
from segment.images.find import Source
from segment.jobs.evaluation.combinations import TUNED, Combination, combination
from segment.jobs.evaluation.compared_methods import ComparedMethods, MethodPlan, build_methods
from segment.methods.augmentation import View
from segment.methods.method import Method
from segment.networks.load import Network
from segment.stores.copies import folder_here
from segment.uncertainty.scaling import Calibration, as_json, of_json

log = logging.getLogger(__name__)

BANK, SETTINGS, FORMAT = "bank.safetensors", "tuned.json", 1


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A setting to run.

    method: its passes and scaling; bank: exactly the draws that it takes; views: of test-time augmentation
    calibration: fitted on all validation images; network: fingerprint of the network it is for
    seen: marks of the validation images, by the first digits of their SHA-256; images: how many. why: the paragraph
    """

    method: Combination
    bank: Bank
    views: tuple[View, ...]
    calibration: Calibration
    network: str
    seen: frozenset[str]
    images: int
    why: str

    @property
    def draws(self) -> int:
        """Passes that an image takes: the bank's draws, or without them one a view."""
        if self.method.passes == "mcbn":
            return len(self.bank)
        return len(self.views) if self.method.augmented else 1

    def check(self, network: Network) -> None:
        """Raises BankRefused where it was chosen for another network."""
        if network.fingerprint != self.network:
            raise BankRefused(
                f"--tuned: the setting was chosen for another network than {network.name!r}. Tune this one by "
                "`segment tune`."
            )

    def chosen_on(self, sources: Sequence[Source]) -> list[str]:
        """A line for test images that the setting was chosen on."""
        twice = [source.id for source in sources if sha256_of(source.path)[:MARK] in self.seen]
        if not twice:
            return []
        return [
            f"{len(twice)} of {len(sources)} test images are those that the setting was chosen on ({twice[0]}, ...): "
            f"the scores of {TUNED} are too good."
        ]

    def settings(self) -> dict[str, Any]:
        """What a run keeps of it: two of other settings are not one run."""
        return {
            "method": self.method.name,
            "views": [[view.flip, view.scale] for view in self.views],
            "calibration": as_json(self.calibration),
            "bank": bank_fingerprint(self.bank),
        }


def write_tuned(tuned: Tuned, folder: Path, more: dict[str, Any]) -> None:
    """bank.safetensors, then tuned.json, which stands only beside a whole bank. more: for a reader."""
    there = bank_there(folder / BANK)
    if there is not None and bank_fingerprint(there) != bank_fingerprint(tuned.bank):
        log.warning(
            "%s held another tuned bank, of fingerprint %s, which is replaced: runs that were made with it can no "
            "longer be resumed.",
            folder,
            bank_fingerprint(there)[:SHOWN],
        )
    (folder / SETTINGS).unlink(missing_ok=True)
    save_bank(tuned.bank, folder / BANK)
    settings = {
        "format": FORMAT,
        "method": tuned.method.name,
        "draws": tuned.draws,
        "views": [[view.flip, view.scale] for view in tuned.views],
        "calibration": as_json(tuned.calibration),
        "network": tuned.network,
        "validation_images": tuned.images,
        "image_marks": sorted(tuned.seen),
        "why": tuned.why,
    }
    write_json(folder / SETTINGS, settings | more)


def read_tuned(folder: str | Path) -> Tuned:
    """The setting in a folder.

    Args:
        folder: What `segment tune` wrote.

    Raises:
        WrongUse: It is no such folder, or is damaged.
        BankRefused: Its bank is damaged.

    """
    path = folder_here(Path(folder)) / SETTINGS
    try:
        content = read_json(path, dict[str, Any], advice="Give --tuned a folder that `segment tune` wrote.")
        if content["format"] != FORMAT:
            raise WrongUse(f"{str(path)!r} is of format {content['format']}; this version reads {FORMAT}. Tune again.")
        views: Sequence[Any] = content["views"]
        return Tuned(
            method=combination(content["method"]),
            bank=load_bank(path.with_name(BANK)),
            views=tuple(View(flip=bool(flip), scale=float(scale)) for flip, scale in views),
            calibration=of_json(content["calibration"]),
            network=str(content["network"]),
            seen=frozenset(content["image_marks"]),
            images=int(content["validation_images"]),
            why=str(content["why"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise WrongUse(
            f"--tuned {str(folder)!r} is no folder that `segment tune` wrote: {type(error).__name__} in {SETTINGS}."
        ) from None


def method_of(tuned: Tuned, network: Network, precision: str) -> tuple[Method, ComparedMethods]:
    """The passes of a tuned setting, without its calibration; and how they run.

    Raises:
        BankRefused: It was chosen for another network.

    """
    tuned.check(network)
    name = replace(tuned.method, scaling="").name
    made = build_methods(
        network, [tuned.bank], MethodPlan(methods=(name,), precision=precision, views=tuned.views), validated=True
    )
    return made.methods[name][0], made


def with_tuned(methods: ComparedMethods, tuned: Tuned, banks: Sequence[Bank]) -> ComparedMethods:
    """The methods of an evaluation under these banks with the tuned one among them, under its own calibration.

    Its passes are those of a method that differs by the scaling alone, where the bank and the views are the same.
    """
    plan, unscaled = methods.plan, replace(tuned.method, scaling="").name
    alike = [name for name in methods.names if replace(combination(name), scaling="").name == unscaled]
    own = len(banks) == 1 and banks[0] is tuned.bank and plan.draws is None
    if alike and own and plan.views == tuned.views:
        method = methods.methods[alike[0]][0]
    else:
        method, _ = method_of(tuned, methods.network, methods.precision)
    return replace(
        methods,
        methods={**methods.methods, TUNED: (method,)},
        notes={**methods.notes, TUNED: f"{tuned.method.name}, chosen on {tuned.images} validation images"},
        seen=methods.seen | marks_in(tuned.bank.provenance),
        fixed={**methods.fixed, TUNED: tuned.calibration},
    )
