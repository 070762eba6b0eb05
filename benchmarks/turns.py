"""Commands that take turns, each in a process of its own, so that a busy moment of the machine hits all of them.

A command sets itself up, then runs once for each line that it is given, and answers with one line. Must not know what
the lines mean.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def answer_lines(run: Callable[[], object]) -> None:
    """In a command: for each line on stdin one run; its seconds go to stdout."""
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        sys.stdout.write(f"{time.perf_counter() - start}\n")
        sys.stdout.flush()


def take_turns(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each command in each round, after a round that warms up.

    A command that does not answer is left out, and stderr says so.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name in list(running if number else commands):
            if not number:  # set up one after the other: all at once, their threads block one another
                running[name] = subprocess.Popen(
                    list(commands[name]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            line = _one_run(running[name])
            if not line:
                code = running.pop(name).wait()
                seconds.pop(name, None)
                sys.stderr.write(
                    f"{name} did not run (exit code {code}); torch-uncertainty is in 'mcbn-segment[bench]'.\n"
                )
            elif number:
                seconds.setdefault(name, []).append(float(line))
    for process in running.values():
        process.communicate()
    return seconds


def _one_run(process: subprocess.Popen[str]) -> str:
    """The answer to one more line; empty where the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()
