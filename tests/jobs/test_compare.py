"""Laws of `segment compare`: runs read back, paired or not, estimated accuracies, and one line for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import invoked
from labelled_scenes import SIZE, bank_of_scenes, written

from segment.draws.bank import Bank
from segment.errors import WrongUse, first_of
from segment.files.writing import write_png
from segment.images.read import read_label
from segment.jobs.decisions.compare import _estimated, compare, write_comparison
from segment.jobs.decisions.run_table import RunTable
from segment.jobs.decisions.select import select
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.report import report
from segment.jobs.tuning.tuned import Tuned
from segment.methods.augmentation import View
from segment.networks.load import Network
from segment.report.run_comparison import compare_rows, comparison_sentences, estimate_words
from segment.report.run_files.saved_run import SavedRun
from segment.scenes.scene import TEST, scene
from segment.scores.functional.binning import BINS, bin_of
from segment.significance.estimated_accuracy import Estimates
from segment.stores.requests import put

PLAN = EvaluatePlan(
    methods=MethodPlan(
        methods=("deterministic", "mcbn"), measures=("predictive_entropy", "mutual_information"), precision="fp32"
    )
)


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, draws=2)


@pytest.fixture(scope="module")
def runs(network: Network, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean and noisy: the same images; unlike: others with unseen objects; predicted: those without labels."""
    folder = tmp_path_factory.mktemp("runs")
    data = written(folder / "data", TEST[:10])
    evaluate_into(network, data, folder / "clean", banks=[bank], plan=PLAN)
    evaluate_into(network, data, folder / "noisy", banks=[bank], plan=replace(PLAN, shift=("noise", 5)))
    for seed in TEST[10:20]:
        write_png(folder / "others" / f"o{seed}.png", scene(seed, size=SIZE, unseen=True).image)
    maps = ("mutual_information", "one_minus_max")
    predict(network, folder / "others", bank, folder / "predicted", PredictPlan(maps=maps, precision="fp32"))
    return folder


def test_pixels_without_data_have_no_confidence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "maps.npz", one_minus_max=np.array([[0.5, np.nan], [np.nan, 0.25]], np.float32))
    counts = RunTable(SavedRun(tmp_path, {}, {}), "", (), {"a": {}}, labelled=False).confidences()
    assert counts is not None
    assert counts.sum() == 2
    assert counts[bin_of(np.array([0.25, 0.5], np.float32)), 0].tolist() == [1, 1]


def test_images_of_several_sizes_have_an_estimate_of_the_mean_over_images() -> None:
    def table(sizes: list[int]) -> RunTable:
        accuracy = [0.6] * 10 + [0.9] * 10
        rows = {
            str(number): {"pixels": size, "accuracy": a, "expected_accuracy": a}
            for number, (a, size) in enumerate(zip(accuracy, sizes, strict=True))
        }
        return RunTable(SavedRun(Path(), {}, {}), "mcbn", ("mcbn",), rows, labelled=True)

    labelled = np.zeros((BINS, 2), dtype=np.int64)
    labelled[0] = (9060, 1040)
    estimated = _estimated(table([100] * 10 + [10000] * 10), labelled, table([10000] * 10 + [100] * 10))
    assert estimated.doc == pytest.approx(0.75)
    assert estimated.mean_truth == pytest.approx(0.75)
    assert estimated.error("doc") == pytest.approx(0, abs=1e-12)


def test_an_error_of_an_estimate_that_is_0_is_printed() -> None:
    (line,) = estimate_words("B", Estimates(0.8, 0.7, 0.75, 0.7), {"atc": 0.05, "doc": 0.0}, 2)
    assert "ATC 0.800 of its pixels (it is 0.750), DoC 0.700 as the mean over its images (it is 0.700)" in line
    assert line.endswith("The mean error on 2 labelled runs was ATC 0.050, DoC 0.000.")


