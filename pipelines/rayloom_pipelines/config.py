"""From what a person types to the config that it means."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rayloom.core.errors import ConfigError, UserError
from rayloom_pipelines.places import run_path
from rayloom_pipelines.shipped import config_names, find_config, whole_name

if TYPE_CHECKING:
    from rayloom.config.resolved import Known, Resolved
    from rayloom.config.sections import RunConfig


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
    from rayloom_pipelines.load.stages import pin

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
    from rayloom_pipelines.load.recorded import resolved_of

    return resolved_of(folder, search=True).config
