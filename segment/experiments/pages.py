"""The experiments' pages put together: one document with every verdict, table and figure, and how to get it again.

Must not know what an experiment measures.
"""

from __future__ import annotations

import csv
import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from segment.errors import WrongUse
from segment.experiments.reporting import Row, markdown_table
from segment.files.writing import write_text

PICTURE = re.compile(r"\]\(([\w-]+\.(?:png|svg))\)")


def assemble(folders: Sequence[Path], target: Path, *, title: str, command: str) -> None:
    """Write `target`, a Markdown document of the pages that experiments left in these folders.

    Figures below the document's own folder are linked where they are, others are copied to `figures/` beside it.
    Error: WrongUse for a folder without a page.
    """
    verdicts: list[Row] = []
    pages = []
    for folder in folders:
        page = folder / "page.md"
        if not page.is_file():
            raise WrongUse(f"{folder} holds no page.md; run its experiment with -o {folder} first.")
        with (folder / "verdicts.csv").open(encoding="utf-8", newline="") as file:
            verdicts += [{"experiment": row["experiment"], "claim": row["claim"], "verdict": row["outcome"]}
                         for row in csv.DictReader(file)]  # fmt: skip
        pages.append(_linked(page.read_text(encoding="utf-8"), folder, target))
    opening = f"# {title}\n\nWritten by `{command}`; with {_versions()}. Not edited by hand.\n"
    write_text(target, "\n".join([opening, markdown_table(verdicts), *pages]))


def _linked(text: str, folder: Path, target: Path) -> str:
    base = target.parent.resolve()
    if folder.resolve().is_relative_to(base):
        inside = folder.resolve().relative_to(base).as_posix()
        return PICTURE.sub(rf"]({inside}/\1)", text)
    figures = base / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name in PICTURE.findall(text):
        shutil.copyfile(folder / name, figures / name)
    return PICTURE.sub(r"](figures/\1)", text)


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return f"Python {platform.python_version()}, {packages} on {platform.machine()}"
