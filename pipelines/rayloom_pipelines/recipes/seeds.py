"""`--seeds K`: the same config with K seeds, one after the other, and a report across them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.core.config import config_from_dict, to_dict
from rayloom.core.sections import RunConfig
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.recipes import run
from rayloom_pipelines.recipes.group import child_options, children_of, open_group, promote


def train_seeds(
    config: RunConfig,
    name: str,
    options: run.Options,
    count: int,
    *,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Train seeds `seed` to `seed + count - 1` under one parent; gives the parent's folder."""
    seeds = [config.seed + number for number in range(count)]
    folder = run.make_folder(
        config,
        name,
        options,
        plugins=plugins,
        say=observer.on_message,
        facts={"kind": "seeds", "seeds": seeds},
    )
    _go_on(folder, config, options, observer, plugins, overrides=())
    return Path(folder.path)


def resume_seeds(
    path: Path, overrides: Sequence[str], *, plugins: Sequence[str], observer: RunObserver
) -> None:
    """Go on with the seeds that have not finished; with overrides, with all of them."""
    from rayloom.core.plugins import require_plugins
    from rayloom.records import RunFolder
    from rayloom_pipelines.recipes.weights import config_of_folder

    folder = RunFolder.open(path, say=observer.on_message)
    about = folder.read()
    require_plugins(about.get("plugins", []), plugins)
    if about["status"] == "finished" and not overrides:
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        return
    options = run.Options(**about["options"])
    config = config_of_folder(path)
    _go_on(folder, config, options, observer, about.get("plugins", []), overrides=overrides)


def _go_on(
    folder: Any,
    config: RunConfig,
    options: run.Options,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]],
    *,
    overrides: Sequence[str],
) -> None:
    """Train or resume each seed; stop at the first that is interrupted."""
    about = folder.read()
    inside = child_options(options, folder.run_id)
    plain = to_dict(config)
    with open_group(folder, config, options, observer) as end:
        for seed in about["seeds"]:
            there = {child.seed: child for child in children_of(folder)}
            if seed not in there:
                own = config_from_dict(plain | {"seed": seed})
                done = run.start(own, about["name"], inside, observer=observer, plugins=plugins)
            elif there[seed].status != "finished" or overrides:
                done = run.resume(there[seed].path, overrides, observer=observer)
            else:
                continue
            code = int(done.read().get("exit_code", 1))
            if code:
                end |= {"exit_code": code, "reason": f"seed {seed} ended with {code}"}
                observer.on_message(f"go on with: rayloom resume {folder.run_id}")
                return
        report = across([child.about for child in children_of(folder)])
        end |= {"exit_code": 0, "reason": f"{len(about['seeds'])} seeds are done", **report}
        for line in table(report["seeds_table"], report["metrics"]):
            observer.on_message(line)
        if options.register and not options.smoke and report["best_run"]:
            end["model"] = promote(folder, folder.path.parent / report["best_run"], observer)


def across(children: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report across finished runs: of the best checkpoints' metric and of the last ones'.

    Returns:
        `metrics` (mean, standard deviation, extremes, interquartile mean and 95 % bootstrap
        interval), `best`, `best_run`, `step` and `seeds_table`.
    """
    import numpy as np

    from rayloom.core.metric_table import direction
    from rayloom.metrics.returns import bootstrap, iqm

    rows: list[dict[str, Any]] = []
    for about in children:
        summary = about.get("summary", {})
        best = summary.get("best") or {}
        last = summary.get("metrics", {}).get(best.get("metric", ""))
        rows.append(
            {
                "seed": about["seed"],
                "run": about["run_id"],
                "metric": best.get("metric"),
                "best": best.get("value"),
                "step": best.get("step"),
                "last": last,
            }
        )
    scored = [row for row in rows if row["best"] is not None]
    step = max((int(about.get("position", 0)) for about in children), default=0)
    if not scored:
        none = {"metrics": {}, "best": None, "best_run": None}
        return {**none, "step": step, "seeds_table": rows}
    metric = scored[0]["metric"]
    values = np.array([row["best"] for row in scored], float)
    last = np.array([row["last"] for row in scored if row["last"] is not None], float)
    interval = bootstrap(values)
    metrics = {
        "seeds/best_mean": float(values.mean()),
        "seeds/best_std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "seeds/best_min": float(values.min()),
        "seeds/best_max": float(values.max()),
        "seeds/best_iqm": float(iqm(values)),
        "seeds/best_low": interval.low,
        "seeds/best_high": interval.high,
        "seeds/count": float(len(values)),
    }
    if len(last):
        metrics["seeds/last_mean"] = float(last.mean())
    pick = min if direction(metric) == "min" else max
    first = pick(scored, key=lambda row: row["best"])
    return {
        "metrics": metrics,
        "best": {"metric": metric, "value": first["best"], "step": first["step"]},
        "best_run": first["run"],
        "step": step,
        "seeds_table": rows,
    }


def table(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]) -> list[str]:
    """The report as lines for a person."""
    if not metrics:
        return ["no seed has an evaluation"]
    metric = next(row["metric"] for row in rows if row["metric"])
    lines = [f"{'seed':>6}  {'best':>10}  {'at step':>10}  {'last':>10}  run"]
    for row in rows:
        best, last = ("-" if row[key] is None else f"{row[key]:.5g}" for key in ("best", "last"))
        at = "-" if row["step"] is None else f"{row['step']:,}"
        lines.append(f"{row['seed']:>6}  {best:>10}  {at:>10}  {last:>10}  {row['run']}")
    lines.append(
        f"{metric} of {metrics['seeds/count']:.0f} seeds, best checkpoints: mean "
        f"{metrics['seeds/best_mean']:.5g}, sd {metrics['seeds/best_std']:.3g}, 95 % interval "
        f"{metrics['seeds/best_low']:.5g} to {metrics['seeds/best_high']:.5g}"
    )
    return lines
