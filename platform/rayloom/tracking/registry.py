"""Registered models: a traced graph for MLflow, the safetensors checkpoint beside it. No pickle.

A version's folder is what `mlflow.pytorch.save_model` writes (`torch.export`, its `pt2` format; the
loader refuses pickled records) plus `rayloom/`, which holds whatever files the caller names: the
config and a checkpoint, from which `sample`, `play` and `evaluate` rebuild the whole model.
"""

import contextlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlparse

from rayloom.core import garbage
from rayloom.core.errors import RayloomError, UserError, nearest
from rayloom.core.names import model_problem
from rayloom.core.scores import is_better, usable
from rayloom.records.files import Say, silent
from rayloom.tracking.client import load as load_mlflow
from rayloom.tracking.client import make_client
from rayloom.tracking.memory import read_memory

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch import Tensor, nn

FILES = "rayloom"
# Imported by torch.export and MLflow at their first use.
_LOADED_LATE = (
    "mlflow.pytorch",
    "mlflow.pyfunc",
    "torch._dynamo",
    "torch._functorch.aot_autograd",
    "torch.export._trace",
    "torch.export.pt2_archive._package",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "sympy.tensor.tensor",
)
_REQUIRED = ("mlflow", "torch", "numpy")
_SHA_TAG, _SCORE_TAG, _RUN_TAG = "rayloom.sha256", "rayloom.score", "rayloom.run_id"
_MEASURE_TAG = "rayloom.measure"
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")


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
    """A config's name as a registered model name: its last part (`generative/vae` gives `vae`).

    Raises:
        UserError: MLflow would refuse it.
    """
    short = name.rsplit("/", 1)[-1].strip()
    wrong = model_problem(short)
    if wrong:
        raise UserError(f"{name!r} cannot name a registered model: it {wrong}")
    return short


def load() -> None:
    """Import what registering needs, which takes a second or two; again, nothing.

    Imports only: tracing itself changes PyTorch for a moment, in all threads.

    Raises:
        ImportError: MLflow or PyTorch is broken.
    """
    load_mlflow()
    with garbage.paused():
        for name in _LOADED_LATE:
            with contextlib.suppress(ModuleNotFoundError):  # another version: loaded when needed
                import_module(name)


def register_model(
    run_path: str | Path,
    module: "nn.Module",
    example: "Tensor",
    *,
    name: str,
    files: Mapping[str, Path],
    sha256: str,
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
        module: Tensor to tensor (`Model.export_module`); traced on the CPU in eval mode.
        example: One input batch, (B, ...), with at least one row; B becomes free.
        name: Registered model name or config name.
        files: Name below `rayloom/` to a file or folder that is copied there (`config.yaml`, a
            checkpoint).
        sha256: Identity of the parameters (`parameters_sha256`).
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
    _ensure_name(client, name)
    version = _existing(client, name, run_id, sha256)
    place = f"model-{sha256[:12]}"  # a longer resume registers again and keeps the first one whole
    if version is None:
        with tempfile.TemporaryDirectory(prefix="rayloom-") as scratch:
            path = Path(scratch) / "model"
            _save(module, example, path, dict(metadata or {}))
            _copy(files, path / FILES)
            client.log_artifacts(run_id, str(path), place)
        source = f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{place}"
        tags = {_SHA_TAG: sha256, _RUN_TAG: folder.name}
        if score is not None:
            tags |= {_SCORE_TAG: repr(float(score)), _MEASURE_TAG: measure}
        version = client.create_model_version(
            name, source, run_id=run_id, tags=tags, description=description or None
        )
    number = str(version.version)
    if not _deserves(client, version, name, alias, score, direction, say):
        return Registered(name, number, None)
    client.set_registered_model_alias(name, alias, number)
    return Registered(name, number, alias)


def _memory(folder: Path) -> dict[str, Any]:
    memory = read_memory(folder)
    if memory.get("mlflow_run_id") and memory.get("uri"):
        return memory
    raise UserError(f"{folder.name} is not in MLflow yet: send it first (`rayloom runs sync`)")


def _ensure_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
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


def _save(module: "nn.Module", example: "Tensor", path: Path, metadata: dict[str, Any]) -> None:
    """Trace and write; requirements are given, so that MLflow does not go looking for them."""
    import importlib.metadata

    load()
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    example = example.detach().to("cpu")
    while 0 < len(example) < 2:
        example = torch.cat([example, example])  # a batch of one would be traced as a constant
    training = module.training
    module = module.to("cpu").eval()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _installed(_REQUIRED):
            warnings.simplefilter("ignore")
            output = module(example)
            signature = ModelSignature(
                inputs=Schema([TensorSpec(example.numpy().dtype, (-1, *example.shape[1:]))]),
                outputs=Schema([TensorSpec(output.numpy().dtype, (-1, *output.shape[1:]))]),
            )
            mlflow.pytorch.save_model(
                module,
                str(path),
                signature=signature,
                input_example=example.numpy(),
                pip_requirements=[
                    f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
                    for package in _REQUIRED
                ],
                metadata=metadata or None,
                serialization_format="pt2",
            )
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        first = str(error).strip().partition("\n")[0]
        raise RayloomError(f"the model cannot be exported (torch.export): {first}") from error
    finally:
        module.train(training)


@contextlib.contextmanager
def _installed(packages: tuple[str, ...]) -> Iterator[None]:
    """Spare MLflow a look through every file of every installed package.

    It compares the requirements with what is installed, and these were just read from there.
    """
    from mlflow.utils import requirements_utils as requirements

    if getattr(requirements, "_MODULES_TO_PACKAGES", ...) is not None:  # known, or another MLflow
        yield
        return
    requirements._MODULES_TO_PACKAGES = {package: [package] for package in packages}
    try:
        yield
    finally:
        requirements._MODULES_TO_PACKAGES = requirements._PACKAGES_TO_MODULES = None


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


def fetch_version(reference: str, uri: str, *, target: str | Path | None = None) -> Path:
    """The folder of a registered version.

    Args:
        reference: `models:/name@alias`, `models:/name/3` or `models:/name/latest`.
        uri: Tracking URI (`resolve_uri`).
        target: Where to download to; None: a new temporary folder. A version that lies on this
            machine is not copied.

    Returns:
        A folder with `MLmodel`, `data/` and `rayloom/`.

    Raises:
        UserError: No such model, alias or version.
    """
    client = make_client(uri)
    version = _version(client, reference)
    source = client.get_model_version_download_uri(version.name, str(version.version))
    local = _local_path(source)
    if local is not None and (local / "MLmodel").exists():
        return local
    import mlflow.artifacts

    place = Path(target) if target is not None else Path(tempfile.mkdtemp(prefix="rayloom-"))
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(place), tracking_uri=uri
        )
    )


