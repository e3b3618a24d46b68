"""Kinds of work: the word that an entry of the catalogue says, and what follows from it.

What trains a method is one question (`trainable`), what it is called in messages and what its best
usually means are others: a classifier is trained by the engine as a VAE is, and is no generative
model.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from rayloom.core.errors import UserError, did_you_mean

Trainable = Literal["engine", "rollouts"]
TRAINABLES: tuple[Trainable, ...] = get_args(Trainable)


@dataclass(frozen=True)
class Task:
    """A kind of work.

    Attributes:
        word: As entries, run.json and the MLflow tag `rayloom.task` say it.
        noun: With its article, for messages.
        trainable: `engine` (batches of data, clock grad_step) or `rollouts` (environments, clock
            env_step).
        usual: What the best means where a class does not say: the first that an evaluation has.
    """

    word: str
    noun: str
    trainable: Trainable
    usual: tuple[str, ...]


_BOUNDS = ("eval/elbo_nats", "eval/nll_nats", "eval/loss")
_ERRORS = ("eval/accuracy", "eval/miou", "eval/rmse", "eval/nll_nats", "eval/loss")
_TOKENS = ("eval/nats_per_token", "eval/bits_per_byte", "eval/nll_nats", "eval/loss")
_RETURNS = ("eval/return_mean",)

TASKS: dict[str, Task] = {
    task.word: task
    for task in (
        Task("generative", "a generative model", "engine", _BOUNDS),
        Task("representation", "a representation model", "engine", ("eval/loss",)),
        Task("supervised", "a supervised model", "engine", _ERRORS),
        Task("sequence", "a sequence model", "engine", _TOKENS),
        Task("geometry", "a geometry model", "engine", ("eval/psnr_db", "eval/loss")),
        Task("rl", "an agent", "rollouts", _RETURNS),
        Task("tabular", "a tabular agent", "rollouts", _RETURNS),
    )
}


def task_named(word: Any, who: str) -> Task:
    """The kind of work of a word.

    Args:
        word: What an entry or a class says.
        who: Of whom, for the message.

    Raises:
        UserError: There is no such word.
    """
    if not isinstance(word, str) or word not in TASKS:
        hint = did_you_mean(str(word), TASKS)
        raise UserError(
            f"{who}: no kind of work is called {word!r}{hint} Known: {', '.join(TASKS)}"
        )
    return TASKS[word]


def must_be_model(word: str | None, run: str) -> None:
    """A run must be one of a model, by the word that its run.json says.

    Raises:
        UserError: It is of something else.
    """
    task = TASKS.get(word or "")
    if task is not None and task.trainable != "engine":
        raise UserError(f"run {run} is of {task.noun}; a model's is needed")
