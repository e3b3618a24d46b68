"""The Python API; `rayloom` hands these names on. The command line is a thin layer over it.

run = rayloom.train("autoencoders/vae-digits", ["train.epochs=5"])
run.history(["eval/elbo_nats"]).plot()
run.show("pictures/samples")
agent = rayloom.load("latest").policy()
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core.errors import UserError
from rayloom_pipelines.console import RunObserver, Silent
from rayloom_pipelines.facade import Run

if TYPE_CHECKING:
    import pandas as pd

    from rayloom.config.resolved import Resolved
    from rayloom.config.sections import RunConfig
    from rayloom_pipelines.groups.sweep import Sweep

__all__ = ["Run", "Sweep", "load", "resume", "runs", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name == "Sweep":
        from rayloom_pipelines.groups.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(
    config: "str | Path | Mapping[str, Any] | RunConfig",
    overrides: Sequence[str] = (),
    *,
    model: type | None = None,
    env: Any = None,
    seeds: int = 1,
    init: "str | Path | Run | None" = None,
    smoke: bool = False,
    overfit_batch: bool = False,
    profile: bool = False,
    track: bool = True,
    name: str | None = None,
    observer: RunObserver | None = None,
) -> Run:
    """Train a model or an agent; returns when it is done.

    Args:
        config: A path, a shipped name (`rayloom list configs`), a mapping of sections, or a config.
        overrides: `key=value`, as on the command line.
        model: A model class of your own, in place of the config's; see `rayloom new model`.
        env: An environment class or function of your own, in place of the config's.
        seeds: K runs with the seeds `seed` to `seed + K - 1`, grouped under the returned run.
        init: A run whose best weights this one starts from.
        smoke: A run of seconds, hidden from lists.
        overfit_batch: Train on the first batch again and again.
        profile: Write a profile of some steps to ./profile.
        track: Whether MLflow is told.
        name: Name of the run's config where `config` has none.
        observer: Who watches; None: nobody.

    Returns:
        The run. An interrupted one has the status `interrupted` and can be resumed.

    Raises:
        UserError: The config is wrong, or does not fit the data or the environment.
        RayloomError: Training failed.
    """
    from rayloom_pipelines import known
    from rayloom_pipelines.config import placed
    from rayloom_pipelines.run import own
    from rayloom_pipelines.run import start as run
    from rayloom_pipelines.run.folder import Options
    from rayloom_pipelines.run.smoke import shorten

    resolved = _resolved(config, overrides, name=name, model=model, env=env)
    settings, called = resolved.config, resolved.name or name or "run"
    if smoke:
        settings = shorten(settings)
    if overfit_batch and settings.trainable != "engine":
        noun = settings.kind_of_work.noun
        raise UserError(f"--overfit-batch is for models, which train on batches; this is {noun}")
    if settings.resources.workers and (model is not None or env is not None):
        raise UserError("a class of your own on workers comes from a file: use --plugin FILE.py")
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if settings.seed + seeds > 2**63:
        raise UserError(
            f"seed {settings.seed} and --seeds {seeds} go beyond the last seed, 2**63-1"
        )
    if track and not smoke:
        known.check_model_name(settings, called)
    start = None if init is None else str((init if isinstance(init, Run) else load(init)).path)
    options = Options(
        init=start, smoke=smoke, overfit_batch=overfit_batch, profile=profile, track=track
    )
    watcher = observer or Silent()
    plugins = own.loaded_plugins(resolved)
    if track:
        _name_server(settings)
    with placed(resolved.place):
        if seeds == 1:
            done = run.start(settings, called, options, observer=watcher, plugins=plugins)
            return Run(done.path)
        from rayloom_pipelines.groups.seeds import train_seeds

        return Run(train_seeds(settings, called, options, seeds, observer=watcher, plugins=plugins))


def resume(
    ref: "str | Path | Run",
    overrides: Sequence[str] = (),
    *,
    plugins: Sequence[str] = (),
    observer: RunObserver | None = None,
) -> Run:
    """Go on with a run (or a group of seeds, or a sweep) from its newest good checkpoint.

    Args:
        ref: See `load`; of a registered version, the run that it comes from.
        overrides: Length, resources, tracking and stop rules may change, nothing else.
        plugins: Plugin files or modules; those the run was started with must be unchanged.
        observer: Who watches.

    Raises:
        UserError: Something else was to change, the data or the plugins differ, or another
            process writes to the run.
    """
    from rayloom.distributed import place
    from rayloom_pipelines.config import flag_of, placed
    from rayloom_pipelines.places import run_path
    from rayloom_pipelines.run.server import name_tracking

    name_tracking(overrides)
    found = ref if isinstance(ref, Run) else Run(run_path(ref))
    watcher = observer or Silent()
    for leftover in place.clear_old():
        watcher.on_message(f"taken away: {leftover}")
    kind = found.record.kind
    with placed(lambda path: flag_of(path, overrides)):
        if kind == "sweep":
            from rayloom_pipelines.groups import sweep as search

            search.resume_sweep(found.path, overrides, plugins=plugins, observer=watcher)
        elif kind == "seeds":
            from rayloom_pipelines.groups import seeds

            seeds.resume_seeds(found.path, overrides, plugins=plugins, observer=watcher)
        else:
            from rayloom_pipelines.run import start as run

            run.resume(found.path, overrides, plugins=plugins, observer=watcher)
    return Run(found.path)


def sweep(
    config: "str | Path | Mapping[str, Any]",
    overrides: Sequence[str] = (),
    *,
    seeds: int = 1,
    smoke: bool = False,
    track: bool = True,
    observer: RunObserver | None = None,
) -> "Sweep":
    """Search hyperparameters; leaves of the config hold the spaces.

    Args:
        config: A path, a shipped name, or a mapping of sections.
        overrides: `key=value`; a value may be a space: `optimizer.lr=loguniform(1e-5,1e-2)`.
        seeds: Every trial trains so many seeds and scores their mean.
        smoke: Trials of seconds, hidden from lists.
        track: Whether MLflow is told.
        observer: Who watches.

    Raises:
        UserError: The config is wrong, or there is nothing to search.
    """
    from rayloom_pipelines import known
    from rayloom_pipelines.config import placed
    from rayloom_pipelines.groups import sweep as search
    from rayloom_pipelines.run import own

    resolved = _resolved(config, overrides, search=True)
    if track:
        _name_server(resolved.config)
    if track and not smoke:
        known.check_model_name(resolved.config, resolved.name or "sweep")
    with placed(resolved.place):
        return search.start_sweep(
            resolved,
            seeds=seeds,
            smoke=smoke,
            track=track,
            observer=observer or Silent(),
            plugins=own.loaded_plugins(resolved),
        )


def load(ref: str | Path, *, storage: str | Path | None = None) -> Run:
    """A run by id, unique prefix, path, MLflow id, `models:/name@alias` or `latest`.

    Args:
        ref: Which one.
        storage: Where run folders live; None: the site's, or ./runs.

    Raises:
        UserError: Nothing, or more than one run, fits.
    """
    from rayloom_pipelines.places import run_path, version_path

    if str(ref).startswith("models:/"):
        return Run(version_path(str(ref)))
    return Run(run_path(ref, storage))


def runs(*, storage: str | Path | None = None, smoke: bool = False) -> "pd.DataFrame":
    """All runs as a table, oldest first: id, name, status, created, step, best, seed, parent, path.

    Args:
        storage: Where run folders live; None: the site's, or ./runs.
        smoke: Also those of `--smoke`.
    """
    import pandas as pd

    from rayloom.records import list_runs
    from rayloom_pipelines.places import storage_path

    rows = [
        {
            "id": found.run_id,
            "name": found.name,
            "kind": found.kind,
            "status": found.status,
            "created": found.created,
            "step": found.step,
            "metric": (found.best or {}).get("metric"),
            "best": (found.best or {}).get("value"),
            "seed": found.seed,
            "parent": found.parent,
            "path": str(found.path),
        }
        for found in list_runs(storage_path(storage), smoke=smoke)
    ]
    columns = ["id", "name", "kind", "status", "created", "step", "metric", "best", "seed"]
    return pd.DataFrame(rows, columns=[*columns, "parent", "path"])


def _name_server(config: "RunConfig") -> None:
    """The MLflow of a new run is one that the user names: later commands may use it again."""
    import os

    from rayloom.tracking import name_server, resolve_uri

    own = "RAYLOOM_JOB" not in os.environ  # a job carries the trust of who submitted it
    name_server(resolve_uri(config.tracking.uri, Path.cwd()), remember=own)


def _resolved(
    config: Any,
    overrides: Sequence[str],
    *,
    search: bool = False,
    name: str | None = None,
    model: type | None = None,
    env: Any = None,
) -> "Resolved":
    """A config from whatever a caller gave."""
    from rayloom.config.resolved import resolve, to_dict
    from rayloom.config.sections import RunConfig
    from rayloom_pipelines import known
    from rayloom_pipelines.config import pinned, resolve_config
    from rayloom_pipelines.run import own

    changes = [*own.replace_by_own(model, env), *overrides]
    told = known.of_trials if search else known.here
    if isinstance(config, str | Path):
        return resolve_config(config, changes, search=search, pinned_runs=True, known=told)
    tree = to_dict(config) if isinstance(config, RunConfig) else config
    return pinned(
        lambda more: resolve(tree, [*changes, *more], search=search, name=name or "run", known=told)
    )