def test_the_mean_over_labels_is_no_confidence_of_a_label(runs: Path, tmp_path: Path) -> None:
    for name in ("clean", "predicted"):
        record = json.loads((shutil.copytree(runs / name, tmp_path / name) / "run.json").read_text())
        record["settings"]["card"]["head"] = "multilabel"
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    compared = compare(tmp_path / "clean", tmp_path / "predicted")
    assert compared.estimated is not None
    assert compared.estimated.atc is None
    assert any(
        "ATC cannot be estimated: it takes the confidence of each label" in line
        for line in comparison_sentences(compared)
    )
    scored = compare(tmp_path / "clean", tmp_path / "clean").estimated
    assert scored is not None
    assert scored.atc is not None, "an evaluation keeps those of each label"


def test_a_method_of_several_banks_is_compared_by_one_and_the_page_says_so(
    network: Network, bank: Bank, runs: Path, tmp_path: Path
) -> None:
    data, other = written(tmp_path / "data", TEST[:6]), bank_of_scenes(network, draws=2, seed=1)
    evaluate_into(network, data, tmp_path / "two", banks=[bank, other], plan=PLAN)
    compared = compare(tmp_path / "two", tmp_path / "two", method="mcbn#2", other_method="deterministic")
    (note,) = (note for note in compared.notes if "bank 2 of 2" in note)
    assert "are of method 'mcbn'." in note
    assert not [note for note in compare(runs / "clean", runs / "noisy").notes if "bank" in note]


def test_a_run_and_itself_are_equal_and_a_corruption_is_significant_with_the_right_sign(runs: Path) -> None:
    same = compare(runs / "clean", runs / "clean")
    assert same.significant == []
    assert all(p == 1 for p in same.adjusted.values())
    noisy = compare(runs / "clean", runs / "noisy")
    assert "accuracy" in noisy.significant
    assert noisy.paired["accuracy"].difference.value < 0
    assert noisy.paired["nll"].lower == 0


def test_runs_of_other_classes_are_compared_and_it_says_so(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs / "clean", other)
    record = json.loads((other / "run.json").read_text())
    classes, record["classes"] = record["classes"], ["lesion", "background"]
    (other / "run.json").write_text(json.dumps(record))
    words = comparison_sentences(compare(runs / "clean", other))
    counts = f"{len(classes)} classes ({first_of(classes)}) and 2 classes (lesion, background)"
    expected = f"The runs are of other classes, {counts}"
    assert any(line.startswith(expected) for line in words)
    assert not any("other classes" in line for line in comparison_sentences(compare(runs / "clean", runs / "noisy")))


def test_scenes_with_unseen_objects_differ_from_those_without_in_the_direction_that_they_should(
    network: Network, bank: Bank, runs: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "unseen", TEST[:10], unseen=True)
    evaluate_into(network, data, tmp_path / "strange", banks=[bank], plan=PLAN)
    paired = compare(runs / "clean", tmp_path / "strange")
    assert "10 of 10 pairs hold other pixels: one id, and files that differ." in comparison_sentences(paired)
    assert not any("other pixels" in line for line in comparison_sentences(compare(runs / "clean", runs / "noisy")))
    assert "nll" in paired.significant
    for column, sign in (("accuracy", -1), ("nll", 1), ("mean.mutual_information", 1)):
        assert sign * (paired.paired[column].difference.value or 0.0) > 0
    alone = compare(runs / "clean", tmp_path / "strange", pair=False)
    assert not alone.paired
    auroc = alone.unpaired["mean.mutual_information"].auroc.value
    assert auroc is not None
    assert auroc > 0.5


