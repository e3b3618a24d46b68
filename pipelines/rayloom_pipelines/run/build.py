"""A config to something that the driver can drive: the engine, or the RL loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayloom import catalogue
from rayloom.config.references import reference_fields
from rayloom.config.sections import RunConfig
from rayloom.core.collective import Solo
from rayloom.core.errors import UserError
from rayloom.core.protocols import Collective, Collector, DataSpec, Trainable, Updater
from rayloom.core.seeding import stream_seed
from rayloom_pipelines.load.shapes import fit_weights
from rayloom_pipelines.run import machine

Stages = Mapping[str, torch.nn.Module]  # frozen first stages, by the config field that names each


def build_model(config: RunConfig, spec: DataSpec, stages: Stages | None = None) -> torch.nn.Module:
    """The model, its first weights drawn from the run's seed.

    Args:
        config: Resolved config.
        spec: Of the data.
        stages: The frozen first stages that the config names; see `load.stages`.

    Raises:
        UserError: The model cannot be built from these, or does not keep a stage.
    """
    assert config.model is not None
    stages = stages or {}
    name: str = config.model.name  # type: ignore[attr-defined]
    model_class = catalogue.load("models", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "initial weights"))
        try:
            if reference_fields(type(config.model)):
                model = model_class(config.model, spec, stages=stages)
            else:
                model = model_class(config.model, spec)
        except UserError as error:
            raise UserError(f"model {name}: {error}") from error
    assert isinstance(model, torch.nn.Module)
    inside = {id(part) for part in model.modules()}
    for field, stage in stages.items():
        if id(stage) not in inside:
            raise UserError(
                f"{type(model).__name__} does not keep its {field}: it must be a submodule, such "
                f"as self.{field} = stages[{field!r}]"
            )
    return model.double() if config.train.precision == "fp64" else model


def build_engine(
    config: RunConfig,
    collective: Collective | None = None,
    device: str = "cpu",
    *,
    dataset: Any = None,
    stages: Stages | None = None,
    initial: dict[str, torch.Tensor] | None = None,
    overfit_batch: bool = False,
    profile: Path | None = None,
) -> Any:
    """The engine around the model and the data that a config names.

    Args:
        config: Resolved config.
        collective: The workers.
        device: Where to train.
        dataset: The opened data set; None opens it.
        stages: The frozen first stages that the config names.
        initial: Weights to start from, in place of the seed's.
        overfit_batch: Train on the first batch again and again.
        profile: Folder of a profile.
    """
    from rayloom.data import evaluated, make_source, open_dataset, require_splits
    from rayloom.training.engine import Engine

    assert config.data is not None
    data = config.data
    dataset = dataset or open_dataset(data)
    require_splits(dataset, data)
    model = build_model(config, dataset.spec, stages)
    train = make_source(
        dataset,
        "train",
        batch_size=data.batch_size,
        seed=stream_seed(config.seed, "order"),
        shuffle=True,
        shuffle_window=data.shuffle_window,
        limit=data.limit,
        fields=getattr(model, "reads", None),
        drop_last=hasattr(model, "memory"),
    )
    evaluation = make_source(
        evaluated(dataset, data),
        data.eval_split,
        batch_size=data.eval_batch_size,
        seed=0,
        shuffle=False,
        limit=data.limit,
    )
    if initial is not None:
        fit_weights(model, initial)
    return Engine(
        model,
        config,
        train,
        evaluation,
        collective=collective or Solo(),
        device=device,
        overfit_batch=overfit_batch,
        profile=profile,
        initialised=initial is not None,
    )


def build_rl(
    config: RunConfig, *, collector: Collector | None = None, updater: Updater | None = None
) -> Any:
    """The RL loop around the algorithm and the environments that a config names."""
    from rayloom.rl.loop import RLTrainable

    return RLTrainable(config, collector=collector, updater=updater)


def build(config: RunConfig) -> Trainable:
    """What a config trains, in this process."""
    if config.trainable == "rollouts":
        built: Trainable = build_rl(config)
    else:
        built = build_engine(config, device=machine.choose_device(config))
    return built
