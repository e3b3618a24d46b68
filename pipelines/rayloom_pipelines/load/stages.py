"""Two-stage models: the first stage is found by its run, checked, and copied into the new run.

    <run>/stages/<field>/{config.yaml, run.json, checkpoints/, stages/}

The copy is what every later use loads: the run stands alone. See docs/training.md, "Two stages".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.config.references import references
from rayloom.config.resolved import Resolved
from rayloom.config.sections import RunConfig
from rayloom.config.yaml_text import flag
from rayloom.core.errors import ConfigError, Problem, UserError
from rayloom.core.protocols import DataSpec
from rayloom.core.tasks import must_be_model
from rayloom.nn.state import kept_state
from rayloom.records.record import Record
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.load.copies import STAGES, Stage, load_stage, write_slim
from rayloom_pipelines.load.recorded import resolved_of
from rayloom_pipelines.load.weights import spec_from
from rayloom_pipelines.places import run_path, storage_path, tracking_uri, version_path


def pin(resolved: Resolved) -> list[str]:
    """Overrides that name every first stage for good: `latest` and aliases move.

    A run in the config's own storage is named by its id, another by its absolute path, a
    registered model by its version's number.

    Raises:
        ConfigError: A first stage cannot be used, and why.
    """
    config, changes, problems = resolved.config, [], []
    for field, word in references(config.model).items():
        path = f"model.{field}"
        if path in resolved.spaces:  # each trial finds its own
            continue
        try:
            folder = _source(word, config)
        except UserError as error:
            problems.append(Problem(path, str(error), resolved.place(path)))
            continue
        if word.startswith("models:/"):
            from rayloom.tracking import numbered

            settled = numbered(word, tracking_uri(config.tracking.uri))
        else:
            inside = folder.parent == storage_path(config.storage)
            settled = folder.name if inside else str(folder)
        changes.append(flag(path, settled))
    if problems:
        raise ConfigError(problems)
    return changes


def find(config: RunConfig, spec: DataSpec) -> dict[str, Stage]:
    """Find, load and freeze what a config names, by field.

    Args:
        config: Resolved config.
        spec: The data that the new run is to train on.

    Raises:
        UserError: A first stage cannot be used: no such run, no checkpoint, an agent, an unknown
            plugin, or other data.
    """
    found = {}
    for field, word in references(config.model).items():
        try:
            path = _source(word, config)
            _check_spec(path, spec)
            found[field] = load_stage(path)
        except UserError as error:
            raise UserError(f"model.{field}: {error}") from error
    return found


def noted(stages: Mapping[str, Stage]) -> dict[str, Any]:
    """What `run.json` holds of the first stages."""
    return {
        field: {
            "run": stage.run,
            "step": stage.info.step,
            "parameters_sha256": stage.sha256,
            "path": str(stage.path),
        }
        for field, stage in stages.items()
    }


def copy_into(folder: Path, stages: Mapping[str, Stage]) -> None:
    """Put slim copies of the first stages into a run folder.

    Raises:
        UserError: The disk refuses.
    """
    for field, stage in stages.items():
        target = folder / STAGES / field
        target.mkdir(parents=True)
        kept, state = kept_state(stage.module), stage.module.state_dict()  # of its training alone
        weights = {name: value for name, value in state.items() if name not in kept}
        write_slim(stage.path, target, weights, stage.info)


def _source(word: str, config: RunConfig) -> Path:
    """The folder of the run that a word names; of a group, of its best run."""
    from rayloom_pipelines.facade import Run

    uri = config.tracking.uri
    if word.startswith("models:/"):
        path = version_path(word, uri=uri)
    else:
        path = Run(run_path(word, config.storage, uri=uri))._member().path
    folder = RunFolder.open(path)
    record = folder.record
    must_be_model(record.task, record.run_id)
    _check_config(record, path)
    if not folder.checkpoints(read_only=True).complete():
        raise UserError(f"run {record.run_id} has no checkpoint ({record.status})")
    return path


def _check_config(record: Record, path: Path) -> None:
    """The run's config must load; its model must be in the catalogue: no config brings code in."""
    try:
        resolved_of(path, plugins=False)
    except ConfigError as error:
        files = " and ".join(f"--plugin {plugin.path}" for plugin in record.plugins)
        hint = f" (it was trained with {files})" if files else ""
        reason = f"{hint}: {'; '.join(map(str, error.problems))}"
        raise UserError(f"the config of run {record.run_id} does not load{reason}") from error


def _check_spec(path: Path, spec: DataSpec) -> None:
    """The data must look like what the first stage was trained on; labels are its own affair."""
    first = spec_from(record := RunFolder.open(path).record)
    for name, field in first.fields.items():
        if field.kind == "label":
            continue
        given = spec.fields.get(name)
        if given is None or (given.shape, given.dtype) != (field.shape, field.dtype):
            have = f"{given.dtype} {given.shape}" if given else "none"
            raise UserError(
                f"run {record.run_id} was trained on {first.name!r} with {name} "
                f"{field.dtype} {field.shape}; the data set {spec.name!r} has {have}"
            )
