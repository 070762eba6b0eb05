"""Content and blocks → HTML files: scripts and styles inside, and a policy that lets nothing else in.

Must not know a run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.files.writing import fresh

ASSETS = Path(__file__).parent / "assets"
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
