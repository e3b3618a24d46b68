"""What is made and checked before a run folder exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.config.sections import RunConfig
from rayloom.core import garbage
from rayloom.core.declared import USUAL, declared_metrics, default_metrics
from rayloom.core.metric_table import Metric


@dataclass
class Prepared:
    """What is made and checked before a run folder exists.

    Attributes:
        config: What the trainable is built from: the config of the first start, so that schedules
            and horizons stay what they were when a resume changes the length.
        data: Name, fingerprint, counts and spec of the data set, for `run.json`; None for RL.
        choices: Every `auto` that was decided once: threads, device.
        trainable: What to drive in this process; None where workers build it.
        protocol: What the reported nats are about, such as `bernoulli, dynamic binarisation`; ""
            where the model does not say.
        stages: First stages as found for a new run, by config field; see `load.stages`.
        metrics: What an evaluation will have.
        default_metrics: What its best means: the first of these that an evaluation has.
        own_metrics: What the method declares of its metrics, by key.
    """

    config: RunConfig
    data: dict[str, Any] | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    trainable: Any = None
    protocol: str = ""
    stages: dict[str, Any] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    default_metrics: Sequence[str] = USUAL
    own_metrics: Mapping[str, Metric] = field(default_factory=dict)


def prepare(
    config: RunConfig,
    options: Any,
    *,
    choices: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Prepared:
    """Open the data or the environment, decide what is `auto`, build what can be built.

    Args:
        config: Resolved config.
        options: `run.folder.Options`.
        choices: Earlier decisions, which a resume keeps.
        path: Run folder of a resume, which has its own copies of first stages.

    Raises:
        UserError: The config does not fit the data, the environment or this machine.
    """
    with garbage.paused():
        import torch

        from rayloom_pipelines.load import copies, stages, weights
        from rayloom_pipelines.run import build, machine

    kept = dict(choices or {})
    kept["device"] = machine.choose_device(config)

    def settle_threads(spec: Any = None) -> None:
        if config.resources.threads != "auto" or not kept.get("threads"):
            kept["threads"] = machine.choose_threads(config, spec)
        torch.set_num_threads(int(kept["threads"]))

    made = Prepared(config, choices=kept)
    start = copies.of_run(Path(options.init)) if options.init else None
    workers = config.resources.workers
    if config.trainable == "rollouts":
        from rayloom.rl.collect import algorithm_class, make_learner
        from rayloom.rl.evaluation import metric_names

        settle_threads()
        if workers == 0:
            made.trainable = build.build_rl(config)
            if start is not None:
                weights.put_into(made.trainable, start)
        else:  # what does not fit is told before Ray starts
            learner = make_learner(config)
            if start is not None:
                weights.copy_parameters(learner.parameters(), start)
        learner_class = algorithm_class(config)
        made.metrics, made.default_metrics = metric_names(), default_metrics(learner_class)
        made.own_metrics = declared_metrics(learner_class)
        return made
    from rayloom.data import evaluated, first_batch, open_dataset, require_splits
    from rayloom.metrics.evaluation import made_for
    from rayloom.training.preflight import check_model, evaluation_names
    from rayloom_pipelines.load.shapes import fit_weights

    assert config.data is not None
    dataset = open_dataset(config.data)
    require_splits(dataset, config.data)
    spec = dataset.spec
    settle_threads(spec)
    if path is None:
        made.stages = stages.find(config, spec)
        frozen = {name: stage.module for name, stage in made.stages.items()}
    else:
        frozen = copies.stages_of(path)
    if workers == 0:
        made.trainable = build.build_engine(
            config,
            stages=frozen,
            device=kept["device"],
            dataset=dataset,
            initial=start,
            overfit_batch=options.overfit_batch,
            profile=Path("profile").absolute() if options.profile else None,
        )
        model = made.trainable.model
    else:  # what does not fit is told before Ray starts
        model = build.build_model(config, spec, frozen)
        check_model(model, config, workers, spec)
        if start is not None:
            fit_weights(model, start)
    made.data = {  # the spec with the statistics that the model asked for
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "spec": spec.plain(),
    }
    few = first_batch(evaluated(dataset, config.data), config.data.eval_split)
    made.metrics = evaluation_names(model, config, few, spec)
    made.default_metrics, made.own_metrics = default_metrics(model), declared_metrics(model)
    notes = [
        getattr(model, "protocol", ""),
        *(one.protocol for one in made_for(model, config, spec)),
    ]
    made.protocol = "; ".join(dict.fromkeys(note for note in notes if note))
    return made
