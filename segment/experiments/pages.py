"""The experiments' pages put together: one document with every verdict, table and figure, and how to get it again.

Must not know what an experiment measures.
"""

from __future__ import annotations

import csv
import io
import platform
import re
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from segment.errors import WrongUse
from segment.experiments.reporting import Row, markdown_table
from segment.files.writing import write_bytes, write_text

PICTURE = re.compile(r"\]\(([\w-]+)\.png\)")
WIDE, HEAVY = 1200, 200_000
"""The most pixels across and bytes of a copied figure, which a repository keeps."""


def assemble(folders: Sequence[Path], target: Path, *, title: str, command: str) -> None:
    """Write `target`, a Markdown document of the pages that experiments left in these folders.

    Figures below the document's own folder are linked where they are; of others a smaller copy, at most 1200 pixels
    wide, of 256 colours and of 200 kB, goes to `images/<the document's name>/` beside it.
    Error: WrongUse for a folder without a page.
    """
    verdicts: list[Row] = []
    pages = []
    for folder in folders:
        page = folder / "page.md"
        if not page.is_file():
            raise WrongUse(f"{folder} holds no page.md; run its experiment with -o {folder} first.")
        with (folder / "verdicts.csv").open(encoding="utf-8", newline="") as file:
            verdicts += [
                {"experiment": row["experiment"], "claim": row["claim"], "verdict": row["outcome"]}
                for row in csv.DictReader(file)
            ]
        pages.append(_linked(page.read_text(encoding="utf-8"), folder, target))
    counts = Counter(str(row["verdict"]) for row in verdicts)
    opening = (
        f"# {title}\n\nWritten by `{command}`; with {_versions()}. Not edited by hand. "
        f"Of {len(verdicts)} claims: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}; "
        "each stands below with its numbers.\n"
    )
    write_text(target, "\n".join([opening, markdown_table(verdicts), *pages]))


def _linked(text: str, folder: Path, target: Path) -> str:
    base = target.parent.resolve()
    if folder.resolve().is_relative_to(base):
        place = folder.resolve().relative_to(base)
    else:
        place = Path("images") / target.stem
        for name in PICTURE.findall(text):
            _smaller(folder / f"{name}.png", base / place / f"{name}.png")
    beside = quote(place.as_posix())  # Markdown ends a link at a space
    return PICTURE.sub(lambda found: f"]({beside}/{found[1]}.png)", text)


def _smaller(source: Path, target: Path) -> None:
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    width = min(picture.width, WIDE)
    while len(encoded := _small_png(picture, width)) > HEAVY:
        width = round(0.85 * width)
    write_bytes(target, encoded)


def _small_png(picture: Image.Image, most_width: int) -> bytes:
    """An RGB picture as a PNG of 256 colours and at most that many pixels wide, to be embedded in a page."""
    if most_width < picture.width:
        size = (most_width, round(picture.height * most_width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return f"Python {platform.python_version()}, {packages} on {platform.machine()}"
