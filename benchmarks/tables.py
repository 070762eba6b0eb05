"""Figures and tables of README.md and docs/ from docs/measured/*.json: `python -m benchmarks.tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, a figure in a sentence between `<!-- value: NAME -->`
and `<!-- -->`; both are written anew by this script, and a test fails where a document differs from what it writes.
`python -m benchmarks.measure` writes the JSON. Must not measure anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import sizing_tables
from benchmarks.cost_tables import as_good, beside_others, curves_table, distilled, picture, trained_heads
from benchmarks.cost_tables import verdict as cost_verdict
from benchmarks.decision_tables import compared_runs, ensembles, one_pass, rankings, tuned
from benchmarks.graph_tables import graphs
from benchmarks.measured_files import made, measured, short
from benchmarks.network_tables import families, networks
from benchmarks.run_tables import busy, endurance, kills, on_ray, scoring
from benchmarks.triage_tables import triage, triage_sequences
from segment.errors import count_of
from segment.files.text_tables import markdown
from segment.files.writing import write_bytes, write_text
from segment.report.method_comparison import best_entry
from segment.report.tables import COLUMNS, counted, gained, table

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(<!-- table: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([\w.]+) -->).*?(<!-- -->)", re.DOTALL)

Lines = list[str]
EVALUATED = {"unet": "tuned_unet_lite0", "enet": "tuned_enet"}


def demo() -> Lines:
    result = measured("demo")["result"]
    columns = [result["title"], *result["columns"][1:-1], f"{result['columns'][-1]} (95 %)"]
    return markdown(columns, result["rows"])


def camvid(evaluated: Sequence[str]) -> Lines:
    """A row a method, of the networks whose evaluation is at hand."""
    columns = (
        "CamVid test images",
        "passes",
        "mIoU",
        "accuracy",
        "NLL, nats",
        "ECE",
        "error AUROC, best",
    )
    rows = []
    for name in evaluated:
        result = measured(name)["result"]
        model = result["run"]["settings"]["model"]
        for method, entry in result["scores"]["methods"].items():
            scores = entry["scores"]
            best = best_entry("error_auroc", scores)
            names = ("miou", "accuracy", "nll", "ece", best)
            values = [short(scores[score]["value"]) if score else "none" for score in names]
            rows.append([f"`{model}`, {method}", str(entry["passes_per_image"]), *values])
    return markdown(columns, rows)


def evaluation(name: str) -> Lines:
    """All scores of one evaluation with their intervals, and what MCBN gains."""
    result = measured(name)["result"]
    lines = [f"{counted(result['scores'])}:", "", *markdown(COLUMNS, table(result["scores"]))]
    rows = []
    for gain in result["comparisons"]["gains"]:
        for score in ("nll", "miou", "error_auroc of the best measure"):
            entry = gain["differences"].get(score)
            if entry is not None and entry["value"] is not None:
                span = f"{short(entry['value'], 4)} ({short(entry['low'], 4)} to {short(entry['high'], 4)})"
                rows.append(
                    [f"{gain['method']} over {gain['rival']}", score.replace("_", " "), span, gained(score, entry)]
                )
    return [*lines, "", *markdown(("gain", "score", "difference (95 %)", "significant"), rows), "", made(name)]


def binning() -> Lines:
    rows = [
        [f"{100 * row['width']:g} %", *(short(row[score], 5) for score in ("auroc", "ap", "fpr95"))]
        for row in measured("binning")["result"]["worst"]
    ]
    return [*markdown(("all values within", "AUROC", "AP", "FPR95"), rows), "", made("binning")]


def against_trained() -> Lines:
    rows = []
    for name in ("fit_unet_lite0", "fit_enet"):
        result = measured(name)["result"]
        reference = result["reference"]
        worst = ", ".join(
            f"`{layer}` {short(reference['layers'][layer]['variance_ratio'], 2)}" for layer in reference["worst"]
        )
        ends = f"{short(reference['low'], 2)} to {short(reference['high'], 2)}"
        rows.append(
            [
                f"`{result['network']}`",
                short(reference["variance_ratio"], 2),
                ends,
                short(reference["mean_shift"], 2),
                worst,
            ]
        )
    columns = ("bank", "variance ratio, median", "5 to 95 %", "mean shift, sd", "worst layers")
    return [*markdown(columns, rows), "", made("fit_unet_lite0")]


def tuning(name: str, evaluated: str) -> Lines:
    """Why a setting was chosen, then what it gave on test images beside every other method."""
    result = measured(evaluated)["result"]
    why = re.sub(r"T=(\d+)", lambda of: count_of(int(of[1]), "pass"), measured(name)["result"]["why"])  # of older runs
    return [why, "", f"{counted(result['scores'])}:", "", *tuned(result), "", made(name, evaluated)]


def curves(name: str) -> Lines:
    result = measured(name)["result"]
    return [f"{counted(result)}:", "", *curves_table(result), "", *cost_verdict(result), "", made(name)]


def comparisons(names: Mapping[str, str], columns: Mapping[str, str]) -> Lines:
    of = {words: measured(name)["result"] for words, name in names.items()}
    return [*compared_runs(of, columns), "", made(*names.values())]


def ranked(names: Sequence[str]) -> Lines:
    """How images of every network are ranked, then the commands."""
    networks = {name.removeprefix("ranking_"): measured(name)["result"]["ranking"] for name in names}
    return [*rankings(networks), "", made(*names)]


def audit(name: str) -> str:
    return f"{100 * measured(name)['result']['audit']['cpu']['bf16']['variance_error']:.1f} %"


COMPARED = {
    "CamVid, U-Net: the same run twice": "compare_again",
    "CamVid, U-Net: clean and fog of severity 3": "compare_fog",
    "scenes without and with an unseen object": "compare_scenes",
    "the same, unpaired": "compare_unpaired",
}
COMPARED_NUMBERS = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "expected_accuracy": "expected accuracy",
    "mean.predictive_entropy": "mean entropy",
    "mean.mutual_information": "mean mutual information",
}
HEADS = ("head", "head_told")
DISTILLED = ("distill_k16", "distill_target", "distill_enet")
BUSY = {"T = 16": "busy_t16", "K = 8, distilled": "busy_k8"}
TABLES: Mapping[str, Callable[[], Lines]] = {
    "runs.kills": partial(kills, ("kills", "kills_fit_evaluate", "kills_sweep")),
    "runs.endurance": endurance,
    "runs.on_ray": on_ray,
    "runs.scoring": scoring,
    "runs.busy": partial(busy, BUSY),
    "sizing.costs": sizing_tables.costs,
    "sizing.limits": sizing_tables.limits,
    "sizing.sizes": sizing_tables.sizes,
    "sizing.assumed": sizing_tables.assumed,
    "sizing.check": sizing_tables.check,
    "demo": demo,
    "camvid": partial(camvid, tuple(EVALUATED.values())),
    "evaluate.unet": partial(evaluation, EVALUATED["unet"]),
    "evaluate.enet": partial(evaluation, EVALUATED["enet"]),
    "binning": binning,
    "graphs": graphs,
    "against_trained": against_trained,
    "networks": networks,
    "networks.families": families,
    "triage": partial(triage, "triage", "pixel", ("one_minus_max",)),
    "triage.tta": partial(triage, "triage_tta", "pixel", ("one_minus_max",)),
    "triage.scenes": partial(triage, "triage_scenes", "pixel", ("one_minus_max",)),
    "triage.sequences": partial(triage_sequences, "triage", 0.05),
    "evaluate.scenes": partial(evaluation, "evaluate_scenes"),
    "tuned.unet": partial(tuning, "tune_unet_lite0", "tuned_unet_lite0"),
    "tuned.enet": partial(tuning, "tune_enet", "tuned_enet"),
    "tuned.scenes": partial(tuning, "tune_scenes", "evaluate_scenes"),
    "tuned.views": lambda: [*tuned(measured("views_scenes")["result"]), "", made("views_scenes")],
    "ensembles.scenes": lambda: [*ensembles(measured("ensemble_scenes")["result"]), "", made("ensemble_scenes")],
    "curves.scenes": partial(curves, "sweep_scenes"),
    "curves.unet": partial(curves, "sweep_unet_lite0"),
    "curves.enet": partial(curves, "sweep_enet"),
    "distilled": lambda: [*distilled([measured(name)["result"] for name in DISTILLED]), "", made(*DISTILLED)],
    "heads": lambda: [*trained_heads([measured(name)["result"] for name in HEADS]), "", made(*HEADS)],
    "equal_quality": lambda: [*as_good(measured("equal_quality")["result"]), "", made("equal_quality")],
    "passes": lambda: [*beside_others(measured("passes")["result"]), "", made("passes")],
    "curves.cifar": partial(curves, "sweep_cifar"),
    "decisions.compare": partial(comparisons, COMPARED, COMPARED_NUMBERS),
    "decisions.unet": lambda: [*one_pass(measured("decisions_unet")["result"]), "", made("decisions_unet")],
    "decisions.ranking": partial(ranked, ("ranking_unet_lite0", "ranking_enet")),
}
COSTS = {
    "scenes": "Generated scenes, M = 8, mean of three banks",
    "unet_lite0": "CamVid U-Net, M = 8, mean of three banks",
    "enet": "CamVid ENet, M = 8, mean of three banks",
    "cifar": "ResNet32 on CIFAR-10, M = 128, mean of three banks",
}
"""Networks by the name of their measurement -> a picture's title."""


