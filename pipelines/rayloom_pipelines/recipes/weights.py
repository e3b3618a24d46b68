"""Weights of a run's checkpoint: for sampling, playing, fine-tuning and the model registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rayloom.core.config import load_config
from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.core.sections import RunConfig
from rayloom.nn.frozen import averaged_buffers
from rayloom_pipelines.recipes.build import Stages, build_model
from rayloom_pipelines.recipes.fitting import check_fit, fit_weights

Which = Literal["best", "last"]
Weights = dict[str, torch.Tensor]
STAGES = "stages"  # folder inside a run folder with its copies of first stages, by config field


def config_of_folder(path: Path) -> RunConfig:
    """The config that a run folder (or a registered version) was made with."""
    return load_config(path / "config.yaml", site=None).config


def spec_from(about: Mapping[str, Any]) -> DataSpec:
    """The data's spec as `run.json` holds it: a model is built without the data."""
    fields = about["data"]["spec"]["fields"]
    return DataSpec(
        fields={
            name: FieldSpec(
                shape=tuple(field["shape"]),
                dtype=field["dtype"],
                kind=field["kind"],
                num_classes=field["num_classes"],
            )
            for name, field in fields.items()
        },
        name=about["data"]["spec"]["name"],
    )


def read_state(path: Path, which: Which | int = "best") -> tuple[dict[str, Any], Any]:
    """The trainable's state in a checkpoint, and what is known of the checkpoint.

    Args:
        path: Run folder.
        which: `best` (the last one where none was scored), `last`, or a clock step.

    Raises:
        CheckpointError: There is no checkpoint that verifies.
    """
    from rayloom.records import RunFolder

    checkpoints = RunFolder.open(path).checkpoints(read_only=True)
    if isinstance(which, int):
        found = next((c for c in checkpoints.complete() if c.step == which), None)
        if found is None:
            steps = ", ".join(str(c.step) for c in checkpoints.complete()) or "none"
            raise UserError(f"{path.name} has no checkpoint at step {which}; it has: {steps}")
    else:
        found = checkpoints.best() if which == "best" else None
        found = found or checkpoints.latest()
    if found is None:
        raise CheckpointError(f"{path.name} has no checkpoint that verifies")
    return checkpoints.load(found)["trainable"], found


def of_state(
    config: RunConfig,
    state: Mapping[str, Any],
    spec: DataSpec | None,
    stages: Stages | None = None,
) -> Weights:
    """Weights as evaluation uses them (averaged, where the run averages), by name."""
    if "weights" in state:  # the slim checkpoint of a registered version
        return dict(state["weights"])
    if config.task == "rl":
        from rayloom.rl.collect import make_learner

        learner = make_learner(config)
        learner.load_state_dict(state["updater"]["learner"])
        return {name: value.detach().clone() for name, value in learner.parameters().items()}
    assert spec is not None
    model = build_model(config, spec, stages)
    fit_weights(model, {k: torch.as_tensor(v) for k, v in state["model"].items()})
    if "ema" in state:
        from rayloom.nn.ema import EMA
        from rayloom.optim.flat import FlatParameters

        flat = [FlatParameters(player.parameters).data for player in model.players]  # type: ignore[union-attr,operator]
        average = EMA([*flat, *averaged_buffers(model)], decay=0.5)
        average.load_state_dict(state["ema"])
        for tensor, shadow in zip(average.tensors, average.shadow, strict=True):
            tensor.copy_(shadow)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def model_of(
    config: RunConfig, spec: DataSpec, weights: Weights, stages: Stages | None = None
) -> torch.nn.Module:
    """The model with these weights, in evaluation mode."""
    model = build_model(config, spec, stages)
    fit_weights(model, weights)
    return model.eval()


def learner_of(config: RunConfig, weights: Weights) -> Any:
    """The learner with these parameters; its optimizer and replay are new."""
    from rayloom.rl.collect import make_learner

    learner = make_learner(config)
    copy_parameters(learner.parameters(), weights)
    return learner


def copy_parameters(target: Mapping[str, torch.Tensor], weights: Weights) -> None:
    """Copy weights into live tensors.

    Raises:
        UserError: Names or shapes differ.
    """
    check_fit(target, weights, "learner")
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(weights[name])


def put_into(trainable: Any, weights: Weights) -> None:
    """Start an RL run from given parameters."""
    copy_parameters(trainable.parameters(), weights)
