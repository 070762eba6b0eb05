"""Time passes beside others' and print the ratios; JSON beside them. `python -m benchmarks [OUT]`.

`python -m benchmarks.memory`, `.distill` and `.fit` measure peaks, errors and the price of a bank, on images you name;
`.networks` holds the fast passes of many architectures to a plain loop.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import passes

passes.main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/bench"))
