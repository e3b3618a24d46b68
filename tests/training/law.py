"""The law of data parallelism: N workers equal one. Import as `training.law`.

`check(collective)` runs on every rank of a group, however it came to be (spawned processes here,
Ray Train's workers in tests/distributed), and returns the largest relative difference per case.
"""

import torch

from rayloom.config.sections import EarlyStoppingConfig
from rayloom.core.collective import Solo
from rayloom.training import Engine, Plan, drive
from rayloom.training.fitting import MemorySink
from training.toys import CASES, build

STEPS = 5
BATCH_SIZES = (64, 7, 1)
TOLERANCE = 1e-9


def never() -> bool:
    return False


def train(name, batch_size, collective, *, stop_at=None, steps=STEPS, **changes):
    """Engine and sink after some grad_steps; with `stop_at`, through a state into a new engine."""
    model, config, source, held_out = build(name, batch_size=batch_size, **changes)
    engine = Engine(model, config, source, held_out, collective=collective)
    sink = MemorySink()
    if stop_at is not None:
        engine.advance(stop_at, sink=sink, interrupted=never)
        state = engine.state_dict()
        model, config, source, held_out = build(name, batch_size=batch_size, **changes)
        engine = Engine(model, config, source, held_out, collective=collective)
        engine.load_state_dict(state)
    engine.advance(steps, sink=sink, interrupted=never)
    return engine, sink


def difference(a, b) -> float:
    """Largest |a - b| / max|b| over the tensors and log points of two runs."""
    worst = 0.0
    mine, theirs = (tensors(engine.state_dict()) for engine in (a, b))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        scale = theirs[key].abs().max().clamp(min=1e-300)
        worst = max(worst, float((value - theirs[key]).abs().max() / scale))
    return worst


def tensors(state) -> dict:
    """Parameters, buffers, averages and the memory of rows, as float64."""
    parts = (("", state["model"]), ("memory.", state.get("memory", {})))
    parts += (("ema.", state.get("ema", {}).get("shadow", {})),)
    return {prefix + k: v.double() for prefix, part in parts for k, v in part.items()}


def points(sink) -> list:
    """Log points without what may differ."""
    kept = []
    for step, values in sink.points:
        kept.append((step, {k: v for k, v in values.items() if not k.startswith("time/")}))
    return kept


def points_difference(a, b) -> float:
    worst = 0.0
    assert [s for s, _ in points(a)] == [s for s, _ in points(b)]
    for (_, mine), (_, theirs) in zip(points(a), points(b), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            worst = max(worst, abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-12))
    return worst


def check(collective, names=tuple(CASES), batch_sizes=BATCH_SIZES) -> dict[str, float]:
    """Largest relative difference between this group and one process, per case (float64)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found: dict[str, float] = {}
    try:
        for name in names:
            for batch_size in batch_sizes:
                many, sink = train(name, batch_size, collective)
                one, alone = train(name, batch_size, Solo())
                worst = difference(many, one)
                if collective.rank == 0:
                    worst = max(worst, points_difference(sink, alone))
                mine, theirs = many.evaluate(), one.evaluate()
                assert mine.keys() == theirs.keys()
                for key in mine:
                    worst = max(worst, abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-12))
                found[f"{name}/{batch_size}"] = worst
    finally:
        torch.set_default_dtype(before)
    return found


def check_resume(collective, names=tuple(CASES), batch_size=7) -> dict[str, bool]:
    """Whether a group that went through a state after 2 steps equals, in bits, one that did not."""
    found = {}
    for name in names:
        whole, sink = train(name, batch_size, collective, steps=7)
        broken, pieces = train(name, batch_size, collective, stop_at=2, steps=7)
        same = whole.parameters_sha256() == broken.parameters_sha256()
        found[name] = same and points(sink) == points(pieces)
    return found


def check_other_world(collective, names=tuple(CASES), batch_size=7) -> dict[str, float]:
    """Two steps on this group, then three on one rank: the difference from five on one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found = {}
    try:
        for name in names:
            many, _ = train(name, batch_size, collective, steps=2)
            state = many.state_dict()
            model, config, source, held_out = build(name, batch_size=batch_size)
            one = Engine(model, config, source, held_out)
            one.load_state_dict(state)
            one.advance(STEPS, sink=MemorySink(), interrupted=never)
            found[name] = difference(one, train(name, batch_size, Solo())[0])
    finally:
        torch.set_default_dtype(before)
    return found


def check_stops(collective) -> dict:
    """How runs end on this rank, when rules, patience, or one rank alone says stop."""
    plan = {"unit": "grad_steps", "amount": 40, "evaluate_every": 4}
    worse = {"metric": "eval/loss", "mode": "max"}

    def end(should_stop=None, **rules):
        model, config, source, held_out = build("regression", batch_size=7)
        engine = Engine(model, config, source, held_out, collective=collective)
        outcome = drive(
            engine,
            Plan(**plan, **rules),
            folder=None,
            sink=MemorySink(),
            collective=collective,
            should_stop=should_stop,
        )
        return outcome.to_dict()

    calls, more_calls = iter(range(10_000)), iter(range(10_000))
    return {
        "budget": end(),
        "rule": end(stop={"eval/loss": 1e9}),
        "patience": end(
            early_stopping=EarlyStoppingConfig(metric="eval/loss", patience=2, min_delta=1e9)
        ),
        "best": end(**worse)["best"],
        "signal on rank 1": end(lambda: 15 if collective.rank == 1 and next(calls) >= 6 else 0),
        "Ctrl-C on rank 0": end(lambda: 2 if collective.rank == 0 and next(more_calls) >= 6 else 0),
        "time": end(time_limit_s=1e-9),
    }
