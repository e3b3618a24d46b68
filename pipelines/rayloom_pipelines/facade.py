"""A run as an object: its curves, model, policy, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rayloom.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from rayloom.config.sections import RunConfig
    from rayloom.records.record import Record

Which = Literal["best", "last"]


class Run:
    """A run on disk, finished or not.

    Args:
        path: Run folder, or the folder of a registered version (which has no curves).

    Raises:
        UserError: It is neither.
    """

    def __init__(self, path: str | Path) -> None:
        from rayloom.records import RunFolder

        self.folder = RunFolder.open(path)
        self.path: Path = self.folder.path

    def __repr__(self) -> str:
        return f"Run({self.id!r}, status={self.status!r}, best={self.best!r})"

    # What is known of it ------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return self.folder.read()

    @property
    def record(self) -> "Record":
        """The same, typed."""
        return self.folder.record

    @property
    def id(self) -> str:
        """Its readable id."""
        return self.record.run_id

    @property
    def status(self) -> str:
        """`finished`, `interrupted`, `time_limit`, `failed`, `running`, `killed` or `created`."""
        from rayloom.records.attempts import needs_a_writer
        from rayloom.records.index import is_locked

        record = self.record
        lost = needs_a_writer(record) and not is_locked(self.path)
        return "killed" if lost else record.status

    @property
    def exit_code(self) -> int:
        """What the command line returns for it."""
        code = self.record.exit_code
        return code if code is not None else 0 if self.status == "finished" else 1

    @property
    def config(self) -> "RunConfig":
        """Its config."""
        from rayloom.config.resolved import config_from_dict
        from rayloom_pipelines.load.recorded import ready, resolved_of

        record = self.record
        if record.config_now:
            ready(self.path, record.config_now)
            return config_from_dict(record.config_now)
        return resolved_of(self.path, search=record.kind == "sweep").config

    @property
    def best(self) -> dict[str, Any] | None:
        """`{"metric", "value", "step"}` of the best evaluation; None before there is one.

        While it goes on or after a kill: what an earlier attempt told at its end.
        """
        from rayloom.records import attempts

        best = attempts.best_so_far(self.record)
        return best.to_dict() if best else None

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Each start of it, oldest first: number, began, host, status, how it ended."""
        from rayloom.records import attempts

        found = [one.to_dict() for one in attempts.all_of(self.record)]
        return [*found[:-1], found[-1] | {"status": self.status}] if found else []

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation."""
        return {k: float(value) for k, value in self.record.evaluated.items() if value is not None}

    @property
    def model_uri(self) -> str | None:
        """`models:/name@alias` of its registered model, if it has one."""
        model = self.record.model
        return model.uri if model else None

    @property
    def best_run(self) -> "Run | None":
        """Of a group (seeds, a sweep), the run with the best result; None before there is one."""
        told = [attempt.get("best_run") for attempt in self.attempts]
        found = next((name for name in reversed(told) if name), None)
        return Run(self.path.parent / found) if found else None

    @property
    def children(self) -> "list[Run]":
        """The runs that this one groups: seeds, or trials of a sweep."""
        from rayloom.records import list_runs

        found = list_runs(self.path.parent, smoke=True, parent=self.id)
        return [Run(summary.path) for summary in found]

    # Curves and pictures ------------------------------------------------------------------------

    def history(self, keys: Sequence[str] | None = None) -> "pd.DataFrame":
        """The metrics as a table: a row per clock step, a column per metric, NaN between points.

        Args:
            keys: Only these metrics.

        Raises:
            UserError: It has no metric of a name in `keys`.
        """
        import pandas as pd

        from rayloom.records import history

        curves = history(self.path)
        unknown = [key for key in keys or () if key not in curves]
        if unknown:
            hint = did_you_mean(unknown[0], curves, otherwise="")
            raise UserError(f"run {self.id} has no metric {unknown[0]!r}{hint}")
        columns = {
            key: pd.Series(values, index=steps)
            for key, (steps, values, _) in curves.items()
            if keys is None or key in keys
        }
        table = pd.DataFrame(columns).sort_index()
        table.index.name = "step"
        return table

    def pictures(self) -> dict[str, list[Path]]:
        """Pictures and videos by key, in the order of their steps; no links and nothing gone."""
        from rayloom.records.inside import is_plain_file
        from rayloom.records.journal_reader import media

        found: dict[str, list[Path]] = {}
        for line in sorted(media(self.path), key=lambda line: int(line["step"])):
            if not is_plain_file(self.path, line["path"]):
                continue
            found.setdefault(line["key"], []).append(self.path / line["path"])
        return found

    def show(self, key: str | None = None) -> Any:
        """The newest picture, as a PIL image that a notebook displays.

        Args:
            key: Such as `pictures/samples`; None takes the first key.

        Raises:
            UserError: There is no such picture.
        """
        from PIL import Image

        found = {k: v for k, v in self.pictures().items() if v[-1].suffix == ".png"}
        if not found or (key is not None and key not in found):
            known = ", ".join(found) or "none"
            raise UserError(f"run {self.id} has no picture {key or ''}; it has: {known}")
        path = found[key or next(iter(found))][-1]
        try:
            return Image.open(path, formats=["PNG"])
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} is no picture ({error})") from error

    # Models -------------------------------------------------------------------------------------

    def model(self, which: Which | int = "best") -> "torch.nn.Module":
        """The model with the weights of a checkpoint (averaged, if the run averages).

        For an RL run: the tensor-to-tensor part, observations to action values or logits.

        Args:
            which: `best`, `last`, or a clock step.

        Raises:
            CheckpointError: No checkpoint verifies.
        """
        from rayloom_pipelines.load import copies, weights

        path = self._member().path
        config = weights.config_of_folder(path)
        if config.trainable == "rollouts":
            module = weights.learner_of(config, copies.of_run(path, which)).export_module()
            return module.eval()  # type: ignore[no-any-return]
        return copies.model_of_run(path, which)

    def policy(self, which: Which | int = "best") -> Any:
        """The acting side of an RL run: `best(observation)`, `act(observation, rng, settings)`.

        Raises:
            UserError: It is not an RL run.
            CheckpointError: No checkpoint verifies.
        """
        return self._policy(which)[0]

    def sample(
        self,
        num: int | None = None,
        *,
        seed: int = 0,
        which: Which | int = "best",
        settings: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> "torch.Tensor":
        """Draw from a model: (num, C, H, W) in [0, 1] for images.

        Args:
            num: How many; None: as many as the conditions have rows, else 64.
            seed: Of the draw; equal seeds give equal samples, and a longer draw starts alike.
            which: Checkpoint.
            settings: Of the model's `sample` (`rayloom list models NAME` tells them).
            given: Conditions by field: `{"label": 3}`, `{"label": "sneaker"}`, `{"image":
                "test:0..15"}`, arrays; several values take turns.
            batch_size: Rows at a time; changes nothing but the time it takes.

        Raises:
            UserError: It is of an agent, its model cannot sample, or a setting or
                condition does not fit.
        """
        from rayloom_pipelines.load.application import prepare

        made = prepare(
            self, "sample", num=num, settings=settings or {}, given=given, seed=seed, which=which,
            batch_size=batch_size,
        ).compute()  # fmt: skip
        return next(iter(made.values()))

    def apply(
        self,
        name: str,
        data: Any = None,
        settings: Mapping[str, Any] | None = None,
        *,
        given: Mapping[str, Any] | None = None,
        num: int | None = None,
        seed: int = 0,
        which: Which | int = "best",
        batch_size: int | None = None,
    ) -> "dict[str, torch.Tensor]":
        """Apply an operation of the model, such as `reconstruct` or `predict`, to rows of data.

        Args:
            name: Of the operation.
            data: `"SPLIT[:RANGE]"` of the run's data, `"DATASET[:SPLIT[:RANGE]]"`, a path, an
                array (of the first field that the operation reads), or a mapping of arrays.
            settings: Of the operation.
            given: Conditions, as of `sample`.
            num: Rows of an operation that reads none.
            seed: Of its noise.
            which: Checkpoint.
            batch_size: Rows at a time.

        Raises:
            UserError: There is no such operation, or something does not fit.
        """
        from rayloom_pipelines.load.application import prepare

        return prepare(
            self, name, data=data, num=num, settings=settings or {}, given=given, seed=seed,
            which=which, batch_size=batch_size,
        ).compute()  # fmt: skip

    def predict(self, data: Any, *, which: Which | int = "best") -> "dict[str, torch.Tensor]":
        """What the model says of rows of data: `apply("predict", data)`.

        Args:
            data: See `apply`.
            which: Checkpoint.
        """
        return self.apply("predict", data, which=which)

    def evaluate(
        self,
        *,
        episodes: int | None = None,
        seed: int | None = None,
        which: Which | int = "best",
        split: str | None = None,
    ) -> dict[str, float]:
        """Evaluate a checkpoint afresh: a whole split, or new episodes.

        Args:
            episodes: RL: how many; None: 100.
            seed: RL: of starts and actions; None: one that training never used.
            which: Checkpoint.
            split: Models: of the data set; None: the run's `data.eval_split`.
        """
        from rayloom_pipelines.load import evaluate

        return evaluate.afresh(self, episodes=episodes, seed=seed, which=which, split=split)

    def play(
        self,
        out: str | Path,
        *,
        episodes: int = 1,
        seed: int = 0,
        which: Which | int = "best",
    ) -> list[float]:
        """Film an agent; returns the returns of the episodes.

        Args:
            out: An .mp4 or .gif file.
            episodes: How many.
            seed: Of starts and actions.
            which: Checkpoint.

        Raises:
            UserError: It is not an RL run, or its environment cannot draw.
        """
        from rayloom.rl.video import record

        policy, settings = self._policy(which)
        config = self.config
        assert config.env is not None
        return record(
            policy,
            config.env,
            out,
            episodes=episodes,
            seed=seed,
            greedy=config.evaluation.greedy,
            settings=settings,
        )

    def _member(self) -> "Run":
        """The run whose checkpoints are used: a group's best one, else this run itself."""
        return self.best_run or self

    def _model(self, which: Which | int) -> "torch.nn.Module":
        config = self.config
        if config.trainable != "engine":
            noun = config.kind_of_work.noun
            raise UserError(f"run {self.id} is of {noun}, not of a model; see `rayloom play`")
        return self.model(which)

    def _policy(self, which: Which | int) -> tuple[Any, Mapping[str, Any]]:
        from rayloom.rl.collect import sections_of
        from rayloom.rl.envs.making import spec_of
        from rayloom_pipelines.load import weights

        path = self._member().path
        config = weights.config_of_folder(path)
        if config.trainable != "rollouts":
            noun = config.kind_of_work.noun
            raise UserError(f"run {self.id} is of {noun}, not of an agent; see `rayloom sample`")
        state, info = weights.read_state(path, which)
        learner = weights.learner_of(config, weights.of_state(config, state, None))
        algorithm, env = sections_of(config)
        policy = learner.make_policy(algorithm, spec_of(env))
        policy.load(learner.weights())
        return policy, algorithm.acting(int(state.get("env_step", info.step)))
