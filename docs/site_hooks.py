"""What the documentation site changes in pages that are also read in the repository."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside docs/ lead to the page that stands for them, or stay as text.

    Pages in a folder of docs/ reach its other pages and docs/images by `../`.
    """
    markdown = re.sub(
        r"\]\((?:\.\./)+README\.md(#[\w-]*)?\)", f"]({'../' * page.file.src_uri.count('/')}index.md)", markdown
    )
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?!\w+\.md|images/)[^)]*\)", r"\1", markdown)
