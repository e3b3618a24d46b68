"""What to try next: random, grid and Optuna, each a function of the ledger alone.

A searcher keeps no random state of its own: trial n draws from the stream named by (seed, n), and
Optuna's sampler is seeded anew for each trial. So a resumed sweep proposes what the unbroken one
would have proposed from the same results. (With several trials at once the *order* in which results
arrive is up to the machine, and Optuna's proposals follow it; random and grid do not.)
"""

import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from rayloom.config.spaces import Space
from rayloom.core.errors import UserError
from rayloom.core.scores import usable
from rayloom.core.seeding import numpy_stream, stream_seed
from rayloom.distributed.ledger import TrialRecord, Values


class Proposer(Protocol):
    """Proposes values for trial after trial."""

    def propose(self, number: int) -> Values | None:
        """Values of trial `number`, or None when there is nothing left to try."""
        ...

    def repeat(self, record: TrialRecord) -> None:
        """A trial of the ledger that goes on, or has ended (its score is then used)."""
        ...

    def tell(self, trial: str, score: float | None) -> None:
        """A trial ended with this score; None: it failed."""
        ...


def make_proposer(searcher: str, spaces: Mapping[str, Space], *, mode: str, seed: int) -> Proposer:
    """The proposer of `sweep.searcher`.

    Raises:
        UserError: Grid search over a continuous space, or nothing to search.
    """
    if not spaces:
        raise UserError(
            "the config holds no search space; give one, such as"
            " optimizer.lr=loguniform(1e-4,1e-2) or model.latent_dim=choice(8,16,32)"
        )
    if searcher == "grid":
        return Grid(spaces)
    if searcher == "random":
        return Random(spaces, seed=seed)
    return OptunaProposer(spaces, mode=mode, seed=seed)


class Random:
    """Independent draws; trial n is the same whatever was tried before."""

    def __init__(self, spaces: Mapping[str, Space], *, seed: int) -> None:
        self.spaces, self.seed = dict(spaces), seed

    def propose(self, number: int) -> Values | None:
        """One draw of every space."""
        return {
            path: draw(space, numpy_stream(self.seed, "sweep", number, path))
            for path, space in self.spaces.items()
        }

    def repeat(self, record: TrialRecord) -> None:
        """Nothing to remember."""

    def tell(self, trial: str, score: float | None) -> None:
        """Nothing to learn."""


def draw(space: Space, rng: np.random.Generator) -> Any:
    """One value of a space: uniform on it, or on its logarithm."""
    if space.kind == "choice":
        return space.values[int(rng.integers(len(space.values)))]
    low, high = float(space.low or 0), float(space.high or 0)
    if space.kind == "int":
        return int(rng.integers(int(low), int(high) + 1))
    if space.kind == "logint":
        value = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return int(min(max(round(value), int(low)), int(high)))
    if space.kind == "loguniform":
        return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
    return float(rng.uniform(low, high))


class Grid:
    """Every combination, the last space changing fastest."""

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        axes = []
        for path, space in spaces.items():
            if space.kind == "choice":
                axes.append(list(space.values))
            elif space.kind in ("int", "logint"):
                axes.append(list(range(int(space.low or 0), int(space.high or 0) + 1)))
            else:
                raise UserError(
                    f"{path}: a grid needs choice(...) or int(...), not {space}; give the values"
                    " to try, or use sweep.searcher=random"
                )
        self.paths, self.axes = list(spaces), axes

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    def propose(self, number: int) -> Values | None:
        """Point `number` of the grid."""
        if number >= len(self):
            return None
        point = next(itertools.islice(itertools.product(*self.axes), number, None))
        return dict(zip(self.paths, point, strict=True))

    def repeat(self, record: TrialRecord) -> None:
        """Nothing to remember."""

    def tell(self, trial: str, score: float | None) -> None:
        """Nothing to learn."""


class OptunaProposer:
    """Tree-structured Parzen estimator (Bergstra et al., 2011) of Optuna, ask and tell.

    Trials that run at the same time are kept apart by its constant-liar rule.
    """

    def __init__(self, spaces: Mapping[str, Space], *, mode: str, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        self.spaces, self.seed = dict(spaces), seed
        self.distributions = {path: _distribution(space) for path, space in spaces.items()}
        self.study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._numbers: dict[str, int] = {}

    def _ask(self, number: int) -> Any:
        import optuna

        self.study.sampler = optuna.samplers.TPESampler(
            seed=stream_seed(self.seed, "optuna", number) % 2**32,
            n_startup_trials=5,
            constant_liar=True,
        )
        return self.study.ask(self.distributions)

    def propose(self, number: int) -> Values | None:
        """Ask, with a sampler seeded for this trial."""
        asked = self._ask(number)
        self._numbers[f"{number:04d}"] = asked.number
        return {
            path: space.values[asked.params[path]] if space.kind == "choice" else asked.params[path]
            for path, space in self.spaces.items()
        }

    def repeat(self, record: TrialRecord) -> None:
        """Ask for exactly these values; tell their score if the trial has ended."""
        params = {
            path: _index(space, record.values[path])
            if space.kind == "choice"
            else record.values[path]
            for path, space in self.spaces.items()
        }
        self.study.enqueue_trial(params)
        self._numbers[record.trial] = self._ask(int(record.trial)).number
        if record.status != "running":
            self.tell(record.trial, record.score if record.status != "failed" else None)

    def tell(self, trial: str, score: float | None) -> None:
        """Tell the score; a failed trial counts as failed."""
        import optuna

        number = self._numbers.get(trial)
        if number is None:
            return
        if usable(score) is None:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, score)


def _index(space: Space, value: Any) -> int:
    """Place of a choice, also after a trip through JSON (a tuple came back as a list)."""
    plain = [list(item) if isinstance(item, tuple) else item for item in space.values]
    return plain.index(list(value) if isinstance(value, tuple) else value)


def _distribution(space: Space) -> Any:
    import optuna

    if space.kind == "choice":  # by place, since Optuna takes no lists or mappings
        return optuna.distributions.CategoricalDistribution(list(range(len(space.values))))
    low, high = space.low or 0, space.high or 0
    if space.kind in ("int", "logint"):
        log = space.kind == "logint"
        return optuna.distributions.IntDistribution(int(low), int(high), log=log)
    log = space.kind == "loguniform"
    return optuna.distributions.FloatDistribution(float(low), float(high), log=log)
