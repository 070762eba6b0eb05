"""A command replaces files of its own kind, and leaves every other file as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from console import segment as command
from plain import noise
from small_networks import network_of

import segment
from segment.errors import WrongUse
from segment.files.replacing import refuse_other_file
from segment.files.triages import refuse_other_than_triage
from segment.files.writing import write_png
from segment.jobs.prediction.export import export
from segment.jobs.report import report
from segment.report.html import build
from segment.report.results_page import HEADING, check_page

MINE = "network: smp:Unet\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("made")
    for number in range(2):
        write_png(
            top / "images" / f"{number}.png",
            noise(3, 32, 48, seed=number).mul(30).add(128).clamp(0, 255).byte().permute(1, 2, 0).numpy(),
        )
    network = network_of()
    bank = segment.fit_bank(network, noise(4, 3, 32, 48, seed=3), batch=2, draws=2)
    segment.predict(network, top / "images", bank, top / "run", segment.PredictPlan(formats=("npz",), precision="fp32"))
    return top / "run"


INTO: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "triage": ("mine.json", lambda _, path: refuse_other_than_triage(path)),
    "report": ("mine.html", lambda run, path: report([run], path)),
    "export": ("mine.onnx", lambda _, path: export("no network", "no bank", path)),
    "export to OpenVINO": ("mine.xml", lambda _, path: export("no network", "no bank", path)),
}


@pytest.mark.parametrize("kind", INTO)
def test_a_file_of_another_kind_is_not_replaced(kind: str, run: Path, tmp_path: Path) -> None:
    name, write = INTO[kind]
    for content in (MINE, '{"format": 1}', "<html></html>"):
        (tmp_path / name).write_text(content)
        with pytest.raises(WrongUse, match=rf"{name}' is there already and is no .*Give another name by -o"):
            write(run, tmp_path / name)
        assert (tmp_path / name).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "words", [("triage", "scores", "-o", "card.yaml"), ("report", "run", "-o", "card.yaml")], ids=lambda words: words[0]
)
def test_a_name_without_the_suffix_is_refused(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(*words)
    assert ended.code == 2
    assert "'card.yaml' is not: add the suffix ." in " ".join(ended.err.split())
    Path("card.yaml").write_text(MINE)
    assert command(*words).code == 2
    assert Path("card.yaml").read_text() == MINE


def test_the_page_of_scores_is_markdown_to_which_sections_are_added(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(MINE)
    with pytest.raises(WrongUse, match=r"the page is Markdown; add the suffix: --report .*card.yaml.md"):
        check_page(tmp_path / "card.yaml")
    for name in ("new.md", "mine.md"):
        (tmp_path / "mine.md").write_text(f"{HEADING}mine\n")
        check_page(tmp_path / name)


def test_the_weights_beside_a_new_graph_replace_no_file(tmp_path: Path) -> None:
    (tmp_path / "g.bin").write_bytes(b"mine")
    with pytest.raises(WrongUse, match=r"g.bin' is there already and is no file of weights"):
        export("no network", "no bank", tmp_path / "g.xml")


def test_a_report_replaces_reports_and_no_other_file_also_with_its_further_pages(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "r.html"
    first = report([run], page, title="one")
    assert len(first.files) == 1
    report([run], page, title="two")
    assert '"title":"two"' in page.read_text()
    (tmp_path / "r-2.html").write_text(MINE)
    monkeypatch.setattr(build, "MOST", 1e-6)
    with pytest.raises(WrongUse, match=r"r-2.html' is there already"):
        report([run], page, title="three")
    assert '"title":"two"' in page.read_text()
    assert (tmp_path / "r-2.html").read_text() == MINE


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    refuse_other_file(tmp_path / "A.CSV", "table", (".csv",), lambda _: False)
