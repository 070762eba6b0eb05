"""The whole way on generated scenes and the shipped network: `segment demo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segment.draws.identity import network_of_bank
from segment.errors import WrongUse
from segment.estimation.estimate import estimate
from segment.files.banks.bank_file import save_bank
from segment.files.writing import check_writable, write_json, write_palette_png, write_png
from segment.images.find import Source
from segment.images.prepare import normalise
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.progress import Progress, silent
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST
from segment.pictures.palettes import palette
from segment.report.method_comparison import improves
from segment.report.tables import number
from segment.scenes.scene import TEST, TRAIN, UNSEEN, Scene, scene
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard, paired_differences

SCENES = 24
EVERY = 3
"""One scene in this many holds an unseen object."""
DRAWS = 32
TRAINING_SCENES = 300
MEASURES = ("predictive_entropy", "mutual_information", "variance")

# what is shown, and the score's name; one pass has a predictive entropy, but no spread to rank by
ROWS = (
    ("accuracy", "accuracy"),
    ("mIoU", "miou"),
    ("NLL, nats", "nll"),
    ("AUROC of errors: predictive entropy", "error_auroc.predictive_entropy"),
    ("AUROC of errors: variance", "error_auroc.variance"),
    ("AUROC of unseen: predictive entropy", "unseen_auroc.predictive_entropy"),
    ("AUROC of unseen: mutual information", "unseen_auroc.mutual_information"),
)
SPREAD = ("variance", "mutual_information")


@dataclass(frozen=True)
class Demonstration:
    """The table of the demo, in words where MCBN does not help, and where its pictures are."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[str, ...]
    scores: Mapping[str, Any]
    folder: str
    sheet: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def demo(folder: Path, *, progress: Progress = silent) -> Demonstration:
    """Draw scenes, fit a bank, predict, and score MCBN beside the deterministic network."""
    run = folder / "run"
    if folder.is_dir() and any(folder.iterdir()):
        raise WrongUse(f"{str(folder)!r} holds files already. Remove it, or give another folder with -o.")
    check_writable(folder / "scores.json")
    network = load_network("scenes")
    shown = [(f"scene_{seed}", scene(seed, unseen=number % EVERY == EVERY - 1)) for number, seed in _seeds()]
    sources = _write_scenes(folder, shown, network)
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN[:TRAINING_SCENES]], draws=DRAWS, progress=progress)
    save_bank(bank, folder / "bank.safetensors")
    summary = predict(network, sources, bank, run, PredictPlan(), progress=progress)
    if summary.failed:
        raise WrongUse(f"The demo's own images failed: {dict(summary.failed)}")
    drawn = network_of_bank(network, bank)
    plain, spec = FAST, network.card.input
    boards = {
        "deterministic": _scoreboard(network, deterministic(drawn, bank, plain, spec), shown, progress),
        "MCBN": _scoreboard(network, mcbn(drawn, bank, plain, spec), shown, progress),
    }
    return _demonstration(boards, folder, run / "sheet.png", bank.provenance["batch"])


def _seeds() -> list[tuple[int, int]]:
    return list(enumerate(TEST[:SCENES]))


def _write_scenes(folder: Path, shown: list[tuple[str, Scene]], network: Network) -> list[Source]:
    colours = np.vstack([palette(network.classes, network.card.palette), np.array([[255, 255, 255]], np.uint8)])
    sources = []
    for name, drawn in shown:
        path, label = folder / "images" / f"{name}.png", folder / "labels" / f"{name}.png"
        write_png(path, drawn.image)
        write_palette_png(label, drawn.label, colours)
        sources.append(Source(name, path, label))
    return sources


def _scoreboard(network: Network, method: Method, shown: list[tuple[str, Scene]], progress: Progress) -> Scoreboard:
    board = Scoreboard(ScorePlan(classes=network.card.classes, measures=MEASURES, unseen=(UNSEEN,)))
    for done, (name, drawn) in enumerate(shown, start=1):
        images = normalise(drawn.image, network.card.input)[None]
        result = estimate(method, images, head=network.card.head, measures=MEASURES).image(0)
        board.update(name, result.probability, result.maps, drawn.label, result.prediction)
        progress(f"scoring {method.name}", done, len(shown))
    return board


def _demonstration(boards: Mapping[str, Scoreboard], folder: Path, sheet: Path, batch: int) -> Demonstration:
    scores = {name: board.compute()["scores"] for name, board in boards.items()}
    difference = paired_differences(boards["deterministic"], boards["MCBN"])
    rows: list[tuple[str, ...]] = []
    for words, name in ROWS:
        plain, drawn = (number({"value": scores[method][name]["value"]}) for method in boards)
        if name.endswith(SPREAD):
            rows.append((words, "none", drawn, ""))
            continue
        rows.append((words, plain, drawn, _verdict(name, difference[name])))
    findings = [
        "AUROC: how well a measure ranks wrong pixels, and pixels of objects of no trained class, first.",
        "Better, worse: the 95 % interval of the difference over scenes leaves out 0.",
    ]
    for verdict in ("better", "worse"):
        if named := [words for words, *_, outcome in rows if outcome == verdict]:
            findings.append(f"Here MCBN is {verdict} at: {'; '.join(named)}.")
    write_json(folder / "scores.json", {"images": SCENES, "methods": scores, "mcbn_minus_deterministic": difference})
    title = f"{SCENES} generated scenes, {DRAWS} draws of M = {batch}"
    columns = ("", "deterministic", "MCBN", "MCBN is")
    return Demonstration(title, columns, tuple(rows), tuple(findings), scores, str(folder), str(sheet))


def _verdict(score: str, gain: Mapping[str, Any]) -> str:
    if gain["value"] is None or gain["low"] is None:
        return ""
    if gain["low"] <= 0 <= gain["high"]:
        return "no different"
    return "better" if improves(score, gain["value"]) else "worse"
