"""README and docs state what was measured: tables and figures come from docs/measured/, and no others stand there."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import segment
from benchmarks.demo_picture import PICTURE, SHOWN
from benchmarks.measured_files import MEASURED
from benchmarks.tables import DOCUMENTS, ROOT, TABLE, VALUE, written
from segment.experiments.reporting import Outcome
from segment.jobs.demo import DRAWS, EVERY
from segment.networks.load import load_network
from segment.pictures.heatmaps import PAPER
from segment.pictures.lettering import PALE_INK, write
from segment.pictures.palettes import no_class_colour
from segment.pictures.sheets import LINE, MARGIN, PLAIN
from segment.pictures.thumbnails import thumbnail
from segment.report.run_files.sheet import subtitle
from segment.report.run_files.style import PictureStyle
from segment.scenes.scene import TEST, scene

RECORD = ROOT / "docs" / "reproduction.md"
"""Written by `segment experiment report`; its result folders were not kept, so it is its own record."""
FIGURE = re.compile(
    r"(?<![\w.])\d*\.\d+(?!\w)"  # a decimal
    r"|\b\d+(?:\.\d+)? ?%"
    r"|\b\d+ (?:times|minutes?|hours?|seconds?|s|ms|MB|GB|GiB|MiB|nats|points)\b"
)
ALLOWED = {
    "README.md": {
        "Python 3.11 or newer": "a requirement: pyproject.toml",
        "the 95 % interval of the paired difference": "the level of every interval",
        "a ratio outside 0.8 to 1.25": "a setting: reference.LEAST and MOST",
    },
    "docs/index.md": {"Python 3.11 or newer": "a requirement: pyproject.toml"},
    "docs/cards.md": {
        "the pixel value that becomes 1.0 before mean and std": "a definition",
        '"HorizontalFlip", "p": 0.5': "an example",
    },
    "docs/glossary.md": {"the 95 % interval of the paired difference": "the level of every interval"},
    "docs/guide.md": {
        "the default is 80 % of what is free": "a setting: FREE_SHARE",
        "less than 5 % to the variance map": "a setting of --precision auto",
        "`--tolerance` (.02) on 95 % of a fixed grid": "settings of --draws auto",
    },
    "docs/inputs.md": {
        "take more than 192 MiB (67 million in RGB, 12.6 million of four 16-bit bands": "a setting and its consequence",
        "may take 4 GiB of memory": "a setting: isolation.MEMORY",
        "60 seconds for a file": "a setting: isolation.SECONDS",
    },
    "docs/method.md": {
        "A median ratio outside 0.8 to 1.25 is warned about": "a setting: reference.LEAST and MOST",
        "`--precision auto` takes bf16 only under 5 %": "a setting of --precision auto",
        "so often that it takes at most 2 % of the passes": "a setting: passes.CHECK_COST",
        "up to 4 times what float32 costs": "a setting: comparison.NOISE_FACTOR",
        "with one mask a label at .5": "a definition",
        "stops where 95 % of them are": "a setting of --draws auto",
        "below .15 of one run's own Monte Carlo error": "the limit of a test, tests/uncertainty/test_stopping.py",
        "its first step of a draw is 1.2 standard deviations": "a setting of the refinement",
        "so each of n moves 1.2 / sqrt(n) at most": "follows from that setting",
    },
    "docs/networks.md": {"4 times float32's own": "a setting: TIMES_NOISE"},
    "docs/outputs.md": {
        "Regions under .01 % of the image": "a setting: components.SMALL",
        "the value that 99.5 % of the pixels": "a setting: colour_scales.SHARE",
        "a video at 10 frames a second": "a setting: videos.RATE",
    },
    "docs/results.md": {"the middle 95 % of a bootstrap": "the level of every interval"},
    "docs/scores.md": {
        "A multi-label head is K two-class problems with one mask each\n(p >= .5)": "a definition",
        "0..87.3": "a definition: -ln 1.2e-38",
        "-ln max(p_y, 1.2e-38)": "a definition: float32's least normal number",
        "those of the most confident 90 %": "a definition of accuracy_at_90",
        "flags 95 % of the unseen ones": "a definition of FPR95",
        "A bin is at most .025 % wide": "a definition: 4096 bins an octave",
        "are a 95 % interval": "the level of every interval",
        "Fisher's z with variance 1.06/(n - 3)": "a definition",
    },
    "docs/triage.md": {
        "calls at most 1 % of runs shifted": "a setting: shift.LEVEL",
        "these checks warn of at most 1 %": "the same",
    },
}
"""Definitions and settings that stand in sentences, each with its reason."""


def prose(text: str) -> str:
    """A document without code, comments, links' targets, and what the script writes."""
    text = VALUE.sub("", TABLE.sub("", text))
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)  # equations are indented
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", text, flags=re.DOTALL)
    return re.sub(r"arXiv:[\d.]+", "", text)


def stray(text: str, allowed: dict[str, str]) -> list[str]:
    """Figures that stand outside a generated block, an inline value and the allowed phrases."""
    text = prose(text)
    for phrase in allowed:
        text = text.replace(phrase, "")
    text = re.sub(r"`[^`\n]*`", "", text)
    return [match.group() for match in FIGURE.finditer(text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_what_its_measurements_make_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert written(text) == text, "run `python -m benchmarks.tables`"


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path != RECORD], ids=lambda path: path.name)
def test_every_figure_comes_from_a_measurement_or_is_a_definition(document: Path) -> None:
    name = document.relative_to(ROOT).as_posix()
    assert stray(document.read_text(encoding="utf-8"), ALLOWED.get(name, {})) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_every_allowed_phrase_is_still_there(name: str) -> None:
    text = prose((ROOT / name).read_text(encoding="utf-8"))
    assert [phrase for phrase in ALLOWED[name] if phrase not in text] == []


