"""An image that its EXIF orientation turns is compared with a label map that none turns: both are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from segment.errors import warn_once
from segment.images.find import Source
from segment.jobs.labelled.labels import Labelled, read_labelled_image
from segment.networks.load import Network, load_network

RNG = np.random.default_rng(0)
COLOURS, LABEL = RNG.integers(0, 255, (24, 32, 3)).astype(np.uint8), RNG.integers(0, 3, (24, 32)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("scenes")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    warn_once.cache_clear()
    yield
    warn_once.cache_clear()


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def read(
    folder: Path, network: Network, orientation: int, *, label: int = 1, kind: str = "png", turned: bool = False
) -> Labelled:
    """An image with a label map of that orientation, which has the size of the turned image where `turned`."""
    image, path = folder / "a.jpg", folder / f"l.{kind}"
    Image.fromarray(COLOURS).save(image, exif=tagged(orientation))
    values = np.ascontiguousarray(LABEL.T) if turned else LABEL
    if kind == "npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path, exif=tagged(label))
    return read_labelled_image(Source("a", image, label=path), network)


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_an_image_that_is_turned_without_its_label_map_is_warned_of_once(
    kind: str, network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert not read(tmp_path, network, 3, kind=kind).error
    (record,) = caplog.records
    assert record.getMessage().startswith(f"The EXIF orientation of images in {str(tmp_path)!r} turns them")


def test_nothing_is_warned_of_where_the_label_map_fits_the_turned_image(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for orientation, label, turned in ((1, 1, False), (3, 3, False), (6, 1, True)):
        read_image = read(tmp_path, network, orientation, label=label, turned=turned)
        assert not read_image.error
    assert not caplog.records


def test_a_size_that_only_the_turned_image_lacks_is_explained(network: Network, tmp_path: Path) -> None:
    error = read(tmp_path, network, 6).error
    assert error.startswith("The label map is 24x32, its image 32x24.")
    assert f"{str(tmp_path)!r} turns them, and their label maps have none" in error


def test_a_pillow_image_that_is_turned_is_warned_of(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sampled(orientation: int) -> Labelled:
        Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=tagged(orientation))
        with Image.open(tmp_path / "a.jpg") as image:
            sample = (image.copy(), LABEL)
            return read_labelled_image(Source("a", Path(), label=Path("l"), sample=lambda: sample), network)

    assert not sampled(1).error
    assert not caplog.records
    assert not sampled(3).error
    (record,) = caplog.records
    assert record.getMessage().startswith("The EXIF orientation of images turns them")
    assert "32x24. The EXIF orientation of images turns them" in sampled(6).error