def cost_picture(name: str) -> bytes:
    return picture(measured(f"sweep_{name}")["result"], COSTS[name])


PICTURES: Mapping[str, Callable[[], bytes]] = {
    **{f"cost_{name}.png": partial(cost_picture, name) for name in COSTS},
    "sizing.png": sizing_tables.picture,
}


def ran_on() -> str:
    """The libraries whose code was run, with their versions."""
    ran = measured("other_libraries")["result"]
    return ", ".join(f"{library} {entry['version']}" for library, entry in ran.items())


def large_raster() -> str:
    """What a large raster took: time, memory, and how far its tiles are from one pass."""
    result = measured("large_raster")["result"]
    side, peak = f"{result['side']:,}", result["peak_bytes"] / 2**30
    seams = max(result["seams"]["largest"].values())
    return (
        f"{side} x {side} pixels of {result['bands']} bands in `--memory {result['memory']}`: "
        f"{result['seconds'] / 60:.0f} minutes with T = {result['draws']} and a light network on one thread, "
        f"{peak:.2f} GiB at the peak; windows across tile borders differ from one pass by {seams:.0e} at most"
    )


def start() -> str:
    """What the first steps took."""
    seconds = measured("start")["result"]["seconds"]
    install, see = (seconds[part] / 60 for part in ("install", "see it"))
    return f"{install:.1f} minutes to install, {see:.1f} for the commands under *See it*"


