"""The wheel, alone, beside nothing but what it declares: built twice alike, complete, and every command runs."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import segment
from segment.files.writing import write_png
from segment.scenes.scene import scene

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = re.compile(r"mcbn[_.-]segment", re.IGNORECASE)


def names_of(requirements: Iterable[str]) -> set[str]:
    return {Requirement(text).name for text in requirements}


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """Distributions that are installed with these, by what each declares for this machine."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform, as CUDA's
            continue
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the source distribution, and the wheel of the repository."""
    top = tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (top / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, top / "source" / name)
    for kind in ("both", "direct"):
        arguments = ["--wheel"] if kind == "direct" else []
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(top / kind), *arguments]
        ended = subprocess.run([*command, str(top / "source")], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return {kind: next((top / kind).glob("*.whl")) for kind in ("both", "direct")}


@pytest.fixture(scope="module")
def alone(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `segment` of a fresh environment outside the repository: the wheel, and links to what it declares."""
    top = tmp_path_factory.mktemp("alone")
    venv.create(top / "venv", with_pip=False)
    (site,) = (top / "venv" / "lib").glob("python*/site-packages")
    for one in closure(names_of(PROJECT["dependencies"])).values():
        for top_level in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(one.locate_file(top_level)))
            if source.exists() and not (site / top_level).exists():
                (site / top_level).symlink_to(source)
    with zipfile.ZipFile(built["both"]) as archive:
        archive.extractall(site)
    script = top / "venv" / "bin" / "segment"
    script.write_text(f"#!{top}/venv/bin/python\nfrom segment.cli import main\nmain()\n", encoding="utf-8")
    script.chmod(0o755)
    script.with_name("bash").symlink_to(shutil.which("bash") or "/bin/bash")
    return script


def run(script: Path, *arguments: object, expect: int = 0, folder: Path | None = None, **more: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    environment |= {"SEGMENT_CACHE": str(script.parents[2] / "cache"), **more}
    command = [str(script), *map(str, arguments)]
    where = folder or script.parents[2]
    ended = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_the_source_distribution_builds_the_same_wheel(built: dict[str, Path]) -> None:
    contents = []
    for path in built.values():
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")})
    assert set(contents[0]) == set(contents[1])
    assert contents[0] == contents[1]


def test_the_wheel_holds_types_cards_weights_and_the_licence(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["direct"]) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert f"Version: {segment.__version__}" in metadata
    assert segment.__version__ in built["direct"].name
    for name in ("py.typed", *(f"networks/shipped/{card}.yaml" for card in ("scenes", "enet_camvid"))):
        assert f"segment/{name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "segment").rglob("*.py")}
    assert modules <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]


def test_what_is_imported_is_declared() -> None:
    core, extras = names_of(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    optional = names_of(text for texts in extras.values() for text in texts)
    owners = packages_distributions()
    core_modules = {module for module, names in owners.items() if lower(names) & lower(core)}
    all_modules = {module for module, names in owners.items() if lower(names) & lower(core | optional)}
    for path in (ROOT / "segment").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.Try | ast.If)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for module in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"segment"}:
                allowed = all_modules if id(node) in guarded else core_modules
                assert module in allowed, (
                    f"{path.relative_to(ROOT)} imports {module}, which pyproject.toml does not name"
                )


def lower(names: Iterable[str]) -> set[str]:
    return {canonicalize_name(name) for name in names}


