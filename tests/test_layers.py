"""The packages follow the data: every import points down, and neither a package nor a part of jobs is in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import segment

ROOT = Path(__file__).parents[1] / "segment"

HEIGHT = {
    "errors": 0,
    "kept_records": 0,
    "axes": 0,
    "version": 0,
    "stores": 1,
    "safe_yaml": 2,
    "images": 2,
    "scenes": 2,
    "networks": 3,
    "tracing": 4,
    "batch_norm": 5,
    "draws": 6,
    "uncertainty": 6,
    "regions": 6,
    "passes": 7,
    "scores": 7,
    "significance": 8,
    "ranking": 8,
    "graphs": 8,
    "pictures": 7,
    "methods": 8,
    "guarantees": 9,
    "estimation": 9,
    "tuning": 9,
    "distilling": 9,
    "files": 10,
    "runners": 11,
    "settings": 11,
    "report": 11,
    "jobs": 12,
    "experiments": 12,
    "cli": 13,
    "integrations": 13,
    "__main__": 14,
    "__init__": 14,
}
"""A module imports lower packages and its own; packages of one height do not see each other."""

LINES = 350
"""Of a file at most."""

UPWARD = {("estimation.estimate_display", "report.run_files.estimates")}
"""An Estimate saves itself as a run does: the module that writes it is loaded when that is asked."""

MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imported_by(source: str, module: str) -> Iterator[str]:
    """Names below `segment` that the source of a module imports, wherever in it; "__init__" for segment itself.

    Also by `import_module` of a string, or of a name that stands for one.

    >>> list(imported_by("from segment.images import specs", "cli.app"))
    ['images.specs']
    """
    package = module.split(".")[:-1]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names = _named(node, tree)
        elif isinstance(node, ast.Import):
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
        module = ".".join(parts[:end])
        if module in MODULES:
            return module
        if f"{module}.__init__" in MODULES:
            return f"{module}.__init__"
    return "__init__"


def _named(call: ast.Call, tree: ast.Module) -> list[str]:
    """The module that `import_module(...)` imports, where the source says which."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in ("import_module", "__import__") or not call.args:
        return []
    asked = call.args[0]
    if isinstance(asked, ast.Name):
        given = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for name in node.targets
            if isinstance(name, ast.Name) and name.id == asked.id
        ]
    else:
        given = [asked]
    return [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def package_of(module: str) -> str:
    return module.split(".")[0]


def part_of(module: str) -> str:
    """The sub-package of a module, or the module itself where it lies in none."""
    return ".".join(module.split(".")[:2])


FOUND = {module: set(imported_by(path.read_text(encoding="utf-8"), module)) for module, path in MODULES.items()}
IMPORTS = {module: {name for name in names if (module, name) not in UPWARD} for module, names in FOUND.items()}


def test_every_package_has_its_height() -> None:
    assert {package_of(module) for module in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("module", MODULES)
def test_every_import_points_down(module: str) -> None:
    for target in sorted(IMPORTS[module]):
        if package_of(target) != package_of(module):
            below = HEIGHT[package_of(target)] < HEIGHT[package_of(module)]
            assert below, f"segment.{module} imports segment.{target}, not below it; move the shared part down"


def test_what_is_allowed_to_point_up_does() -> None:
    for module, target in UPWARD:
        assert target in FOUND[module], f"segment.{module} no longer imports segment.{target}"


def test_no_modules_of_a_package_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"These import each other in a circle: {' <- '.join(error.args[1])}")


def test_no_parts_of_jobs_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, targets in IMPORTS.items():
        for target in targets:
            if package_of(module) == package_of(target) == "jobs" and part_of(target) != part_of(module):
                graph.setdefault(part_of(module), set()).add(part_of(target))
    assert "jobs.labelled" in graph["jobs.prediction"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"These import each other in a circle: {' <- '.join(error.args[1])}")


def test_a_packages_init_holds_its_docstring_only() -> None:
    for module, path in MODULES.items():
        if module.endswith(".__init__") and package_of(module) != "cli":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"segment.{module} holds more than a docstring"
            assert isinstance(body[0], ast.Expr)


def test_no_file_is_longer_than_the_limit() -> None:
    """At 300 lines, modules of 15 to 50 lines were split off for the limit alone: a reader had two files to open."""
    for module, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LINES, f"segment.{module} has {lines} lines: divide it where a part has a job of its own"


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (seen,) = (node.body for node in tree.body if isinstance(node, ast.If))
    homes = {node.names[0].name: node.module for node in seen if isinstance(node, ast.ImportFrom)}
    assert homes == segment._MODULE_OF


def test_the_parts_of_a_network_are_asked_for_in_one_module() -> None:
    """A network may have attributes named like torch's methods: `networks.modules` reads torch's dictionaries."""
    asked = re.compile(r"\.(named_)?(modules|parameters|buffers|children)\(")
    ours = ("networks.architectures.", "experiments.")  # whose networks have no such attributes
    for module, path in MODULES.items():
        if module != "networks.modules" and not module.startswith(ours):
            assert not asked.findall(path.read_text(encoding="utf-8")), f"segment.{module}"


def test_what_threads_run_sets_no_filters_of_warnings_back() -> None:
    """Filters are the process's: one thread would set back what another has set meanwhile."""
    for module, path in MODULES.items():
        if package_of(module) in ("images", "files"):
            assert "catch_warnings" not in path.read_text(encoding="utf-8"), f"segment.{module}"


def test_the_light_modules_import_nothing_heavy() -> None:
    for module in ("errors", "axes", "version", "images.specs", "__init__", "__main__"):
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                heavy = name.split(".")[0] in ("torch", "torchvision", "cv2", "albumentations", "numpy", "pydantic")
                assert not heavy, f"segment.{module} imports {name} at its top"


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import segment", ["__init__"]),
        ("from segment import load_bank", ["__init__"]),
        ("from segment.draws.bank import Bank", ["draws.bank"]),
        ("def f():\n    import segment.files.triages", ["files.triages"]),
        ("from segment.files import png", ["files.png"]),
        ("from . import png\nfrom .png import write", ["files.png", "files.png"]),
        ("from ..draws import bank", ["draws.bank"]),
        ("import torch\nfrom segmentation_models_pytorch import Unet", []),
        ('import_module("segment.files.png")', ["files.png"]),
        ('import importlib\nimportlib.import_module("segment.files.png")', ["files.png"]),
        ('FILES = "segment.files.png"\ndef f():\n    return import_module(FILES).write', ["files.png"]),
        ('import_module("torch")', []),
        ("import_module(name)", []),
    ],
)
def test_imports_of_every_form_are_read(source: str, modules: list[str]) -> None:
    assert list(imported_by(source, "files.triages")) == modules
