"""Shapes of annotation files cover the pixels that their tools draw; what cannot be drawn is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from numpy.typing import NDArray

from segment.errors import ImageUnreadable
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme

SIZE = (32, 40)
SCHEME = LabelScheme(classes=("background", "road", "car"))


def of_cvat(path: Path, shapes: str) -> NDArray[np.int64]:
    path.write_text(f'<annotations><image id="0" name="a.png" width="40" height="32">{shapes}</image></annotations>')
    return read_label_ids(path, "a.png", 2, SIZE, SCHEME)


def of_coco(path: Path, segmentation: Any) -> NDArray[np.int64]:
    annotation = {"image_id": 0, "category_id": 1, "segmentation": segmentation}
    images, categories = [{"id": 0, "file_name": "a.png"}], [{"id": 1, "name": "road"}]
    path.write_text(json.dumps({"images": images, "annotations": [annotation], "categories": categories}))
    return read_label_ids(path, "a.png", 2, SIZE, SCHEME)


def test_a_rotated_box_of_cvat_lies_clockwise_about_its_middle(tmp_path: Path) -> None:
    box = '<box label="road" xtl="10" ytl="14" xbr="30" ybr="18" rotation="{}"/>'
    upright, expected = of_cvat(tmp_path / "a.xml", box.format("90.00")), np.zeros(SIZE)
    expected[6:26, 18:22] = 1
    np.testing.assert_array_equal(upright, expected)
    rows, columns = np.nonzero(of_cvat(tmp_path / "b.xml", box.format(30)))
    assert np.polyfit(columns, rows, 1)[0] == pytest.approx(math.tan(math.radians(30)), abs=0.1)  # rows grow downwards


@pytest.mark.parametrize("rotation", [0, 40])
def test_an_ellipse_of_cvat_covers_its_area(rotation: float, tmp_path: Path) -> None:
    shape = f'<ellipse label="car" cx="20.5" cy="16.5" rx="12" ry="5" rotation="{rotation}"/>'
    ids = of_cvat(tmp_path / "a.xml", shape)
    down, across = np.indices(SIZE) - np.array([16, 20])[:, None, None]  # the middles of pixels are at halves
    turn = math.radians(rotation)
    along = across * math.cos(turn) + down * math.sin(turn)
    beside = down * math.cos(turn) - across * math.sin(turn)
    expected = (along / 12) ** 2 + (beside / 5) ** 2 <= 1
    assert np.mean((ids == 2) != expected) < 0.02


@pytest.mark.parametrize("kind", ["polyline", "points", "cuboid", "skeleton"])
def test_what_cvat_has_and_is_not_drawn_is_refused_and_a_tag_covers_nothing(kind: str, tmp_path: Path) -> None:
    drawn = '<box label="road" xtl="1" ytl="1" xbr="3" ybr="3"/>'
    assert of_cvat(tmp_path / "a.xml", drawn + '<tag label="night"/>').sum() == 4
    with pytest.raises(ImageUnreadable, match=rf"CVAT's image 'a\.png' holds a {kind}: polygons, boxes, ellipses"):
        of_cvat(tmp_path / "b.xml", f'{drawn}<{kind} label="car" points="0,0;10,10"/>')


def test_runs_of_another_size_are_refused(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[2:6, 3:25] = 1
    runs = {"size": list(SIZE), "counts": pycocotools.mask.encode(mask)["counts"].decode()}
    np.testing.assert_array_equal(of_coco(tmp_path / "a.json", runs), mask)
    del runs["size"]
    np.testing.assert_array_equal(of_coco(tmp_path / "b.json", runs), mask)
    with pytest.raises(ImageUnreadable, match="cannot be drawn on an image of 32x40: its runs are of 40x32"):
        of_coco(tmp_path / "c.json", runs | {"size": [40, 32]})


def test_a_polygon_of_two_points_is_refused_and_among_others_covers_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="its polygon has fewer than 3 points"):
        of_coco(tmp_path / "a.json", [[1, 1, 5, 5]])
    assert of_coco(tmp_path / "b.json", [[1, 1, 5, 5], [0, 0, 4, 0, 4, 4, 0, 4]]).sum() == 16
