"""The first steps with a clock: `python -m benchmarks.start`.

Clones the repository into an empty folder and runs the commands of docs/index.md there, block by block, as a newcomer
would. Prints the seconds of each as JSON. Must not know what the commands are: they stand on the page.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from segment.errors import WrongUse

ROOT = Path(__file__).parent.parent
SECTIONS = ("Install", "See it")
"""Of docs/index.md; what follows needs a network and images of the reader's own."""


def block_of(page: str, section: str) -> str:
    r"""The shell commands under a heading.

    >>> block_of("## A\n```sh\nls\n```\n## B\n```sh\npwd\n```\n", "B")
    'pwd\n'
    """
    match = re.search(rf"^## {section}\n.*?^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    if match is None:
        raise WrongUse(f"The page has no commands under the heading {section!r}.")
    return match[1]


def main() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "segment"
        begun = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        seconds = {"clone": time.perf_counter() - begun}
        page = (clone / "docs" / "index.md").read_text(encoding="utf-8")
        before = ""
        for section in SECTIONS:
            begun = time.perf_counter()
            commands = block_of(page, section)
            # stdout is for the result alone; the next block needs the environment that this one enters
            subprocess.run(
                ["bash", "-ec", before + commands], cwd=clone, env=environment, stdout=sys.stderr, check=True
            )
            seconds[section.lower()] = time.perf_counter() - begun
            before = ". .venv/bin/activate\n"
    sys.stdout.write(json.dumps({"seconds": seconds, "minutes": sum(seconds.values()) / 60}) + "\n")


if __name__ == "__main__":
    main()
