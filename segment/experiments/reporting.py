"""What every experiment leaves behind: tables (CSV, Markdown), figures (PNG, SVG) and verdicts.

Files hold no date: the same numbers write the same bytes.
Must not know what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from segment.files.text_tables import csv_text, markdown
from segment.files.writing import fresh, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Budget = Literal["quick", "paper"]
"""Minutes; the whole protocol."""
Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not testable here"]
"""The numbers support the claim; exclude it; do neither. Not testable here: the data or the hardware is missing."""
Progress = Callable[[str], None]
Row = Mapping[str, object]
INK, MUTED, GRID = "#1f2933", "#66727f", "#e3e7eb"
COLOURS = {  # Okabe & Ito 2008: distinguishable for colour-blind readers
    "mcbn": "#0072b2",
    "mcdo": "#d55e00",
    "mnf": "#009e73",
    "ensemble": "#cc79a7",
    "constant": "#7f8c96",
    "trained statistics": "#e69f00",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim, its outcome here, and the numbers behind it."""

    experiment: str
    claim: str
    outcome: Outcome
    numbers: str

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"A verdict is one of {', '.join(get_args(Outcome))}, not {self.outcome!r}.")

    def line(self) -> str:
        """One line of Markdown."""
        return f"**{self.outcome}** — {self.claim} ({self.numbers})"


def judged(*, holds: bool) -> Outcome:
    """The outcome of a claim about what has no sampling error: equal bits, a gradient's direction."""
    return "reproduced" if holds else "not reproduced"


def judged_by(low: float, high: float, *, least: float = -math.inf, most: float = math.inf) -> Outcome:
    """The outcome of the claim that a value lies between least and most, by its 95 % interval; nan is inconclusive.

    >>> judged_by(0.1, 0.3, least=0), judged_by(-0.3, -0.1, least=0), judged_by(-0.1, 0.3, least=0)
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    if low > least and high < most:
        return "reproduced"
    return "not reproduced" if high < least or low > most else "inconclusive"


def judged_by_majority(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of "on a majority": more than half are reproduced, or so many are not that no majority is left.

    >>> judged_by_majority(["reproduced", "reproduced", "inconclusive"])
    'reproduced'
    >>> judged_by_majority(["reproduced", "inconclusive", "inconclusive"])
    'inconclusive'
    """
    if outcomes.count("reproduced") > len(outcomes) / 2:
        return "reproduced"
    return "not reproduced" if outcomes.count("not reproduced") >= len(outcomes) / 2 else "inconclusive"


def judged_by_all(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a claim that several scores test: one at least supports it, and none of them excludes it.

    Scores that contradict one another are inconclusive.

    >>> judged_by_all(["reproduced", "inconclusive"]), judged_by_all(["reproduced", "not reproduced"])
    ('reproduced', 'inconclusive')
    """
    decided = set(outcomes) & {"reproduced", "not reproduced"}
    return decided.pop() if len(decided) == 1 else "inconclusive"


def standard_error(values: Sequence[float] | NDArray[np.floating]) -> float:
    """Standard error of the mean of independent values; nan for fewer than two."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean by Student's t; nan for fewer than two values.

    >>> [round(bound, 2) for bound in t_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    mean = sum(values) / count
    half = float(stdtrit(count - 1, 0.975)) * standard_error(values)
    return mean - half, mean + half


def write_table(
    out: Path, name: str, rows: Sequence[Row], *, shown: Sequence[Row] | None = None, digits: int = 3
) -> str:
    """Write `name.csv` (full precision) and `name.md` (rounded); the Markdown is also returned.

    Every row has the first one's columns; nan and None are shown as a dash. shown: other rows for the Markdown.
    """
    if not rows:
        raise ValueError(f"Table {name!r} has no rows.")
    write_text(out / f"{name}.csv", csv_text(list(rows[0]), rows))
    text = markdown_table(shown or rows, digits=digits)
    write_text(out / f"{name}.md", text)
    return text


def markdown_table(rows: Sequence[Row], *, digits: int = 3) -> str:
    """A Markdown table, numbers to the right and rounded.

    >>> print(markdown_table([{"set": "yacht", "rmse": 0.12345}]), end="")
    | set | rmse |
    | --- | ---: |
    | yacht | 0.123 |
    """
    columns = list(rows[0])
    right = [all(isinstance(row[column], (int, float, type(None))) for row in rows) for column in columns]
    cells = [[_cell(row[column], digits) for column in columns] for row in rows]
    return "".join(f"{line}\n" for line in markdown(columns, cells, right=right))


def _cell(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        text = f"{value:.{digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text
    return str(value)


def with_error(values: Sequence[float], *, digits: int = 3) -> str:
    """Mean ± standard error of the mean; the mean alone for a single value.

    >>> with_error([1.0, 2.0, 3.0])
    '2.000 ± 0.577'
    """
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {standard_error(values):.{digits}f}"


def ranged(low: float, high: float, *, digits: int = 3) -> str:
    """An interval as text.

    >>> ranged(0.1234, 0.5), ranged(math.nan, math.nan)
    ('95 % interval 0.123 to 0.500', 'no interval')
    """
    return "no interval" if math.isnan(low) else f"95 % interval {low:.{digits}f} to {high:.{digits}f}"


def styled(axes: Any) -> Any:
    """The same matplotlib axes, with quiet spines, a pale grid and dark text."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)
    axes.title.set_color(INK)
    axes.title.set_fontsize(10)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    return axes


def write_figure(figure: Figure, out: Path, name: str) -> None:
    """Write `name.png` (200 dpi) and `name.svg`, without dates and with fixed ids."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        with fresh(out / f"{name}.png") as stream:
            figure.savefig(stream, format="png", dpi=200)
        with fresh(out / f"{name}.svg") as stream:
            figure.savefig(stream, format="svg", metadata={"Date": None})


def write_verdicts(out: Path, verdicts: Sequence[Verdict]) -> None:
    """Write `verdicts.csv` and `verdicts.md`, one line a claim."""
    rows = [asdict(verdict) for verdict in verdicts]
    write_table(out, "verdicts", rows)
    write_text(out / "verdicts.md", "".join(f"- {verdict.line()}\n" for verdict in verdicts))


def write_page(out: Path, title: str, opening: str, verdicts: Sequence[Verdict], sections: Mapping[str, str]) -> None:
    """Write `page.md`: what was done, the verdicts, and a section for each table or figure; and the verdict files."""
    write_verdicts(out, verdicts)
    lines = [f"## {title}\n", opening.strip() + "\n", (out / "verdicts.md").read_text(encoding="utf-8")]
    lines += [f"### {heading}\n\n{body.strip()}\n" for heading, body in sections.items()]
    write_text(out / "page.md", "\n".join(lines))
