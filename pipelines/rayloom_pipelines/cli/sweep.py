"""`rayloom sweep`."""

from collections.abc import Sequence

from rayloom_pipelines.cli.options import Parser
from rayloom_pipelines.cli.train import resource_flags
from rayloom_pipelines.cli.watch import watch


def parser() -> Parser:
    """Its options."""
    made = Parser(
        "sweep",
        "Search hyperparameters. A key holds a space instead of a value: "
        "optimizer.lr=loguniform(1e-5,1e-2), model.latent_dim=choice(4,8,16).",
    )
    made.config_words()
    made.add_argument("--workers", type=int, metavar="N", help="Ray workers of each trial")
    made.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds of each trial")
    made.address_option()
    made.add_argument("--smoke", action="store_true", help="trials of seconds, hidden from lists")
    made.json_option()
    return made


def run(argv: Sequence[str]) -> int:
    """Search; the exit code says how it ended."""
    given = parser().read(argv)
    from rayloom_pipelines import api

    with watch(json=given.json) as observer:
        done = api.sweep(
            given.config,
            [*given.overrides, *resource_flags(given.workers, given.address)],
            seeds=given.seeds,
            smoke=given.smoke,
            observer=observer,
        )
    return done.exit_code
