"""Labels in any form give the ids of the index map; what stands for nothing is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from numpy.typing import NDArray
from PIL import Image
from plain import Toy, calibrated, seeded

import segment
from segment.errors import ImageUnreadable, WrongUse
from segment.images.find import Source, find_images
from segment.images.labels.names import matching
from segment.images.labels.pairs import partners, with_labels, with_masks
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme
from segment.images.labels.shapes import Shape
from segment.jobs.labelled.images import Labels
from segment.jobs.labelled.labels import scheme_of
from segment.networks.load import load_network

SIZE = (32, 40)
CLASSES = ("background", "road", "car", "tree")
PALETTE = ((0, 0, 0), (128, 64, 128), (0, 0, 142), (0, 200, 0))
SCHEME = LabelScheme(classes=CLASSES, palette=PALETTE)
RNG = np.random.default_rng(0)


def boxes(number: int) -> list[tuple[str, int, int, int, int]]:
    """class, left, top, right, bottom; later ones lie on top."""
    return [("road", 2, 16, 38, 30), ("car", 10 + number, 12, 20 + number, 22), ("tree", 0, 0, 6, 20)]


def index_map(number: int) -> NDArray[np.uint8]:
    index = np.zeros(SIZE, np.uint8)
    for name, left, top, right, bottom in boxes(number):
        index[top:bottom, left:right] = CLASSES.index(name)
    return index


def corners(box: tuple[str, int, int, int, int]) -> list[list[int]]:
    _, left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def coco(path: Path, names: list[str], *, rle: bool = False) -> Path:
    annotations = []
    for image in range(len(names)):
        for box in boxes(image):
            polygon: Any = [[value for point in corners(box) for value in point]]
            if rle:
                polygon = pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygon, *SIZE))
                polygon = {"size": list(SIZE), "counts": polygon["counts"].decode()}
            annotations.append({"image_id": image, "category_id": 10 + CLASSES.index(box[0]), "segmentation": polygon})
    images = [{"id": n, "file_name": f"{name}.png", "height": 32, "width": 40} for n, name in enumerate(names)]
    categories = [{"id": 10 + id, "name": name} for id, name in enumerate(CLASSES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def labelme(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        shapes = [{"label": box[0], "shape_type": "polygon", "points": corners(box)} for box in boxes(number)]
        shapes[1] |= {"shape_type": "rectangle", "points": corners(boxes(number)[1])[::2]}
        content = {"imagePath": f"{name}.png", "imageHeight": 32, "imageWidth": 40, "shapes": shapes}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def label_studio(path: Path, names: list[str]) -> Path:
    tasks = []
    for number, name in enumerate(names):
        result = []
        for box in boxes(number):
            points = [[x / 40 * 100, y / 32 * 100] for x, y in corners(box)]
            value = {"points": points, "polygonlabels": [box[0]]}
            result.append({"type": "polygonlabels", "original_width": 40, "original_height": 32, "value": value})
        address = f"/data/upload/1/0123abcd-{name}.png"
        tasks.append({"data": {"image": address}, "annotations": [{"result": result, "was_cancelled": False}]})
    path.write_text(json.dumps(tasks))
    return path


def cvat(path: Path, names: list[str]) -> Path:
    images = []
    for number, name in enumerate(names):
        road, car, tree = boxes(number)
        points = ";".join(f"{x},{y}" for x, y in corners(road))
        height, width = tree[4] - tree[2], tree[3] - tree[1]
        images.append(
            f'<image id="{number}" name="{name}.png" width="40" height="32">'
            f'<polygon label="road" points="{points}" z_order="0"/>'
            f'<mask label="tree" rle="0, {height * width}" left="0" top="0" width="{width}" height="{height}" '
            'z_order="2"/>'
            f'<box label="car" xtl="{car[1]}" ytl="{car[2]}" xbr="{car[3]}" ybr="{car[4]}" z_order="1"/></image>'
        )
    path.write_text(f"<annotations>{''.join(images)}</annotations>")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.fromarray(RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def ids_of(sources: tuple[Source, ...]) -> list[NDArray[np.int64]]:
    return [
        read_label_ids(source.label, source.label_part, 2, SIZE, SCHEME)
        for source in sources
        if source.label is not None
    ]


def test_shapes_of_every_tool_are_the_index_map(images: Path, tmp_path: Path) -> None:
    names = list("abc")
    for labels in (
        coco(tmp_path / "polygons.json", names),
        coco(tmp_path / "rle.json", names, rle=True),
        labelme(tmp_path / "labelme", names),
        label_studio(tmp_path / "tasks.json", names),
        cvat(tmp_path / "cvat.xml", names),
    ):
        found = ids_of(with_labels(find_images(images), labels))
        assert len(found) == 3
        for number, ids in enumerate(found):
            np.testing.assert_array_equal(ids, index_map(number), err_msg=labels.name)


def test_names_that_are_no_classes_are_listed_unless_the_card_says_what_they_are(images: Path, tmp_path: Path) -> None:
    (source, *_) = with_labels(find_images(images), coco(tmp_path / "a.json", list("abc")))
    assert source.label is not None
    scheme = LabelScheme(classes=("background", "road", "auto"))
    with pytest.raises(ImageUnreadable, match=r"shapes of 'car', 'tree', which are no classes.*labels: \{car: ID\}"):
        read_label_ids(source.label, source.label_part, 2, SIZE, scheme)
    mapped = replace(scheme, labels={"car": 2, "tree": 0})
    ids = read_label_ids(source.label, source.label_part, 2, SIZE, mapped)
    np.testing.assert_array_equal(ids, np.array([0, 1, 2, 0])[index_map(0)])
    with pytest.raises(ImageUnreadable, match="no shape covers have no class"):
        read_label_ids(source.label, source.label_part, 2, SIZE, LabelScheme(classes=CLASSES[1:]))
    with pytest.raises(ImageUnreadable, match="at 32x40, and the image is 16x40"):
        read_label_ids(source.label, source.label_part, 2, (16, 40), SCHEME)


def categories(path: Path, names: dict[int, str]) -> Path:
    """COCO's JSON of one image: its left half is of the first category, of the others nothing."""
    content = json.loads(coco(path, ["a"]).read_text())
    left = [[0, 0, 20, 0, 20, 32, 0, 32]]
    content["categories"] = [{"id": id, "name": name} for id, name in names.items()]
    content["annotations"] = [{"image_id": 0, "category_id": next(iter(names)), "segmentation": left}]
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("names", "void", "covered", "bare"),
    [
        ({1: "car", 2: "road"}, None, 1, 0),
        ({0: "car", 1: "road"}, 255, 0, 255),
        ({0: "car", 1: "Background"}, 255, 0, 1),
        ({1: "car", 0: "_background_"}, None, 1, 0),
        ({2: "class 1", 1: "class 0"}, 255, 1, 255),
        ({0: "car", 1: "road"}, None, 0, None),
        ({1: "car", 0: "road"}, None, 1, None),
        ({2: "class 1", 1: "class 0"}, None, 1, None),
    ],
)
def test_pixels_that_no_shape_covers_are_0_only_where_that_is_no_class(
    names: dict[int, str], void: int | None, covered: int, bare: int | None, tmp_path: Path
) -> None:
    path, scheme = categories(tmp_path / "coco.json", names), LabelScheme(void=void)
    if bare is None:
        with pytest.raises(ImageUnreadable, match=r"is one of the classes from 0.*`background`.*`void:`"):
            read_label_ids(path, "a.png", 2, SIZE, scheme)
    else:
        ids = read_label_ids(path, "a.png", 2, SIZE, scheme)
        np.testing.assert_array_equal(ids, np.repeat([[covered, bare]], 32, axis=0).repeat(20, axis=1))


