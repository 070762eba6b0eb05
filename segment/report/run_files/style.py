"""What the pictures of a run share: a scale for each measure, one palette, the names of the classes.

Must not know an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segment.axes import Head
from segment.networks.load import Network
from segment.pictures.heatmaps import Scale, scale_of
from segment.pictures.palettes import Picture, palette


@dataclass(frozen=True)
class PictureStyle:
    """heat: the measure that overlays show and images are ordered by; scales: measure -> its colours.

    palette: K 3. classes: K names. origins: measure -> where its last colour comes from
    void: the label that is not scored
    """

    heat: str
    scales: Mapping[str, Scale]
    palette: Picture
    classes: tuple[str, ...]
    head: Head
    origins: Mapping[str, str]
    void: int | None = None

    @staticmethod
    def of(
        network: Network,
        heat: str,
        heat_max: float | None = None,
        *,
        measures: Sequence[str] = (),
        bank: Mapping[str, float] | None = None,
    ) -> PictureStyle:
        """Scales of the heat measure and of others.

        heat_max: the last colour of the heat measure; bank: measure -> last colour, as the bank keeps it
        """
        card, count = network.card, network.classes
        highs: dict[str, float | None] = dict.fromkeys((heat, *measures))
        origins = dict.fromkeys(highs, "default")
        for name, high in (bank or {}).items():
            if name in highs:
                highs[name], origins[name] = high, "bank"
        if heat_max is not None:
            highs[heat], origins[heat] = heat_max, "--heat-max"
        scales = {name: scale_of(name, count, card.head, high) for name, high in highs.items()}
        colours = palette(count, card.palette)
        return PictureStyle(heat, scales, colours, network.class_names, card.head, origins, card.void)

    @property
    def bare(self) -> tuple[int, ...]:
        """Classes without a colour in overlays: what is not of interest is seen as it is."""
        return tuple(k for k, name in enumerate(self.classes) if name.strip("_ ").lower() == "background")

    @property
    def scale(self) -> Scale:
        """The scale of the heat measure."""
        return self.scales[self.heat]

    def record(self) -> dict[str, Any]:
        """Measure -> last colour and its origin, for run.json."""
        return {name: {"high": scale.high, "from": self.origins[name]} for name, scale in self.scales.items()}
