"""YAML that a stranger may have written → plain values: no code, and no more of them than a person writes.

Must not know what the values mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segment.errors import WrongUse, one_line

MOST_BYTES, MOST_VALUES, MOST_LEVELS = 2**20, 20_000, 20
"""Of a file. Values are counted as they stand where an alias (`*name`) repeats them: nine lists of nine aliases each
stand for a billion, in a few hundred bytes."""

_BROKEN = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a file makes the reader raise: also a date of month 99, a number of 5000 digits, a tag that does not fit."""


def read_yaml(path: Path, what: str, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader] = yaml.SafeLoader) -> Any:
    """The content of a YAML file.

    Args:
        path: the file
        what: it is, for messages, as "Card 'own.yaml'"
        loader: `yaml.SafeLoader` for numbers, dates and texts, `yaml.BaseLoader` for texts alone

    Raises:
        FileNotFoundError: it is not there
        WrongUse: it does not read as YAML, is larger than `MOST_BYTES`, `MOST_VALUES` or `MOST_LEVELS`, or has a key
            twice

    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise _too_much(what, f"more than {MOST_BYTES} bytes")
        text = data.decode("utf-8-sig")
        _check_size(text, what)
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        _refuse_repeated_keys(node, what)
        return reader.construct_document(node)
    except FileNotFoundError:
        raise
    except (OSError, *_BROKEN) as error:
        raise WrongUse(f"{what} is not a readable YAML file: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """Where a file stops being YAML, counted from 1, and why.

    >>> try:
    ...     yaml.safe_load("network: [a, b")
    ... except yaml.YAMLError as error:
    ...     print(_reason(error))
    line 1, column 15: expected ',' or ']', but the file ends, while parsing a flow sequence from line 1, column 10 on
    """
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = str(error.problem).replace("got '<stream end>'", "the file ends")
        problem = problem.replace("unexpected end of stream", "the end of the file")
        begun, mark = "", error.context_mark
        if error.context and mark is not None:
            begun = f", {error.context} from line {mark.line + 1}, column {mark.column + 1} on"
        place = error.problem_mark
        return one_line(f"line {place.line + 1}, column {place.column + 1}: {problem}{begun}", 240)
    return one_line(error, 160)


def _check_size(text: str, what: str) -> None:
    """Counts values event by event, before any of them is made."""
    of_anchor: dict[str, int] = {}
    open_ones: list[tuple[str | None, int]] = []  # anchor, values within
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, values = open_ones.pop()
        elif isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, 1))
            if len(open_ones) > MOST_LEVELS:
                raise _too_much(what, f"more than {MOST_LEVELS} levels")
            continue
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in of_anchor:  # unknown, or within itself
                raise WrongUse(f"{what} repeats *{event.anchor}, which is not complete before. Write the values out.")
            anchor, values = None, of_anchor[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            anchor, values = event.anchor, 1
        else:
            continue
        if anchor is not None:
            of_anchor[anchor] = values
        if open_ones:
            above, within = open_ones.pop()
            open_ones.append((above, within + values))
            if within + values > MOST_VALUES:
                raise _too_much(what, f"more than {MOST_VALUES} values, counted where *aliases repeat them")


def _refuse_repeated_keys(node: yaml.Node, what: str) -> None:
    """YAML's reader takes the last of two values, without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, what)
    if not isinstance(node, yaml.MappingNode):
        return
    line_of: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        _refuse_repeated_keys(value, what)
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in line_of:
            raise WrongUse(f"{what} has {key.value!r} in line {line_of[name]} and in line {line}. Keep one of them.")
        line_of[name] = line


def _too_much(what: str, size: str) -> WrongUse:
    return WrongUse(f"{what} holds {size}. No file that is meant does: write it by hand.")
