"""Learning rate schedules: factors as pure functions of the grad_step.

Nothing to save and nothing to restore: the horizon is a number that the engine fixes at the first
start and keeps in its state, so that a longer resume does not bend the curve.
"""

import math
from collections.abc import Callable

from rayloom.config.sections import ScheduleConfig

Schedule = Callable[[int], float]


def make_schedule(config: ScheduleConfig, horizon: int) -> Schedule:
    """The factor on the learning rate as a function of the grad_step (from 0).

    With w = warmup_steps and f = final_factor, the factor is (t + 1) / w while t < w; afterwards,
    with s = (t - w) / (horizon - w) held to [0, 1]: 1 (`constant`), 1 - (1 - f) s (`linear`) or
    f + (1 - f) (1 + cos(pi s)) / 2 (`cosine`; Loshchilov and Hutter, 2017, arXiv:1608.03983).

    Args:
        config: Section `train.schedule`.
        horizon: grad_steps at which the final factor is reached.
    """
    warmup, final, name = config.warmup_steps, config.final_factor, config.name
    span = max(1, horizon - warmup)

    def factor(grad_step: int) -> float:
        if grad_step < warmup:
            return (grad_step + 1) / warmup
        if name == "constant":
            return 1.0
        share = min(1.0, (grad_step - warmup) / span)
        if name == "linear":
            return 1.0 - (1.0 - final) * share
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))

    return factor
