"""What a run folder recorded, read as data: its config, and the plugins that its config needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.catalogue.plugins import require_plugins
from rayloom.config.resolved import Resolved, load_config
from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import DataSpec
from rayloom.records.record import Record

_KINDS = {"model": "models", "algorithm": "algorithms", "env": "envs", "data": "datasets"}


def resolved_of(
    path: Path, overrides: Sequence[str] = (), *, search: bool = False, plugins: bool = True
) -> Resolved:
    """The config that a run folder (or a registered version) was made with.

    Args:
        path: Run folder.
        overrides: `key=value`.
        search: Whether leaves may hold search spaces, as of a sweep.
        plugins: Load the recorded plugins that it needs, if this machine has trusted them.

    Raises:
        UserError: It cannot be read, leads out of the folder, or needs a plugin that nobody has
            allowed here; names it.
    """
    tree = _tree(path)
    if plugins:
        ready(path, tree)
    return load_config(path / "config.yaml", overrides, search=search, site=None)


def config_of_folder(path: Path) -> RunConfig:
    """As `resolved_of`, of a run without search spaces."""
    return resolved_of(path).config


def _tree(path: Path) -> Mapping[str, Any]:
    from rayloom.config.yaml_text import read
    from rayloom.records.inside import is_plain_file

    file = path / "config.yaml"
    if file.exists() and not is_plain_file(path, "config.yaml"):
        raise UserError(f"{file} is no plain file; inside a run folder no link is followed")
    tree = read(file)
    if isinstance(tree, Mapping) and "extends" in tree:
        raise UserError(f"{file}: a run's config holds all of itself; 'extends' leads out of it")
    return tree if isinstance(tree, Mapping) else {}


def ready(path: Path, tree: Mapping[str, Any]) -> None:
    """Load the recorded plugins whose names the config uses; others are not needed."""
    from rayloom.records import RunFolder

    used = set()
    for section, kind in _KINDS.items():
        part = tree.get(section)
        name = part.get("name") if isinstance(part, Mapping) else part
        choices = name.get("values", []) if isinstance(name, Mapping) else [name]
        used |= {f"{kind}/{choice}" for choice in choices if isinstance(choice, str)}
    recorded = RunFolder.open(path).record.plugins
    needed = [one.to_dict() for one in recorded if used & {*one.names}]
    require_plugins(needed, (), same=False)


def spec_from(record: Record) -> DataSpec:
    """The data's spec as `run.json` holds it: a model is built without the data.

    Raises:
        UserError: It holds none.
    """
    spec = record.known("data", record.data).spec
    if spec is None:
        raise UserError(f"run {record.run_id}: its run.json tells nothing of its data")
    return DataSpec.from_plain(spec.to_dict())