def test_the_coco_file_of_a_run_read_back_is_its_prediction(images: Path, tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 40)))
    bank = segment.fit_bank(network, images, batch=2, draws=2)
    plan = segment.PredictPlan(precision="fp32", formats=("npz", "coco"))
    segment.predict(network, images, bank, tmp_path / "run", plan=plan)
    run = segment.load_run(tmp_path / "run")
    labelled = with_labels(find_images(images), tmp_path / "run" / "coco.json")
    for source in labelled:
        assert source.label is not None
        ids = read_label_ids(source.label, source.label_part, 2, SIZE, scheme_of(network))
        np.testing.assert_array_equal(ids, run[source.id].prediction)


def test_colours_of_the_palette_are_ids_and_others_are_named_with_their_counts(tmp_path: Path) -> None:
    coloured = np.array(PALETTE, np.uint8)[index_map(0)]
    path = tmp_path / "a.png"
    Image.fromarray(coloured).save(path)
    np.testing.assert_array_equal(read_label_ids(path, None, 2, SIZE, SCHEME), index_map(0))
    coloured[:2, :3], coloured[5, 5] = (255, 0, 0), (1, 2, 3)
    Image.fromarray(coloured).save(path)
    with pytest.raises(ImageUnreadable, match=r"#ff0000 \(6 pixels\), #010203 \(1 pixels\)\. Correct"):
        read_label_ids(path, None, 2, SIZE, SCHEME)
    scheme = replace(SCHEME, labels={"#ff0000": 255, "#010203": 2})
    ids = read_label_ids(path, None, 2, SIZE, scheme)
    assert (ids[:2, :3] == 255).all()
    assert ids[5, 5] == 2
    with pytest.raises(ImageUnreadable, match="Give the card a `palette:`"):
        read_label_ids(path, None, 2, SIZE, LabelScheme(classes=CLASSES))


