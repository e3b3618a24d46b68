"""Runs as others use them: their weights, their frozen first stages, and slim copies of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rayloom.config.references import references
from rayloom.core.errors import UserError
from rayloom.core.protocols import parameters_sha256
from rayloom.nn.frozen import freeze
from rayloom_pipelines.load.weights import (
    Weights,
    Which,
    config_of_folder,
    model_of,
    of_state,
    read_state,
    spec_from,
)

STAGES = "stages"  # folder inside a run folder with its copies of first stages, by config field


def of_run(path: Path, which: Which | int = "best") -> Weights:
    """The weights of a run folder's checkpoint."""
    from rayloom.records import RunFolder

    record = RunFolder.open(path).record
    config = config_of_folder(path)
    spec = spec_from(record) if record.data else None
    return of_state(config, read_state(path, which)[0], spec, stages_of(path))


def model_of_run(path: Path, which: Which | int = "best") -> torch.nn.Module:
    """The model of a run folder with the weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: No checkpoint verifies.
    """
    from rayloom.records import RunFolder

    spec = spec_from(RunFolder.open(path).record)
    return model_of(config_of_folder(path), spec, of_run(path, which), stages_of(path))


def stages_of(path: Path) -> dict[str, torch.nn.Module]:
    """The frozen first stages of a run folder, built from its own copies; of most runs none.

    Raises:
        UserError: A copy is missing or is not the one that the run was started with.
        CheckpointError: A copy does not verify.
    """
    from rayloom.records import RunFolder
    from rayloom.records.inside import is_plain_file, is_plain_folder

    record = RunFolder.open(path).record
    found = {}
    for field in references(config_of_folder(path).model):
        copy, noted = path / STAGES / field, record.stages.get(field)
        plain = is_plain_folder(path / STAGES) and is_plain_folder(copy)
        if noted is None or not plain or not is_plain_file(copy, "run.json"):
            raise UserError(f"{path} has lost {STAGES}/{field}, its copy of the first stage")
        stage = load_stage(copy)
        if stage.sha256 != noted.parameters_sha256:
            raise UserError(f"{copy} is not the copy of {noted.run} that the run started with")
        found[field] = stage.module
    return found


@dataclass(frozen=True)
class Stage:
    """A first stage.

    Attributes:
        path: Run folder, a copy inside another, or the folder of a registered version.
        run: Id of the run that trained it.
        info: The checkpoint, the run's best.
        sha256: Of the parameters.
        module: The frozen model.
    """

    path: Path
    run: str
    info: Any
    sha256: str
    module: torch.nn.Module


def load_stage(path: Path) -> Stage:
    """The model of a run's best checkpoint, frozen.

    Raises:
        CheckpointError: There is no checkpoint that verifies.
    """
    from rayloom.records import RunFolder

    record = RunFolder.open(path).record
    config, spec, stages = config_of_folder(path), spec_from(record), stages_of(path)
    state, info = read_state(path, "best")
    weights = of_state(config, state, spec, stages)
    module = freeze(model_of(config, spec, weights, stages))
    return Stage(path, record.run_id, info, parameters_sha256(weights), module)


def write_slim(run: Path, target: Path, weights: Weights, info: Any, *, env_step: int = 0) -> None:
    """What rebuilds a run's model: config, facts, first stages, a checkpoint of weights alone.

    Args:
        run: Run folder.
        target: Existing empty folder.
        weights: See `of_state`.
        info: Of the checkpoint that they come from.
        env_step: RL: where its clock stood.

    Raises:
        UserError: The disk refuses, or something in the run folder is no plain file.
    """
    from rayloom.records import Checkpoints
    from rayloom.records.inside import copy_inside, is_plain_folder, walk_inside

    names = ["config.yaml", "run.json"]
    if is_plain_folder(run / STAGES):
        names += [f"{STAGES}/{name}" for name, _ in walk_inside(run / STAGES)]
    try:
        for name in names:
            copy_inside(run, name, target)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be copied: {error.strerror}") from error
    slim = {"trainable": {"weights": weights, "env_step": env_step}}
    said: list[str] = []
    saved = Checkpoints(target / "checkpoints", say=said.append).save(
        info.step, slim, metrics=info.metrics, score=info.score, direction=info.direction
    )
    if saved is None:
        raise UserError(f"{target} cannot be written: {'; '.join(said)}")
