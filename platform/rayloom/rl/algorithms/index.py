"""The learners, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "dqn",
        "rayloom.rl.algorithms.dqn:DQN",
        "Deep Q-network (Mnih et al.): double, dueling, n-step, prioritised replay",
        "value-based",
        2015,
        ("off-policy", "discrete-actions"),
        task="rl",
        paper="doi:10.1038/nature14236",
        default_metric="eval/return_mean",
    ),
)
