"""Evaluating a checkpoint afresh."""

from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.seeding import stream_seed

EPISODES = 100


def afresh(
    run: Any, *, episodes: int | None, seed: int | None, which: Any, split: str | None = None
) -> dict[str, float]:
    """Metrics of a checkpoint: new episodes, or a whole split.

    Args:
        run: A `facade.Run`.
        episodes: RL: how many; None: 100.
        seed: RL: None takes one that training never used.
        which: Checkpoint.
        split: Models: of the data set; None: the run's `data.eval_split`.
    """
    run = run._member()
    config = run.config
    if config.trainable == "rollouts":
        if split is not None:
            raise UserError("--split is for models; an agent is evaluated in its environments")
        from rayloom.rl.envs.making import spec_of
        from rayloom.rl.evaluation import run_episodes

        policy, settings = run._policy(which)
        wanted = config.evaluation
        chosen = stream_seed(config.seed, "evaluate afresh") if seed is None else seed
        found = run_episodes(
            policy,
            config.env,
            episodes=EPISODES if episodes is None else episodes,
            num_envs=wanted.num_envs,
            seed=chosen,
            greedy=wanted.greedy,
            settings=settings,
            spec=spec_of(config.env),
        )
        return dict(found.metrics())
    if episodes is not None:
        raise UserError("--episodes is for agents; a model is evaluated on its whole split")
    from rayloom_pipelines.load import copies
    from rayloom_pipelines.run import build, machine

    data = config.data if split is None else config.data.model_copy(update={"eval_split": split})
    given = config.model_copy(update={"seed": config.seed if seed is None else seed, "data": data})
    engine = build.build_engine(
        given,
        device=machine.choose_device(config),
        stages=copies.stages_of(run.path),
        initial=copies.of_run(run.path, which),
    )
    return dict(engine.evaluate())
