"""The schema of a model card → docs/cards.md and the JSON schema that editors complete cards by.

`python -m benchmarks.card_reference` writes both; a test says when they are out of date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from segment.images.specs import InputSpec, TrainingSpec
from segment.networks.cards import Card, card_schema

ROOT = Path(__file__).parents[1]
PAGE, SCHEMA = ROOT / "docs" / "cards.md", ROOT / "segment" / "networks" / "shipped" / "card.schema.json"
HEAD = """# Model card reference

A card is a YAML file that states what a network expects and what its outputs mean. Only `network` is needed:

```yaml
network: smp:Unet?encoder=resnet34&classes=3
weights: {file: unet.safetensors}
head: softmax
input: {scale: 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], stride: 32}
classes: [background, road, car]
void: 255
training:
  batch: 8
  transforms:
    - {name: RandomCrop, height: 320, width: 320}
    - {name: HorizontalFlip, p: 0.5}
```

The tables are written from the schema that cards are checked by; a key that is not here is refused. The package ships
the same as JSON schema (`segment/networks/shipped/card.schema.json`). Copy it beside your card, and an editor with YAML
support completes a card that begins with

```yaml
# yaml-language-server: $schema=card.schema.json
```

## Keys

"""
HEADS = """
## head

| head | channels of the output, without `drop_outputs` | `classes` to name | labels |
| --- | --- | --- | --- |
| `softmax` | K, from 2 up | K, or none | one map of class ids |
| `sigmoid` | 1, p | 2, of (1 - p, p), or none: background and foreground | one map of 0 and 1 |
| `multilabel` | K, each a p of its own | K, or none | a map of 0 and 1 for each label, `LABELS/<label>/` |

A network with two sigmoid outputs, background and foreground, is `head: sigmoid` with `drop_outputs: [0]`: the classes
are then 1 - p and p of its foreground.
"""
TRANSFORMS = """
Transforms take images of any number of channels; an error names a transform that does not. What they are given depends
on the pixels:

| pixels | where all transforms only move pixels | where one computes with values |
| --- | --- | --- |
| whole numbers in 0..255 | uint8 (float32 if a `fill` is outside) | uint8 |
| other values in 0..255 | float32, unrounded | rounded to uint8; a warning names the transform |
| values outside 0..255 | float32, neither cut off nor rounded | refused, with the transform and the range |

Those that only move pixels are albumentations' dual transforms: flips, crops, rotations, distortions, resizing,
padding, dropout. Their `fill` is in the units of the pixels, as `white` leaves them. Brightness, colour, noise, blur,
compression and a random fill compute with values, and are defined on 8 bits.
"""


def meanings(docstring: str | None) -> dict[str, str]:
    r"""Key -> its description, from the lines "key: description" of a docstring; "mean, std: ..." describes both.

    >>> meanings("Title.\n\n    a: one\n        more\n    b, c: two\n")
    {'a': 'one more', 'b': 'two', 'c': 'two'}
    """
    found: dict[str, str] = {}
    keys: list[str] = []
    for line in (docstring or "").splitlines()[2:]:
        begins = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if begins:
            keys = begins.group(1).split(", ")
            found |= dict.fromkeys(keys, begins.group(2))
        elif line.strip():
            found |= {key: f"{found[key]} {line.strip()}" for key in keys}
    return found


def kind(schema: dict[str, Any]) -> str:
    """What a key holds, in words."""
    if "anyOf" in schema:
        return " or a ".join(kind(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return "mapping, below"
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    bound = "" if least is None else f" from {least} up" if "minimum" in schema else f" above {least:g}"
    names = {"string": "text", "integer": "whole number", "number": "number", "object": "mapping"}
    if schema.get("type") == "array":
        inner = schema.get("items", {})
        return f"list, each a {kind(inner)}" if inner.get("type") not in ("array", "object") else "list"
    return names.get(schema.get("type", ""), "see right") + bound


def rows(properties: dict[str, Any], required: list[str], words: dict[str, str]) -> list[str]:
    lines = ["| key | holds | default | meaning |", "| --- | --- | --- | --- |"]
    for key, schema in properties.items():
        default = schema.get("default")
        shown = "needed" if key in required else "none" if default in (None, [], {}) else f"`{default}`"
        lines.append(f"| `{key}` | {kind(schema)} | {shown} | {words.get(key, '')} |")
    return lines


def page() -> str:
    """docs/cards.md."""
    schema = card_schema()
    top = meanings(Card.__doc__) | {"network": "a URI, as [the guide](guide.md#models) describes"}
    text = HEAD + "\n".join(rows(schema["properties"], schema["required"], top)) + "\n" + HEADS
    weights = {
        "file": "relative to the card, a URL of a store, or its name in a folder of `SEGMENT_WEIGHTS`",
        "sha256": top["sha256"],
    }
    inner = {"weights": weights, "input": meanings(InputSpec.__doc__), "training": meanings(TrainingSpec.__doc__)}
    for key, words in inner.items():
        part = schema["$defs"][f"{key.capitalize()}Entry"]
        text += f"\n## {key}\n\n" + "\n".join(rows(part["properties"], part.get("required", []), words)) + "\n"
    return text + TRANSFORMS


def schema_text() -> str:
    """card.schema.json."""
    return json.dumps(card_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
