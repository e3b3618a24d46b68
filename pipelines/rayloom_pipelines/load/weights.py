"""Weights of a run's checkpoint: for sampling, playing, fine-tuning and the model registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rayloom.config.sections import RunConfig
from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.protocols import DataSpec
from rayloom.nn.state import kept_state
from rayloom_pipelines.load.recorded import config_of_folder, spec_from
from rayloom_pipelines.load.shapes import check_fit, fit_weights
from rayloom_pipelines.run.build import Stages, build_model

__all__ = ["config_of_folder", "copy_parameters", "learner_of", "model_of", "of_state",
           "put_into", "read_state", "spec_from"]  # fmt: skip

Which = Literal["best", "last"]
Weights = dict[str, torch.Tensor]


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
    state = checkpoints.load(found).get("trainable")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path.name}: the checkpoint at {found.step} holds no run's state")
    return dict(state), found


def of_state(
    config: RunConfig,
    state: Mapping[str, Any],
    spec: DataSpec | None,
    stages: Stages | None = None,
) -> Weights:
    """Weights as evaluation uses them (averaged, where the run averages), by name.

    Raises:
        UserError: The run tells nothing of its data, or the weights do not fit.
        CheckpointError: The state is not one of such a run.
    """
    try:
        return _of_state(config, state, spec, stages)
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the checkpoint's state is not one of this run ({what})") from error


def _of_state(
    config: RunConfig,
    state: Mapping[str, Any],
    spec: DataSpec | None,
    stages: Stages | None,
) -> Weights:
    if "weights" in state:  # the slim checkpoint of a registered version
        return dict(state["weights"])
    if config.trainable == "rollouts":
        from rayloom.rl.collect import make_learner

        learner = make_learner(config)
        learner.load_state_dict(state["updater"]["learner"])
        return {name: value.detach().clone() for name, value in learner.parameters().items()}
    if spec is None:
        raise UserError("the run's run.json tells nothing of its data")
    model = build_model(config, spec, stages)
    fit_weights(model, {k: torch.as_tensor(v) for k, v in state["model"].items()})
    if "ema" in state:
        from rayloom.training.averages import put_averages

        put_averages(model, state["ema"])
    kept = kept_state(model)
    state = model.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if name not in kept}


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
