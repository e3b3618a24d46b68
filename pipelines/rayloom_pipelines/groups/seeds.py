"""`--seeds K`: the same config with K seeds, one after the other, and a report across them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.config.sections import RunConfig
from rayloom.records.record import plain
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.groups.across import across, table
from rayloom_pipelines.groups.group import child_options, children_of, open_group, promote
from rayloom_pipelines.run import start as run
from rayloom_pipelines.run.checked import checked
from rayloom_pipelines.run.folder import Options, make_folder
from rayloom_pipelines.run.prepare import Prepared


def train_seeds(
    config: RunConfig,
    name: str,
    options: Options,
    count: int,
    *,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Train seeds `seed` to `seed + count - 1` under one parent; gives the parent's folder."""
    seeds = [config.seed + number for number in range(count)]
    first = checked(config, options)  # what is refused leaves no folder behind
    folder = make_folder(
        config,
        name,
        options,
        plugins=plugins,
        say=observer.on_message,
        facts={"kind": "seeds", "seeds": seeds},
    )
    _go_on(folder, config, options, observer, plugins, overrides=(), first=first)
    return Path(folder.path)


def resume_seeds(
    path: Path, overrides: Sequence[str], *, plugins: Sequence[str], observer: RunObserver
) -> None:
    """Go on with the seeds that have not finished; with overrides, with all of them."""
    from rayloom.catalogue.plugins import require_plugins
    from rayloom_pipelines.load.weights import config_of_folder

    folder = RunFolder.open(path, say=observer.on_message)
    record = folder.record
    require_plugins(plain(record.plugins), plugins)
    if record.status == "finished" and not overrides:
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        return
    options = Options.of(record)
    config = config_of_folder(path)
    _go_on(folder, config, options, observer, plain(record.plugins), overrides=overrides)


def _go_on(
    folder: RunFolder,
    config: RunConfig,
    options: Options,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]],
    *,
    overrides: Sequence[str],
    first: Prepared | None = None,
) -> None:
    """Train or resume each seed; stop at the first that is interrupted."""
    record = folder.record
    seeds = record.known("seeds", record.seeds)
    inside = child_options(options, folder.run_id)
    plain = to_dict(config)
    with open_group(folder, config, options, observer) as end:
        for seed in seeds:
            there = {child.seed: child for child in children_of(folder)}
            if seed not in there:
                own = config_from_dict(plain | {"seed": seed})
                done = run.start(
                    own, record.name, inside, observer=observer, plugins=plugins, prepared=first
                )
            elif there[seed].status != "finished" or overrides:
                done = run.resume(there[seed].path, overrides, observer=observer)
            else:
                continue
            first = None  # of the first seed alone
            code = done.record.exit_code
            if code != 0:
                code = code or 1
                end |= {"exit_code": code, "reason": f"seed {seed} ended with {code}"}
                observer.on_message(f"go on with: rayloom resume {folder.run_id}")
                return
        report = across([child.record for child in children_of(folder)])
        end |= {"exit_code": 0, "reason": f"{len(seeds)} seeds are done", **report}
        for line in table(report["seeds_table"], report["metrics"]):
            observer.on_message(line)
        if options.register and not options.smoke and report["best_run"]:
            end["model"] = promote(folder.path.parent / report["best_run"], observer)
