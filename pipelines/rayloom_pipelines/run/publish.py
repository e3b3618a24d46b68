"""A run's best checkpoint as a registered model, and whatever else MLflow still lacks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rayloom.config.sections import RunConfig
from rayloom.core.errors import RayloomError
from rayloom.core.protocols import DataSpec, Export, parameters_sha256
from rayloom.records.hiding import outgoing
from rayloom.records.record import Record
from rayloom.records.run_folder import RunFolder
from rayloom.records.scratch import scratch
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.load.copies import stages_of, write_slim
from rayloom_pipelines.load.weights import (
    Weights,
    learner_of,
    model_of,
    of_state,
    read_state,
    spec_from,
)
from rayloom_pipelines.run.build import Stages
from rayloom_pipelines.run.server import mlflow_of


def publish(folder: RunFolder, config: RunConfig, observer: RunObserver) -> dict[str, Any] | None:
    """Make the best checkpoint a registered model; a failure is said and ends nothing.

    Args:
        folder: The run folder, locked.
        config: Its config.
        observer: Who watches.

    Returns:
        What `run.json` notes of the model; None where it was not registered.
    """
    try:
        version = register(folder, config, say=observer.on_message)
    except Exception as error:  # MLflow may be away: the run itself is complete
        first = str(error).strip().partition("\n")[0]
        told = first if isinstance(error, RayloomError) else f"{type(error).__name__}: {first}"
        observer.on_message(
            f"the model was not registered ({told}); "
            f"`rayloom runs sync {folder.run_id}` tries again"
        )
        return None
    noted = {"uri": version.uri, "name": version.name, "version": version.version}
    folder.update(model=noted)
    observer.on_message(f"registered as {version.uri}")
    return noted


def send_rest(folder: RunFolder, observer: RunObserver) -> bool:
    """Send what MLflow lacks of a run, and register its model if it is finished without one.

    Returns:
        Whether MLflow has everything; True where tracking is off.

    Raises:
        UserError: Nobody named the server that the run folder names.
    """
    from rayloom.tracking import sync_run
    from rayloom_pipelines.load.recorded import config_of_folder

    record = folder.record
    uri = mlflow_of(record)
    if not uri:
        return True
    sent = sync_run(folder.path, uri, say=observer.on_message)
    asked = record.options is None or record.options.register_
    if sent and asked and record.status == "finished" and not (record.smoke or record.model):
        config = config_of_folder(folder.path)
        publish(folder, config, observer)
    return sent


def register(folder: RunFolder, config: RunConfig, *, say: Callable[[str], Any]) -> Any:
    """Make the best checkpoint a registered model version. Returns `tracking.Registered`."""
    from rayloom.tracking import register_model

    record = folder.record
    uri = mlflow_of(record)  # first: a server that nobody named is told nothing
    state, info = read_state(folder.path, "best")
    spec, stages = spec_from(record) if record.data else None, stages_of(folder.path)
    weights = of_state(config, state, spec, stages)
    exports = exported(config, weights, spec, stages)
    main = next(iter(exports.values()), None)
    with scratch() as room:
        env_step = int(state.get("env_step", 0))
        write_slim(folder.path, room, weights, info, env_step=env_step)
        for file in room.rglob("*"):
            if file.name in ("config.yaml", "run.json"):
                file.write_bytes(outgoing(file.name, file.read_bytes()))
        return register_model(
            folder.path,
            main and main.module,
            main and main.example,
            others={name: export for name, export in exports.items() if export is not main},
            name=config.tracking.register_as or record.name,
            files={file.name: file for file in room.iterdir()},
            sha256=parameters_sha256(weights),
            uri=uri,
            score=info.score,
            direction=info.direction,
            measure=_measure(record, config),
            metadata={"rayloom_run": folder.run_id, "rayloom_step": info.step},
            say=say,
        )


SAMPLE_KEYS = ("frechet", "kid", "mode_coverage", "conditional_accuracy")


def _measure(record: Record, config: RunConfig) -> str:
    """What a run's score is of: metric, data or environment, and the protocol of its nats."""
    if record.best is None:
        return ""
    metric = record.best.metric
    notes = [note for note in (record.protocol or "").split("; ") if note]
    about = {  # notes that belong to some metrics alone
        note: ("nll",) if "importance samples" in note else SAMPLE_KEYS
        for note in notes
        if "importance samples" in note or "extractor" in note
    }
    said = [n for n in notes if n not in about or any(word in metric for word in about[n])]
    data = f"{record.data.name} {record.data.fingerprint[:8]}" if record.data else ""
    where = data or (config.env.name if config.env else "")
    parts = [metric, where, *said]
    return ", ".join(part for part in parts if part)


def exported(
    config: RunConfig, weights: Weights, spec: DataSpec | None, stages: Stages | None = None
) -> dict[str, Export]:
    """The tensor-to-tensor parts by name, the main one first; of some models none."""
    if config.trainable == "rollouts":
        from rayloom.rl.envs.making import spec_of

        assert config.env is not None
        env = spec_of(config.env)
        module = learner_of(config, weights).export_module()
        example = torch.from_numpy(np.zeros((2, *env.obs_shape), env.obs_dtype))
        return {"policy": Export(module, example)}
    assert spec is not None
    model = model_of(config, spec, weights, stages)
    return dict(model.exports()) if hasattr(model, "exports") else {}  # type: ignore[operator]
