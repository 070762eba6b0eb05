"""Time passes beside others' and print the ratios; JSON beside them. `python -m benchmarks [OUT] [--rounds N]`.

`python -m benchmarks.memory`, `.distill` and `.fit` measure peaks, errors and the price of a bank, on images you name;
`.networks` holds the fast passes of many architectures to a plain loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import passes

asked = argparse.ArgumentParser(description=__doc__)
asked.add_argument("out", nargs="?", type=Path, default=Path("outputs/bench"))
asked.add_argument("--rounds", type=int, default=7)
given = asked.parse_args()
passes.main(given.out, given.rounds)
