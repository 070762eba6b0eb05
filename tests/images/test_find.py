"""Folders, globs and lists become sources in a stable order, with ids that are safe and unique."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment.errors import WrongUse
from segment.images.find import Source, find_images, images_by_id, in_text, keep_ids
from segment.images.labels.pairs import with_labels
from segment.images.listing.ids import from_text, safe, unique


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(src: str | Path) -> list[str]:
    return [source.id for source in find_images(src)]


def refusal(src: str | Path) -> str:
    with pytest.raises(WrongUse) as refused:
        find_images(src)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_image_that_is_listed_twice_keeps_both_ids_in_any_order() -> None:
    left, right = (Source(id, Path("a.png"), mask=Path(f"{id}.png")) for id in ("left", "right"))
    known = images_by_id([left, right])
    for sources in ([left, right], [right, left], [right]):
        assert keep_ids(sources, known) == tuple(sources)
    renamed = Source("top", Path("a.png"))
    assert [source.id for source in keep_ids([renamed, right], known)] == ["left", "right"]


def test_an_id_without_a_folder_names_a_whole_file(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.zeros((10, 4, 5, 3), np.uint8))
    (tmp_path / "list.csv").write_text("id,image\n0003,scan.npy\n")
    assert len(find_images(tmp_path / "list.csv")) == 10
    (tmp_path / "list.csv").write_text("id,image\nscan/0003,scan.npy\n")
    assert [source.part for source in find_images(tmp_path / "list.csv")] == [3]


def test_a_folder_gives_its_images_of_all_levels_sorted_by_posix_path(tmp_path: Path) -> None:
    filled(tmp_path, "b.png", "a/z.JPG", "a/c/d.webp", "a.tif", "notes.md", ".hidden.png", ".git/e.png", "é.bmp")
    assert ids(tmp_path) == ["a", "a/c/d", "a/z", "b", "é"]
    assert find_images(str(tmp_path))[2] == Source("a/z", tmp_path / "a/z.JPG")


def test_a_folder_named_like_an_image_is_searched(tmp_path: Path) -> None:
    filled(tmp_path, "x.png/a.png")
    assert ids(tmp_path) == ["x.png/a"]


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    filled(tmp_path / "elsewhere", "a.png")
    filled(tmp_path / "set", "b/c.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    assert ids(tmp_path / "set") == ["b/c", "linked/a"]


def test_an_empty_folder_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    assert "Found no file." in refusal(tmp_path)
    filled(tmp_path, "a.xyz", "b/b.xyz", "c.txt")
    message = refusal(tmp_path)
    assert "Found 2 .xyz, 1 .txt." in message
    assert ".webp" in message


def test_a_path_that_is_not_there_is_refused_with_its_neighbour(tmp_path: Path) -> None:
    filled(tmp_path, "images/a.png")
    assert "Near: 'images'" in refusal(tmp_path / "imags")
    assert "Nor is its folder" in refusal(tmp_path / "no" / "such")


def test_a_glob_gives_its_images_relative_to_the_fixed_part(tmp_path: Path) -> None:
    filled(tmp_path, "day/b/1.png", "day/a/1.png", "day/a/2.txt", "day/a/.3.png", "night/a/1.png")
    assert ids(f"{tmp_path}/day/*/*") == ["a/1", "b/1"]
    assert ids(f"{tmp_path}/**/*.png") == ["day/a/1", "day/b/1", "night/a/1"]
    assert "Found 1 .txt." in refusal(f"{tmp_path}/day/*/2*")


def test_a_relative_glob_works_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "b.png", "a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images("*.png") == (Source("a", Path("a.png")), Source("b", Path("b.png")))
    assert ids(".") == ["a", "b"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    filled(tmp_path, "a[1].png", "a1.png")
    assert ids(tmp_path / "a[1].png") == ["a[1]"]


def test_one_image_is_a_set_of_one(tmp_path: Path) -> None:
    filled(tmp_path, "a.b.png")
    assert find_images(tmp_path / "a.b.png") == (Source("a.b", tmp_path / "a.b.png"),)


def test_a_list_keeps_its_order_and_its_labels(tmp_path: Path) -> None:
    filled(tmp_path, "x/b.png", "x/a.png", "y/b.png", "with space.png", "its label.png")
    (tmp_path / "set.txt").write_text(
        "# image label\n\nx/b.png y/b.png\nx/a.png\n  with space.png\nwith space.png\tits label.png\n"
        "with space.png its label.png\r\nx/gone.png y/gone.png\n",
        encoding="utf-8-sig",
    )
    spaced, label = tmp_path / "with space.png", tmp_path / "its label.png"
    assert find_images(tmp_path / "set.txt") == (
        Source("x/b", tmp_path / "x/b.png", tmp_path / "y/b.png"),
        Source("x/a", tmp_path / "x/a.png"),
        Source("with space", spaced),
        Source("with space-2", spaced, label),
        Source("with space-3", spaced, label),
        Source("x/gone", tmp_path / "x/gone.png", tmp_path / "y/gone.png"),
    )


def test_a_list_may_point_outside_its_folder_but_its_ids_may_not(tmp_path: Path) -> None:
    filled(tmp_path, "images/a.png", "b.png", "lists/c.png")
    (tmp_path / "lists" / "set.txt").write_text(f"../images/a.png\n{tmp_path}/b.png\nc.png\n")
    assert ids(tmp_path / "lists" / "set.txt") == ["images/a", "b", "lists/c"]


def test_the_ids_of_a_list_of_absolute_paths_are_relative_to_the_common_folder_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, "data/day/a.png", "data/day/b.png", "data/night/a.png", "lists/.keep")
    path = tmp_path / "lists" / "set.csv"
    path.write_text(f"image,id\n{tmp_path}/data/day/b.png,\n../data/night/a.png,\n{tmp_path}/lists/gone.png,own name\n")
    assert ids(path) == ["day/b", "night/a", "own name"]
    path.write_text(f"{tmp_path}/data/day/b.png\n{tmp_path}/data/day/a.png\n{tmp_path}/data/day/b.png\n")
    assert ids(path) == ["b", "a", "b-2"]
    path = tmp_path / "data" / "set.txt"
    path.write_text(f"{tmp_path}/data/day/b.png\nday/a.png\n")
    assert ids(path) == ["day/b", "day/a"], "below the list's folder: relative to that"
    monkeypatch.chdir(tmp_path / "data")
    assert ids("set.txt") == ["day/b", "day/a"]


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_paths_of_a_list_are_relative_to_its_folder_else_to_the_working_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, "images/a.png", "images/b c.png", "labels/a.png", "labels/b c.png", "lists/images/a.png")
    monkeypatch.chdir(tmp_path)
    comma, path = {"txt": "\t", "csv": ","}[kind], tmp_path / "lists" / f"set.{kind}"
    path.write_text(f"images/a.png{comma}labels/a.png\nimages/b c.png{comma}labels/b c.png\n")
    found = [(source.path, source.label) for source in find_images(path)]
    assert found == [
        (tmp_path / "lists/images/a.png", Path("labels/a.png")),
        (Path("images/b c.png"), Path("labels/b c.png")),
    ]


def test_a_line_of_white_space_is_split_where_both_parts_are_files_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, "images/b c.png", "labels/b c.png", "lists/.keep")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists" / "set.txt").write_text("images/b c.png labels/b c.png\nimages/b c.png\n")
    first, second = find_images(tmp_path / "lists" / "set.txt")
    assert (first.path, first.label) == (Path("images/b c.png"), Path("labels/b c.png"))
    assert (second.path, second.label) == (Path("images/b c.png"), None)


def test_a_number_sign_begins_a_comment_and_after_a_dot_and_a_slash_a_name(tmp_path: Path) -> None:
    filled(tmp_path, "#1.png", "a.png")
    (tmp_path / "set.txt").write_text("#1.png\n./#1.png\na.png\n")
    assert ids(tmp_path / "set.txt") == ["#1", "a"]


def test_an_image_finds_its_label_in_a_list_whose_ids_have_another_root(tmp_path: Path) -> None:
    filled(tmp_path, "data/day/a.png", "data/night/a.png", "maps/1.png", "maps/2.png", "lists/.keep")
    images, pairs = tmp_path / "lists" / "images.txt", tmp_path / "lists" / "pairs.txt"
    images.write_text("../data/night/a.png\n")
    pairs.write_text("../data/day/a.png\t../maps/1.png\n../data/night/a.png\t../maps/2.png\n")
    (labelled,) = with_labels(find_images(images), pairs)
    assert labelled.id == "a"
    assert labelled.label is not None
    assert labelled.label.samefile(tmp_path / "maps" / "2.png")


def test_a_list_that_is_wrong_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    filled(tmp_path, "a.png")
    path.write_text("a.png\na.png b.png c.png\n")
    assert "Line 2" in refusal(path)
    path.write_text("# nothing\n\n")
    assert "names no image" in refusal(path)
    path.write_text("gone.png\nlost.png\n")
    assert "None of the 2 images" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00a")
    assert "UTF-8" in refusal(path)


def test_two_files_of_one_name_get_two_ids(tmp_path: Path) -> None:
    filled(tmp_path, "a.jpg", "a.png", "a-2.png", "A.bmp")
    ids = {source.path.name: source.id for source in find_images(tmp_path)}
    assert ids == {"A.bmp": "A", "a-2.png": "a-2", "a.jpg": "a-3", "a.png": "a-4"}


@given(st.lists(st.text(alphabet="aAbé/.-2", min_size=1, max_size=4), max_size=12))
def test_ids_are_unique_in_any_case_and_a_lone_one_stays_as_it_is(wanted: list[str]) -> None:
    given_ids = unique(wanted)
    folded = [unicodedata.normalize("NFC", id).casefold() for id in given_ids]
    assert len(set(folded)) == len(wanted)
    for wanted_id, given_id in zip(wanted, given_ids, strict=True):
        if [other.casefold() for other in wanted].count(wanted_id.casefold()) == 1:
            assert given_id == wanted_id
        assert given_id.startswith(wanted_id)


@given(st.text(st.characters(codec=None), min_size=1, max_size=30).filter(lambda text: text.strip("/.")))
def test_an_id_is_a_relative_path_that_every_system_takes(name: str) -> None:
    id = safe(name)
    assert id
    assert not PurePosixPath(id).is_absolute()
    for part in id.split("/"):
        assert part not in {"", ".", ".."}
        assert not set(part) & set('<>:"|?*\\')
        assert not any(ord(letter) < 32 for letter in part)
        part.encode()
        assert part[-1] not in " ."
        assert part.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


def test_images_and_labels_pair_by_id_whatever_their_suffix(tmp_path: Path) -> None:
    images = filled(tmp_path / "images", "s/a.webp", "b.jpg")
    labels = filled(tmp_path / "labels", "b.png", "s/a.png", "unused.png")
    assert with_labels(find_images(images), labels) == (
        Source("b", images / "b.jpg", labels / "b.png"),
        Source("s/a", images / "s/a.webp", labels / "s/a.png"),
    )


def test_a_list_with_both_columns_is_enough(tmp_path: Path) -> None:
    filled(tmp_path, "x/a.png", "y/a.png")
    path = tmp_path / "set.txt"
    path.write_text("x/a.png y/a.png\n")
    expected = (Source("x/a", tmp_path / "x/a.png", tmp_path / "y/a.png"),)
    assert find_images(path) == expected
    assert with_labels(find_images(path), path) == expected


@pytest.mark.parametrize(("part", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_camvid_is_found_by_list_and_by_folder(part: str, count: int, shared_data: Path) -> None:
    camvid = shared_data / "camvid"
    listed = find_images(camvid / f"{part}.txt")
    paired = with_labels(find_images(camvid / part), camvid / f"{part}annot")
    assert len(listed) == len(paired) == count
    assert {(source.path, source.label) for source in listed} == {(source.path, source.label) for source in paired}
    assert listed[0].id == f"{part}/{listed[0].path.stem}"


NAMES = st.lists(st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & set(name)), unique=True)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
@given(NAMES)
def test_no_two_paths_have_one_text_and_every_text_is_utf_8(names: list[bytes]) -> None:
    every = {*names, *(in_text(os.fsdecode(name)).encode() for name in names)}  # called as another is written
    assert len({in_text(os.fsdecode(name)) for name in every}) == len(every)
    assert all(from_text(in_text(os.fsdecode(name))) == os.fsdecode(name) for name in every)


@given(st.lists(st.sampled_from(["a.png", "a.bmp", "A.png", "a-2.png", "b.png", "a-2.tif"]), unique=True), st.data())
def test_a_path_keeps_its_id_and_no_other_gets_it_whatever_comes_and_goes(
    names: list[str], data: st.DataObject
) -> None:
    known: dict[str, str] = {}
    for _ in range(3):
        there = sorted(data.draw(st.sets(st.sampled_from(names)))) if names else []
        named = unique(name.rpartition(".")[0] for name in there)
        sources = [Source(id, Path(name)) for id, name in zip(named, there, strict=True)]
        kept = {source.id: str(source.path) for source in keep_ids(sources, known)}
        assert len(kept) == len(there)
        assert all(known.get(id, path) == path for id, path in kept.items()), "an id went to another path"
        assert all(kept.get(id, path) == path for id, path in known.items() if path in there), "a path lost its id"
        known |= kept
        assert len({id.casefold() for id in known}) == len(known)
        assert len(set(known.values())) == len(known)


def test_a_path_that_is_listed_twice_has_two_ids_for_good() -> None:
    sources = [Source("a", Path("a.png")), Source("a-2", Path("a.png"))]
    assert keep_ids(sources, {"a": "a.png", "a-2": "a.png"}) == tuple(sources)


def test_each_image_of_a_file_keeps_its_own_id() -> None:
    frames = [Source(f"v/{n:06}", Path("v.mp4"), part=n) for n in (0, 4, 8)]
    known = images_by_id(frames)
    more = [Source(f"v/{n:06}", Path("v.mp4"), part=n) for n in (0, 2, 4, 6, 8)]
    assert [source.id for source in keep_ids(more, known)] == [source.id for source in more]
    before = {source.id: "v.mp4" for source in frames}  # as runs wrote it that did not say which image of the file
    assert [source.id for source in keep_ids(more, before)] == [source.id for source in more]
    keys = {f"f/{key}": image for key, image in zip(("right", "top"), ("f.npz::right", "f.npz::top"), strict=True)}
    three = [Source(f"f/{key}", Path("f.npz"), part=key) for key in ("left", "right", "top")]
    assert [source.id for source in keep_ids(three, keys)] == ["f/left", "f/right", "f/top"]


def test_an_id_that_a_list_gives_keeps_what_follows_its_dots(tmp_path: Path) -> None:
    for name in ("a", "b", "img.v1"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "l.csv").write_text("image,id\na.png,patient.1\nb.png,patient.2\nimg.v1.png,img.v1\n")
    assert [source.id for source in find_images(tmp_path / "l.csv")] == ["patient.1", "patient.2", "img.v1"]
    assert [source.id for source in find_images(tmp_path)] == ["a", "b", "img.v1"]


def test_pictures_that_are_not_taken_from_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, "a.png", "b.ppm", "c.TGA", "d.ppm", "notes.txt")
    assert [source.id for source in find_images(tmp_path)] == ["a"]
    assert "left out, because their kind is not taken: 2 .ppm, 1 .tga" in caplog.text
