"""Registered models: a traced graph for MLflow, the safetensors checkpoint beside it. No pickle.

A version's folder is what `mlflow.pytorch.save_model` writes (`torch.export`, its `pt2` format; the
loader refuses pickled records) plus `rayloom/`, which holds whatever files the caller names: the
config and a checkpoint, from which `sample`, `play` and `evaluate` rebuild the whole model.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rayloom.config.names import model_problem
from rayloom.core.errors import UserError
from rayloom.core.scores import is_better, usable
from rayloom.records.files import Say, silent
from rayloom.records.scratch import scratch
from rayloom.tracking.client import make_client
from rayloom.tracking.memory import read_memory
from rayloom.tracking.patience import asked
from rayloom.tracking.tracing import save, save_graph
from rayloom.tracking.versions import RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch import Tensor, nn

    from rayloom.core.protocols import Export

Result = TypeVar("Result")
_Ask = Callable[[Callable[[], Result]], Result]
FILES, EXPORTS = "rayloom", "exports"
_SHA_TAG, _SCORE_TAG = "rayloom.sha256", "rayloom.score"
_MEASURE_TAG = "rayloom.measure"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        name: Registered model name.
        version: Its number, as MLflow writes it.
        alias: The alias that points to it now; None if a better version kept it.
        uri: `models:/name@alias`, or `models:/name/version` without the alias.
    """

    name: str
    version: str
    alias: str | None

    @property
    def uri(self) -> str:
        """How to name it, for `mlflow.pytorch.load_model` and for our own commands."""
        suffix = f"@{self.alias}" if self.alias else f"/{self.version}"
        return f"models:/{self.name}{suffix}"


def registered_name(name: str) -> str:
    """A config's name as a registered model name: its last part (`autoencoders/vae` gives `vae`).

    Raises:
        UserError: MLflow would refuse it.
    """
    short = name.rsplit("/", 1)[-1].strip()
    wrong = model_problem(short)
    if wrong:
        raise UserError(f"{name!r} cannot name a registered model: it {wrong}")
    return short


def register_model(
    run_path: str | Path,
    module: "nn.Module | None",
    example: "Tensor | None",
    *,
    name: str,
    files: Mapping[str, Path],
    sha256: str,
    others: "Mapping[str, Export] | None" = None,
    uri: str | None = None,
    alias: str = "champion",
    score: float | None = None,
    direction: Literal["min", "max"] = "max",
    measure: str = "",
    metadata: Mapping[str, Any] | None = None,
    description: str = "",
    say: Say = silent,
) -> Registered:
    """Register a run's model as a version, once: saying it again finds the same version.

    Args:
        run_path: The run folder; its `tracking.json` names the MLflow run.
        module: Tensor to tensor (the first of `Model.exports`); traced on the CPU in eval mode.
            None: the version holds no graph, and what is in `files` alone serves.
        example: One input batch, (B, ...), with at least one row; B becomes free.
        name: Registered model name or config name.
        files: Name below `rayloom/` to a file or folder that is copied there (`config.yaml`, a
            checkpoint).
        sha256: Identity of the parameters (`parameters_sha256`).
        others: More parts, traced too, as `rayloom/exports/NAME.pt2`.
        uri: Tracking URI; None: the run's own.
        alias: Alias that the version gets, unless the one that has it scored better.
        score: What versions are compared by; None takes the alias only from a version without a
            finite score, and a score that is not finite never takes it.
        direction: Whether a small or a large score is good.
        measure: What the score is of; scores of two measures do not compare, and the alias stays.
        metadata: JSON-able facts for the model's `MLmodel` file.
        description: Shown in the registry.
        say: Hears when the alias stays where it is.

    Returns:
        The version.

    Raises:
        UserError: The run was not tracked.
        RayloomError: The module cannot be traced.
    """
    folder, name = Path(run_path).absolute(), registered_name(name)
    memory = _memory(folder)
    uri, run_id = uri or memory["uri"], memory["mlflow_run_id"]
    client = make_client(uri)
    ask: _Ask = partial(asked, uri)
    _ensure_name(ask, client, name)
    version = ask(lambda: _existing(client, name, run_id, sha256))
    place = f"model-{sha256[:12]}"  # a longer resume registers again and keeps the first one whole
    if version is None:
        with scratch() as room:
            path = room / "model"
            if module is not None and example is not None:
                save(module, example, path, dict(metadata or {}))
            _copy(files, path / FILES)
            for part, export in (others or {}).items():
                save_graph(export.module, export.example, path / FILES / EXPORTS / f"{part}.pt2")
            size = sum(file.stat().st_size for file in path.rglob("*"))
            asked(uri, lambda: client.log_artifacts(run_id, str(path), place), size=size)
        root = ask(lambda: client.get_run(run_id).info.artifact_uri.rstrip("/"))
        tags = {_SHA_TAG: sha256, RUN_TAG: folder.name}
        if score is not None:
            tags |= {_SCORE_TAG: repr(float(score)), _MEASURE_TAG: measure}
        about = description or None
        version = ask(
            lambda: client.create_model_version(
                name, f"{root}/{place}", run_id=run_id, tags=tags, description=about
            )
        )
    number = str(version.version)
    if not ask(lambda: _deserves(client, version, name, alias, score, direction, say)):
        return Registered(name, number, None)
    ask(lambda: client.set_registered_model_alias(name, alias, number))
    return Registered(name, number, alias)


