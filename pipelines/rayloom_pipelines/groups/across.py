"""The report across the seeds of one config."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.records.record import Record


def across(children: Sequence[Record]) -> dict[str, Any]:
    """The report across finished runs: of the best checkpoints' metric and of the last ones'.

    Returns:
        `metrics` (mean, standard deviation, extremes, interquartile mean and 95 % bootstrap
        interval), `best`, `best_run`, `step` and `seeds_table`.
    """
    import numpy as np

    from rayloom.core.metric_table import direction
    from rayloom.core.scores import best_index, usable
    from rayloom.metrics.returns import bootstrap, iqm
    from rayloom.records.told_metrics import told_metrics

    rows: list[dict[str, Any]] = []
    for child in children:
        best = child.best
        rows.append(
            {
                "seed": child.seed,
                "run": child.run_id,
                "metric": best.metric if best else None,
                "best": usable(best.value if best else None),
                "step": best.step if best else None,
                "last": usable(child.evaluated.get(best.metric) if best else None),
            }
        )
    scored = [row for row in rows if row["best"] is not None]
    step = max((child.position or 0 for child in children), default=0)
    if not scored:
        none = {"best": None, "best_run": None}
        return {"metrics": {}, **none, "step": step, "seeds_table": rows}
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
    own = told_metrics(children[0])
    first = scored[best_index(list(values), direction(metric, own)) or 0]
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
        return ["no seed has a finite score (checkpoint.metric names what a run is judged by)"]
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
    without = [str(row["seed"]) for row in rows if row["best"] is None]
    if without:
        lines.append(f"left out, without a finite score: seed {', '.join(without)}")
    return lines