def test_class_indices_in_three_equal_channels_are_to_be_saved_as_one(tmp_path: Path) -> None:
    path, grey = tmp_path / "a.png", np.repeat(index_map(0)[..., None], 3, axis=2)
    grey[0, 0] = 255
    Image.fromarray(grey).save(path)
    with pytest.raises(ImageUnreadable, match=r"\. Its three channels are equal.* save it as one channel\. Otherwise"):
        read_label_ids(path, None, 2, SIZE, replace(SCHEME, void=255))
    for value in (255, (1, 1, 2)):  # no id of this card; no grey
        grey[0, 0] = value
        Image.fromarray(grey).save(path)
        with pytest.raises(ImageUnreadable, match=r"pixels\)\. Correct `palette:`"):
            read_label_ids(path, None, 2, SIZE, SCHEME)


def test_the_predictions_of_a_run_for_label_studio_are_no_labels(images: Path, tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 40)))
    bank = segment.fit_bank(network, images, batch=2, draws=2)
    plan = segment.PredictPlan(precision="fp32", formats=("labelstudio",))
    segment.predict(network, images, bank, tmp_path / "run", plan=plan)
    with pytest.raises(ImageUnreadable, match=r"'.*a\.png' holds predictions.* export the annotated ones"):
        with_labels(find_images(images), tmp_path / "run" / "labelstudio.json")


@pytest.mark.parametrize(
    ("image", "label", "suffix"),
    [
        ("a", "a_L", "_L"),
        ("21_training", "21_manual1", "_manual1"),
        ("aachen/aachen_000000_leftImg8bit", "aachen/aachen_000000_gtFine_labelIds", "_gtFine_labelIds"),
        ("a", "a", ""),
    ],
)
def test_a_suffix_leads_from_an_image_to_its_label(image: str, label: str, suffix: str) -> None:
    others = ["a_mask", "21_manual2", "aachen/aachen_000000_gtFine_color", "aachen/aachen_000001_gtFine_labelIds"]
    found = [Source(id, Path(f"{id}.png")) for id in (label, *others)]
    assert partners([image], found, suffix)[image].id == label
    assert not partners(["b_c"], found, suffix)


def test_masks_are_matched_by_name_or_stand_for_all(images: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in "abc":
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "masks" / f"{name}_mask.png")
    sources = with_masks(find_images(images), tmp_path / "masks")
    assert [source.mask.name for source in sources if source.mask] == ["a_mask.png", "b_mask.png", "c_mask.png"]
    one = with_masks(sources, tmp_path / "masks" / "a_mask.png")
    assert {source.mask for source in one} == {tmp_path / "masks" / "a_mask.png"}
    (tmp_path / "masks" / "b_mask.png").unlink()
    with pytest.raises(WrongUse, match=r"1 of 3 images have no region mask .*'b'"):
        with_masks(sources, tmp_path / "masks")


