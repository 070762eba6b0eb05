"""The rooms follow the data: every import points down, and nothing in a room goes round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "segment"

HEIGHT = {
    "errors": 0, "axes": 0,
    "images": 1,
    "networks": 2,
    "draws": 3, "uncertainty": 3,
    "sampling": 4,
    "scores": 5, "pictures": 5,
    "files": 6,
    "settings": 7,
    "jobs": 8, "experiments": 8,
    "cli": 9,
    "__main__": 10, "__init__": 10,
}  # fmt: skip
"""A module imports lower rooms and its own; rooms of one height are blind to each other."""

MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imported_by(source: str, module: str) -> Iterator[str]:
    """Names below `segment` that the source of a module imports, wherever in it; "__init__" for segment itself.

    >>> list(imported_by("from segment.images import specs", "cli.app"))
    ['images.specs']
    """
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["segment", *package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "segment":
                yield "__init__"
            elif name.startswith("segment."):
                yield _known(name.removeprefix("segment."))


def _known(name: str) -> str:
    """The module that a dotted name stands for: itself, or what holds it; "__init__" for a public name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        found = ".".join(parts[:end])
        if found in MODULES:
            return found
        if f"{found}.__init__" in MODULES:
            return f"{found}.__init__"
    return "__init__"


def room(module: str) -> str:
    return module.split(".")[0]


IMPORTS = {module: set(imported_by(path.read_text(encoding="utf-8"), module)) for module, path in MODULES.items()}


def test_every_room_has_its_height() -> None:
    assert {room(module) for module in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("module", MODULES)
def test_every_import_points_down(module: str) -> None:
    for target in sorted(IMPORTS[module]):
        if room(target) != room(module):
            below = HEIGHT[room(target)] < HEIGHT[room(module)]
            assert below, f"segment.{module} imports segment.{target}, not below it; move the shared part down"


def test_no_modules_of_a_room_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as problem:
        pytest.fail(f"These import each other in a circle: {' <- '.join(problem.args[1])}")


def test_a_rooms_init_holds_its_docstring_only() -> None:
    for module, path in MODULES.items():
        if module.endswith(".__init__") and room(module) != "cli":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"segment.{module} holds more than a docstring"
            assert isinstance(body[0], ast.Expr)


def test_the_light_modules_import_nothing_heavy() -> None:
    for module in ("errors", "axes", "images.specs", "__init__", "__main__"):
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                heavy = name.split(".")[0] in ("torch", "torchvision", "cv2", "albumentations", "numpy", "pydantic")
                assert not heavy, f"segment.{module} imports {name} at its top"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import segment", ["__init__"]),
        ("from segment import load_bank", ["__init__"]),
        ("from segment.draws.bank import Bank", ["draws.bank"]),
        ("def f():\n    import segment.files.banks", ["files.banks"]),
        ("from segment.files import png", ["files.png"]),
        ("from . import png\nfrom .png import write", ["files.png", "files.png"]),
        ("from ..draws import bank", ["draws.bank"]),
        ("import torch\nfrom segmentation_models_pytorch import Unet", []),
    ],
)  # fmt: skip
def test_imports_are_found_in_every_form(source: str, found: list[str]) -> None:
    assert list(imported_by(source, "files.banks")) == found
