"""`rayloom play`: a film of an agent."""

from collections.abc import Sequence

from rayloom_pipelines.cli.use import parser, which


def run(argv: Sequence[str]) -> int:
    """Write the film, say the returns."""
    made = parser("play", "Film an agent.")
    made.add_argument("--episodes", type=int, default=1, metavar="K")
    made.add_argument("--out", required=True, metavar="FILE", help=".mp4 or .gif")
    made.add_argument("--seed", type=int, default=0, metavar="S")
    given = made.read(argv)
    from rayloom_pipelines import api
    from rayloom_pipelines.run.quiet import quiet

    with quiet(None):
        returns = api.load(given.run, storage=given.storage).play(
            given.out, episodes=given.episodes, seed=given.seed, which=which(given.checkpoint)
        )
    print(f"{given.out}  returns: {', '.join(f'{value:g}' for value in returns) or 'none ended'}")
    return 0
