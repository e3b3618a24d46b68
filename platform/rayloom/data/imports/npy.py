"""Reading `.npy` and `.npz` files. Pickled arrays are refused: loading one can run code."""

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.data.names import check_distinct, chosen
from rayloom.data.store.residency import available_memory

_MAGIC = b"\x93NUMPY"
_DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError),
    *(SyntaxError, RecursionError, OverflowError, RuntimeError),  # the last: encrypted
)


def load_arrays(path: Path, keys: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of a `.npy` (key "") or `.npz` file; a `.npy` is memory-mapped.

    Args:
        path: The file.
        keys: Of an `.npz`: arrays to load; all by default. The others are not looked at.

    Raises:
        UserError: Not such a file, damaged, pickled, or larger than memory; names the key.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"": _load_npy(path)}
        return _load_npz(path, keys)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except ValueError as error:
        if _is_pickled(error):
            raise UserError(_pickled(f"{path}: holds") + "; save plain numeric arrays") from None
        raise UserError(f"{path}: cannot be read ({str(error)[:100]})") from None
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


def leave_out(names: Sequence[str], bad: Sequence[str]) -> str:
    """The end of a message on keys that cannot be used: the flag that takes the others."""
    others = [name for name in names if name not in bad]
    them = "it" if len(bad) == 1 else "them"
    return f"; --keys {','.join(others)} leaves {them} out" if others else ""


def _is_pickled(error: ValueError) -> bool:
    return "allow_pickle" in str(error) or "pickle" in str(error).lower()


def _pickled(start: str) -> str:
    return f"{start} pickled objects, which are refused (loading them can run code)"


def _load_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        if not names:
            raise UserError(f"{path}: holds no arrays")
        check_distinct(names, str(path), "keys")
        wanted = chosen(keys, names, str(path), "--keys", "key") or names
        _check_size(path, set(wanted))
        found, pickled = {}, []
        for name in wanted:
            try:
                found[name] = archive[name]
            except ValueError as error:
                if not _is_pickled(error):
                    raise UserError(f"{path}: {name!r} cannot be read ({error})") from None
                pickled.append(name)
    if pickled:
        said = ", ".join(map(repr, pickled))
        cure = leave_out(wanted, pickled) or "; save plain numeric arrays"
        raise UserError(_pickled(f"{path}: {said}:") + cure)
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise UserError(
                f"{path}: its member {name!r} is no array; leave it out{leave_out(wanted, [name])}"
            )
    return found


def _check_size(path: Path, wanted: set[str]) -> None:
    """What is to be loaded fits into memory, and no name stands for two members."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    twice = [name for name, count in Counter(m.filename for m in members).items() if count > 1]
    if twice:
        raise UserError(f"{path}: holds two members called {twice[0]!r}; which is meant?")
    size = sum(m.file_size for m in members if m.filename.removesuffix(".npy") in wanted)
    if size > available_memory() // 2:
        raise UserError(f"{path}: unpacks to {size} bytes, too many for the memory here")


def _load_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UserError(
                f"{path}: is no .npy file; nor are pickled objects taken, because loading them "
                "can run code"
            )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error):  # not a word of pickle: memory mapping says no first
            raise ValueError("allow_pickle") from None
        if "mmap length" in str(error):
            raise UserError(f"{path}: is cut short: its header promises more") from None
        raise
