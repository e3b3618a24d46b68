"""`--smoke`: the same run in seconds."""

from rayloom.config.resolved import with_overrides
from rayloom.config.sections import RunConfig


def shorten(config: RunConfig) -> RunConfig:
    """The config with a budget of seconds; everything else stays."""
    if config.trainable == "rollouts":
        assert config.env is not None
        steps = max(1024, 4 * config.env.num_envs)
        changes = [
            "train.epochs=null",
            "train.grad_steps=null",
            f"train.env_steps={steps}",
            f"evaluation.every={steps}",
            "evaluation.episodes=2",
            "evaluation.num_envs=2",
            "evaluation.video=false",
        ]
    else:
        changes = [
            "train.epochs=null",
            "train.env_steps=null",
            "train.grad_steps=10",
            "evaluation.every=5",
            "evaluation.importance_samples=5",
            "data.limit=2000",
        ]
    return with_overrides(config, [*changes, "checkpoint.every=null", "train.stop={}"])