def test_other_labels_are_no_improvement(network: Network, bank: Bank, runs: Path, tmp_path: Path) -> None:
    assert compare(runs / "clean", runs / "noisy").other_labels == ""
    data = written(tmp_path / "data", TEST[:10])  # the same images
    easier = replace(PLAN, void=1)
    evaluate_into(network, data, tmp_path / "void", banks=[bank], plan=easier)
    compared = compare(runs / "clean", tmp_path / "void")
    assert comparison_sentences(compared)[0].startswith(
        "THE LABELS DIFFER: void is none in A and 1 in B; 10 of 10 pairs have another number of scored pixels."
    )
    assert not any(re.search("better|worse", line) for line in comparison_sentences(compared)[1:])
    assert compare(runs / "clean", tmp_path / "void", pair=False).other_labels.startswith("THE LABELS DIFFER: void is")
    for path in Path(str(data.labels)).iterdir():
        write_png(path, (read_label(path) // 2).astype(np.uint8))
    evaluate_into(network, data, tmp_path / "halved", banks=[bank], plan=PLAN)
    assert "10 of 10 pairs have other label files" in compare(runs / "clean", tmp_path / "halved").other_labels


def test_two_methods_of_one_run_are_compared_image_by_image(runs: Path) -> None:
    compared = compare(runs / "clean", runs / "clean", method="deterministic", other_method="mcbn")
    assert compared.names == ("deterministic", "mcbn")
    assert compared.images == (10, 10, 10)
    assert compared.paired["nll"].permutation_p is not None


def test_the_accuracy_of_an_unlabelled_run_is_estimated_and_checked_on_known_shifts(runs: Path, tmp_path: Path) -> None:
    compared = compare(runs / "clean", runs / "predicted", known=[runs / "noisy"])
    assert compared.paired == {}
    assert compared.estimated is not None
    assert compared.estimated.truth is None
    assert 0 < (compared.estimated.atc or 0) < 1
    assert 0 < (compared.estimated.doc or 0) < 1
    assert compared.checked_on == 1
    assert compared.errors is not None
    truth = compare(runs / "clean", runs / "noisy").estimated
    assert truth is not None
    assert truth.truth is not None
    assert compared.errors["atc"] == pytest.approx(abs((truth.atc or 0) - truth.truth))
    page = write_comparison(compared, tmp_path / "page", (str(runs / "clean"), str(runs / "predicted")))
    assert "AUROC" in page.read_text()
    assert (tmp_path / "page" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    json.loads((tmp_path / "page" / "comparison.json").read_text(), parse_constant=pytest.fail)


def test_the_accuracy_of_what_another_method_or_bank_predicted_is_not_estimated(
    runs: Path, network: Network, bank: Bank, tmp_path: Path
) -> None:
    scaled = Tuned(
        method=combination("mcbn+temperature"),
        bank=bank,
        views=(View(),),
        calibration=0.25,
        network=network.fingerprint,
        seen=frozenset(),
        images=10,
        why="",
    )
    maps = ("mutual_information", "one_minus_max")
    plan = PredictPlan(maps=maps, precision="fp32", tuned=scaled)
    predict(network, runs / "others", bank, tmp_path / "tuned", plan)
    compared = compare(runs / "clean", tmp_path / "tuned")
    assert compared.estimated is None
    expected = "The accuracy of B is not estimated from A's labels: it was predicted by another method."
    assert compared.notes[-1] == expected
    with pytest.raises(WrongUse, match="--known checks estimates"):
        compare(runs / "clean", tmp_path / "tuned", known=[runs / "noisy"])
    other = bank_of_scenes(network, draws=2, seed=1)
    predict(network, runs / "others", other, tmp_path / "other", replace(plan, tuned=None))
    assert "by another bank" in compare(runs / "clean", tmp_path / "other").notes[-1]
    predict(network, runs / "others", bank, tmp_path / "fewer", replace(plan, tuned=None, draws=1))
    assert "by another number of draws" in compare(runs / "clean", tmp_path / "fewer").notes[-1]
    evaluate_into(
        network,
        Labels(runs / "data" / "images", runs / "data" / "labels"),
        tmp_path / "known",
        banks=[other],
        plan=PLAN,
    )
    with pytest.raises(WrongUse, match="checks no estimates from A: it was predicted by another bank"):
        compare(runs / "clean", runs / "predicted", known=[tmp_path / "known"])
    data = Labels(runs / "data" / "images", runs / "data" / "labels")
    evaluate_into(network, data, tmp_path / "scored", banks=[bank], plan=PLAN, tuned=scaled)
    taken = compare(tmp_path / "scored", tmp_path / "tuned")
    assert taken.names[0].endswith("(tuned)")
    assert taken.estimated is not None


def test_the_command_shows_a_table_and_writes_a_page(runs: Path, tmp_path: Path) -> None:
    ended = invoked("compare", runs / "clean", runs / "noisy", "-o", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    assert "significant" in ended.stdout
    table = ended.stdout.partition("noisy against clean, significant")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("number") == 1, "one table, with what is significant beside each number"
    assert "error AUROC, predictive entropy" in (tmp_path / "out" / "comparison.md").read_text()  # as evaluate calls it
    assert json.loads(invoked("compare", runs / "clean", runs / "clean", "--json").stdout)["significant"] == []


def test_what_is_no_run_and_an_unknown_method_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="holds no run"):
        compare(runs / "clean", tmp_path)
    with pytest.raises(WrongUse, match=r"no method 'mcbnn'\. Near: 'mcbn'"):
        compare(runs / "clean", runs / "noisy", method="mcbnn")
    with pytest.raises(WrongUse, match="no method"):
        compare(runs / "predicted", runs / "clean", other_method="dropout")


def test_a_run_on_a_store_is_compared_as_the_same_run_here(runs: Path, tmp_path: Path) -> None:
    there = Path(f"memory://{tmp_path.name}")
    files = [path for name in ("noisy", "predicted") for path in (runs / name).rglob("*") if path.is_file()]
    put([(path, there / path.relative_to(runs)) for path in files])
    predicted = compare(runs / "clean", there / "predicted")
    assert predicted.estimated == compare(runs / "clean", runs / "predicted").estimated
    assert predicted.names == ("clean (mcbn)", "predicted (predicted)")
    assert compare(there / "noisy", there / "noisy", other_method="deterministic").names == ("mcbn", "deterministic")
    with pytest.raises(WrongUse, match=r"The evaluation 'memory://.*no method 'mcbnn'\. Near: 'mcbn'"):
        compare(there / "predicted", there / "noisy", other_method="mcbnn")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda lines: "\n".join(lines[:-1]) + "\n", "1 images that are done have no row of mcbn"),
        (lambda lines: "\n".join(lines)[:-60], "a row is cut short"),
        (lambda lines: "\n".join(lines)[:-2], "a row is cut short"),
        (lambda lines: "\n".join([*lines[:-1], lines[-1] + ",1"]) + "\n", "has too many cells"),
    ],
)
def test_a_table_that_is_cut_short_is_refused(
    runs: Path, tmp_path: Path, cut: Callable[[list[str]], str], message: str
) -> None:
    shutil.copytree(runs / "clean", tmp_path / "cut")
    table = tmp_path / "cut" / "per_image.csv"
    table.write_text(cut(table.read_text().splitlines()))
    for use in (compare, lambda a, b: select(b)):
        with pytest.raises(WrongUse, match=message) as refusal:
            use(runs / "clean", tmp_path / "cut")
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("scores.json", {"methods": {"mcbn": 3}}, "images: Field required"),
        ("scores.json", {"images": 1, "pixels": 1, "methods": {"mcbn": {"scores": []}}}, "passes_per_image: Field"),
        ("comparisons.json", {"gains": [{"method": "mcbn"}]}, "gains.0.rival: Field required"),
        (
            "comparisons.json",
            {"gains": [{"method": "a", "rival": "b", "differences": {"nll": {"value": 1, "low": 0}}}]},
            "one end of the interval is missing",
        ),
    ],
)
def test_scores_of_another_shape_are_refused_by_a_report(
    runs: Path, tmp_path: Path, name: str, content: object, reason: str
) -> None:
    shutil.copytree(runs / "clean", tmp_path / "scores")
    (tmp_path / "scores" / name).write_text(json.dumps(content))
    (tmp_path / "scores" / "ranking.json").unlink()
    if name == "scores.json":
        with pytest.raises(WrongUse, match=f"{name}' does not read: .* Name a column by --by"):
            select(tmp_path / "scores")
    with pytest.raises(WrongUse, match=f"{name}' does not hold what an evaluation writes: .*{reason}") as refusal:
        report([tmp_path / "scores"], tmp_path / "r.html")
    assert "\n" not in str(refusal.value)


