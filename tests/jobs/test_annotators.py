"""Laws of an evaluation by several annotators: each as if alone, their mean, and the pixels where they differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from console import segment as command
from sklearn.metrics import average_precision_score, roc_auc_score

from segment.errors import WrongUse
from segment.files.writing import write_png
from segment.images.read import read_label
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.networks.load import Network, load_network
from segment.scenes.scene import TEST, scene

SIZE = (32, 48)
MEASURES = ("predictive_entropy", "one_minus_max")
PLAN = EvaluatePlan(methods=MethodPlan(methods=("deterministic",), measures=MEASURES, precision="fp32"))
VOID = 255


@pytest.fixture(scope="module")
def network() -> Network:
    network = load_network("scenes")
    return replace(network, card=replace(network.card, void=VOID))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Three images, labelled by three people: the second draws borders a pixel further, the third leaves rows void."""
    top = tmp_path_factory.mktemp("annotated")
    for seed in TEST[:3]:
        drawn = scene(seed, size=SIZE)
        third = drawn.label.copy()
        third[:4] = VOID
        third[10:14, :9] = 2
        write_png(top / "images" / f"{seed}.png", drawn.image)
        for name, label in (("first", drawn.label), ("second", np.roll(drawn.label, 1, axis=1)), ("third", third)):
            write_png(top / "labels" / f"{seed}_{name}.png", label)
    labels = top / "labels"
    return Labels(
        top / "images", labels, "_first", annotators=(labels, labels), annotator_suffixes=("_second", "_third")
    )


def test_each_annotator_is_scored_as_if_alone_and_the_mean_is_theirs(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    together = evaluate_into(network, data, tmp_path / "together", plan=PLAN)
    assert together.annotators == json.loads((tmp_path / "together" / "annotators.json").read_text())
    ours = together.annotators["methods"]["deterministic"]
    values = []
    for number, suffix in enumerate(("_first", "_second", "_third")):
        alone = Labels(data.images, data.labels, suffix)
        scores = evaluate_into(network, alone, tmp_path / suffix, plan=PLAN).scores["methods"]["deterministic"][
            "scores"
        ]
        assert ours["each"][number] == scores
        values.append(scores)
    for name in ("miou", "nll", "error_auroc.predictive_entropy"):
        assert ours["mean"][name]["value"] == pytest.approx(np.mean([scores[name]["value"] for scores in values]))
        assert ours["mean"][name]["low"] < ours["mean"][name]["value"] < ours["mean"][name]["high"]
    assert together.scores["methods"]["deterministic"]["scores"] == values[0]


def test_uncertainty_is_compared_with_the_disagreement_as_scikit_learn_does(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    together = evaluate_into(network, data, tmp_path / "together", plan=PLAN)
    uncertainty, differs, pixels = [], [], 0
    for seed in TEST[:3]:
        labels = [read_label(Path(str(data.labels)) / f"{seed}_{name}.png") for name in ("first", "second", "third")]
        known = np.all([label != VOID for label in labels], axis=0)
        entropy = plain_entropy(network, Path(str(data.images)) / f"{seed}.png")
        uncertainty.append(entropy[known])
        differs.append(np.any([label != labels[0] for label in labels], axis=0)[known])
        pixels += known.size
    every, truth = np.concatenate(uncertainty), np.concatenate(differs)
    ours = together.annotators["methods"]["deterministic"]["disagreement"]
    assert ours["disagreement_auroc.predictive_entropy"]["value"] == pytest.approx(
        roc_auc_score(truth, every), abs=1e-3
    )
    expected = average_precision_score(truth, every)
    assert ours["disagreement_ap.predictive_entropy"]["value"] == pytest.approx(expected, abs=2e-3)
    assert together.annotators["differ"] == pytest.approx(truth.sum() / pixels)
    assert together.annotators["annotators"] == 3


def plain_entropy(network: Network, path: Path) -> np.ndarray:  # -> H W
    import torch

    from segment.images.prepare import normalise
    from segment.images.read import read_image

    with torch.no_grad():
        logits = network.module(normalise(read_image(path), network.input)[None])
    p = logits.softmax(dim=1)[0].double()
    return np.asarray(torch.special.entr(p).sum(dim=0))


def test_an_evaluation_by_several_that_goes_on_is_that_of_one_run(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    whole = evaluate_into(network, data, tmp_path / "whole", plan=PLAN)

    def stop(stage: str, done: int, total: int, draws: int = 0) -> None:
        if stage == "evaluating" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_into(network, data, tmp_path / "cut", plan=PLAN, progress=stop)
    again = evaluate_into(network, data, tmp_path / "cut", plan=PLAN, resume=True)
    assert again.annotators == whole.annotators
    with pytest.raises(WrongUse, match="annotators"):
        evaluate_into(
            network,
            replace(data, annotators=data.annotators[:1], annotator_suffixes=("_third",)),
            tmp_path / "cut",
            plan=PLAN,
            resume=True,
        )


def test_an_image_that_an_annotator_left_out_fails_and_says_whose_label_is_missing(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    for path in sorted(Path(str(data.labels)).glob("*_second.png"))[1:]:
        write_png(tmp_path / "second" / path.name.replace("_second", ""), read_label(path).astype(np.uint8))
    given = replace(data, annotators=(tmp_path / "second",), annotator_suffixes=("",))
    evaluation = evaluate_into(network, given, tmp_path / "run", plan=PLAN)
    assert len(evaluation.failed) == 1
    assert "Annotator 2 has no label map of it" in next(iter(evaluation.failed.values()))
    with pytest.raises(WrongUse, match="None of the 3 images has a label map that ends in '_nobody'"):
        evaluate_into(network, replace(given, annotator_suffixes=("_nobody",)), tmp_path / "none", plan=PLAN)
    with pytest.raises(WrongUse, match="give one for each"):
        replace(given, annotator_suffixes=("_a", "_b"))


def test_the_command_shows_what_annotators_say(data: Labels, tmp_path: Path) -> None:
    labels = ("--labels", data.labels, "--label-suffix", "_first", "--annotator", data.labels)
    how = ("--annotator-suffix", "_second", "--methods", "deterministic", "--void", VOID, "--precision", "fp32")
    ended = command("evaluate", "scenes", "--images", data.images, *labels, *how, "-o", tmp_path / "run")
    assert ended.code == 0, ended.error
    assert "Against 2 annotators, who differ in" in ended.out
    assert (tmp_path / "run" / "annotators.json").is_file()
