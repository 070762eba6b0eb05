"""A report shows the label maps that an evaluation was scored with, whatever kind of file they came in."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from plain import calibrated, random_bank, seeded
from small_networks import Small

import segment
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.report import report
from segment.networks.load import Network, load_network
from segment.report.html.build import ReportContents

PALETTE = ((0, 0, 0), (200, 10, 10), (10, 200, 10), (9, 9, 200))
SIZE = (32, 40)


@pytest.fixture(scope="module")
def fitted() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(Small), SIZE))
    network = replace(network, card=replace(network.card, palette=PALETTE, labels={7: 2}))
    return network, random_bank(bn_network_of(network))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[ReportContents]:
    """What the newest report would have been written from."""
    kept: list[ReportContents] = []
    monkeypatch.setattr("segment.jobs.report.write_report", lambda sources, *_: kept.append(sources))
    return kept


def ids(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SIZE, dtype=np.uint8)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def labelled_images(top: Path, seeds: dict[str, int]) -> Labels:
    for name, seed in seeds.items():
        for folder, values in (("images", pixels(seed)), ("labels", ids(seed))):
            (top / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(top / folder / f"{name}.png")
    return Labels(str(top / "images"), str(top / "labels"))


def runs(fitted: tuple[Network, Bank], top: Path, images: str, data: Labels) -> list[Path]:
    network, bank = fitted
    predict(network, images, bank, top / "run", PredictPlan(formats=("npz",)))
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("variance",)))
    evaluate_into(network, data, top / "scores", banks=[bank], plan=plan)
    return [top / "run", top / "scores"]


def test_colours_with_a_suffix_and_values_that_stand_for_others(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[ReportContents]
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        Image.fromarray(pixels(seed)).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(np.array(PALETTE, np.uint8)[ids(1)]).save(tmp_path / "labels" / "a_L.png")
    Image.fromarray(np.where(ids(2) == 2, 7, ids(2)).astype(np.uint8)).save(tmp_path / "labels" / "b_L.png")
    data = Labels(str(tmp_path / "images"), str(tmp_path / "labels"), "_L")
    report(runs(fitted, tmp_path, str(tmp_path / "images"), data), tmp_path / "r.html")
    for name, seed in (("a", 1), ("b", 2)):
        np.testing.assert_array_equal(shown[0].label_of(name), ids(seed))


@pytest.mark.parametrize("named", [False, True])
def test_each_slice_of_a_volume_has_its_own_label_map(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[ReportContents], *, named: bool
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "v.tif", np.stack([pixels(seed) for seed in range(3)]), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "labels" / "v.tif", np.stack([ids(seed) for seed in range(3)]), photometric="minisblack"
    )
    data = Labels(str(tmp_path / "images"), str(tmp_path / "labels"))
    made = runs(fitted, tmp_path, str(tmp_path / "images"), data)
    report(made[:1] if named else made, tmp_path / "r.html", labels=tmp_path / "labels" if named else None)
    slices = sorted(segment.load_run(made[0]))
    assert len(slices) == 3
    for seed, name in enumerate(slices):
        np.testing.assert_array_equal(shown[0].label_of(name), ids(seed))


def test_one_label_map_is_not_given_to_two_images_of_one_name(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[ReportContents]
) -> None:
    for name, seed in (("a/x", 1), ("b/x", 2), ("b/y", 3)):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(tmp_path / "images" / f"{name}.png")
    labels = tmp_path / "labels"
    labels.mkdir()
    Image.fromarray(ids(3)).save(labels / "y.png")
    network, bank = fitted
    predict(network, str(tmp_path / "images"), bank, tmp_path / "run", PredictPlan(formats=("npz",)))
    report([tmp_path / "run"], tmp_path / "r.html", labels=labels)
    np.testing.assert_array_equal(shown[-1].label_of("b/y"), ids(3))
    assert shown[-1].label_of("a/x") is None
    Image.fromarray(ids(1)).save(labels / "x.png")
    with pytest.raises(WrongUse, match=r"fits several images by its name: 'a/x', 'b/x'\. Name label maps"):
        report([tmp_path / "run"], tmp_path / "r.html", labels=labels)
    (labels / "a").mkdir()
    (labels / "x.png").rename(labels / "a" / "x.png")
    report([tmp_path / "run"], tmp_path / "r.html", labels=labels)
    np.testing.assert_array_equal(shown[-1].label_of("a/x"), ids(1))
    assert shown[-1].label_of("b/x") is None


def test_label_maps_of_whole_names_belong_to_images_that_differ_by_their_suffix(
    fitted: tuple[Network, Bank], shown: list[ReportContents], tmp_path: Path
) -> None:
    network, bank = fitted
    for folder, make in (("images", pixels), ("labels", ids)):
        (tmp_path / folder).mkdir()
        for seed, suffix in enumerate((".bmp", ".png")):
            Image.fromarray(make(seed)).save(tmp_path / folder / f"x{suffix}")
    predict(network, tmp_path / "images", bank, tmp_path / "run", PredictPlan(precision="fp32"))
    report([tmp_path / "run"], tmp_path / "r.html", labels=tmp_path / "labels")
    for id in shown[0].run:
        seed = (".bmp", ".png").index(shown[0].run.source_of(shown[0].run.entries[id]).path.suffix)
        np.testing.assert_array_equal(shown[0].label_of(id), ids(seed))


def test_a_flip_book_shows_the_draws_that_the_run_took_and_refuses_others(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[ReportContents]
) -> None:
    network, bank = fitted
    data = labelled_images(tmp_path, {"a": 1})
    predict(network, data.images, bank, tmp_path / "run", PredictPlan(formats=("npz",), draws=2))
    made = partial(report, [tmp_path / "run"], tmp_path / "r.html")
    made(flip_book=["a"], network=network, bank=bank)
    assert shown[-1].draws["a"].shape == (2, *SIZE)
    other = load_network(calibrated(seeded(Small, seed=5), SIZE))
    with pytest.raises(WrongUse, match=r"'Small' is not the network of this run"):
        made(flip_book=["a"], network=other, bank=bank)
    with pytest.raises(WrongUse, match="--bank is not the bank of this run"):
        made(flip_book=["a"], network=network, bank=random_bank(bn_network_of(network), seed=1))
    with pytest.raises(WrongUse, match="name its images"):
        made(network=network, bank=bank)


def test_scores_of_other_images_or_settings_are_named_on_the_page_and_give_no_line_its_numbers(
    fitted: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, bank = fitted
    pages: list[dict[str, Any]] = []

    def kept(path: Path, content: dict[str, Any], *_: object) -> None:
        path.touch()
        pages.append(content)

    monkeypatch.setattr("segment.report.html.build.write_page", kept)
    own, other = (
        labelled_images(tmp_path / name, seeds) for name, seeds in (("own", {"a": 1, "b": 2}), ("other", {"a": 1}))
    )
    predict(network, own.images, bank, tmp_path / "run", PredictPlan(formats=("npz",)))
    methods = MethodPlan(methods=("mcbn",), measures=("predictive_entropy",))
    evaluate_into(network, own, tmp_path / "same", banks=[bank], plan=EvaluatePlan(methods=methods))
    otherwise = EvaluatePlan(methods=replace(methods, draws=2), shift=("fog", 3))
    evaluate_into(network, other, tmp_path / "others", banks=[bank], plan=otherwise)
    for name, used in (("same", True), ("others", False)):
        report([tmp_path / "run", tmp_path / name], tmp_path / f"{name}.html", labels=tmp_path / "own" / "labels")
        scores = (segment.load_run(tmp_path / name).scores or {})["methods"]["mcbn"]["scores"]
        (legend,) = (each["legend"] for each in pages[-1]["charts"][0]["lines"] if "entropy" in each["name"])
        assert (f"AURC {scores['aurc.predictive_entropy']['value']:.4f}," in legend) == used
    predict(network, other.images, bank, tmp_path / "fewer", PredictPlan(formats=("npz",)))
    report([tmp_path / "fewer", tmp_path / "same"], tmp_path / "r.html", labels=tmp_path / "own" / "labels")
    assert [line for line in pages[2]["warnings"] if line.startswith("The scores in")] == [
        "The scores in 'same' are of 2 images; the run shows 1 of them."
    ]
    assert not [line for line in pages[0]["warnings"] if line.startswith("The scores in")]
    assert [line for line in pages[1]["warnings"] if line.startswith("The scores in")] == [
        "The scores in 'others' are of other images: 1 of the run's 2 are among its 1.",
        "The scores in 'others' were made with other settings than the run: images corrupted by fog:3; T = 2 for 3.",
    ]


def test_images_of_files_called_alike_have_the_label_maps_of_their_own_files(
    fitted: tuple[Network, Bank], tmp_path: Path, shown: list[ReportContents]
) -> None:
    for name, seed in (("a.tif", 0), ("a.tiff", 2)):
        for kind, values in (("images", pixels), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            photometric = "rgb" if kind == "images" else "minisblack"
            tifffile.imwrite(
                tmp_path / kind / name, np.stack([values(seed), values(seed + 1)]), photometric=photometric
            )
    (network, bank), listed = fitted, tmp_path / "list.csv"
    rows = {name: f"images/{name},labels/{name}" for name in ("a.tif", "a.tiff")}
    for count, names in enumerate((("a.tiff",), ("a.tif", "a.tiff"))):
        listed.write_text("\n".join(["image,label", *(rows[name] for name in names)]))
        predict(network, listed, bank, tmp_path / "run", PredictPlan(formats=("npz",)), resume=count > 0)
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("variance",)))
    evaluate_into(network, Labels(listed), tmp_path / "scores", banks=[bank], plan=plan)
    report([tmp_path / "run", tmp_path / "scores"], tmp_path / "r.html")
    run = segment.load_run(tmp_path / "run")
    assert len(run) == 4
    for id, image in run.items():
        part = int(run.record["sources"][id].partition("::")[2])
        seed = {".tif": 0, ".tiff": 2}[image.source.suffix] + part
        np.testing.assert_array_equal(shown[0].label_of(id), ids(seed))
