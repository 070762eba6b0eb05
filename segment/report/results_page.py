"""The Markdown page of an evaluation or a sweep: a section with the result, its tables, and how they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, count_of
from segment.files.runs.lock import waiting_lock
from segment.files.text_tables import markdown
from segment.files.writing import write_text
from segment.images.find import Source
from segment.ranking.quality import finding
from segment.report.best_methods import BEST_TWO, best_two, in_short
from segment.report.method_comparison import COMMON
from segment.report.results import CLEAN, Evaluation, Sweep
from segment.report.sweep_words import best_and_plain, shown_names, sweep_sentences
from segment.report.tables import ARROWS, COLUMNS, counted, heading, number, number_column, table, units_of
from segment.stores.copies import here
from segment.stores.requests import size_of_file
from segment.stores.urls import is_url, url_of
from segment.uncertainty.scaling import calibration_text

HEADING = """# Results

Written by `segment evaluate --report` and `segment sweep --report`; a section is replaced when its command runs again.
Intervals are the middle 95 % of a bootstrap over images, or over their groups where a section names any; ± is the
standard deviation over banks, where several were given. *s/image* is wall time of the passes and their moments, all
methods of a section on the same machine.
"""

COMPARED = (
    "*difference* is the best method's score minus the next one's, image by image; *significant* where its "
    "interval leaves out 0 and p is at most .05 after Holm's correction over all scores and methods, and with several "
    "banks where it exceeds twice its deviation over them. The list above calls a method significantly best only where "
    "it is so against every other method; comparisons.json has each difference."
)
LINES = 12
"""Lines of a sweep: the best settings; all of them are in its sweep.csv."""


def evaluation_section(evaluation: Evaluation, *, banks: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """The section of one evaluation, the result first. banks: their provenance."""
    record = evaluation.record
    lines = [f"## {title or record['settings']['model']}", ""]
    lines += [f"- **Warning**: {line}" for line in evaluation.warnings]
    lines += [f"- {line}" for line in in_short(evaluation.comparisons, evaluation.gains, *units_of(evaluation.scores))]
    lines += [] if evaluation.scores["pixels"] else ["No pixel has a known label, so that no score is defined."]
    lines += ["", _how_made(evaluation, banks), ""]
    lines += _table(COLUMNS, table(evaluation.scores))
    lines += ["", f"{ARROWS} Error AUROC and AUSE are by the measure that does best in each, which is named.", ""]
    lines += [f"- {name}: {note}." for name, note in evaluation.notes.items()]
    if evaluation.validation.temperatures:
        fitted = ", ".join(
            f"{name} {calibration_text(value)}" for name, value in evaluation.validation.temperatures.items()
        )
        images = evaluation.validation.given - len(evaluation.validation.left_out)
        lines.append(f"- Temperatures fitted on {images} validation images: {fitted}.")
    lines += image_ranking_sentences(evaluation.ranking)
    failed = sorted([*evaluation.failed, *(f"validation image {name}" for name in evaluation.validation.failed)])
    if failed:
        lines.append(f"- Failed: {', '.join(failed[:5])}{', and more' * (len(failed) > 5)}.")
    if evaluation.comparisons:
        folded = "<details><summary>The best two methods in each score</summary>"
        lines += ["", folded, "", *_table(BEST_TWO, best_two(evaluation.comparisons)), "", COMPARED, "", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def image_ranking_sentences(ranking: Mapping[str, Any]) -> list[str]:
    """What ranks images by the quality of their masks best, for the method that does it best.

    A correlation is stated as a finding only where its interval leaves out 0.
    """
    lines = []
    for target, words in (("accuracy", "accuracy"), ("dice", "Dice")):
        known = {}
        for method, content in ranking.get("methods", {}).items():
            best = content["best"][target]
            scores = {} if best is None else content["columns"].get(best["column"], {}).get(target, {})
            if scores.get("spearman", {}).get("value") is not None:
                known[method] = (best, scores, content["fails_below"][target])
        if not known:
            continue
        method = max(known, key=lambda name: known[name][1]["spearman"]["value"])
        best, scores, limit = known[method]
        opening = f"- Images are ranked by their {words} best by"
        if not finding(scores["spearman"]):
            opening = f"- No number is shown to rank images by their {words}. The nearest is"
        line = f"{opening} {best['column']} of {method} ({best['why']}): "
        line += f"Spearman {number(scores['spearman'], 2)}, image-level AURC {number(scores['aurc'])}, "
        lines.append(line + f"failure AUROC below {words} {limit:.3f}: {number(scores['failure_auroc'])}.")
    return lines


def sweep_section(swept: Sweep, title: str) -> str:
    """The section of one sweep: the best settings on clean images, then each corruption by severity."""
    clean = [row for row in swept.rows if row.condition == CLEAN]
    scores = ("nll", "miou", "accuracy", "ece", "error_auroc.predictive_entropy", "error_auroc.variance")
    columns = ("setting", "s/image", *map(heading, scores))
    shared, names = shown_names(swept.rows)
    shown = best_and_plain(clean, LINES)
    cells = [number_column(row.result["scores"].get(score) for row in shown) for score in scores]
    left = [[names[row.name] for row in shown], [f"{row.result['seconds']:.2f}" for row in shown]]
    rows = [list(line) for line in zip(*left, *cells, strict=True)]
    of = f"the best {LINES} of {len(clean)} settings by NLL" if len(clean) > LINES else "best NLL first"
    rest = ", and the deterministic network" if len(shown) > LINES else ""
    counts = clean[0].result
    groups = f" in {count_of(counts['groups'], 'group')}" if "groups" in counts else ""
    lines = [f"## Sweep of {title}", "", *(f"- **Warning**: {line}" for line in swept.warnings)]
    lines += ["" for _ in swept.warnings[:1]]
    lines += [*(f"- {line}" for line in sweep_sentences(swept.rows)), ""]
    lines += [
        f"{counts['images']} images{groups}; {of}{rest}. {shared} {ARROWS}".replace("  ", " "),
        "",
        *_table(columns, rows),
    ]
    for condition in dict.fromkeys(row.condition for row in swept.rows if row.condition != CLEAN):
        lines += ["", *_along(swept, condition, names)]
    return "\n".join(lines) + "\n"


def _along(swept: Sweep, condition: str, names: Mapping[str, str]) -> list[str]:
    """NLL, and error AUROC by predictive entropy, of every method along one corruption's severities."""
    rows = {(row.name, row.severity): row for row in swept.rows if row.condition in (CLEAN, condition)}
    severities = sorted({severity for _, severity in rows})
    lines = []
    for name in dict.fromkeys(name for name, severity in rows if severity > 0):
        entries = [rows[name, s].result["scores"] if (name, s) in rows else {} for s in severities]
        lines.append([names[name], *(f"{_value(e, 'nll')} / {_value(e, f'error_auroc.{COMMON}')}" for e in entries)])
    title = [f"### Under {condition}: NLL ↓ / error AUROC ↑ by predictive entropy, by severity", ""]
    return title + _table(("method", *("clean" if s == 0 else str(s) for s in severities)), lines)


