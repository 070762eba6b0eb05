"""Which label map, mask or annotation is an image's: what nobody annotated has none, and what is unclear is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from plain import Toy, calibrated, seeded

import segment
from segment.errors import ImageUnreadable, WrongUse
from segment.images.find import Source, find_images
from segment.images.labels.annotations import annotations_in
from segment.images.labels.pairs import with_labels, with_masks
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme
from segment.images.read import read_plane
from segment.jobs.labelled.images import Labels
from segment.jobs.labelled.labels import labelled, multilabels
from segment.jobs.labelled.of_runs import labels_of_run
from segment.jobs.progress import silent
from segment.jobs.tuning.search import Arm, Search, SearchPlan
from segment.networks.load import Network, load_network

SIZE = (32, 40)
CLASSES = ("road", "car", "tree", "sky")


def image(path: Path, value: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def coco(path: Path, names: list[str], *more: dict[str, Any]) -> Path:
    """Of each image the first columns, 4 of the first and 4 more of each further one, are a car."""
    annotations = [
        {"image_id": id, "category_id": 1, "segmentation": [[0, 0, 4 * id + 4, 0, 4 * id + 4, 32, 0, 32]]}
        for id in range(len(names))
    ]
    images = [{"id": id, "file_name": name, "height": 32, "width": 40} for id, name in enumerate(names)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}]
    content = {"images": images, "annotations": [*annotations, *more], "categories": categories}
    path.write_text(json.dumps(content))
    return path


def label_of(source: Source, scheme: LabelScheme | None = None) -> NDArray[np.int64]:
    assert source.label is not None
    return read_label_ids(source.label, source.label_part, 2, SIZE, scheme or LabelScheme(), image=source)


def test_each_row_of_a_list_has_its_own_image_of_a_file_of_annotations(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        image(tmp_path / name)
    coco(tmp_path / "coco.json", names[:2])
    rows = "image,label\n" + "".join(f"{name},coco.json\n" for name in names)
    (tmp_path / "list.csv").write_text(rows)
    (tmp_path / "one.csv").write_text("image,label\nb.png,coco.json\n")
    for sources in (labelled(tmp_path / "list.csv", None), labelled(tmp_path, tmp_path / "list.csv")):
        assert [int(label_of(source).sum()) for source in sources[:2]] == [4 * 32, 8 * 32]
        with pytest.raises(ImageUnreadable, match=r"annotates no image of the name 'c\.png'"):
            label_of(sources[2])
    (only,) = labelled(tmp_path / "one.csv", None)
    assert int(label_of(only).sum()) == 8 * 32
    with pytest.raises(ImageUnreadable, match=r"annotates no image of the name 'c\.png'"):
        label_of(replace(only, id="c", path=tmp_path / "c.png"))
    (tmp_path / "twice.csv").write_text(rows + "sub/a.png,coco.json\n")
    image(tmp_path / "sub" / "a.png")
    with pytest.raises(WrongUse, match=r"'a\.png' would belong to two images, 'a' and 'sub/a'"):
        labelled(tmp_path / "twice.csv", None)
    (tmp_path / "twice.csv").write_text("image,label\na.png,coco.json\na.png,coco.json\n")
    for sources in (labelled(tmp_path / "twice.csv", None), labelled(tmp_path / "twice.csv", tmp_path / "coco.json")):
        assert [(source.id, source.label_part) for source in sources] == [("a", "a.png"), ("a-2", "a.png")]


def test_a_file_of_one_annotation_is_of_every_row_that_names_it(tmp_path: Path) -> None:
    said = {"shapes": [], "imagePath": "a_rgb.png", "imageHeight": 32, "imageWidth": 40}
    (tmp_path / "a.json").write_text(json.dumps(said))
    image(tmp_path / "a_rgb.png")
    image(tmp_path / "a_ir.png")
    page = Image.fromarray(np.zeros(SIZE, np.uint8))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page])
    (tmp_path / "list.csv").write_text("image,label\na_rgb.png,a.json\na_ir.png,a.json\nstack.tif,a.json\n")
    found = labelled(tmp_path / "list.csv", None)
    assert [source.id for source in found] == ["a_rgb", "a_ir", "stack/0000", "stack/0001"]
    scheme = LabelScheme(classes=("background", "car"))
    assert all(label_of(source, scheme).shape == SIZE for source in found)


def test_names_that_tools_export_belong_to_the_images_that_they_were_made_from(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / "photos" / f"{name}.png")
    tasks, path = tmp_path / "tasks.json", tmp_path / "coco.json"
    for names in (
        ["s3://bucket/p1/a.png", "s3://bucket/p2/b.png"],
        ["https://host/1/a.png?key=1", "https://host/2/b.png?key=2"],
        ["s3://bucket/p1/a.png", "/data/upload/1/0123abcd-b.png"],
        ["/data/local-files/?d=photos/a.png", "/data/local-files/?d=photos/b.png"],
    ):
        tasks.write_text(json.dumps([task({"image": name}, {"result": []}) for name in names]))
        assert all(source.label for source in labelled(tmp_path / "photos", tasks)), names
        found = labelled(tmp_path / "photos", coco(path, names))
        assert [int(label_of(source).sum()) for source in found] == [4 * 32, 8 * 32], names
    either = coco(path, ["s3://bucket/p1/a.png", "s3://bucket/p2/a.png", "b.png"])
    assert [source.label for source in labelled(tmp_path / "photos", either)] == [None, either]
    with pytest.raises(
        WrongUse, match=r"it names 'images/a\.png', and an image is '.*photos/a\.png'\. Rename a folder"
    ):
        labelled(tmp_path / "photos", coco(path, ["images/a.png"]))
    (tmp_path / "list.csv").write_text("image,id\nphotos/a.png,images/a\n")
    assert labelled(tmp_path / "list.csv", path)[0].label_part == "images/a.png", "as the message says"


def test_several_files_of_one_image_s_name_are_refused_by_their_names(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / "images" / name)
    for name in ("a.jpg", "a.png", "b.png"):
        image(tmp_path / "labels" / name)
    sources = find_images(tmp_path / "images")
    for with_some in (with_labels, with_masks):
        with pytest.raises(WrongUse, match=r"several files could belong to 'a': 'a\.jpg', 'a\.png'\. Keep one"):
            with_some(sources, tmp_path / "labels")
        found = with_some(sources, f"{tmp_path}/labels/*.png")
        assert [of_one and of_one.name for source in found for of_one in (source.label or source.mask,)] == [
            "a.png",
            "b.png",
        ]
    (tmp_path / "list.csv").write_text("image,label\nimages/b.jpg,labels/a.png\nimages/b.png,labels/b.png\n")
    image(tmp_path / "images" / "b.png")
    found = with_labels(find_images(tmp_path / "images"), tmp_path / "list.csv")
    assert [source.label and source.label.name for source in found] == [None, "a.png", "b.png"], "a list says which"
    for name in ("21_manual1.gif", "21_manual1.png"):
        image(tmp_path / "manual" / name)
    with pytest.raises(WrongUse, match=r"'21_training': '21_manual1\.gif', '21_manual1\.png'"):
        with_labels((Source("21_training", Path("21_training.tif")),), tmp_path / "manual", "_manual1")


def test_ids_that_a_list_gives_are_names_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        image(tmp_path / "images" / f"scan-{number}.jpg")
        image(tmp_path / "listed" / f"p{number}" / "scan.png", number)
    rows = "image,id\n" + "".join(f"listed/p{number}/scan.png,scan-{number}\n" for number in (1, 2))
    (tmp_path / "list.csv").write_text(rows)
    maps = [tmp_path / "listed" / f"p{number}" / "scan.png" for number in (1, 2)]
    for images in (tmp_path / "images", tmp_path / "list.csv"):
        assert [source.label for source in labelled(images, tmp_path / "list.csv")] == maps
        assert [source.mask for source in with_masks(find_images(images), tmp_path / "list.csv")] == maps
    found = labelled(tmp_path / "list.csv", tmp_path / "images")
    assert [source.label and source.label.name for source in found] == ["scan-1.jpg", "scan-2.jpg"]


def test_a_mask_is_of_the_longest_name_that_its_own_begins_with(tmp_path: Path) -> None:
    for name in ("a", "a_b"):
        image(tmp_path / "images" / f"{name}.png")
        image(tmp_path / "masks" / f"{name}_mask.png")
    sources = find_images(tmp_path / "images")
    names = [source.mask.name for source in with_masks(sources, tmp_path / "masks") if source.mask]
    assert names == ["a_mask.png", "a_b_mask.png"]
    image(tmp_path / "masks" / "a_fov.png")
    with pytest.raises(WrongUse, match=r"several files could belong to 'a': 'a_fov\.png', 'a_mask\.png'"):
        with_masks(sources, tmp_path / "masks")
    image(tmp_path / "masks" / "a.png")
    assert with_masks(sources, tmp_path / "masks")[0].mask == tmp_path / "masks" / "a.png"


def test_labelme_s_file_is_of_the_image_that_it_names(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "10:00:00.png"):
        image(tmp_path / "images" / name)
    (tmp_path / "drawn").mkdir()
    for name in ("x.png", "10:00:00.png"):
        said = {"shapes": [], "imagePath": name, "imageHeight": 32, "imageWidth": 40}
        (tmp_path / "drawn" / name).with_suffix(".json").write_text(json.dumps(said))
    found = {
        source.path.name: source.label for source in with_labels(find_images(tmp_path / "images"), tmp_path / "drawn")
    }
    assert {name: label and label.name for name, label in found.items()} == {
        "10:00:00.png": "10:00:00.json",
        "x.jpg": None,
        "x.png": "x.json",
    }
    said = {"shapes": [], "imagePath": "x.bmp", "imageHeight": 32, "imageWidth": 40}
    (tmp_path / "drawn" / "x.json").write_text(json.dumps(said))
    with pytest.raises(WrongUse, match=r"'x\.json' could belong to 'x\.jpg' or to 'x\.png'"):
        with_labels(find_images(tmp_path / "images"), tmp_path / "drawn")


def test_arrays_of_two_files_belong_together_by_their_keys(tmp_path: Path) -> None:
    left, right = np.full(SIZE, 1, np.uint8), np.full(SIZE, 2, np.uint8)
    np.savez(tmp_path / "images.npz", left=np.zeros((*SIZE, 3), np.uint8), right=np.zeros((*SIZE, 3), np.uint8))
    np.savez(tmp_path / "labels.npz", right=right, left=left)
    np.savez(tmp_path / "others.npz", top=right, left=left)
    rows = "image,label,mask\nimages.npz,{0}.npz,{0}.npz\n"
    (tmp_path / "list.csv").write_text(rows.format("labels"))
    for source in labelled(tmp_path / "list.csv", None):
        assert source.part == source.label_part == source.mask_part
        assert label_of(source).max() == {"left": 1, "right": 2}[str(source.part)]
    (tmp_path / "list.csv").write_text(rows.format("others"))
    first, second = labelled(tmp_path / "list.csv", None)
    assert label_of(first).max() == 1
    with pytest.raises(ImageUnreadable, match="right"):
        label_of(second)
    for key, others in (("left", "right"), ("label", None), ("top", None)):
        np.savez(tmp_path / "others.npz", **{key: left})  # type: ignore[arg-type]
        if others is None:
            with pytest.raises(WrongUse, match=r"others\.npz' is given as the label map of 2 images"):
                labelled(tmp_path / "list.csv", None)
            continue
        first, second = labelled(tmp_path / "list.csv", None)
        assert label_of(first).max() == 1
        with pytest.raises(ImageUnreadable, match=others):
            label_of(second)


@pytest.mark.parametrize("pages", [1, 2])
def test_one_label_map_is_not_that_of_all_images_of_a_file(pages: int, tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (3, *SIZE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    label = np.ones((pages, *SIZE), np.uint8).squeeze()
    tifffile.imwrite(tmp_path / "l.tif", label, photometric="minisblack", metadata=None)
    image(tmp_path / "m.png", 255)
    listed = tmp_path / "list.csv"
    listed.write_text("image,label,mask\ns.tif,l.tif,m.png\n")
    with pytest.raises(WrongUse, match=r"l\.tif' is given as the label map of 3 images of .*s\.tif'.* as 's/0000'"):
        labelled(listed, None)
    with pytest.raises(WrongUse, match="label map of 3 images"):
        labelled(tmp_path / "s.tif", listed)
    assert len({source.mask for source in find_images(listed)}) == 1, "a region mask is that of all"
    listed.write_text("image,label\ns.tif,missing.tif\n")
    assert len(labelled(listed, None)) == 3, "what is missing is reported for each image"
    listed.write_text("image,label,id\ns.tif,l.tif,s/0001\n")
    (source,) = labelled(listed, None)
    assert (source.part, source.label_part) == (1, None)


def test_the_array_called_label_is_the_label_map_whatever_else_a_file_holds(tmp_path: Path) -> None:
    image(tmp_path / "images" / "x.png")
    (tmp_path / "labels").mkdir()
    for key in ("label", "mask"):
        np.savez(tmp_path / "labels" / "x.npz", **{"instances": np.full(SIZE, 9), key: np.full(SIZE, 3)})  # type: ignore[arg-type]
        (source,) = labelled(tmp_path / "images", tmp_path / "labels")
        assert label_of(source).max() == 3
        (source,) = with_masks((source,), tmp_path / "labels")
        assert source.mask is not None
        plane = read_plane(source.mask, source.mask_part)
        assert plane is not None
        assert plane.max() == 3


def test_an_object_without_a_segmentation_is_not_background(tmp_path: Path) -> None:
    scheme = LabelScheme(classes=("background", "car"))
    segmentations: tuple[list[float] | None, ...] = ([], None)
    for empty in segmentations:
        alone = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 8], "segmentation": empty}
        path = coco(tmp_path / "coco.json", ["a.png", "b.png"], alone)
        assert read_label_ids(path, "a.png", 2, SIZE, scheme).any()
        with pytest.raises(ImageUnreadable, match=r"has 1 object in 'b\.png' without a segmentation"):
            read_label_ids(path, "b.png", 2, SIZE, scheme)


def test_categories_of_one_name_have_no_id_unless_the_card_says_one(tmp_path: Path) -> None:
    path = coco(tmp_path / "coco.json", ["a.png"])
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "leaf"}, {"id": 2, "name": "leaf"}]
    path.write_text(json.dumps(content))
    with pytest.raises(ImageUnreadable, match="shapes of 'leaf', which are no classes"):
        read_label_ids(path, "a.png", 2, SIZE, LabelScheme())
    for scheme in (LabelScheme(classes=("background", "leaf")), LabelScheme(labels={"leaf": 1})):
        assert read_label_ids(path, "a.png", 2, SIZE, scheme).sum() == 4 * 32


def task(data: dict[str, str], *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"data": data, "annotations": list(annotations)}


def box(left: int, **more: Any) -> dict[str, Any]:
    value = {"x": left, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["car"]}
    return {"result": [{"original_width": 40, "original_height": 32, "value": value}], **more}


def test_of_label_studio_s_annotations_the_finished_one_counts_and_the_ground_truth_first(tmp_path: Path) -> None:
    path, upload = tmp_path / "tasks.json", "/data/upload/1/0123abcd-"
    tasks = [
        task({"image": f"{upload}skipped.png"}, {"result": [], "was_cancelled": True}),
        task({"image": f"{upload}open.png"}),
        task({"city": "Berlin", "photo": f"{upload}empty.png"}, {"result": []}),
        task({"city": "Berlin", "photo": f"{upload}two.png"}, box(0), box(50, ground_truth=True)),
        task({"thumbnail": "small.png", "image": f"{upload}first.png"}, box(50, was_cancelled=True), box(0), box(50)),
    ]
    path.write_text(json.dumps(tasks))
    scheme = LabelScheme(classes=("background", "car"))
    found = {
        name.rpartition("-")[2]: np.nonzero(read_label_ids(path, name, 2, SIZE, scheme)[0])[0].tolist()
        for name in annotations_in(path)
    }
    assert found == {"empty.png": [], "two.png": list(range(20, 40)), "first.png": list(range(20))}
    for name in ("skipped", "two"):
        image(tmp_path / "images" / f"{name}.png")
    assert [source.label is None for source in labelled(tmp_path / "images", path)] == [True, False]


@pytest.mark.parametrize("remote", [False, True])
def test_the_label_maps_of_each_label_have_their_images_names(remote: bool, tmp_path: Path) -> None:  # noqa: FBT001
    for name in ("2026-01-01T10:00:00.png", "b.png"):
        image(tmp_path / "images" / name)
    maps = image(tmp_path / "labels" / "car" / "2026-01-01T10:00:00.png")
    root: str | Path = tmp_path / "labels"
    if remote:
        fsspec.filesystem("memory").pipe(f"/which/car/{maps.name}", maps.read_bytes())
        root = "memory://which"
    first, second = multilabels(tmp_path / "images", root, ("car",))
    assert [path.name for path in first.masks] == [maps.name]
    assert [path.name for path in second.masks] == ["b.png"], "it fails, and its message says what is missing"
    with pytest.raises(WrongUse, match="missing: tree"):
        multilabels(tmp_path / "images", root, ("car", "tree"))


def test_names_with_brackets_are_no_globs_on_a_store_where_they_are_there(tmp_path: Path) -> None:
    store, content = fsspec.filesystem("memory"), image(tmp_path / "a.png").read_bytes()
    for name in ("set [1]/a.png", "plain/a[1].png", "plain/b.png"):
        store.pipe(f"/brackets/{name}", content)
    for source, ids in (
        ("set [1]", ["a"]),
        ("plain/a[1].png", ["a[1]"]),
        ("plain/*.png", ["a[1]", "b"]),
        ("plain/[ab].png", ["b"]),
    ):
        assert [one.id for one in find_images(f"memory://brackets/{source}")] == ids


@pytest.fixture
def network() -> Network:
    made = load_network(calibrated(seeded(Toy), SIZE))
    return replace(made, card=replace(made.card, classes=CLASSES))


def test_pixels_that_no_shape_covers_are_the_void_that_is_given(network: Network, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
    data = Labels(tmp_path / "images", coco(tmp_path / "coco.json", ["a.png", "b.png"]))
    plan = segment.EvaluatePlan(methods=segment.MethodPlan(methods=("deterministic", "temperature")), void=255)
    for named in (network, replace(network, card=replace(network.card, classes=()))):
        found = segment.evaluate(named, data, validation=data, plan=plan)
        assert not found.failed
        assert found.scores["pixels"] == 32 * (4 + 8)
        assert not any("left out" in line for line in found.scores["warnings"]), "validation images have that void too"
    search = Search(network, data.sources(network), SearchPlan(1, (), "fp32", 255, None), silent)
    search.samples(Arm("deterministic", "deterministic", None, augmented=False), search.sources, None, keep=False)
    assert not search.failed


def test_a_report_shows_those_pixels_as_the_evaluation_scored_them(network: Network, tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", 9)
    image(tmp_path / "images" / "b.png", 99)
    data = Labels(tmp_path / "images", coco(tmp_path / "coco.json", ["a.png", "b.png"]))
    bank = segment.fit_bank(network, tmp_path / "images", batch=2, draws=2)
    segment.predict(network, tmp_path / "images", bank, tmp_path / "run", plan=segment.PredictPlan(formats=("npz",)))
    plan = segment.EvaluatePlan(methods=segment.MethodPlan(methods=("deterministic",)), void=255)
    segment.evaluate(network, data, plan=plan, output=tmp_path / "scores")
    label_of, void, _ = labels_of_run(segment.load_run(tmp_path / "run"), [segment.load_run(tmp_path / "scores")], None)
    shown = label_of("a")
    assert shown is not None
    assert (void, np.unique(shown).tolist()) == (255, [1, 255])


def test_a_label_map_of_one_of_a_run_s_images_of_one_name_is_not_the_other_s(network: Network, tmp_path: Path) -> None:
    for value, suffix in enumerate((".bmp", ".png")):
        image(tmp_path / "images" / f"x{suffix}", 50 + value)
    image(tmp_path / "labels" / "x.png")
    bank = segment.fit_bank(network, tmp_path / "images", batch=2, draws=2)
    segment.predict(network, tmp_path / "images", bank, tmp_path / "run", plan=segment.PredictPlan(formats=("npz",)))
    with pytest.raises(WrongUse, match=r"'x\.png' could belong to 'x\.bmp' or to 'x\.png'"):
        labels_of_run(segment.load_run(tmp_path / "run"), [], tmp_path / "labels")


def test_a_list_s_labels_that_do_not_fit_stop_no_prediction(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "sub/a.png"):
        image(tmp_path / name)
    coco(tmp_path / "coco.json", ["a.png", "b.png"])
    (tmp_path / "list.csv").write_text("image,label\na.png,coco.json\nsub/a.png,coco.json\n")
    bank = segment.fit_bank(network, tmp_path / "list.csv", batch=2, draws=2)
    plan = segment.PredictPlan(formats=("npz",))
    assert not segment.predict(network, tmp_path / "list.csv", bank, tmp_path / "run", plan=plan).failed
    assert "The ground truth is not shown. In" in caplog.text