def test_every_extra_is_installed_by_all_and_all_resolves() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = (Requirement(text) for text in extras["all"])
    assert everything.extras == set(extras) - {"all", "bench", "dev", "docs"}
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-build-isolation", "--no-index", "-q"]
    ended = subprocess.run([*command, f"{ROOT}[all]"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_wheel_runs_alone(alone: Path, tmp_path: Path) -> None:
    where = run(alone, "--version")
    assert segment.__version__ in where
    python = alone.with_name("python")
    code = "import segment; from importlib.util import find_spec as find; print(segment.__file__, find('matplotlib'))"
    shown = run(python, "-c", code)
    assert shown.startswith(str(alone.parents[2]))
    assert shown.split()[1:] == ["None"]
    begun = time.perf_counter()
    assert "Look at" in run(alone, "demo", "-o", tmp_path / "demo")
    assert time.perf_counter() - begun < 60 * slow_machine()
    images, labels = tmp_path / "demo" / "images", tmp_path / "demo" / "labels"
    bank = tmp_path / "demo" / "bank.safetensors"
    evaluate = ("scenes", "--images", images, "--labels", labels)
    sweep = (
        "--train",
        images,
        "--batches",
        2,
        "--draws",
        2,
        "--precision",
        "fp32",
        "--transforms",
        "plain",
    )
    assert "best NLL first" in run(alone, "sweep", *evaluate, *sweep, "-o", tmp_path / "sweep")
    assert "NLL" in run(alone, "evaluate", *evaluate, "--methods", "deterministic", "-o", tmp_path / "scores")
    assert "done" in run(alone, "predict", "scenes", images, "--bank", bank, "-o", tmp_path / "run", "--draws", 2)
    assert "select.csv" in run(alone, "select", tmp_path / "run")
    assert "missing: pip install 'mcbn-segment[plots]'" in run(alone, "doctor")
    refused = run(alone, "sweep", *evaluate, *sweep, "--plots", "-o", tmp_path / "plots", expect=2)
    assert "pip install 'mcbn-segment[plots]'" in refused
    named = run(alone, "inspect", "unet_lite0_camvid", expect=3)
    assert "--weights FILE, or its folder in the environment variable SEGMENT_WEIGHTS" in named


@pytest.fixture(scope="module")
def user(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted, by the names that they use: images, labels, a bank and a run."""
    folder = tmp_path_factory.mktemp("user")
    for number, name in enumerate(("TRAINING_IMAGES", "IMAGES", "VAL", "TEST", "pool")):
        for seed in range(100 * number, 100 * number + (64 if name == "VAL" else 16)):  # a triage takes 49 images
            drawn = scene(seed, size=(128, 192) if name == "TRAINING_IMAGES" else (64, 96))
            for place, picture in ((name, drawn.image), (LABELS.get(name, "unused"), drawn.label)):
                (folder / place).mkdir(exist_ok=True)
                write_png(folder / place / f"{seed:03}.png", picture)
    (folder / "images.txt").write_text("".join(f"IMAGES/{path.name}\n" for path in (folder / "IMAGES").iterdir()))
    shutil.copy(ROOT / "segment" / "networks" / "shipped" / "scenes.yaml", folder / "my_card.yaml")
    shutil.copy(ROOT / "segment" / "networks" / "shipped" / "scenes.safetensors", folder)
    fit = ("fit", "scenes", "--images", folder / "TRAINING_IMAGES", "--batch", 4, "--draws", 16)
    run(alone, *fit, "-o", folder / "bank.safetensors")
    bank = ("--bank", folder / "bank.safetensors")
    run(alone, "predict", "scenes", folder / "IMAGES", *bank, "-o", folder / "outputs" / "my_run")
    shutil.copytree(folder / "outputs" / "my_run", folder / "run")
    next(path for path in (folder / "run").iterdir() if path.is_dir()).rename(folder / "run" / "a")
    return folder


LABELS = {"IMAGES": "LABELS", "VAL": "VAL_LABELS", "TEST": "TEST_LABELS"}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = {
    "benchmarks.md": "measures the repository, from a clone of it",
    "camvid.md": "fetches a data set",
    "deploy.md": "exports a graph, which needs an extra: tests/graphs",
    "experiments.md": "draws figures, which needs an extra: tests/experiments",
    "inputs.md": "needs label maps of two annotators: tests/jobs/test_annotators.py",
    "sizing.md": "simulates with the repository's benchmarks, from a clone of it: tests/sizing",
    "index.md": "makes the environment: the fixture `alone` here, `python -m benchmarks.start` as a whole",
}
MINUTES = ("choosing.md", "triage.md", "worth-it.md")
"""Pages whose first block computes for minutes."""
GIVEN = """
import torch
from segment.networks.load import load_network
module = load_network("scenes").module
images = loader = [(torch.rand(3, 32, 32), torch.randint(0, 4, (32, 32))) for _ in range(32)]
image = images[0][0]
"""
"""What the pages call `module`, `images`, `loader` and `image`: the reader's own."""


def pages() -> Iterator[ParameterSet]:
    for path in sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")]):
        if path.name not in ELSEWHERE and BLOCK.search(path.read_text(encoding="utf-8")):
            yield pytest.param(path, marks=[pytest.mark.slow] if path.name in MINUTES else [], id=path.stem)


@pytest.mark.parametrize("page", list(pages()))
def test_the_first_block_of_a_page_runs_from_the_wheel(page: Path, alone: Path, user: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(user, tmp_path / "user")
    first = BLOCK.search(page.read_text(encoding="utf-8"))
    assert first is not None
    kind, block = first.groups()
    if kind == "sh":
        script = f'PATH="{alone.parent}:$PATH"\n' + re.sub(r"\bMODEL\b", "scenes", block)
        run(alone.with_name("bash"), "-ec", script, folder=folder)
    else:
        examples = doctest.DocTestParser().get_examples(block)
        code = block if not examples else "".join(example.source for example in examples)
        run(alone.with_name("python"), "-c", GIVEN + code, folder=folder)


def slow_machine() -> float:
    """How many times longer than alone on its cores a process may take here."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) * 1.5


def test_a_card_of_the_wheel_takes_its_weights_from_a_folder(alone: Path, shared_data: Path) -> None:
    shown = run(alone, "inspect", "unet_lite0_camvid", SEGMENT_WEIGHTS=str(shared_data / "weights"))
    assert "BN layers are stochastic" in shown
    weights = shared_data / "weights" / "unet_lite0_camvid.safetensors"
    assert "Warning" not in run(alone, "inspect", "unet_lite0_camvid", "--weights", weights)
