"""The command that comes next, as it is typed."""

from __future__ import annotations

import shlex


def command_line(name: str, *arguments: object, **options: object) -> str:
    """A command of `segment` with its arguments and options; an option that is None, False or "" is left out.

    >>> command_line("predict", "smp:Unet?classes=2", "IMAGES", bank="bank.safetensors", weights=None, trust=True)
    "segment predict 'smp:Unet?classes=2' IMAGES --bank bank.safetensors --trust"
    """
    parts = ["segment", name, *map(str, arguments)]
    for key, value in options.items():
        option = key.replace("_", "-")
        if value is True:
            parts.append(f"--{option}")
        elif value is not None and value is not False and value != "":
            parts += [f"--{option}", str(value)]
    return shlex.join(parts)
