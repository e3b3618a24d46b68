"""The sections of a config: a closed list, typed and frozen.

Only `model` and `algorithm` are open: their settings are the `config_class` of the catalogue entry
that `name` selects. Bounds and units stand in the fields, so that error messages, the JSON schema
and the docs say the same. The loader (`rayloom.config.resolved`) reads YAML and reports all
mistakes.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rayloom.catalogue import Kind, task_of
from rayloom.config.base import Config as Config
from rayloom.config.base import NonNegativeInt as NonNegativeInt
from rayloom.config.base import PositiveFloat as PositiveFloat
from rayloom.config.base import PositiveInt as PositiveInt
from rayloom.config.base import Seed as Seed
from rayloom.config.base import Sizes as Sizes
from rayloom.config.base import as_tuple as as_tuple
from rayloom.config.base import by_name as by_name
from rayloom.config.data import DataConfig as DataConfig
from rayloom.core.secrets import mask_tree
from rayloom.core.tasks import Task, Trainable


class EnvConfig(Config):
    """Which environment, and how many of it."""

    name: str = Field(description="Gymnasium id or catalogue name; 'module:Id' is refused")
    num_envs: PositiveInt = Field(8, description="environments in all")
    group_size: PositiveInt = Field(8, description="environments per group, the unit of collection")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the environment")
    wrappers: list[str | dict[str, Any]] = Field(
        default_factory=list, description="wrapper names, or {name: ..., settings}"
    )


class ScheduleConfig(Config):
    """Factor on the learning rate. The horizon is fixed at the first start."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = Field(0, description="grad_steps of linear warm-up")
    final_factor: float = Field(0.0, ge=0, le=1, description="factor at the horizon")


class GroupConfig(Config):
    """What a group of a player's parameters has of its own."""

    lr: PositiveFloat | None = Field(None, description="learning rate; null: the player's")
    schedule: ScheduleConfig | None = Field(None, description="null: that of train.schedule")


class PlayerOptimizer(Config):
    """What the optimizer sections share: settings of one player."""

    schedule: ScheduleConfig | None = Field(None, description="null: that of train.schedule")
    clip_norm: PositiveFloat | None = Field(None, description="null: train.clip_norm")
    groups: dict[str, GroupConfig] = Field(
        default_factory=dict, description="by the names that the model gives its groups"
    )


class AdamWConfig(PlayerOptimizer):
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = Field(1e-3, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two moments")
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay per step, times lr")


class AdamConfig(PlayerOptimizer):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980)."""

    name: Literal["adam"] = "adam"
    lr: PositiveFloat = Field(1e-3, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two moments")
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")


class SGDConfig(PlayerOptimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat = Field(1e-2, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)


class RMSpropConfig(PlayerOptimizer):
    """RMSprop (Hinton, lecture 6e)."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: PositiveFloat = Field(1e-3, description="learning rate")
    alpha: float = Field(0.99, ge=0, lt=1)
    eps: PositiveFloat = 1e-8
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class AdagradConfig(PlayerOptimizer):
    """Adagrad (Duchi, Hazan and Singer, 2011)."""

    name: Literal["adagrad"] = "adagrad"
    lr: PositiveFloat = Field(1e-2, description="learning rate")
    eps: PositiveFloat = 1e-10
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")


class LBFGSConfig(PlayerOptimizer):
    """L-BFGS (Liu and Nocedal, 1989): the whole data set is the batch (data.batch_size: all)."""

    name: Literal["lbfgs"] = "lbfgs"
    lr: PositiveFloat = Field(1.0, description="first trial step of the line search")
    max_iter: PositiveInt = Field(20, description="iterations per grad_step")
    history_size: PositiveInt = Field(10, description="remembered steps")
    tolerance_grad: Annotated[float, Field(ge=0)] = Field(
        1e-9, description="largest gradient element at which nothing is left to do"
    )
    tolerance_change: Annotated[float, Field(ge=0)] = Field(
        0.0, description="smallest change of the loss, or of a parameter, that goes on"
    )
    line_search: bool = Field(True, description="strong Wolfe; false: steps of lr")


OptimizerConfig = Annotated[
    AdamWConfig | AdamConfig | SGDConfig | RMSpropConfig | AdagradConfig | LBFGSConfig,
    Field(discriminator="name"),
]
OPTIMIZERS: dict[str, type[Config]] = {
    "adamw": AdamWConfig,
    "adam": AdamConfig,
    "sgd": SGDConfig,
    "rmsprop": RMSpropConfig,
    "adagrad": AdagradConfig,
    "lbfgs": LBFGSConfig,
}


class EMAConfig(Config):
    """Exponential moving average of the parameters, used in evaluation and pictures."""

    decay: float = Field(0.999, gt=0, lt=1)
    warmup: bool = Field(True, description="decay_t = min(decay, (1 + t) / (10 + t))")


class EarlyStoppingConfig(Config):
    """Stop when a metric has not improved for `patience` evaluations."""

    metric: str = Field("eval/loss", description="a metric with a direction")
    patience: PositiveInt = Field(5, description="evaluations without improvement")
    min_delta: float = Field(0.0, ge=0, description="what counts as an improvement")


LENGTHS = ("epochs", "grad_steps", "env_steps")  # units of a training's length


