"""`rayloom resume`."""

from collections.abc import Sequence

from rayloom_pipelines.cli.options import Parser
from rayloom_pipelines.cli.watch import watch


def parser() -> Parser:
    """Its options."""
    made = Parser(
        "resume",
        "Go on with a run, a group of seeds or a sweep. Length, resources, tracking and stop rules "
        "may change, nothing else; a finished run exits 0.",
    )
    made.add_argument("run", metavar="RUN", help="id, unique prefix, path, MLflow id or latest")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="changes")
    made.json_option()
    return made


def run(argv: Sequence[str]) -> int:
    """Resume; the exit code says how it ended."""
    given = parser().read(argv)
    from rayloom_pipelines import api

    with watch(json=given.json) as observer:
        done = api.resume(given.run, given.overrides, plugins=given.plugin, observer=observer)
    return done.exit_code
