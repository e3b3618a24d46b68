"""From a name to a verified store: prepare what the catalogue knows, open what is there.

A data set of the catalogue is a class with `prepare(folder, *, source)`; see `DatasetMaker`.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from rayloom import catalogue
from rayloom.config.base import Config
from rayloom.config.sections import DataConfig
from rayloom.core.errors import ConfigError, Problem, UserError, nearest, or_rather
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.description import eval_split_cure
from rayloom.data.store.manifest import MANIFEST, check_name, plain_sha256
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

        A maker with options has the attribute `options_class`, a subclass of `Config`, and takes
        `options`, an instance of it; it hands `options.model_dump(exclude_defaults=True)` to
        the writer, which makes them part of the fingerprint.

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
    options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Dataset:
    """Make the store of a catalogue data set, unless it is there already.

    Args:
        name: Catalogue name.
        root: Folder of the stores; see `data_root`.
        source: Local folder with the raw files; see `data_source`.
        options: Of the maker; with other than the usual ones, the store has a name of its own.
        force: Make it again even if it is there, valid or not.

    Raises:
        UserError: No such data set, no source of it answers, or the store there is damaged.
        ConfigError: It has no such options.
    """
    if not catalogue.has("datasets", check_name(name)):
        raise _unknown(name, data_root(root))
    chosen = read_options(name, options or {})
    folder = store_folder(name, root, chosen)
    if force or not _present(folder):
        with store_lock(folder):
            if force or not _present(folder):  # another process may have been faster
                maker: Any = catalogue.load("datasets", name)()
                extra = {} if chosen is None else {"options": chosen}
                maker.prepare(folder, source=data_source(source), **extra)
    made = open_store(folder)
    if made.manifest["options"] != _unusual(chosen):
        raise UserError(f"the maker of {name!r} does not tell the store its options")
    return made


def read_options(name: str, options: Mapping[str, Any]) -> Config | None:
    """The options of a data set's maker; None if it has none.

    Raises:
        ConfigError: An option that there is not, or a value that it cannot have.
    """
    kind = None
    if catalogue.has("datasets", name):
        kind = getattr(catalogue.load("datasets", name), "options_class", None)
    if kind is None:
        if options:
            message = f"the data set {name!r} has no options"
            raise ConfigError([Problem("data.options", message)])
        return None
    try:
        made: Config = kind.model_validate_json(json.dumps(dict(options)), strict=True)
    except ValidationError as failure:
        known = ", ".join(kind.model_fields)
        problems = []
        for error in failure.errors(include_url=False):
            key = ".".join(map(str, error["loc"]))
            unknown = error["type"] == "extra_forbidden"
            message = f"unknown; known: {known}" if unknown else str(error["msg"])
            near = nearest(key, kind.model_fields) if unknown else None
            problems.append(Problem(f"data.options.{key}", message, suggestion=near))
        raise ConfigError(problems) from None
    return made


def _unusual(options: Config | None) -> dict[str, Any]:
    return {} if options is None else options.model_dump(mode="json", exclude_defaults=True)


def store_folder(name: str, root: str | Path | None, options: Config | None) -> Path:
    """Where the store of a data set is: its name, and a hash of options that are not usual."""
    unusual = _unusual(options)
    return data_root(root) / (f"{name}-{plain_sha256(unusual)[:8]}" if unusual else name)


def open_dataset(config: DataConfig) -> Dataset:
    """The data set that a config names: prepared if it is absent, and verified.

    Its spec tells of the part that the config uses (`validation_fraction`, `limit`).

    Raises:
        UserError: No such data set, it cannot be prepared, or its store is damaged.
        ConfigError: It has no such options.
    """
    name = check_name(config.name)
    folder = store_folder(name, config.root, read_options(name, config.options))
    if _present(folder):
        made = open_store(folder)
    else:
        made = prepare(name, root=config.root, source=config.source, options=config.options)
    return made.using(Use.of(config))


def evaluated(dataset: Dataset, config: DataConfig) -> Dataset:
    """The data set as evaluation sees it: with `data.eval_rows` in place of `data.rows`."""
    if config.eval_rows is None:
        return dataset
    return dataset.using(replace(dataset.use, rows=config.eval_rows))


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
        hint = or_rather(config.eval_split, dataset.splits)
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
    return UserError(
        f"no data set is called {name!r}{or_rather(name, known)}. Known: {', '.join(known)}. Your "
        f"own data come in with `rayloom data import`; stores are looked for in {root}"
    )