def test_labels_of_any_form_and_masks_have_the_scores_of_index_maps(images: Path, tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), SIZE))
    network = replace(network, card=replace(network.card, classes=CLASSES, palette=PALETTE, void=255))
    mask = np.zeros(SIZE, np.uint8)
    mask[4:28, 4:36] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for folder in ("index", "manual", "void"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate("abc"):
        index = index_map(number)
        Image.fromarray(index).save(tmp_path / "index" / f"{name}.png")
        grey = Image.fromarray(index)
        grey.save(tmp_path / "manual" / f"{name}_manual1.gif")
        Image.fromarray(np.where(mask > 0, index, 255).astype(np.uint8)).save(tmp_path / "void" / f"{name}.png")

    def scores(labels: Labels) -> dict[str, Any]:
        found = segment.evaluate(network, labels, methods=("deterministic",))
        assert not found.failed
        return {name: entry["value"] for name, entry in found.scores["methods"]["deterministic"]["scores"].items()}

    plain = scores(Labels(images, tmp_path / "index"))
    assert scores(Labels(images, coco(tmp_path / "c.json", list("abc")))) == plain
    assert scores(Labels(images, tmp_path / "manual", "_manual1")) == plain
    masked = scores(Labels(images, tmp_path / "index", masks=tmp_path / "mask.png"))
    void = scores(Labels(images, tmp_path / "void"))
    pooled = [name for name in plain if "rank" not in name]
    assert {name: masked[name] for name in pooled} == {name: void[name] for name in pooled}
    assert masked["nll"] != plain["nll"]


def test_coco_runs_are_drawn_as_pycocotools_draws_them() -> None:
    rng = np.random.default_rng(3)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random((37, 53)) < share
        rle = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (Shape("a", 1, "rle", rle).mask((37, 53)) == mask).all()
        assert (Shape("a", 1, "rle", {"counts": rle["counts"].decode()}).mask((37, 53)) == mask).all()
        with pytest.raises(ImageUnreadable, match="its runs hold 1961 pixels"):
            Shape("a", 1, "rle", {"counts": rle["counts"]}).mask((37, 54))


def test_one_annotation_is_of_one_image_only(images: Path, tmp_path: Path) -> None:
    two = tuple(Source(f"{day}/a", images / day / "a.png") for day in ("day", "night"))
    with pytest.raises(WrongUse, match=r"'a.png' would belong to two images, 'day/a' and 'night/a'"):
        with_labels(two, coco(tmp_path / "one.json", ["a"]))
    with pytest.raises(ImageUnreadable, match=r"annotates 'a.png' 2 times"):
        with_labels(two, coco(tmp_path / "twice.json", ["a", "a"]))
    tasks = json.loads(label_studio(tmp_path / "tasks.json", ["a", "b"]).read_text())
    for task, day in zip(tasks, ("day", "night"), strict=True):
        task["data"]["image"] = f"/data/local-files/?d=set/{day}/a.png"
    (tmp_path / "local.json").write_text(json.dumps(tasks))
    found = with_labels(two, tmp_path / "local.json")
    assert [source.label_part for source in found] == ["set/day/a.png", "set/night/a.png"]
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "masks" / "a_1_mask.png")
    with pytest.raises(WrongUse, match=r"1 of 2 images have no region mask .*: 'a'\."):
        with_masks((Source("a", images / "a.png"), Source("a_1", images / "b.png")), tmp_path / "masks")
    (tmp_path / "manual").mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "manual" / "21_manual1.png")
    both = (Source("21_training", images / "a.png"), Source("21_test", images / "b.png"))
    with pytest.raises(WrongUse, match=r"'21_manual1' would belong to two images"):
        with_labels(both, tmp_path / "manual", "_manual1")


