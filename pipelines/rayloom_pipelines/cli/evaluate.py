"""`rayloom evaluate`: a checkpoint's metrics on fresh episodes or the whole split."""

import json
from collections.abc import Sequence

from rayloom_pipelines.cli.use import parser, which


def run(argv: Sequence[str]) -> int:
    """Print the metrics."""
    made = parser("evaluate", "Evaluate a run's checkpoint afresh.")
    made.add_argument("--episodes", type=int, metavar="K", help="agents: how many (100)")
    made.add_argument("--seed", type=int, metavar="S", help="of starts and noise")
    made.add_argument("--split", metavar="NAME", help="models: of the data set (data.eval_split)")
    made.json_option()
    given = made.read(argv)
    from rayloom_pipelines import api
    from rayloom_pipelines.run.quiet import quiet

    with quiet(None):
        metrics = api.load(given.run, storage=given.storage).evaluate(
            episodes=given.episodes,
            seed=given.seed,
            which=which(given.checkpoint),
            split=given.split,
        )
    if given.json:
        print(json.dumps(metrics, indent=1))
        return 0
    width = max(len(key) for key in metrics)
    for key, value in sorted(metrics.items()):
        print(f"{key:<{width}}  {value:.6g}")
    return 0
