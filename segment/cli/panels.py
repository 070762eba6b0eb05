"""The panels that the options of a long command stand in, in its `--help`.

Must not know what an option does.
"""

from __future__ import annotations

from copy import copy
from inspect import Parameter
from typing import Annotated, Any, get_args

MANY = 20
"""Options from which a command's help has panels."""
PANELS = {
    "Network": ("weights", "prefix", "extra_keys", "trust", "ensemble", "insert_dropout", "engine"),
    "Images and labels": (
        *("mask", "border", "every", "axis", "isolate", "max_pixels"),
        *("validation_images", "validation_labels", "validation_mask", "label_suffix", "annotator"),
        *("annotator_suffix", "void", "unseen", "shift", "severities", "adapt", "groups"),
    ),
    "Output": (
        *("maps", "heat", "heat_max", "format", "measures", "fails_below", "report", "title", "plots", "json"),
        *("log_json", "verbose", "quiet"),
    ),
    "Speed, memory and machines": (
        *("precision", "fold", "memory", "tile", "tile_mode", "workers", "device", "runner", "ray_address"),
        *("actors", "actor_gpus", "cache"),
    ),
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


def in_panel(parameter: Parameter) -> Parameter:
    """The option in its panel; as it is where it has none, or one of its own."""
    panel = _PANEL_OF.get(parameter.name)
    kind, *rest = get_args(parameter.annotation)
    if panel is None or not rest:
        return parameter
    option: Any = copy(rest[0])  # commands share the options
    option.rich_help_panel = option.rich_help_panel or panel
    return parameter.replace(annotation=Annotated[kind, option])
