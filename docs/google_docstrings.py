"""Docstrings of the form "name: meaning" and "Errors: ..." as the sections that the site shows as tables."""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"(\w+(?:, \w+)*): (.+)")


class Sections(griffe.Extension):
    """Rewrites a docstring before it is parsed; one that has sections of its own stays."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring is not None:
            names = {parameter.name.lstrip("*") for parameter in func.parameters}
            func.docstring.value = sectioned(func.docstring.value, names, "Args")

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:  # not on_instance: it has no members then
        if cls.docstring is not None:
            cls.docstring.value = sectioned(cls.docstring.value, set(cls.members), "Attributes")


def sectioned(text: str, names: set[str], kind: str) -> str:
    r"""The docstring with its entries of known names under a heading.

    >>> print(sectioned("Title.\n\nsize: pixels,\n    even\nErrors: WrongUse where it is 0.", {"size"}, "Args"))
    Title.
    <BLANKLINE>
    Args:
        size: pixels, even
    <BLANKLINE>
    Raises:
        WrongUse: where it is 0.
    """
    if re.search(r"^(?:Args|Attributes|Raises|Returns):$", text, re.MULTILINE):
        return text
    plain: list[str] = []
    entries: dict[str, list[str]] = {}
    errors: list[str] = []
    into: list[str] = plain
    for line in text.splitlines():
        found = ENTRY.fullmatch(line)
        if line.startswith("Errors: "):
            into = errors
            errors.append(line.removeprefix("Errors: "))
        elif found and set(found.group(1).split(", ")) <= names:
            into = entries.setdefault(found.group(1), [])
            into.append(found.group(2))
        elif not line.strip() or line.startswith(">"):
            into = plain
            plain.append(line)
        else:
            into.append(line if into is plain else line.strip())  # an indented line goes on with its entry
    parts = ["\n".join(plain).rstrip()]
    if entries:
        lines = [f"    {name}: {' '.join(words)}" for names_, words in entries.items() for name in names_.split(", ")]
        parts.append(f"{kind}:\n" + "\n".join(lines))
    if errors:
        first, _, rest = " ".join(errors).partition(" ")
        parts.append(f"Raises:\n    {first.rstrip(',;')}: {rest or 'see above'}")
    return "\n\n".join(parts)
