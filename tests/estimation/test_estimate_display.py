"""Results in hand: short reprs, pictures of the right pixels, arrays with names, files that read back."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain import noise
from small_networks import network_of
from torch import Tensor

import segment
from segment.axes import Head
from segment.errors import MissingExtra, WrongUse
from segment.estimation.estimate import Estimate
from segment.estimation.view import PictureContext, pixels_of
from segment.files.writing import read_map_png
from segment.images.prepare import normalise
from segment.images.specs import Channels, InputSpec
from segment.pictures.palettes import palette

SIZE = (32, 48)


@pytest.fixture(scope="module")
def mcbn() -> segment.MCBN:
    network = network_of()
    return segment.MCBN(
        network, segment.fit_bank(network, noise(6, 3, *SIZE, seed=3), batch=2, draws=3), precision="fp32"
    )


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def estimate(mcbn: segment.MCBN, picture: np.ndarray) -> Estimate[Tensor]:
    return mcbn(picture)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


def test_the_repr_of_every_public_object_is_short_and_says_what_matters(
    mcbn: segment.MCBN, estimate: Estimate[Tensor]
) -> None:
    objects: list[object] = [mcbn, mcbn.network, mcbn.network.card, mcbn.bank, estimate, segment.read_card("scenes")]
    objects += [segment.PredictPlan(), segment.EvaluatePlan(), segment.Labels("images")]
    for text in map(repr, objects):
        assert 1 <= len(text.splitlines()) <= 10, text
        assert len(text) < 900, text
    assert re.search(r"T = 3, M = 2, seed = 0", repr(mcbn.bank))
    assert "2 of 2 BN layers stochastic" in repr(mcbn)
    assert "RGB pixels divided by 255" in repr(mcbn.network)
    assert repr(estimate).startswith("Estimate(32 x 48, 4 classes, T = 3: prediction, probability, ")
    assert "\n" not in repr(estimate)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_normalised_image_is_shown_as_it_was(picture: np.ndarray, channels: Channels) -> None:
    spec = InputSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channels=channels)
    assert np.array_equal(pixels_of(normalise(picture, spec), spec), picture)


def test_an_image_of_another_scale_is_stretched_and_one_plane_is_grey() -> None:
    shown = pixels_of(noise(1, 3, 8, 8, seed=1)[0] * 5, InputSpec())
    assert (shown.min(), shown.max()) == (0, 255)
    grey = pixels_of(torch.rand(1, 8, 8), InputSpec(channels="grey"))
    assert (grey == grey[..., :1]).all()


def test_a_notebook_shows_the_image_and_the_numbers(estimate: Estimate[Tensor], picture: np.ndarray) -> None:
    page = estimate._repr_html_()
    data = re.search(r"src='data:image/png;base64,([^']+)'", page)
    assert data
    sheet = opened(base64.b64decode(data.group(1)))
    assert np.array_equal(sheet, opened(estimate._repr_png_()))
    larger = np.repeat(np.repeat(picture, 6, axis=0), 6, axis=1)  # a small image is enlarged by whole pixels
    height, width = larger.shape[:2]
    places = [place for place in np.argwhere((sheet == larger[0, 0]).all(axis=-1)).tolist() if place[1] < 100]
    assert any(np.array_equal(sheet[y : y + height, x : x + width], larger) for y, x in places)
    mean = float(estimate.maps["predictive_entropy"].mean())
    assert f"<td>predictive_entropy</td><td style='text-align:right'>{mean:.4g}</td>" in page
    assert "http" not in page
    assert "<script" not in page


def test_names_are_escaped_in_a_notebook(estimate: Estimate[Tensor]) -> None:
    view = PictureContext(name="<b>x</b>", classes=("<i>", "b", "c", "d"), palette=palette(4), head="softmax")
    named = Estimate(estimate.prediction, None, estimate.maps, 3, view=view)
    assert "<i>" not in named._repr_html_()


def test_a_figure_has_a_panel_for_each_map_on_its_scale(mcbn: segment.MCBN, picture: np.ndarray) -> None:
    figure = mcbn([picture, picture]).plot(["variance", "mutual_information"], high={"mutual_information": 0.3})
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["image", "prediction", "variance", "mutual information"] * 2
    assert np.array_equal(np.asarray(panels[0].images[0].get_array()), picture)
    assert panels[3].images[0].get_clim() == (0, 0.3)
    assert panels[2].images[0].get_clim() == (0, mcbn.bank.provenance["colour_scales"]["variance"])
    with pytest.raises(WrongUse, match=r"no map 'varience'\. Near: 'variance'"):
        mcbn(picture).plot(["varience"])


def test_without_matplotlib_a_plot_names_the_extra(estimate: Estimate[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[plots\]"):
        estimate.plot()
    assert estimate._repr_png_()  # which does not need it


def test_arrays_have_names_units_and_the_same_values(mcbn: segment.MCBN, picture: np.ndarray) -> None:
    for given, axes in ((picture, ()), ([picture, picture], ("image",))):
        estimate = mcbn(given)
        data = estimate.to_xarray()
        assert data["probability"].dims == (*axes, "class", "y", "x")
        assert data["variance"].dims == (*axes, "y", "x")
        assert data["predictive_entropy"].attrs["units"] == "nats"
        assert list(data["class"].values) == list(mcbn.network.class_names)
        assert np.array_equal(data["variance"].values, estimate.variance.numpy())
        arrays = estimate.numpy()
        assert arrays.prediction.dtype == np.uint8
        assert np.array_equal(arrays.prediction, estimate.prediction.numpy())
        assert np.array_equal(arrays.mean, estimate.probability.numpy())


def test_without_xarray_the_extra_is_named(estimate: Estimate[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[xarray\]"):
        estimate.to_xarray()


def test_what_is_saved_reads_back(mcbn: segment.MCBN, picture: np.ndarray, tmp_path: Path) -> None:
    estimate = mcbn(picture)
    written = estimate.save(tmp_path / "one")
    assert {path.name for path in written} >= {"maps.npz", "overlay.png", "overlay_uncertainty.png", "prediction.png"}
    assert all(path.parent in (tmp_path / "one", *((tmp_path / "one").iterdir())) for path in written)
    with np.load(tmp_path / "one" / "maps.npz") as kept:
        assert np.array_equal(kept["mutual_information"], estimate.mutual_information.numpy())
        assert np.array_equal(kept["probability"], estimate.probability.numpy())
    sixteen = next(path for path in written if path.parts[-2:] == ("raw", "variance.png"))
    assert np.abs(read_map_png(sixteen)[0] - estimate.variance.numpy()).max() < 1e-5
    files = mcbn([picture, picture]).save(tmp_path / "two", formats=("npz",))
    assert [path.relative_to(tmp_path / "two").as_posix() for path in files] == ["0/maps.npz", "1/maps.npz"]
    with pytest.raises(WrongUse, match=r"No format is called 'nzp'\. Near: 'npz'"):
        estimate.save(tmp_path / "three", formats=("nzp",))
    with pytest.raises(WrongUse, match="Format nii: a result in memory is no slice of a volume"):
        estimate.save(tmp_path / "three", formats="nii")
    assert not (tmp_path / "three").exists()


def test_a_folder_holds_no_map_of_the_result_that_was_saved_there_before(
    mcbn: segment.MCBN, picture: np.ndarray, tmp_path: Path
) -> None:
    mcbn([picture, picture]).save(tmp_path, formats=("png", "tif"))
    (tmp_path / "0" / "mine.png").touch()
    mcbn([picture, picture], ["variance"]).save(tmp_path, formats=("png", "tif"))
    for index in "01":
        names = {path.relative_to(tmp_path / index).as_posix() for path in (tmp_path / index).rglob("*.*")} - {
            "mine.png"
        }
        assert names == {
            *("prediction.png", "overlay.png", "overlay_uncertainty.png", "variance.png", "raw/variance.png"),
            *("prediction.tif", "probability.tif", "variance.tif"),
        }
    assert (tmp_path / "0" / "mine.png").exists()


def test_the_overlay_is_that_of_a_run(mcbn: segment.MCBN, picture: np.ndarray, tmp_path: Path) -> None:
    estimate = mcbn([picture, picture[::-1].copy()])
    estimate.image(1).save(tmp_path / "saved", formats=("png",))
    saved = opened((tmp_path / "saved" / "overlay_uncertainty.png").read_bytes())
    assert np.array_equal(estimate.overlay(index=1), saved)
    assert not np.array_equal(estimate.overlay("variance", index=1), saved)


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_an_estimate_without_a_view_is_shown_too(head: Head, tmp_path: Path) -> None:
    maps: dict[str, Any] = {"variance": torch.rand(8, 8) * 0.01}
    labels = torch.randint(0, 2, (3, 8, 8) if head == "multilabel" else (8, 8))
    view = (
        PictureContext(name="n", classes=("a", "b", "c"), palette=palette(3), head=head)
        if head == "multilabel"
        else None
    )
    made = Estimate(labels, None, maps, 2, view=view)
    assert made.single
    assert opened(made._repr_png_()).ndim == 3
    assert made.plot().axes[0].get_title() == "prediction"
    made.save(tmp_path)
    assert (tmp_path / "overlay.png").is_file()
