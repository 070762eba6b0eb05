"""What fails one image of a run, and what ends the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plain import calibrated, random_bank, seeded
from processes import photographs
from small_networks import Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.errors import WrongUse
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network


class Asserting(Small):
    """Takes no image of 40 rows, and says so as many networks do."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] != 40, f"{x.shape[2]} rows"
        return super().forward(x)


def test_an_image_that_the_network_asserts_against_fails_alone(tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Asserting), (64, 64)))
    images = photographs(tmp_path / "images", 2, 64, 64)
    photographs(tmp_path / "more", 1, 40, 64)
    (tmp_path / "more" / "000.png").rename(images / "low.png")
    summary = predict(network, str(images), random_bank(bn_network_of(network)), tmp_path / "run")
    assert summary.done == 2
    assert list(summary.failed) == ["low"]
    assert "40 x 64 image" in summary.failed["low"]
    assert "the network asserts 40 rows" in summary.failed["low"]


@pytest.mark.parametrize("mistake", [AttributeError, AssertionError])
def test_a_mistake_of_our_own_ends_the_run_and_is_no_failed_image(
    mistake: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(calibrated(seeded(Small), (64, 64)))
    network = replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))

    def mistaken(*_: Any, **__: Any) -> None:
        raise mistake("of our own")

    monkeypatch.setattr("segment.jobs.prediction.images.render", mistaken)
    images = photographs(tmp_path / "images", 1, 64, 64)
    with pytest.raises(mistake, match="of our own"):
        predict(network, str(images), random_bank(bn_network_of(network)), tmp_path / "run", PredictPlan())


@pytest.mark.parametrize("border", [-1, 1.5, "8"])
def test_a_border_is_a_whole_number_of_pixels(border: Any) -> None:
    with pytest.raises(WrongUse, match=rf"border = {border}, but it is an integer from 0 up"):
        PredictPlan(border=border)