def grey(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def named(id: str, path: str = "") -> Source:
    return Source(id, Path(path or f"/home/ann/set/{id}.png"))


def test_an_annotation_belongs_to_no_image_of_another_folder() -> None:
    for name, id in (("a.jpg", "night/a"), ("set/night/a.jpg", "night/a"), ("/x/night/a.jpg", "night/a")):
        assert matching([name], [named(id)]) == {id: name}
    val = [named("1", "/set/images/val/1.png"), named("7", "/set/images/val/7.png")]
    assert matching(["train/1.png", "train/7.png", "val/1.png"], val) == {"1": "val/1.png"}
    assert matching(["/old/images/train/7.png", "/old/images/val/7.png"], val) == {"7": "/old/images/val/7.png"}
    for others in (["day/a.jpg"], ["x/night/a.jpg", "b.jpg"], ["x/a.jpg", "y/b.jpg"]):
        assert not matching(others, [named("night/a")]), others
    assert not matching(["train/7.png"], val), "its folder is another"


def test_an_annotation_belongs_to_the_image_of_its_whole_name() -> None:
    two = [named("x", "/set/x.jpg"), replace(named("x-2", "/set/x.png"), wanted="x")]
    assert matching(["x.png"], two) == {"x-2": "x.png"}
    assert matching(["x.png", "x.jpg"], two) == {"x": "x.jpg", "x-2": "x.png"}
    assert matching(["x-2.png"], two) == {}, "the id of x.png is no name of its"
    assert matching(["a.jpg", "night/a.jpg"], [named("a"), named("night/a")]) == {
        "a": "a.jpg",
        "night/a": "night/a.jpg",
    }
    assert matching(["1.jpg", "night/1.png"], [named("night/1", "/set/night/1.jpg")]) == {"night/1": "night/1.png"}
    deep = named("x/night/1", "/set/x/night/1.jpg")
    assert matching(["x/night/1.png", "night/1.jpg"], [deep]) == {deep.id: "x/night/1.png"}, "folders before suffixes"
    both = [named("1", "/set/1.jpg"), named("night/1", "/set/night/1.jpg")]
    assert matching(["1.jpg", "night/1.png"], both) == {"1": "1.jpg", "night/1": "night/1.png"}
    assert matching(["a.jpg", "a.bmp"], [named("a")]) == {}, "either could be meant"
    colons = named("10_00_00", "/set/10:00:00.png")
    assert matching(["10:00:00.png"], [colons]) == {"10_00_00": "10:00:00.png"}
    assert matching(["v/000003.png"], [Source("v/000003", Path("/set/v.mp4"), part=3)]) == {"v/000003": "v/000003.png"}
    for name in ("https://host/bucket/a.png", "data/upload/1/a.png", "data/upload/1/3f2a9c1d-a.jpg"):
        assert matching([name], [named("a")]) == {"a": name}


def test_images_of_one_name_but_for_the_suffix_have_the_label_maps_of_their_whole_names(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for name in ("x.jpg", "x.png", "y.png"):
        grey(images / name)
    for name in ("x.png", "x.tif", "y.tif"):
        grey(labels / name)
    for with_some, what in ((with_labels, "label"), (with_masks, "mask")):
        with pytest.raises(WrongUse, match=r"'x\.png' could belong to 'x\.jpg' or to 'x\.png'"):
            with_some(find_images(images), labels)
        grey(labels / "x.jpg")
        found = [getattr(source, what) for source in with_some(find_images(images), labels)]
        assert [path.name for path in found] == ["x.jpg", "x.png", "y.tif"]
        (labels / "x.jpg").unlink()
    for name in ("x.png", "x.tif"):
        (labels / name).unlink()
    assert [source.label and source.label.name for source in with_labels(find_images(images), labels)] == [
        None,
        None,
        "y.tif",
    ]


def test_a_folder_of_label_maps_and_json_files_is_refused(images: Path, tmp_path: Path) -> None:
    labels = labelme(tmp_path / "labels", ["b"])
    assert [source.label is not None for source in with_labels(find_images(images), labels)] == [False, True, False]
    for name in "abc":  # as LabelMe has its files beside the images
        shutil.copy(images / f"{name}.png", labels)
    assert [source.label is not None for source in with_labels(find_images(images), labels)] == [False, True, False]
    grey(labels / "a.png", 1)
    with pytest.raises(WrongUse, match=r"for 1 of 3 images and label maps for others: 'a'"):
        with_labels(find_images(images), labels)
