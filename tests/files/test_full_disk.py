"""A GeoTIFF that the disk has no place for is refused in one line, and nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from test_exports import PLACED, exported, into

from segment.errors import WrongUse
from segment.files.exports.geotiff import write_tifs

resource = pytest.importorskip("resource", reason="no limits of files there")


def test_a_geotiff_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    image = exported(PLACED, side=1024)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kinds = set()
    for number, limit in enumerate((2**12, 2**17, 2**20 + 2**17, 2**22, 2**22 + 2**15, 2**30)):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused = ""
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            write_tifs(into(folder), image)
        except WrongUse as error:
            refused = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        kinds.add(bool(refused))
        assert not list(folder.glob(".*"))
        assert "\n" not in refused
        assert not refused or (refused.startswith("Cannot write") and "on a disk with free space" in refused)
        assert "previous exception" not in refused
        for name, values in image.maps.items():
            if (path := folder / f"{name}.tif").exists():
                with rasterio.open(path) as file:
                    np.testing.assert_array_equal(file.read(1), values)
    assert kinds == {True, False}
