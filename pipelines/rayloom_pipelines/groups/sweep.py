"""Sweeps: a group of trials, each a run of its own; Ray Tune says which and when."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.config.resolved import Resolved, check_changes
from rayloom.core.errors import UserError
from rayloom.records.record import plain
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.facade import Run
from rayloom_pipelines.groups.group import open_group, promote
from rayloom_pipelines.groups.sweep_checks import checked_plan
from rayloom_pipelines.groups.sweep_plan import Board, ending, settle
from rayloom_pipelines.groups.trial import payload_of
from rayloom_pipelines.run.folder import Options, make_folder
from rayloom_pipelines.run.next_step import last_words

if TYPE_CHECKING:
    import pandas as pd

RESUMABLE = ("resources", "tracking", "sweep.trials", "sweep.max_concurrent")
TRIAL = "rayloom_pipelines.groups.trial:train_trial"


class Sweep(Run):
    """A sweep on disk, finished or not."""

    def table(self) -> "pd.DataFrame":
        """One row per trial: status, score, values, run."""
        import pandas as pd

        return pd.read_csv(self.path / "trials.csv", dtype={"trial": str})


def start_sweep(
    resolved: Resolved,
    *,
    seeds: int,
    smoke: bool,
    track: bool,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]],
) -> Sweep:
    """Make the sweep's folder and run its trials.

    Raises:
        UserError: There is nothing to search, the grid cannot be one, or no trial fits on the
            cluster.
    """
    if not resolved.spaces:
        raise UserError(
            "there is nothing to search: give a key a space, such as "
            "optimizer.lr=loguniform(1e-5,1e-2), or {search: loguniform, low: 1e-5, high: 1e-2}"
        )
    from rayloom.distributed.sweep import proposer_of

    proposer_of(settle(resolved))  # an impossible search leaves no folder behind
    options = Options(smoke=smoke, track=track)
    resolved = checked_plan(resolved, options)
    folder = make_folder(
        resolved.config,
        resolved.name or "sweep",
        options,
        tree=resolved.to_dict(),
        plugins=plugins,
        say=observer.on_message,
        facts={"kind": "sweep", "sweep_seeds": seeds},
    )
    _go_on(folder, resolved, options, observer)
    return Sweep(folder.path)


def resume_sweep(
    path: Path, overrides: Sequence[str], *, plugins: Sequence[str], observer: RunObserver
) -> None:
    """Go on with a sweep from its ledger.

    Raises:
        UserError: Something else than resources or the number of trials was to change.
    """
    from rayloom.catalogue.plugins import require_plugins
    from rayloom_pipelines.load.recorded import resolved_of

    folder = RunFolder.open(path, say=observer.on_message)
    record = folder.record
    require_plugins(plain(record.plugins), plugins)
    if record.status == "finished" and not overrides:
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        return
    resolved = resolved_of(path, overrides, search=True)
    check_changes(resolved_of(path, search=True).to_dict(), resolved.to_dict(), RESUMABLE)
    _go_on(folder, resolved, Options.of(record), observer)


def _go_on(folder: RunFolder, resolved: Resolved, options: Options, observer: RunObserver) -> None:
    """Run what is left of a sweep and write down how it ended."""
    from rayloom.distributed.sweep import run_sweep

    config, record = resolved.config, folder.record
    spec = settle(resolved)
    payload = payload_of(folder, resolved, options, spec)
    with open_group(folder, config, options, observer) as end:
        observer.on_start(
            {
                "run": folder.run_id,
                "path": str(folder.path),
                "name": f"{', '.join(resolved.spaces)} of {record.name}",
                "verb": "sweeping",
                "workers": config.resources.workers,
                "resumed": record.status != "created",
            }
        )
        board = Board(observer, spec, folder.journal())
        result = run_sweep(
            spec,
            TRIAL,
            payload,
            folder=folder.path,
            resources=config.resources,
            trainable=config.trainable,
            address=config.resources.address,
            on_event=board.hear,
            plugins=payload["plugins"],
            say=observer.on_message,
            note=last_words(folder),
        )
        end |= ending(result, spec)
        _promote(folder, options, observer, end)
    observer.on_end(
        {
            "run": folder.run_id,
            "status": folder.record.status,
            "reason": f"{end['reason']}; table in {folder.path / 'trials.csv'}",
            "best": end["best"],
            "best_run": end.get("best_run"),
            "values": end.get("best_values"),
            "metrics": {},
        }
    )


def _promote(folder: RunFolder, options: Options, observer: RunObserver, end: Any) -> None:
    """Register the best trial's model once the sweep is complete."""
    run_id = end.get("best_run")
    complete = end["exit_code"] == 0 and options.register and not options.smoke
    if run_id and complete and (folder.path.parent / run_id).is_dir():
        end["model"] = promote(folder.path.parent / run_id, observer)
