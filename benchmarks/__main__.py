"""Time passes of segment and of others in turn and print the ratios; passes.json goes to OUT.

    python -m benchmarks [OUT] [--rounds N]

`python -m benchmarks.memory`, `.distill` and `.fit` measure peaks, errors and the price of a bank, on images you name;
`.networks` compares the fast passes of many architectures with a plain loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import passes

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", nargs="?", type=Path, default=Path("outputs/bench"))
parser.add_argument("--rounds", type=int, default=7)
arguments = parser.parse_args()
passes.main(arguments.out, arguments.rounds)
