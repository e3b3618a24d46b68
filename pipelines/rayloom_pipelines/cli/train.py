"""`rayloom train`."""

from collections.abc import Sequence

from rayloom_pipelines.cli.options import Parser
from rayloom_pipelines.cli.watch import watch


def parser() -> Parser:
    """Its options."""
    made = Parser("train", "Train a model or an agent.")
    made.config_words()
    made.add_argument("--workers", type=int, metavar="N", help="Ray workers; 0: in this process")
    made.add_argument("--seeds", type=int, default=1, metavar="K", help="train K seeds and compare")
    made.address_option()
    made.add_argument("--init", metavar="RUN", help="start from this run's best weights")
    made.add_argument("--smoke", action="store_true", help="a run of seconds, hidden from lists")
    made.add_argument("--overfit-batch", action="store_true", help="train on the first batch only")
    made.add_argument("--profile", action="store_true", help="write a profile to ./profile")
    made.json_option()
    return made


def run(argv: Sequence[str]) -> int:
    """Train; the exit code says how it ended."""
    given = parser().read(argv)
    from rayloom_pipelines import api

    with watch(json=given.json) as observer:
        done = api.train(
            given.config,
            [*given.overrides, *resource_flags(given.workers, given.address)],
            seeds=given.seeds,
            init=given.init,
            smoke=given.smoke,
            overfit_batch=given.overfit_batch,
            profile=given.profile,
            observer=observer,
        )
    return done.exit_code


def resource_flags(workers: int | None, address: str | None) -> list[str]:
    """`--workers` and `--address` as the overrides that they stand for."""
    flags = [] if workers is None else [f"resources.workers={workers}"]
    if address is None:
        return flags
    from rayloom.config.yaml_text import flag

    return [*flags, flag("resources.address", address)]