def _value(scores: Mapping[str, Any], name: str) -> str:
    value = (scores.get(name) or {}).get("value")
    return number({"value": value})


def _how_made(evaluation: Evaluation, banks: Sequence[Mapping[str, Any]]) -> str:
    record = evaluation.record
    plan, timings = record["plan"], record["timings"]
    parts = [counted(evaluation.scores)]
    for bank in banks:
        drawn = f"bank of {bank.get('draws')} draws of M = {bank.get('batch')}, seed {bank.get('seed')}"
        parts.append(drawn + (", training pipeline" if bank.get("pipeline") else ", plain images"))
    if record["settings"]["draws"]:
        parts.append(f"T = {record['settings']['draws']}")
    parts.append(f"{plan['precision']} on {plan['device']}, {count_of(plan['threads'], 'thread')}")
    methods = evaluation.scores["methods"]
    name = max(methods, key=lambda name: (methods[name]["passes_per_image"], name == "mcbn"))
    spent = methods[name]["seconds"] * evaluation.scores["images"]
    parts.append(f"scoring adds {timings['scoring_seconds'][name] / spent:.1%} to the passes of {name}")
    parts.append(f"torch {record['versions'].get('torch', '?')}")
    return "; ".join(parts) + "."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, whatever its cells hold."""
    head, *body = [[cell.replace("|", "/") for cell in line] for line in (columns, *rows)]
    return markdown(head, body)


def images_key(sources: Iterable[Source], shift: object = None) -> str:
    """A hash of images' ids, their files' sizes and their corruption: the same on any machine."""
    listed = list(sources)
    bytes_of = {path: _bytes_of(path) for path in {source.path for source in listed}}
    sizes = [f"{source.id} {bytes_of[source.path]}" for source in listed]
    return hashlib.sha256("\n".join([str(shift), *sorted(sizes)]).encode()).hexdigest()[:16]


def _bytes_of(path: Path) -> str:
    """Bytes of an image's file, here or on its store; "" where there is none, as of an image that a caller holds."""
    with suppress(FileNotFoundError):
        return str(size_of_file(path)) if is_url(path) or path.is_file() else ""
    return ""


def check_page(path: Path, name: str = "", key: str = "") -> None:
    """Refuse a page that cannot be written, before the hours of work that it reports.

    name: of the section; key: of its images, as `images_key` gives it
    Errors: WrongUse, also where the page has a section of that name of other images, which would be lost.
    """
    if path.is_dir():
        raise WrongUse(f"--report {url_of(path)!r} is a folder; name a file in it, as {url_of(path / 'results.md')!r}.")
    if path.suffix.lower() not in (".md", ".markdown"):
        raise WrongUse(f"--report {url_of(path)!r}: the page is Markdown; add the suffix: --report {url_of(path)}.md")
    _refuse_other_images(path, _page(path), name, key)


def _refuse_other_images(path: Path, page: str, name: str, key: str) -> None:
    _, begun, rest = page.partition(f"<!-- {name} -->\n<!-- images ")
    if key and begun and not rest.startswith(f"{key} -->"):
        raise WrongUse(
            f"--report {url_of(path)!r} has a section {name!r} of other images, which would be lost: give this one "
            "another name by --title."
        )


def _page(path: Path) -> str:
    """What the page holds, here or on its store; the heading where it is not there."""
    try:
        with here(path) as copy:
            return copy.read_text(encoding="utf-8")
    except FileNotFoundError:
        return HEADING
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"--report {url_of(path)!r} cannot be read: {error}.") from None


def put_section(path: Path, name: str, section: str, key: str = "") -> None:
    """The section into the page, in place of the one of that name, at the end where there is none.

    key: of its images, as `images_key` gives it
    Errors: WrongUse, also where the page has got a section of that name of other images since `check_page`.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    of = f"<!-- images {key} -->\n" if key else ""
    block = f"{begin}\n{of}{section}{end}\n"
    with nullcontext() if is_url(path) else waiting_lock(path):
        page = _page(path)
        _refuse_other_images(path, page, name, key)
        head, begun, rest = page.partition(begin)
        if not begun:
            write_text(path, page.rstrip("\n") + f"\n\n{block}")
            return
        _, closed, tail = rest.partition(f"{end}\n")
        if not closed:
            raise WrongUse(f"--report {url_of(path)!r}: the section {name!r} has no end; remove it by hand.")
        write_text(path, head + block + tail)
