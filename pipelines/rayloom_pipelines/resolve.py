"""From what a person types to what it means: configs, runs, storage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core.errors import ConfigError, UserError
from rayloom_pipelines.shipped import config_names, find_config, whole_name

if TYPE_CHECKING:
    from rayloom.config.resolved import Known, Resolved
    from rayloom.config.sections import RunConfig

DEFAULT_STORAGE = "runs"


def resolve_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    search: bool = False,
    pinned_runs: bool = False,
    known: "Known | None" = None,
) -> "Resolved":
    """A config given as a path or a shipped name.

    Args:
        source: Which one.
        overrides: `key=value`.
        search: Whether leaves may hold search spaces.
        pinned_runs: Whether runs that the config names are found and named for good.
        known: See `rayloom_pipelines.known`.

    Raises:
        ConfigError: Everything that is wrong with it.
        UserError: There is no such config.
    """
    from rayloom.config.resolved import load_config

    def load(more: Sequence[str]) -> "Resolved":
        words = [*overrides, *more]
        name = whole_name(source) if isinstance(source, str) else source
        return load_config(name, words, search=search, find=find_config, known=known)

    return pinned(load) if pinned_runs else load(())


def pinned(load: Callable[[Sequence[str]], "Resolved"]) -> "Resolved":
    """A config in which every run that it names (a first stage) is named for good.

    Args:
        load: Gives the config, with further overrides.

    Raises:
        ConfigError: A run that it names cannot be used.
    """
    from rayloom.config.references import references

    resolved = load(())
    if not references(resolved.config.model):
        return resolved
    from rayloom_pipelines.recipes.stages import pin

    return load(pin(resolved))


@contextmanager
def placed(place: Callable[[str], str]) -> Iterator[None]:
    """Give the mistakes of a config that are found in this block the places that they lack.

    Args:
        place: Where a key was set; "" if nothing sets it.

    Raises:
        ConfigError: The same mistakes.
    """
    try:
        yield
    except ConfigError as error:
        problems = [replace(one, where=one.where or place(one.path)) for one in error.problems]
        raise ConfigError(problems) from error


def flag_of(path: str, overrides: Sequence[str]) -> str:
    """The last of some flags that sets a key, as messages show it; "" if none does."""
    for word in reversed(overrides):
        key = word.partition("=")[0].strip()
        if path == key or path.startswith(f"{key}."):
            return f"flag {word}"
    return ""


def config_of(word: str, storage: str | Path | None = None) -> "RunConfig":
    """The config that a word names: a file, a shipped config, or else a run's.

    Raises:
        UserError: It is neither.
    """
    path = Path(word)
    if path.suffix in (".yaml", ".yml") or path.is_file() or whole_name(word) in config_names():
        return resolve_config(word, search=True).config
    try:
        folder = run_path(word, storage)
    except UserError as no_run:
        try:
            find_config(word)
        except UserError as no_config:
            raise UserError(f"{no_config}; and no run: {no_run}") from None
        raise
    from rayloom_pipelines.recipes.recorded import resolved_of

    return resolved_of(folder, search=True).config


def site_settings() -> dict[str, Any]:
    """`storage`, `tracking` and `resources.address` as flags' absence leaves them.

    What the environment and the site files say, in the order of `rayloom.config.merge`.

    Raises:
        ConfigError: A site file is wrong.
    """
    import os

    from rayloom.config.merge import site_files, with_defaults
    from rayloom.config.yaml_marks import Node
    from rayloom.core.errors import Problem

    problems: list[Problem] = []
    tree, _ = with_defaults(Node({}), os.environ, site_files(os.environ), problems)
    if problems:
        raise ConfigError(problems)
    plain = tree.plain()
    return plain if isinstance(plain, dict) else {}


def storage_path(storage: str | Path | None = None) -> Path:
    """Absolute folder of run folders: the given one, the site's, or ./runs."""
    chosen = storage or site_settings().get("storage") or DEFAULT_STORAGE
    return Path(str(chosen)).expanduser().absolute()


def tracking_uri(uri: str | None = None) -> str:
    """Absolute MLflow URI: the given one, MLFLOW_TRACKING_URI, the site's, or ./mlflow.db.

    Raises:
        UserError: It cannot be used; says why.
    """
    import os

    from rayloom.tracking import resolve_uri

    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen:
        chosen = (site_settings().get("tracking") or {}).get("uri")
    return str(resolve_uri(chosen, Path.cwd()))


def allowed_uri(recorded: str) -> str:
    """The MLflow of a run folder, if it is one that the user names; see `rayloom.tracking.address`.

    Args:
        recorded: What the run folder says.

    Raises:
        UserError: It is not; says how to name it.
    """
    import os

    from rayloom.tracking import allowed, resolve_uri

    site = (site_settings().get("tracking") or {}).get("uri")
    named = [os.environ.get("MLFLOW_TRACKING_URI"), site, "sqlite:///mlflow.db"]
    here = Path.cwd()
    return str(allowed(recorded, [resolve_uri(uri, here) for uri in named if uri]))


def run_path(
    word: str | Path, storage: str | Path | None = None, *, uri: str | None = None
) -> Path:
    """The run folder that a word names.

    Args:
        word: An id, a unique prefix of one, a path, an MLflow run id, `models:/name@alias` (or
            `models:/name/version`), or `latest`.
        storage: Where run folders live.
        uri: Which MLflow; None: as `tracking_uri`.

    Raises:
        UserError: Nothing, or more than one run, fits.
    """
    from rayloom.records import resolve_run

    text = str(word)
    if text.startswith("models:/"):
        from rayloom.tracking import run_of_model

        return _existing(run_of_model(text, tracking_uri(uri)), text, storage)
    try:
        return Path(resolve_run(text, storage_path(storage)))
    except UserError as unknown:
        if len(text) == 32 and set(text) <= set("0123456789abcdef"):
            from rayloom.tracking import run_of_mlflow_id

            return _existing(run_of_mlflow_id(text, tracking_uri(uri)), text, storage)
        raise unknown


def _existing(found: str, word: str, storage: str | Path | None) -> Path:
    """The folder of a run that MLflow told: its noted path, or its id in the storage."""
    for path in (Path(found), storage_path(storage) / Path(found).name):
        if (path / "run.json").is_file():
            return path
    raise UserError(f"{word} belongs to the run {found}, whose folder is not here")


def version_path(reference: str, *, uri: str | None = None) -> Path:
    """The folder with config and checkpoint inside a registered model version.

    Args:
        reference: `models:/name@alias` or `models:/name/version`.
        uri: Which MLflow; None: as `tracking_uri`.

    Raises:
        UserError: No such version, or rayloom did not register it.
    """
    from rayloom.tracking import fetch_version

    folder = Path(fetch_version(reference, tracking_uri(uri))) / "rayloom"
    if not (folder / "run.json").is_file():
        raise UserError(f"{reference} was not registered by rayloom")
    return folder
