"""The source of a plugin: where it lies, its hash, and importing exactly what was hashed.

A plugin's file runs from its source alone: byte code in a `__pycache__` beside it, whose hash
nobody knows, is neither read nor written.
"""

import hashlib
import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

MAX_BYTES = 64 << 20  # of all files of a plugin
MAX_FILES = 10_000


class _Source(importlib.machinery.SourceFileLoader):
    """Runs source whose hash is known, or that lies where the user pointed."""

    digests: Mapping[str, str] = {}

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        """No stamp, so that Python neither looks for byte code nor writes any."""
        raise OSError("plugins run from their source")

    def get_data(self, path: Any) -> bytes:
        """The file, if it is what was hashed.

        Raises:
            ImportError: It is not.
        """
        data = super().get_data(path)
        if self.digests and self.digests.get(str(path)) != hashlib.sha256(data).hexdigest():
            raise ImportError(f"{path} is not the file that was hashed")
        return data


def digests_of(path: Path) -> dict[str, str]:
    """SHA-256 of a plugin's file, or of each Python file of its package, by path.

    Raises:
        OSError: A file cannot be read, is no plain file, or they are too large or too many.
    """
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    if len(files) > MAX_FILES:
        raise OSError(0, f"has more than {MAX_FILES:,} files", str(path))
    found, total = {}, 0
    for file in files:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as source:
            status = os.fstat(handle)
            total += status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "is no file", str(file))
            if total > MAX_BYTES:
                raise OSError(0, f"has more than {MAX_BYTES:,} bytes", str(path))
            found[str(file)] = hashlib.sha256(source.read()).hexdigest()
    return found


def sha256_of(path: Path) -> str:
    """Hash of a plugin's source: of the file, or of all Python files of a package.

    Raises:
        OSError: As `digests_of`.
    """
    digests = digests_of(path)
    if not path.is_dir():
        return digests[str(path)]
    digest = hashlib.sha256()
    for file, inner in digests.items():
        digest.update(f"{Path(file).relative_to(path).as_posix()}\0".encode())
        digest.update(bytes.fromhex(inner))
    return digest.hexdigest()


def import_source(path: Path, digest: str, *, exact: bool) -> ModuleType:
    """Import a file, or the folder of a package (under its own name), wherever it lies.

    Args:
        path: The file or folder.
        digest: Hash of the source, part of a file's module name.
        exact: Run nothing but Python files of this hash: no byte code, no compiled modules.

    Raises:
        Exception: Whatever the source raises.
    """
    is_package = path.is_dir()
    name = path.name if is_package else f"rayloom_plugin_{_word(path.stem)}_{digest[:8]}"
    file = path / "__init__.py" if is_package else path
    inside = [str(path)] if is_package else None
    loader = None if is_package and not exact else _loader(path, digest, exact)(name, str(file))
    spec = importlib.util.spec_from_file_location(
        name, file, loader=loader, submodule_search_locations=inside
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its classes can be found by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _loader(path: Path, digest: str, exact: bool) -> type[_Source]:
    """A loader of these files; the folders of an exact package are searched by it alone."""
    if not exact:
        return _Source
    digests = digests_of(path)
    if sha256_of(path) != digest:
        raise ImportError(f"{path} has changed just now")

    class Exact(_Source):
        pass

    Exact.digests = digests
    if path.is_dir():
        folders = {path, *(Path(file).parent for file in digests)}
        for folder in folders:
            finder = importlib.machinery.FileFinder(str(folder), (Exact, [".py"]))
            sys.path_importer_cache[str(folder)] = finder
    return Exact


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)