def numbered(reference: str, uri: str) -> str:
    """The version that a reference means now, as `models:/name/number`: aliases move.

    Raises:
        UserError: No such version.
    """
    version = _version(make_client(uri), reference)
    return f"models:/{version.name}/{version.version}"


def run_of_model(reference: str, uri: str) -> str:
    """The path, as noted when it was tracked, of the run folder that a registered version is from.

    The folder may have moved: its last part is the run's id.

    Raises:
        UserError: No such version, or none of ours.
    """
    client = make_client(uri)
    version = _version(client, reference)
    if version.run_id:
        with contextlib.suppress(UserError):
            return run_of_mlflow_id(version.run_id, uri)
    if _RUN_TAG in version.tags:
        return version.tags[_RUN_TAG]
    raise UserError(f"{reference} was not registered by rayloom")


def run_of_mlflow_id(run_id: str, uri: str) -> str:
    """The path, as noted when it was tracked, of the run folder of an MLflow run.

    Raises:
        UserError: No such MLflow run, or none of ours.
    """
    client = make_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_run(run_id).data.tags
    except MlflowException as error:
        raise UserError(f"MLflow has no run {run_id}") from error
    if "rayloom.path" not in tags:
        raise UserError(f"the MLflow run {run_id} was not made by rayloom")
    return tags["rayloom.path"]


def _local_path(source: str) -> Path | None:
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(source) if not parsed.scheme else None


def _version(client: "MlflowClient", reference: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    match = _REFERENCE.fullmatch(reference.rstrip("/"))
    if match is None:
        raise UserError(f"{reference!r} is not models:/name@alias or models:/name/version")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        if number == "latest":
            found = client.search_model_versions(f"name = '{name}'")
            if found:
                return max(found, key=lambda version: int(version.version))
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"{reference} does not exist; {_known(client, name)}") from error


def _known(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        model = client.get_registered_model(name)
        aliases = ", ".join(f"@{alias}" for alias in sorted(model.aliases)) or "none"
        return f"aliases of {name}: {aliases}"
    names = [model.name for model in client.search_registered_models(max_results=200)]
    near = nearest(name, names)
    hint = f", did you mean {near!r}?" if near else ""
    return f"registered models: {', '.join(sorted(names)[:20]) or 'none'}{hint}"
