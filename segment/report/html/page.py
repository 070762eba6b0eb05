"""Content and blocks → HTML files: scripts and styles inside, and a policy that lets nothing else in.

Must not know a run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.files.replacing import refuse_other_file
from segment.files.writing import fresh
from segment.stores.copies import here
from segment.stores.requests import is_there, remove

ASSETS = Path(__file__).parent / "assets"
CONTENT = rb'<script id="content" type="application/json">(.*?)</script>'
SCRIPTS = ("data.js", "charts.js", "gallery.js", "layers.js", "viewer.js", "app.js")


def write_page(
    path: Path, content: Mapping[str, Any], thumbs: Sequence[bytes], blocks: Mapping[int, bytes], version: str
) -> None:
    """One page, whole or not at all.

    thumbs: of every image, empty where there is none. blocks: image's number -> bytes
    """
    with fresh(path) as stream:
        for part in _page(content, thumbs, blocks, version):
            stream.write(part.encode("utf-8"))


def page_size(content: Mapping[str, Any], thumbs: Sequence[bytes], blocks: Mapping[int, bytes], version: str) -> int:
    """Bytes of such a page."""
    return sum(len(part.encode("utf-8")) for part in _page(content, thumbs, blocks, version))


def refuse_other_than_page(path: Path) -> None:
    """Refuse a name for a page under which something else lies, or without its suffix. Errors: WrongUse."""
    refuse_other_file(path, "report of segment", (".html", ".htm"), lambda page: bool(_content_of(page)))


def page_name(output: Path, page: int) -> str:
    """What the nth page of a report is called, from 1 up.

    >>> page_name(Path("out/report.html"), 1), page_name(Path("out/report.html"), 2)
    ('report.html', 'report-2.html')
    """
    return output.name if page == 1 else f"{output.stem}-{page}{output.suffix}"


def remove_further_pages(output: Path, first: int) -> None:
    """Take away the pages from `first` up that an earlier, larger version of this report has left.

    A file counts as one by what its content says: that it is that page of the report of this name.
    """
    page = first
    while is_there(path := output.with_name(page_name(output, page))) and _is_page(path, output.name, page):
        remove([path])
        page += 1


def _is_page(path: Path, report: str, page: int) -> bool:
    with here(path) as copy:
        values = _content_of(copy)
    try:
        names = values["pages"]
        return bool(names[0] == report and names[page - 1] == path.name and values["page"] == page - 1)
    except (LookupError, TypeError):
        return False


def _content_of(path: Path) -> dict[str, Any]:
    """What a page is made from; {} of a file that is no page."""
    content = re.search(CONTENT, path.read_bytes(), re.DOTALL)
    try:
        values = json.loads(content[1]) if content else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _page(
    content: Mapping[str, Any], thumbs: Sequence[bytes], blocks: Mapping[int, bytes], version: str
) -> Iterator[str]:
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    js = "".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(js)}'; style-src '{_hash(css)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    fill = {
        "@CSP@": policy,
        "@VERSION@": version,
        "@CSS@": css,
        "@CONTENT@": in_script(content),
        "@THUMBS@": "\n".join(base64.b64encode(thumb).decode() for thumb in thumbs),
        "@JS@": js,
    }
    rest = page
    for mark, text in fill.items():
        before, _, rest = rest.partition(mark)
        if mark == "@JS@":
            head, _, tail = before.partition("@BLOCKS@")
            yield head
            for number, data in blocks.items():
                yield f'<script id="block-{number}" type="text/plain">{base64.b64encode(data).decode()}</script>\n'
            before = tail
        yield before
        yield text
    yield rest


def in_script(content: Any) -> str:
    r"""JSON that nothing inside can end the script element of: no "<", no line separators.

    >>> in_script({"id": "</script><b>"})
    '{"id":"\\u003c/script>\\u003cb>"}'
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter, escaped in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(letter, escaped)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