def test_a_change_lies_within_its_interval_whichever_way_it_went(runs: Path) -> None:
    (line,) = (line for line in comparison_sentences(compare(runs / "clean", runs / "noisy")) if "against" in line)
    changes = re.findall(r"by ([\d.e+-]+) \(([\d.e+-]+?)\.\.([\d.e+-]+)\)", line)
    assert any(word in line for word in ("accuracy worse", "lower by"))
    assert len(changes) > 1
    for value, low, high in changes:
        assert 0 < float(low) <= float(value) <= float(high)


def test_options_that_these_runs_would_ignore_are_refused(runs: Path) -> None:
    with pytest.raises(WrongUse, match="--other-method picks a method of an evaluation, and B"):
        compare(runs / "clean", runs / "predicted", other_method="mcbn")
    with pytest.raises(WrongUse, match="A keeps none"):
        compare(runs / "predicted", runs / "clean", known=[runs / "noisy"])
    with pytest.raises(WrongUse, match="is no evaluation with labelled pixels"):
        compare(runs / "clean", runs / "noisy", known=[runs / "predicted"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda numbers: 2 * numbers, "NLL distributed otherwise, but neither higher nor lower"),
        # most are lower, and a few so much higher that the mean is
        (
            lambda numbers: np.where(numbers > 1, 40, numbers - 2),
            "NLL lower in most pairs of images, with a higher mean",
        ),
        (lambda numbers: numbers + 1, "NLL worse"),
        (lambda numbers: numbers - 1, "NLL better"),
    ],
)
def test_sets_that_differ_are_called_higher_or_lower_only_where_the_auroc_and_the_means_are(
    change: Callable[[Any], Any], said: str
) -> None:
    numbers = np.random.default_rng(0).normal(size=120)
    first = {f"a{number}": {"nll": float(value)} for number, value in enumerate(numbers)}
    second = {f"b{number}": {"nll": float(value)} for number, value in enumerate(change(numbers))}
    compared = compare_rows(("A", "B"), first, second)
    assert compared.significant == ["nll"]
    assert said in comparison_sentences(compared)[0]


