"""Laws of what is written: PNG bytes, maps with their scale, archives, and the folder of a run."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from segment.errors import ImageUnreadable, WrongUse
from segment.files import png
from segment.files.banks.output import bank_there
from segment.files.runs.manifest import Entry
from segment.files.runs.map_summary import summary
from segment.files.runs.run import Run
from segment.files.writing import (
    as_indices,
    fresh,
    read_map_png,
    write_json,
    write_map_png,
    write_npz,
    write_palette_png,
    write_png,
    write_text,
)

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.sampled_from([(600, 3), (3, 2000), (257, 1)])


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# PNG


@given(SHAPES, st.sampled_from([(np.uint8, 3), (np.uint8, 1), (np.uint16, 1)]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_pillow_and_opencv_read_the_pixels_that_were_written(
    shape: tuple[int, int], kind: tuple[type[np.uint8] | type[np.uint16], int], seed: int
) -> None:
    number, channels = kind
    generator = np.random.default_rng(seed)
    pixels: NDArray[Any] = generator.integers(0, np.iinfo(number).max, (*shape, channels), number, endpoint=True)
    pixels = pixels if channels == 3 else pixels[..., 0]
    data = b"".join(png.encoded(pixels))
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert theirs is not None
    assert theirs.dtype == pixels.dtype
    np.testing.assert_array_equal(theirs[..., ::-1] if channels == 3 else theirs, pixels)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image).astype(number), pixels)


def test_pillow_reads_the_text_that_was_written_in_any_script(tmp_path: Path) -> None:
    text = {"measure": "variance", "Title": "Straße", "source": "道路.png"}
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), text)
    with Image.open(tmp_path / "a.png") as image:
        assert {key: str(value) for key, value in image.info.items()} == text
    assert png.text_of((tmp_path / "a.png").read_bytes()) == text


@pytest.mark.parametrize("classes", [1, 2, 3, 11, 17, 256])
def test_a_palette_mask_keeps_the_class_indices_and_shows_their_colours(tmp_path: Path, classes: int) -> None:
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, (7, 300))
    colours = generator.integers(0, 255, (classes, 3), np.uint8, endpoint=True)
    write_palette_png(tmp_path / "mask.png", labels, colours)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[labels])


def test_more_than_256_classes_go_into_16_bits(tmp_path: Path) -> None:
    labels = np.array([[0, 299], [256, 255]])
    write_palette_png(tmp_path / "mask.png", labels, np.zeros((300, 3), np.uint8))
    np.testing.assert_array_equal(cv2.imdecode(np.fromfile(tmp_path / "mask.png", np.uint8), -1), labels)


@pytest.mark.parametrize(("label", "classes"), [(-1, 3), (3, 3), (256, 256), (0, 70000)])
def test_a_label_without_a_class_is_refused_never_wrapped(label: int, classes: int) -> None:
    with pytest.raises(WrongUse):
        as_indices(np.array([[label]]), classes)


# maps


@given(
    st.floats(1e-6, 100),
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 1, width=32)),
)
@settings(deadline=None, max_examples=60)
def test_a_map_comes_back_within_half_a_step_of_its_scale(
    tmp_path_factory: pytest.TempPathFactory, high: float, shares: NDArray[np.float32]
) -> None:
    path = tmp_path_factory.getbasetemp() / "map.png"
    values = high * shares.astype(np.float64)
    write_map_png(path, values, measure="variance", unit="", high=high)
    read, info = read_map_png(path)
    rounding = float(np.spacing(np.float32(high)))  # the map is handed back as float32
    assert np.abs(read - values).max() <= high / 131070 * (1 + 1e-6) + rounding
    assert info["measure"] == "variance"
    pixels = np.asarray(Image.open(path)).astype(np.float64)
    by_formula = eval(
        info["formula"].removeprefix("value = "),
        {},
        {"pixel": pixels, "low": float(info["low"]), "high": float(info["high"])},
    )
    np.testing.assert_allclose(read, by_formula, rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
@pytest.mark.parametrize("row", [0, 500])
def test_a_map_beyond_its_scale_is_refused_and_nothing_is_written(tmp_path: Path, value: float, row: int) -> None:
    values = np.zeros((600, 2), np.float32)
    values[row, 1] = value
    with pytest.raises(WrongUse, match="beyond its scale"):
        write_map_png(tmp_path / "variance.png", values, measure="variance", unit="", high=1.0)
    assert everything_in(tmp_path) == []


def test_rounding_above_the_bound_is_written_as_the_bound(tmp_path: Path) -> None:
    high = math.log(4)
    write_map_png(tmp_path / "a.png", np.array([[high + 2e-7, -2e-7]]), measure="x", unit="nats", high=high)
    np.testing.assert_allclose(read_map_png(tmp_path / "a.png")[0], [[high, 0]], rtol=1e-6)


@pytest.mark.parametrize("data", [b"", b"not a png", b"".join(png.encoded(np.zeros((1, 1), np.uint8)))])
def test_a_file_without_a_scale_is_no_map(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageUnreadable, match=r"a\.png"):
        read_map_png(tmp_path / "a.png")


def test_half_a_map_is_no_map(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((64, 64))
    write_map_png(tmp_path / "a.png", values, measure="x", unit="", high=1.0)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:150])
    with pytest.raises(ImageUnreadable, match=r"a\.png"):
        read_map_png(tmp_path / "a.png")


def test_numpy_reads_the_archive_and_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    maps: dict[str, NDArray[Any]] = {
        "variance": generator.random((5, 7)),
        "prediction": generator.integers(0, 9, (5, 7)).astype(np.uint8),
    }
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, maps)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert set(archive) == set(maps)
        assert archive["variance"].dtype == np.float32
        np.testing.assert_array_equal(archive["variance"], maps["variance"].astype(np.float32))
        assert archive["prediction"].dtype == np.uint8
        np.testing.assert_array_equal(archive["prediction"], maps["prediction"])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


# whole or not at all


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def halfway() -> None:
        with fresh(tmp_path / "a.txt") as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        halfway()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert everything_in(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_up_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WrongUse, match="No space left") as refusal:
        write_json(tmp_path / "deep" / "a.json", {"a": 1})
    assert "\n" not in str(refusal.value)
    assert everything_in(tmp_path) == ["deep"]


def test_a_file_where_the_folder_should_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    for attempt in (
        lambda: write_png(tmp_path / "run" / "a.png", np.zeros((1, 1, 3), np.uint8)),
        lambda: Run.create(tmp_path / "run", {}),
        lambda: Run.create(tmp_path / "run" / "below", {}, resume=True),
    ):
        with pytest.raises(WrongUse, match=r"Cannot write .*Choose an output folder") as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
    assert (tmp_path / "run").read_text() == "in the way"


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_url_of_a_file_here_is_refused_as_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.chdir(tmp_path)
    url = Path(f"{scheme}://{tmp_path}/run")
    for attempt in (
        lambda: Run.create(url, {}),
        lambda: write_json(url / "a.json", {}),
        lambda: bank_there(url / "bank.safetensors"),
    ):
        with pytest.raises(WrongUse, match=f"Give its path, without '{scheme}://'"):
            attempt()
    assert everything_in(tmp_path) == []


def test_a_file_that_cannot_be_read_while_another_is_written_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "image.png"
    with pytest.raises(WrongUse) as refusal, fresh(tmp_path / "page.html") as stream:
        stream.write(missing.read_bytes())
    assert repr(str(missing)) in str(refusal.value)
    assert "output folder" not in str(refusal.value)
    assert everything_in(tmp_path) == []


def test_a_value_that_json_lacks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": math.nan})
    assert everything_in(tmp_path) == []


# runs


def a_run(folder: Path, ids: tuple[str, ...] = ("a", "b/c")) -> Run:
    run = Run.create(folder, {"draws": 8, "maps": ("variance",)})
    for name in ids:
        write_text(run.path(name, "prediction.png"), name)
        files = (run.relative(run.path(name, "prediction.png")),)
        run.add(Entry(id=name, source=f"/in/{name}.png", sha256="0" * 64, files=files, seconds=0.1, draws=8))
    return run


def test_a_manifest_line_has_the_agreed_keys(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    numbers = {"variance": summary(np.full((2, 2), 0.5, np.float32))}
    run.add(Entry(id="a", source="a.png", measures=numbers, notes={"standard_error": "one draw has none"}))
    line = json.loads((tmp_path / "run" / "manifest.jsonl").read_text(encoding="utf-8"))
    keys = ["id", "source", "sha256", "status", "error", "files", "seconds", "draws", "variance", "notes"]
    assert list(line) == keys
    assert line["variance"] == {"mean": 0.5, "p95": 0.5}


def test_a_folder_that_holds_a_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    a_run(tmp_path / "run").close()
    with pytest.raises(WrongUse, match="--resume"):
        Run.create(tmp_path / "run", {"draws": 8, "maps": ("variance",)})
    again = Run.create(tmp_path / "run", {"draws": 8, "maps": ["variance"]}, resume=True)
    assert list(again.done()) == ["a", "b/c"]
    assert again.done()["b/c"]["files"] == ["b/c/prediction.png"]


def test_resuming_with_other_settings_is_refused_and_says_which(tmp_path: Path) -> None:
    a_run(tmp_path / "run").close()
    with pytest.raises(WrongUse, match=r"draws is 8 there, 16 asked; heat is none given there, 'variance' asked"):
        Run.create(tmp_path / "run", {"draws": 16, "maps": ["variance"], "heat": "variance"}, resume=True)


def test_a_manifest_cut_at_any_byte_resumes_with_its_whole_lines(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ("a", "b/ü", "c"))
    run.close()
    manifest = tmp_path / "run" / "manifest.jsonl"
    data = manifest.read_bytes()
    for cut in range(len(data) + 1):
        manifest.write_bytes(data[:cut])
        again = Run.create(tmp_path / "run", run.record["settings"], resume=True)
        whole = data[:cut].count(b"\n")
        assert list(again.done()) == ["a", "b/ü", "c"][:whole]
        again.add(Entry(id="later", source="later.png"))
        lines = manifest.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in lines] == [*["a", "b/ü", "c"][:whole], "later"]
        again.close()


def test_damage_inside_a_manifest_is_refused_with_its_line(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.close()
    manifest = tmp_path / "run" / "manifest.jsonl"
    manifest.write_text("{broken\n" + manifest.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(WrongUse, match="line 1"):
        Run.create(tmp_path / "run", run.record["settings"], resume=True)


@pytest.mark.parametrize("record", [None, "{half", "[]"])
def test_a_run_without_a_readable_record_is_refused(tmp_path: Path, record: str | None) -> None:
    run = a_run(tmp_path / "run")
    run.close()
    (tmp_path / "run" / "run.json").unlink()
    if record is not None:
        (tmp_path / "run" / "run.json").write_text(record)
    with pytest.raises(WrongUse, match=r"run\.json"):
        Run.create(tmp_path / "run", run.record["settings"], resume=True)


def test_failed_images_and_images_whose_files_are_gone_are_not_done(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ("a", "b"))
    run.add(Entry(id="bad", source="bad.png", status="failed", error="ImageUnreadable: 0 bytes"))
    run.path("b", "prediction.png").unlink()
    assert list(run.done()) == ["a"]
    assert run.entries()["bad"]["error"] == "ImageUnreadable: 0 bytes"
    run.add(Entry(id="bad", source="bad.png"))
    run.close()
    again = Run.create(tmp_path / "run", run.record["settings"], resume=True)
    assert list(again.done()) == list(run.done()) == ["a", "bad"]


def test_an_entry_that_names_missing_files_or_no_number_is_not_written(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ("a",))
    before = (tmp_path / "run" / "manifest.jsonl").read_bytes()
    with pytest.raises(WrongUse, match=r"x/heat\.png"):
        run.add(Entry(id="x", source="x.png", files=("x/heat.png",)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.add(Entry(id="x", source="x.png", measures={"variance": {"mean": math.nan, "p95": 0.0}}))
    assert (tmp_path / "run" / "manifest.jsonl").read_bytes() == before
    assert list(run.entries()) == ["a"]


@pytest.mark.parametrize("name", ["", "/etc/x", "..", "a/../../x", "a//b", "./a", "a/.", "..\\x", "a\0", "run.json"])
def test_an_id_cannot_leave_the_run_folder_or_take_its_own_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUse):
        Run.create(tmp_path / "run", {}).path(name, "prediction.png")


def test_an_id_cannot_leave_the_run_folder_by_a_link(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    (tmp_path / "run" / "out").symlink_to(tmp_path)
    with pytest.raises(WrongUse, match="link"):
        run.path("out/a", "prediction.png")


def test_what_is_noted_later_joins_what_was_there(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.note(plan={"tile": None}, versions={"torch": "2"})
    run.note(timings={"seconds": 1.5})
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert list(record) == ["settings", "working_folder", "sources", "plan", "versions", "timings"]
    assert everything_in(tmp_path / "run") == [
        ".lock",
        "a",
        "a/prediction.png",
        "b",
        "b/c",
        "b/c/prediction.png",
        "manifest.jsonl",
        "run.json",
    ]