class TrainConfig(Config):
    """How long and how to train. Exactly one of epochs, grad_steps, env_steps."""

    epochs: PositiveFloat | None = Field(None, description="passes over the training split")
    grad_steps: PositiveInt | None = Field(None, description="rounds of players")
    env_steps: PositiveInt | None = Field(None, description="environment steps")
    clip_norm: PositiveFloat | None = Field(None, description="global gradient norm, per player")
    ema: EMAConfig | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    accumulate: PositiveInt = Field(1, description="chunks per batch, the result is unchanged")
    precision: Literal["fp32", "bf16", "fp64", "auto"] = Field(
        "fp32", description="auto probes whether bf16 wins on this device; fp64: all in float64"
    )
    compile: bool = False
    time_limit_s: PositiveFloat | None = Field(None, description="wall clock of one attempt, s")
    stop: dict[str, float] = Field(
        default_factory=dict,
        description="metric: threshold; the method or the table knows the direction",
    )
    early_stopping: EarlyStoppingConfig | None = None
    log_every: PositiveInt | None = Field(
        None, description="clock ticks per logged point; null: a two-hundredth of the budget"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        given = [n for n in LENGTHS if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of epochs, grad_steps and env_steps, not {len(given)}")
        return self

    @property
    def length(self) -> tuple[str, float]:
        """(unit, amount) of the budget; one epoch if nothing is said."""
        for unit in LENGTHS:
            amount = getattr(self, unit)
            if amount is not None:
                return unit, amount
        return "epochs", 1.0


class EvaluationConfig(Config):
    """When and how to evaluate."""

    every: PositiveFloat | None = Field(
        None, description="in the unit train counts; null: a twentieth of the budget"
    )
    episodes: PositiveInt = Field(20, description="RL: episodes per evaluation")
    num_envs: PositiveInt = Field(10, description="RL: evaluation environment slots")
    greedy: bool = Field(True, description="RL: greedy or stochastic actions")
    metrics: list[str] = Field(
        default_factory=list,
        description="extra metrics: nll, frechet, kid, mode-coverage, conditional-accuracy",
    )
    importance_samples: PositiveInt = Field(200, description="K of the importance-weighted NLL")
    samples: NonNegativeInt = Field(
        0, description="samples that metrics of samples draw at most; 0: as many as the split has"
    )
    video: bool = Field(True, description="RL: a video at the end of the run")


class CheckpointConfig(Config):
    """When to write checkpoints and which to keep."""

    every: PositiveFloat | None = Field(
        None, description="in the unit train counts; null: at every evaluation"
    )
    keep_last: PositiveInt = 2
    keep_best: NonNegativeInt = 1
    metric: str | None = Field(None, description="what 'best' means; null: the method's own")
    mode: Literal["min", "max"] | None = Field(
        None, description="which is better of it; null: what the method or the table says"
    )


class ResourcesConfig(Config):
    """Where it runs."""

    workers: NonNegativeInt = Field(0, description="0: in this process; N: Ray workers")
    cpus_per_worker: PositiveFloat = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    threads: PositiveInt | Literal["auto"] = Field("auto", description="torch threads a process")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    address: str | None = Field(None, description="Ray address; null: a local Ray")


class TrackingConfig(Config):
    """Which MLflow. Secrets belong in the environment, never here."""

    uri: str | None = Field(None, description="null: MLFLOW_TRACKING_URI, else ./mlflow.db")
    experiment: str = "rayloom"
    tags: dict[str, str] = Field(default_factory=dict)
    register_as: str | None = Field(
        None, description="registered model name; null: the config's name"
    )
    upload_diff: bool = Field(False, description="MLflow gets git.diff too, secrets hidden")

    @field_validator("tags")
    @classmethod
    def _without_secrets(cls, tags: dict[str, str]) -> dict[str, str]:
        """Tags are for others to read: a secret among them is hidden from the start."""
        return dict(mask_tree(tags))


class SweepConfig(Config):
    """How to search. The spaces stand on the leaves that they replace."""

    metric: str | None = Field(
        None, description="what trials and their checkpoints are judged by; null: the method's own"
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="which is better of it; null: what the method or the table says"
    )
    trials: PositiveInt = 20
    searcher: Literal["random", "grid", "optuna"] = "optuna"
    scheduler: Literal["none", "asha"] = "asha"
    grace: PositiveInt = Field(2, description="ASHA: evaluations before a trial may be stopped")
    reduction: Annotated[int, Field(ge=2)] = Field(3, description="ASHA: keeps one of so many")
    max_concurrent: PositiveInt | None = Field(None, description="null: what the machine allows")
    seed: Seed = 0


class RunConfig(Config):
    """A whole config: model + data, or algorithm + env, and the sections that all share."""

    model: SerializeAsAny[Config] | None = None
    data: DataConfig | None = None
    algorithm: SerializeAsAny[Config] | None = None
    env: EnvConfig | None = None
    optimizer: OptimizerConfig | dict[str, OptimizerConfig] = AdamWConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: str | None = None
    sweep: SweepConfig = SweepConfig()
    seed: Seed = 0

    @property
    def trainable(self) -> Trainable:
        """What trains it: the engine (a model, on data) or rollouts (an algorithm, in envs)."""
        return "rollouts" if self.algorithm is not None else "engine"

    @property
    def kind_of_work(self) -> Task:
        """Its kind of work, as the entry of its method says."""
        section: Any = self.algorithm if self.algorithm is not None else self.model
        kind: Kind = "algorithms" if self.algorithm is not None else "models"
        return task_of(kind, str(getattr(section, "name", "")))

    @property
    def task(self) -> str:
        """The word of its kind of work: `generative`, `supervised`, `rl` and so on."""
        return self.kind_of_work.word