def missing_names(text: str) -> list[str]:
    """Modules, classes and functions of `segment` that a document names in code and that do not exist."""
    names = sorted(set(re.findall(r"(?<![\w/.-])segment(?:\.[A-Za-z_]\w*)+", text)))
    return [name for name in names if not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or leads from one to an attribute."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_of_the_package_in_a_document_exists(document: Path) -> None:
    assert missing_names(document.read_text(encoding="utf-8")) == []


def test_a_name_that_does_not_exist_is_seen() -> None:
    text = "`segment.passes.passes.Passes`, `segment.fit_bank(network)` and segment.tracing.trace"
    assert missing_names(text) == []
    assert missing_names(text + ", `segment.passes.passes.Gone`") == ["segment.passes.passes.Gone"]
    assert missing_names(text + " `from segment.gone import x`") == ["segment.gone"]


LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_no_command_of_a_document_reads_a_folder_outside_the_repository() -> None:
    for document in DOCUMENTS:
        blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert [block for block in blocks if "../" in block] == [], document.name


def test_a_figure_typed_by_hand_is_seen() -> None:
    text = (
        "Takes <!-- value: audit.unet -->2.0 %<!-- --> and `--tolerance .02`.\n<!-- table: demo -->\n.5\n<!-- end -->\n"
    )
    assert stray(text, {}) == []
    for typed in (
        "It gains .022 on it.",
        "It is 3 times as fast.",
        "bf16 adds 2 % only.",
        "It takes 20 minutes.",
        "0.5",
    ):
        assert len(stray(text + typed, {})) == 1, typed


def test_a_value_that_differs_from_its_measurement_is_seen() -> None:
    text = "<!-- value: audit.unet -->99.9 %<!-- -->\n<!-- table: demo -->\n| by hand |\n<!-- end -->\n"
    assert "99.9" not in written(text)
    assert "by hand" not in written(text)
    assert "NLL" in written(text)
    assert written(written(text)) == written(text)


@pytest.mark.parametrize("path", sorted(MEASURED.glob("*.json")), ids=lambda path: path.stem)
def test_a_measurement_says_how_it_was_made_and_on_what(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert set(record) == {"command", "date", "versions", "machine", "result"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["versions"]["torch"]
    assert record["machine"]["processor"]
    assert record["machine"]["cores"] >= 1
    assert record["command"].startswith("python -m ")
    assert not re.search(r'"/(?:home|root|tmp|work|Users)/', path.read_text(encoding="utf-8")), "a path of a machine"


def test_the_record_of_the_reproduction_counts_its_own_verdicts() -> None:
    text = RECORD.read_text(encoding="utf-8")
    outcomes = "|".join(get_args(Outcome))
    listed = re.findall(rf"^\| [\w-]+ \| (.+) \| ({outcomes}) \|$", text, re.MULTILINE)
    stated = re.findall(rf"^- \*\*({outcomes})\*\* — (.+)$", text, re.MULTILINE)
    assert len(listed) == len(stated) > 30
    for (claim, outcome), (again, sentence) in zip(listed, stated, strict=True):
        assert sentence.startswith(f"{claim} (")
        assert outcome == again, claim
    counted = Counter(outcome for _, outcome in listed)
    for outcome, count in counted.items():
        assert re.search(rf"\b{count} {outcome}\b", text), outcome


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_shell_script_of_a_document_parses(document: Path) -> None:
    for script in re.findall(r"^```bash\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), script


def test_the_api_reference_holds_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    homes = {f"{getattr(segment, name).__module__}.{name}" for name in segment.__all__ if name != "__version__"}
    assert homes - described == set()


def test_the_picture_of_the_demo_shows_its_scenes_as_the_present_code_does() -> None:
    sheet = np.asarray(Image.open(PICTURE).convert("RGB"))
    style = PictureStyle.of(load_network("scenes"), "predictive_entropy")
    colours = np.vstack([style.palette, np.array([no_class_colour(style.palette)], np.uint8)])
    for seed in SHOWN:
        drawn = scene(seed, unseen=(seed - TEST[0]) % EVERY == EVERY - 1)
        for shown in (drawn.image, colours[drawn.label]):
            assert _holds(sheet, thumbnail(shown)), seed
    words = np.full((LINE, sheet.shape[1], 3), PAPER, np.uint8)
    write(words, subtitle(len(SHOWN), len(SHOWN), style.scale.title, DRAWS), MARGIN, PLAIN, size=PLAIN, colour=PALE_INK)
    assert _holds(sheet, words[:PLAIN]), "another subtitle: run `python -m benchmarks.measure demo_picture`"


def _holds(sheet: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Whether a picture is part of the sheet."""
    rows, columns = part.shape[:2]
    inside = sheet[: len(sheet) - rows + 1, : sheet.shape[1] - columns + 1]
    marked = np.argwhere((part != part[0, 0]).any(axis=-1))  # of text on paper, the first ink
    down, across = marked[0]
    starts = (sheet[down:, across:][: inside.shape[0], : inside.shape[1]] == part[down, across]).all(axis=-1)
    starts &= (inside == part[0, 0]).all(axis=-1)
    return any(np.array_equal(sheet[y : y + rows, x : x + columns], part) for y, x in np.argwhere(starts))