def crops() -> str:
    """The NLL of draws whose mini-batches are augmented as in training, or are centre crops, and of one plain pass."""
    result = measured("crops_unet_lite0")["result"]
    plain, augmented, centred = (f"{method['scores']['nll']['value']:.3f}" for method in result["methods"].values())
    return (
        f"{augmented} nats with the augmentation of its training, {centred} with centre crops, and {plain} in one "
        f"plain pass, on {result['images']} test images"
    )


VALUES: Mapping[str, Callable[[], str]] = {
    "crops": crops,
    "large_raster": large_raster,
    "start": start,
    "other_libraries": ran_on,
    "audit.unet": partial(audit, "fit_unet_lite0"),
    "audit.enet": partial(audit, "fit_enet"),
}


def written(text: str) -> str:
    """A document with its tables and figures as the measurements have them. Error: KeyError for a name not known."""
    text = TABLE.sub(lambda match: match[1] + "".join(f"{line}\n" for line in TABLES[match[2]]()) + match[3], text)
    return VALUE.sub(lambda match: match[1] + VALUES[match[2]]() + match[3], text)


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        if written(text) != text:
            write_text(document, written(text))
            sys.stdout.write(f"{document.relative_to(ROOT)}\n")
    for name, made_picture in PICTURES.items():
        write_bytes(ROOT / "docs" / "images" / name, made_picture())


if __name__ == "__main__":
    main()
