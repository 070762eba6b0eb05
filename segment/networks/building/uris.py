"""`scheme:target?key=value&key=value`: the name of a network in one line.

Must not know what any scheme builds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from segment.axes import HEADS, Head
from segment.errors import ModelRefused, UnknownNetwork, WrongUse, near

SCHEMES = {
    "smp": "smp:Unet?encoder=resnet34&classes=11",
    "torchvision": "torchvision:deeplabv3_resnet50?num_classes=21",
    "smp-dir": "smp-dir:PATH",
    "hf": "hf:OWNER/NAME",
    "py": "py:package.module:factory",
    "segment": "segment:enet?classes=12",
}

REMOTE_CODE = "trust_remote_code"
"""The argument of transformers that lets code of a folder or of the hub run."""


@dataclass(frozen=True, kw_only=True)
class Uri:
    """The parts of a network's URI.

    scheme: one of SCHEMES
    target: what the scheme builds: an architecture, a folder, module:factory
    head: what the output channels are, where the URI says so
    arguments: for the builder, values as Python literals (11, 1e-3, (64, 32)), true, false, none and null in any case
        as Python's, anything else as text
    """

    scheme: str
    target: str
    head: Head | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def is_uri(text: str) -> bool:
    """Whether the text has the form of a URI: two letters or more before a colon (one letter is a Windows drive)."""
    return re.match(r"[A-Za-z][\w+.-]+:", text) is not None


def parse_uri(text: str) -> Uri:
    """Parse a URI.

    Errors: UnknownNetwork for an unknown scheme or no target; WrongUse for arguments that do not parse, or a
    trust_remote_code that is neither true nor false.

    >>> parse_uri("smp:Unet?encoder=resnet34&classes=11&decoder_channels=(64,32,16)").arguments
    {'encoder': 'resnet34', 'classes': 11, 'decoder_channels': (64, 32, 16)}
    """
    scheme, _, rest = text.partition(":")
    if scheme not in SCHEMES:
        shapes = ", ".join(SCHEMES.values())
        raise UnknownNetwork(
            f"No network is called {text!r}: its scheme is unknown.{near(scheme, SCHEMES)} Known: {shapes}."
        )
    target, _, query = rest.partition("?")
    if not target:
        raise UnknownNetwork(f"No network is called {text!r}: nothing follows the scheme. As in {SCHEMES[scheme]!r}.")
    arguments: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier() or key in arguments:
            raise WrongUse(f"{text!r}: {pair!r} is not key=value, or its key was there before.")
        arguments[key] = _literal(unquote(value))
    if not isinstance(arguments.get(REMOTE_CODE, False), bool):
        raise WrongUse(f"{text!r}: {REMOTE_CODE}={arguments[REMOTE_CODE]} is neither true nor false.")
    head = arguments.pop("head", None)
    if head not in (None, *HEADS):
        raise WrongUse(f"{text!r}: head={head} is not a head.{near(str(head), HEADS)} Known: {', '.join(HEADS)}.")
    return Uri(scheme=scheme, target=unquote(target), head=cast("Head | None", head), arguments=arguments)


def runs_code(text: str) -> bool:
    """Whether building the network runs code that is not of an installed library.

    >>> runs_code("py:own:make"), runs_code("hf:a/b?trust_remote_code=True"), runs_code("smp:Unet?classes=2")
    (True, True, False)
    """
    parsed = parse_uri(text)
    return parsed.scheme == "py" or (parsed.scheme == "hf" and parsed.arguments.get(REMOTE_CODE, False))


_WORDS = {"true": True, "false": False, "none": None, "null": None}
"""Written in any case, as other programs write them: the text "false" would count as true."""


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def check_arguments(name: str, arguments: Iterable[str], known: Iterable[str]) -> None:
    """Errors: ModelRefused for an argument that a builder does not know."""
    known = sorted(set(known) - {"kwargs"})
    for key in arguments:
        if key not in known:
            raise ModelRefused(f"{name} has no argument {key!r}.{near(key, known)} Known: {', '.join(known)}.")


def is_random(uri: str) -> bool:
    """Whether its network has random weights where no file is named.

    >>> is_random("torchvision:fcn_resnet50"), is_random("torchvision:fcn_resnet50?weights=DEFAULT")
    (True, False)
    """
    parsed = parse_uri(uri)
    if parsed.scheme == "torchvision":
        return not parsed.arguments.get("weights")
    return parsed.scheme in ("smp", "segment")
