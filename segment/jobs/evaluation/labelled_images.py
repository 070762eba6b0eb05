"""Where labelled images come from: SRCs of images, of label maps by one annotator or more, and of region masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segment.errors import WrongUse
from segment.images.find import Source, in_text
from segment.images.labels.pairs import with_annotators, with_masks
from segment.images.listing.parts import Listing
from segment.jobs.evaluation.labels import labelled, multilabels
from segment.networks.load import Network


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

    def in_text(self) -> list[str | None]:
        given = [in_text(self.images), None if self.labels is None else in_text(self.labels)]
        others = [self.suffix or None, None if self.masks is None else in_text(self.masks)]
        listed = None if self.listing == Listing() else f"every {self.listing.every}, axis {self.listing.axis}"
        more = [in_text(root) for root in self.annotators] + list(self.annotator_suffixes)
        return given + ([*others, listed, *more] if any((*others, listed, *more)) else [])

    def sources(self, network: Network) -> tuple[Source, ...]:
        if network.card.head == "multilabel":
            if self.annotators:
                raise WrongUse(
                    "Several annotators are scored for heads with one label a pixel; this one is multi-label."
                )
            if self.labels is None:
                raise WrongUse("A multi-label head needs --labels: a folder with one folder of label maps a label.")
            sources = multilabels(self.images, self.labels, network.class_names)
        else:
            sources = labelled(self.images, self.labels, self.suffix, self.listing)
            suffixes = self.annotator_suffixes or (self.suffix,)
            suffixes = suffixes * len(self.annotators) if len(suffixes) == 1 else suffixes
            sources = with_annotators(sources, self.annotators, suffixes, self.listing)
        return sources if self.masks is None else with_masks(sources, self.masks, self.listing)
