"""From a name to a verified store: prepare what the catalogue knows, open what is there.

A data set of the catalogue is a class with `prepare(folder, *, source)`; see `DatasetMaker`.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rayloom import catalogue
from rayloom.config.sections import DataConfig
from rayloom.core.errors import UserError, nearest
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.description import eval_split_cure
from rayloom.data.store.manifest import MANIFEST, check_name
from rayloom.data.use import Use

ROOT_VARIABLE = "RAYLOOM_DATA_ROOT"
SOURCE_VARIABLE = "RAYLOOM_DATA_SOURCE"
_log = logging.getLogger(__name__)


class DatasetMaker(Protocol):
    """What a catalogue entry of kind `datasets` names: a class made without arguments."""

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store into `folder` with `StoreWriter`.

        Args:
            folder: Where the store will be; its name is the data set's.
            source: Local folder with the raw files, if the user gave one.

        Raises:
            UserError: The raw data could not be had; tells every way that was tried.
        """
        ...


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the stores: `root`, else `RAYLOOM_DATA_ROOT`, else `~/.cache/rayloom/data`."""
    chosen = root or os.environ.get(ROOT_VARIABLE) or Path("~/.cache/rayloom/data")
    return Path(chosen).expanduser().absolute()


def data_source(source: str | Path | None = None) -> Path | None:
    """Local folder with raw files: `source`, else `RAYLOOM_DATA_SOURCE`, else None.

    Raises:
        UserError: The folder does not exist.
    """
    chosen = source or os.environ.get(SOURCE_VARIABLE)
    if not chosen:
        return None
    folder = Path(chosen).expanduser().absolute()
    if not folder.is_dir():
        said = "data.source" if source else SOURCE_VARIABLE
        raise UserError(f"{said} names the folder {folder}, which does not exist")
    return folder


@contextlib.contextmanager
def store_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a store while writing it; waits for another process that does."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"cannot write data sets in {folder.parent} ({error.strerror}); choose another "
            f"folder with data.root or {ROOT_VARIABLE}"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that prepares %s", folder.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def prepare(
    name: str,
    *,
    root: str | Path | None = None,
    source: str | Path | None = None,
    force: bool = False,
) -> Dataset:
    """Make the store of a catalogue data set, unless it is there already.

    Args:
        name: Catalogue name.
        root: Folder of the stores; see `data_root`.
        source: Local folder with the raw files; see `data_source`.
        force: Make it again even if it is there, valid or not.

    Raises:
        UserError: No such data set, no source of it answers, or the store there is damaged.
    """
    folder = data_root(root) / check_name(name)
    if not catalogue.has("datasets", name):
        raise _unknown(name, folder.parent)
    if force or not _present(folder):
        with store_lock(folder):
            if force or not _present(folder):  # another process may have been faster
                maker: DatasetMaker = catalogue.load("datasets", name)()
                maker.prepare(folder, source=data_source(source))
    return open_store(folder)


def open_dataset(config: DataConfig) -> Dataset:
    """The data set that a config names: prepared if it is absent, and verified.

    Its spec tells of the part that the config uses (`validation_fraction`, `limit`).

    Raises:
        UserError: No such data set, it cannot be prepared, or its store is damaged.
    """
    name = check_name(config.name)
    folder = data_root(config.root) / name
    if _present(folder):
        made = open_store(folder)
    else:
        made = prepare(name, root=config.root, source=config.source)
    return made.using(Use.of(config))


def require_splits(dataset: Dataset, config: DataConfig) -> None:
    """The splits that a run trains and is evaluated on must be there.

    Args:
        dataset: As opened by `open_dataset`.
        config: The section that named it.

    Raises:
        UserError: One is not; says which there are and what to set.
    """
    have = ", ".join(dataset.splits)
    if "train" not in dataset.splits:
        raise UserError(
            f"data set {dataset.name!r} has no split 'train' to train on, only {have}; import it "
            "again with one"
        )
    if config.eval_split not in dataset.splits:
        near = nearest(config.eval_split, dataset.splits)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise UserError(
            f"data.eval_split (--split) is {config.eval_split!r}, but data set {dataset.name!r} "
            f"has no such split{hint}; it has: {have}; {eval_split_cure(dataset)}"
        )


def stored(root: str | Path | None = None) -> list[str]:
    """Names of the stores in a data folder, sorted."""
    return sorted(path.parent.name for path in data_root(root).glob(f"[!.]*/{MANIFEST}"))


def known_names(root: str | Path | None = None) -> list[str]:
    """Names that `data.name` may have here: the catalogue's, and those of the stores; sorted."""
    return sorted({*catalogue.names("datasets"), *stored(root)})


def is_known(name: str, root: str | Path | None = None) -> bool:
    """Whether there is a data set of this name: in the catalogue, or prepared or imported."""
    return catalogue.has("datasets", name) or _present(data_root(root) / name)


def _present(folder: Path) -> bool:
    """Whether something is there under this name; whether it is good, opening tells."""
    return folder.exists() or folder.is_symlink()


def _unknown(name: str, root: Path) -> UserError:
    known = known_names(root)
    near = nearest(name, known)
    hint = f" (did you mean {near!r}?)" if near else ""
    return UserError(
        f"no data set is called {name!r}{hint}. Known: {', '.join(known)}. Your own data come in "
        f"with `rayloom data import`; stores are looked for in {root}"
    )