@pytest.mark.parametrize("pair", [True, False])
def test_groups_are_compared_by_the_means_over_their_images(*, pair: bool) -> None:
    rng = np.random.default_rng(3)
    ids = [f"g{number % 8}/{number:03}" for number in range(60)]
    groups = {name: name.partition("/")[0] for name in ids}
    of_a, of_b = ({name: {"nll": float(rng.normal())} for name in ids} for _ in range(2))
    del of_b[ids[7]]
    of_a[ids[9]] = {"accuracy": 0.5}  # no NLL: no pair
    compared = compare_rows(("A", "B"), of_a, of_b, pair=pair, groups=groups)

    def means(rows: dict[str, dict[str, float]], counted: list[str]) -> dict[str, dict[str, float]]:
        of_group: dict[str, list[float]] = {}
        for name in counted:
            of_group.setdefault(groups[name], []).append(rows[name]["nll"])
        return {name: {"nll": float(np.mean(numbers))} for name, numbers in of_group.items()}

    with_number = [[name for name in ids if "nll" in rows.get(name, {})] for rows in (of_a, of_b)]
    if pair:
        with_number = [sorted({*with_number[0]} & {*with_number[1]})] * 2
    plain = compare_rows(("A", "B"), *map(means, (of_a, of_b), with_number), pair=pair)
    assert compared.over == "groups"
    assert compared.adjusted == pytest.approx(plain.adjusted)
    if pair:
        one, other = compared.paired["nll"], plain.paired["nll"]
        assert (one.images, one.higher) == (other.images, other.higher) == (8, one.higher)
        assert one.difference.value == pytest.approx(other.difference.value)
        assert any("8 groups are few" in note for note in compared.notes)
    else:
        assert compared.unpaired["nll"].auroc.value == pytest.approx(plain.unpaired["nll"].auroc.value)
        assert any("8 groups are few: only large differences" in note for note in compared.notes)


