"""Run every benchmark and print its ratios; JSON beside them. `python -m benchmarks [OUT]`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import passes

passes.main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/bench"))
