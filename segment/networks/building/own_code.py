"""A Python file that a `py:` URI names → a module of its own, known by the file's path and content.

Python knows a module by its name alone: of two files `model.py` in two folders it would load the first, and an edited
file not again. The name of a module here begins with that of this one and holds path and content, so that a class of
it can be pickled, and is loaded from the same file in another process. Must not know a network.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

__path__: list[str] = []  # Python imports names below a module only where it has this

_PYTHON = sysconfig.get_path("stdlib")
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_read: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()
"""Module that code loaded here has imported from its own folders -> hash of the source that it was read from."""
_beside: dict[str, Mapping[Path, str]] = {}
"""Name of a module loaded here -> the files of its folder that were imported then, with their hashes."""


def own_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The file in one of these folders that an import of `name` reads; None where that is a package, or elsewhere."""
    file = None if "." in name else _found(name, folders)
    return None if file is None or file.name == "__init__.py" else file


def loaded(file: Path) -> ModuleType:
    """The module of that file; the same one until the file, or one that it imports from its folder, is edited."""
    path = file.resolve()
    name = f"{__name__}.{_quoted(f'{path}@{_hash_of(path)}')}"
    if any(_hash_of(other) != was for other, was in _beside.get(name, {}).items()):
        sys.modules.pop(name, None)
    return importlib.import_module(name)


@contextmanager
def imports_from(folders: Sequence[Path]) -> Iterator[None]:
    """Within it, imports look in these folders first, and take no module of another folder for one of theirs.

    What was set aside for that is there again afterwards.
    """
    folders = [folder.resolve() for folder in folders]
    before, others = set(sys.modules), _others(folders)
    aside = {name: module for name, module in sys.modules.items() if _top(name) in others}
    for name in aside:
        del sys.modules[name]
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in folders:
            with suppress(ValueError):  # the caller's module may have removed it
                sys.path.remove(str(folder))
        for name in [name for name in sys.modules if _top(name) in others]:
            del sys.modules[name]
        new = {name: file for name, file in _imported(folders).items() if name not in before}
        _read.update({sys.modules[name]: _hash_of(file) for name, file in new.items()})
        sys.modules.update(aside)


def _others(folders: Sequence[Path]) -> set[str]:
    """Names under which these folders have a module, and sys.modules another one, or it from before it was edited."""
    sources = _sources()
    edited = {
        _top(name) for name, file in sources.items() if _read.get(sys.modules[name]) not in (None, _hash_of(file))
    }
    files = {name: _found(name, folders) for name in sources}
    return {name for name, file in files.items() if file is not None and (file != sources[name] or name in edited)}


def _imported(folders: Sequence[Path]) -> dict[str, Path]:
    """Every module that was read from these folders, by its name, with its file."""
    return {name: file for name, file in _sources().items() if any(file.is_relative_to(folder) for folder in folders)}


def _found(name: str, folders: Sequence[Path]) -> Path | None:
    candidates = (place for folder in folders for place in (folder / name / "__init__.py", folder / f"{name}.py"))
    return next((place.resolve() for place in candidates if place.is_file()), None)


def _sources() -> dict[str, Path]:
    """Name and file of every module but those of Python, of installed libraries, of this one, and loaded here."""
    sources, modules = {}, dict[str, object](sys.modules)  # not every value there is a module
    for name, module in modules.items():
        file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
        if file is None or name == "__main__" or _top(name) == _top(__name__):
            continue
        if not file.startswith(_PYTHON) and _INSTALLED.isdisjoint(Path(file).parts):
            sources[name] = Path(file).resolve()
    return sources


def _top(name: str) -> str:
    return name.partition(".")[0]


def _hash_of(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError:  # it was removed
        return ""


def _quoted(text: str) -> str:
    return quote(text, safe="/@").replace(".", "%2E")  # a dot would begin the name of another module


class _Loader(SourceFileLoader):
    """Reads the file itself: bytecode that Python keeps is known by second and size, not by content."""

    def get_code(self, fullname: str) -> CodeType:
        if _hash_of(Path(self.path)) != fullname.rpartition("@")[2]:
            raise ImportError(f"{self.path} was removed, or edited after the network was made")
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        folder = Path(self.path).parent
        with imports_from([folder]):
            super().exec_module(module)
            _beside[module.__name__] = {file: _hash_of(file) for file in _imported([folder]).values()}


class _Finder(MetaPathFinder):
    """Finds the modules that are named here, also when they are unpickled in another process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        prefix = f"{__name__}."
        if not fullname.startswith(prefix):
            return None
        file = unquote(fullname.removeprefix(prefix).rpartition("@")[0])
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, file))


sys.meta_path.append(_Finder())