def test_groups_of_runs_are_folders_sequences_or_columns_of_a_table(runs: Path, tmp_path: Path) -> None:
    compared = compare(runs / "clean", runs / "noisy", groups="sequence")
    assert (compared.over, compared.paired["nll"].images) == ("groups", 1)
    assert "One group shows a difference of that group and nothing more." in compared.notes
    assert not any("numbered as frames" in note for note in compared.notes)
    rows = "".join(f"s{seed},{'ab'[seed % 2]}\n" for seed in TEST[:10])
    (tmp_path / "site.csv").write_text(f"id,site\n{rows}")
    ended = invoked(
        "compare", runs / "clean", runs / "noisy", "--groups", "site", "--groups-table", tmp_path / "site.csv", "--json"
    )
    content = json.loads(ended.stdout)
    assert (content["over"], content["columns"]["nll"]["images"], content["images"]) == ("groups", 2, [10, 10, 10])
    with pytest.raises(WrongUse, match=r"'site' is neither folder nor sequence: .* needs --groups-table CSV"):
        compare(runs / "clean", runs / "noisy", groups="site")


def test_what_makes_equal_maps_differ_and_images_depend_is_said(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "bordered"
    shutil.copytree(runs / "predicted", other)
    record = json.loads((other / "run.json").read_text())
    record["settings"]["border"] = 16
    (other / "run.json").write_text(json.dumps(record))
    notes = compare(runs / "predicted", other).notes
    assert any("leave out a border of 0 pixels, those of B one of 16 (`--border`)" in note for note in notes)
    said = r"numbered as frames of 1 video are \('o'\)\. If they are frames or slices, .*Give --groups sequence"
    assert any(re.search(said, note) for note in notes)
    assert not any("border" in note for note in compare(runs / "predicted", runs / "predicted").notes)


def test_without_a_picture_none_of_an_earlier_comparison_stays_and_one_image_is_one(tmp_path: Path) -> None:
    rows = {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.25}}
    compared = compare_rows(("x", "y"), {"a": rows["a"]}, rows)
    (tmp_path / "comparison.png").touch()
    page = write_comparison(compared, tmp_path, ("x", "y"), picture=False)
    assert not (tmp_path / "comparison.png").exists()
    assert "A: `x`, 1 image. B: `y`, 2 images." in page.read_text()
    assert "1 image is in both runs and compared; A has 1, B 2." in page.read_text()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("abcdefgh", "abcx", "are equal on the 3 images that both have, in all 2 columns"),
        ("ab", "abcd", "are equal on the 2 images that both have, in all 2 columns"),
        ("abc", "abc", "are equal on every image, in all 2 columns"),
    ],
)
def test_runs_that_are_equal_are_so_on_the_images_that_both_have(first: str, second: str, words: str) -> None:
    rows = {name: {"accuracy": 0.5, "nll": 0.25 + number} for number, name in enumerate("abcdefghx")}
    compared = compare_rows(("ev1", "ev_half"), *({name: rows[name] for name in names} for names in (first, second)))
    assert words in comparison_sentences(compared)[0]
