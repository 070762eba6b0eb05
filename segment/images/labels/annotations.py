"""Shapes of COCO JSON, LabelMe, Label Studio and CVAT → index maps, drawn by pycocotools (the extra `annotations`).

Later shapes lie over earlier ones. Must not know what a class is.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, one_line
from segment.images.contents.copied import image_here
from segment.images.contents.states import FileState, state_in
from segment.images.formats.kinds import IMAGE_SUFFIXES, suffix_of
from segment.images.labels.shapes import Shape, Size, ellipse, rotated
from segment.images.limits import check_is_file

ANNOTATION_SUFFIXES = (".json", ".xml")

_BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    StopIteration,
    ElementTree.ParseError,
)
"""What a damaged file makes its reader raise."""


@dataclass(frozen=True)
class Annotation:
    """The shapes of one image. name: its file, as the tool wrote it; size: None where the file does not say.

    categories: name -> id of all that the file has shapes of, or might have; COCO says them, else those of `shapes`
    boxes: how many of its objects have no shape
    """

    name: str
    size: Size | None
    shapes: tuple[Shape, ...]
    categories: Mapping[str, int | None] = field(default_factory=dict)
    boxes: int = 0


def annotations_in(path: Path) -> Mapping[str, Annotation]:
    """Every annotated image of a file, by its name. Errors: ImageUnreadable for another file."""
    with image_here(path) as copy:
        return _annotations_in(copy)


def _annotations_in(path: Path) -> Mapping[str, Annotation]:
    check_is_file(path)
    try:
        status = path.stat()
    except OSError as error:
        raise ImageUnreadable(f"{str(path)!r} cannot be read: {error.strerror}. Correct the path.") from None
    return _read(path, state_in(status))


def drawn(
    annotation: Annotation, size: Size, ids: Mapping[str, int], background: Callable[[], int], name: str
) -> NDArray[np.int64]:  # H W
    """The index map of an image of that size (H, W). Errors: ImageUnreadable for shapes of another size.

    background: the id of pixels that no shape covers; asked for where there are such
    """
    if annotation.size is not None and annotation.size != size:
        raise ImageUnreadable(
            f"{name!r} annotates {annotation.name!r} at {annotation.size[0]}x{annotation.size[1]}, and the image is "
            f"{size[0]}x{size[1]}."
        )
    index, bare = np.zeros(size, np.int64), np.ones(size, np.bool_)
    for shape in annotation.shapes:
        mask = shape.mask(size)
        index[mask], bare[mask] = ids[shape.name], False
    if bare.any():
        index[bare] = background()
    return index


@lru_cache(maxsize=8)
def _read(path: Path, _state: FileState) -> Mapping[str, Annotation]:
    try:
        if path.suffix.lower() == ".xml":
            annotations = _cvat(ElementTree.parse(path).getroot())
        else:
            annotations = _of_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except ImageUnreadable:
        raise
    except _BROKEN as error:
        raise ImageUnreadable(
            f"{str(path)!r} does not read as annotations of COCO, LabelMe, Label Studio or CVAT: "
            f"{type(error).__name__}: {one_line(error, 160)}."
        ) from None
    by_name = {annotation.name: annotation for annotation in annotations}
    if len(by_name) < len(annotations):
        (twice, count), *_ = Counter(annotation.name for annotation in annotations).most_common(1)
        raise ImageUnreadable(f"{str(path)!r} annotates {twice!r} {count} times; an image has one annotation.")
    return by_name


def _of_json(content: Any) -> list[Annotation]:
    if isinstance(content, dict) and "annotations" in content and "images" in content:
        return _coco(content)
    if isinstance(content, dict) and "shapes" in content:
        return [_labelme(content)]
    if isinstance(content, list):
        return [made for task in content if (made := _label_studio(task)) is not None]
    if isinstance(content, dict) and "annotations" in content:
        return [made] if (made := _label_studio(content)) is not None else []
    raise ValueError("it has neither images and annotations, nor shapes, nor a list of tasks")


def _coco(content: Mapping[str, Any]) -> list[Annotation]:
    names = {int(category["id"]): str(category["name"]) for category in content.get("categories", [])}
    of_name = Counter(names.values())
    shapes: dict[int, list[Shape]] = defaultdict(list)
    boxes = Counter[int]()
    for entry in content["annotations"]:
        segmentation, category, image_id = entry.get("segmentation"), int(entry["category_id"]), int(entry["image_id"])
        if not segmentation:
            boxes[image_id] += 1
            continue
        name, kind = names.get(category, str(category)), "rle" if isinstance(segmentation, dict) else "polygons"
        number = None if of_name[name] > 1 else category  # a name of several categories has no id of its own
        shapes[image_id].append(Shape(name, number, kind, segmentation))
    used = {shape.name: shape.category for of_image in shapes.values() for shape in of_image}
    categories = {name: None if of_name[name] > 1 else id for id, name in names.items()} | used
    return [
        Annotation(_coco_name(str(image["file_name"])), _size_of(image), tuple(shapes[id]), categories, boxes[id])
        for id, image in ((int(image["id"]), image) for image in content["images"])
    ]


def _coco_name(text: str) -> str:
    """The image's path, also of Label Studio, which exports addresses; any other name may hold `?`, `#` and `%`.

    >>> _coco_name("/data/local-files/?d=set/a.png"), _coco_name("set/a 20%#1.png")
    ('set/a.png', 'set/a 20%#1.png')
    """
    return _path_in(text) if "://" in text or "/data/local-files/?d=" in text else text


def _labelme(content: Mapping[str, Any]) -> Annotation:
    def polygon(shape: Mapping[str, Any]) -> list[float]:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        kind = shape.get("shape_type") or "polygon"
        if kind == "rectangle":
            return _box(*points[0], *points[1])
        if kind == "circle":
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            return ellipse(x, y, radius, radius)
        if kind != "polygon":
            raise ValueError(f"a shape is a {kind}; polygons, rectangles and circles are drawn")
        return [value for point in points for value in point]

    shapes = tuple(Shape(str(shape["label"]), None, "polygons", [polygon(shape)]) for shape in content["shapes"])
    size = (int(content["imageHeight"]), int(content["imageWidth"])) if content.get("imageHeight") else None
    return Annotation(PurePosixPath(str(content["imagePath"]).replace("\\", "/")).name, size, shapes)


def _label_studio(task: Mapping[str, Any]) -> Annotation | None:
    """The image's annotation; None where nobody has finished one."""
    name = _label_studio_name(task["data"])
    shapes: list[Shape] = []
    size: Size | None = None
    if "annotations" not in task and "predictions" in task:  # what `--format labelstudio` writes
        raise ImageUnreadable(
            f"Label Studio's task of {name!r} holds predictions and no annotations. Annotate the tasks in Label Studio "
            "and export the annotated ones: as JSON, brush labels as PNG masks."
        )
    done = [made for made in task["annotations"] if not made.get("was_cancelled")]
    if not done:
        return None
    for result in next((made for made in done if made.get("ground_truth")), done[0])["result"]:
        value = result["value"]
        if "original_width" not in result:
            continue  # a relation, or a choice for the whole image
        size = (int(result["original_height"]), int(result["original_width"]))
        if "polygonlabels" in value:
            points = [(x, y) for x, y in value["points"]]
        elif "rectanglelabels" in value and not value.get("rotation"):
            box = _box(value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"])
            points = list(zip(box[::2], box[1::2], strict=True))
        else:
            raise ImageUnreadable(
                f"Label Studio's task of {name!r} holds {result.get('type', 'another shape')}: polygons and upright "
                "rectangles are drawn. Export brush labels as PNG masks."
            )
        label = next(value[key] for key in ("polygonlabels", "rectanglelabels") if key in value)[0]
        flat = [part for x, y in points for part in (x / 100 * size[1], y / 100 * size[0])]
        shapes.append(Shape(str(label), None, "polygons", [flat]))
    return Annotation(name, size, tuple(shapes))


def _label_studio_name(data: Mapping[str, Any]) -> str:
    """The image's path: the column `image`, else the first that names an image file, else the first text.

    >>> _label_studio_name({"city": "Berlin", "photo": "/data/local-files/?d=set/a.png"})
    'set/a.png'
    """
    names = {key: _path_in(value) for key, value in data.items() if isinstance(value, str)}
    images = (name for name in names.values() if suffix_of(name) in IMAGE_SUFFIXES)
    return names.get("image") or next(images, None) or next(iter(names.values()))


def _path_in(text: str) -> str:
    address = urlparse(text)
    local = parse_qs(address.query).get("d")
    store = f"{address.scheme}://{address.netloc}/" if address.netloc else ""
    return unquote(local[0]).lstrip("/") if local else store + unquote(address.path).lstrip("/")


def _cvat(root: ElementTree.Element) -> list[Annotation]:
    annotations = []
    for image in root.iter("image"):
        size = (int(image.attrib["height"]), int(image.attrib["width"]))
        if other := {part.tag for part in image} - {*_CVAT_SHAPES, "tag"}:
            raise ImageUnreadable(
                f"CVAT's image {image.attrib['name']!r} holds a {min(other)}: polygons, boxes, ellipses and masks are "
                "drawn. Remove it, or draw it as one of those."
            )
        drawn_shapes = sorted(
            (part for part in image if part.tag != "tag"), key=lambda part: int(part.attrib.get("z_order", 0))
        )
        shapes = tuple(_CVAT_SHAPES[part.tag](part.attrib) for part in drawn_shapes)
        annotations.append(Annotation(image.attrib["name"], size, shapes))
    if not annotations:
        raise ValueError("it has no image of CVAT's format for images")
    return annotations


def _cvat_polygon(attributes: Mapping[str, str]) -> Shape:
    return Shape(attributes["label"], None, "polygons", [_numbers(attributes["points"].replace(";", ","))])


def _cvat_box(attributes: Mapping[str, str]) -> Shape:
    return _cvat_rotated(attributes, _box(*(float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))))


def _cvat_ellipse(attributes: Mapping[str, str]) -> Shape:
    return _cvat_rotated(attributes, ellipse(*(float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))))


def _cvat_rotated(attributes: Mapping[str, str], polygon: list[float]) -> Shape:
    turned = rotated(polygon, float(attributes.get("rotation", 0)))
    return Shape(attributes["label"], None, "polygons", [turned])


def _cvat_mask(attributes: Mapping[str, str]) -> Shape:
    box = [float(attributes[key]) for key in ("left", "top", "width", "height")]
    return Shape(attributes["label"], None, "runs", [*box, *_numbers(attributes["rle"])])


_CVAT_SHAPES: Mapping[str, Callable[[Mapping[str, str]], Shape]] = {
    "polygon": _cvat_polygon,
    "box": _cvat_box,
    "ellipse": _cvat_ellipse,
    "mask": _cvat_mask,
}


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _box(x: float, y: float, right: float, bottom: float) -> list[float]:
    return [x, y, right, y, right, bottom, x, bottom]


def _size_of(image: Mapping[str, Any]) -> Size | None:
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