def _memory(folder: Path) -> dict[str, Any]:
    memory = read_memory(folder)
    if memory.get("mlflow_run_id") and memory.get("uri"):
        return memory
    raise UserError(f"{folder.name} is not in MLflow yet: send it first (`rayloom runs sync`)")


def _ensure_name(ask: _Ask, client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        ask(lambda: client.create_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _existing(client: "MlflowClient", name: str, run_id: str, sha256: str) -> "ModelVersion | None":
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if version.tags.get(_SHA_TAG) == sha256 and version.status == "READY":
            return version
    return None


def _deserves(
    client: "MlflowClient",
    version: Any,
    name: str,
    alias: str,
    score: float | None,
    direction: Literal["min", "max"],
    say: Say,
) -> bool:
    """Whether the alias should move: not from one that scored better or by another measure.

    A score that is not finite never takes it, and never keeps it from one that is.
    """
    number = client.get_registered_model(name).aliases.get(alias)
    if number is not None and str(number) == str(version.version):
        return True
    new = usable(score)
    if score is not None and new is None:
        say(f"models:/{name}/{version.version} does not become @{alias}: its score is {score}")
        return False
    if number is None:
        return True
    holder = client.get_model_version(name, str(number))
    before = usable(_number(holder.tags.get(_SCORE_TAG)))
    if before is None:
        return True
    if new is None:
        say(
            f"models:/{name}@{alias} stays on version {number}, which scored {before:g}: "
            f"version {version.version} has no score"
        )
        return False
    measures = [one.tags.get(_MEASURE_TAG, "") for one in (holder, version)]
    if all(measures) and measures[0] != measures[1]:
        say(
            f"models:/{name}@{alias} stays on version {number}: it was scored by {measures[0]}, "
            f"this one by {measures[1]}, which do not compare (tracking.register_as gives this "
            "one a name of its own)"
        )
        return False
    if is_better(before, new, direction):
        sign = "<" if direction == "min" else ">"
        say(
            f"models:/{name}@{alias} stays on version {number}, which scored {before:g} {sign} "
            f"{new:g}"
        )
        return False
    return True


def _number(text: str | None) -> float | None:
    """The number that a tag holds, or None."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _copy(files: Mapping[str, Path], target: Path) -> None:
    target.mkdir(parents=True)
    for name, source in files.items():
        place = target / name
        if not place.resolve().is_relative_to(target.resolve()):
            raise UserError(f"{name!r} leaves the model's folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)
