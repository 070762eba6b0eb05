"""Where labelled images come from: SRCs of images, of label maps by one annotator or more, and of region masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segment.errors import WrongUse
from segment.images.find import Source, in_text
from segment.images.labels.pairs import with_annotators, with_masks
from segment.images.listing.parts import Listing
from segment.jobs.labelled.labels import labelled, multilabels
from segment.networks.load import Network

HELD = "held"
"""Key of the settings of an evaluation whose images and labels a caller held in Python."""


@dataclass(frozen=True)
class Labels:
    """Images and their label maps: two SRCs.

    suffix: that label maps have after the image's name, as "_manual1". masks: a SRC of region masks
    listing: which frames of videos and slices of volumes are taken
    annotators: label maps of further annotators, SRCs; annotator_suffixes: of each, or one for all, or none: `suffix`
    """

    images: str | Path
    labels: str | Path | None = None
    suffix: str = ""
    masks: str | Path | None = None
    listing: Listing = field(default_factory=Listing)
    annotators: tuple[str | Path, ...] = ()
    annotator_suffixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.annotator_suffixes) not in (0, 1, len(self.annotators)):
            raise WrongUse(
                f"{len(self.annotators)} further annotators have {len(self.annotator_suffixes)} suffixes: give one for "
                "each, or one for all."
            )

    def settings(self) -> dict[str, Any]:
        """The keys of a run's settings; those beside images and labels where they are given."""
        return {
            "images": in_text(self.images),
            "labels": None if self.labels is None else in_text(self.labels),
            **({"label_suffix": self.suffix} if self.suffix else {}),
            **({} if self.masks is None else {"masks": in_text(self.masks)}),
            **self.listing.settings(),
            **({"annotators": [in_text(root) for root in self.annotators]} if self.annotators else {}),
            **({"annotator_suffixes": list(self.annotator_suffixes)} if self.annotator_suffixes else {}),
        }

    def sources(self, network: Network) -> tuple[Source, ...]:
        if network.card.head == "multilabel":
            if self.annotators:
                raise WrongUse(
                    "Several annotators are scored for heads with one label a pixel; this one is multi-label."
                )
            if self.labels is None:
                raise WrongUse(
                    "A multi-label head needs --labels (of validation images --validation-labels): a folder with one "
                    "folder of label maps a label."
                )
            sources = multilabels(self.images, self.labels, network.class_names, self.listing)
        else:
            sources = labelled(self.images, self.labels, self.suffix, self.listing)
            suffixes = self.annotator_suffixes or (self.suffix,)
            suffixes = suffixes * len(self.annotators) if len(suffixes) == 1 else suffixes
            sources = with_annotators(sources, self.annotators, suffixes, self.listing)
        return sources if self.masks is None else with_masks(sources, self.masks, self.listing)


def validation_of(
    images: str | None, labels: str | None, suffix: str, masks: str | None, listing: Listing
) -> Labels | None:
    """The validation images of a command, None without. Errors: WrongUse for labels or masks of none."""
    for option, given in (("--validation-labels", labels), ("--validation-mask", masks)):
        if given is not None and images is None:
            raise WrongUse(f"{option} needs --validation-images.")
    return None if images is None else Labels(images, labels, suffix, masks, listing)


def refuse_unmasked(data: Labels, validation: Labels | None) -> None:
    """Errors: WrongUse where only the test images have masks: what is fitted would be of pixels that are not scored."""
    if data.masks is not None and validation is not None and validation.masks is None:
        raise WrongUse(
            "The test images have region masks and the validation images have none: temperatures and thresholds would "
            "be fitted on pixels that are not scored. Give --validation-mask, a SRC of masks of their names or one for "
            "all."
        )
