"""A model as MLflow keeps it: a traced graph (`torch.export`, its `pt2` format), and no pickle."""

import contextlib
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core import garbage
from rayloom.core.errors import RayloomError
from rayloom.tracking.client import load as load_mlflow

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def save(module: "nn.Module", example: "Tensor", path: Path, metadata: dict[str, Any]) -> None:
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


def save_graph(module: "nn.Module", example: "Tensor", path: Path) -> None:
    """Trace a part and write its graph alone (`torch.export.load` reads it).

    Args:
        module: Tensor to tensor.
        example: One input, (B, ...); B becomes free.
        path: Of the file; its folder is made.

    Raises:
        RayloomError: It cannot be traced.
    """
    import torch

    load()
    example = example.detach().to("cpu")
    example = torch.cat([example, example]) if len(example) == 1 else example
    training = module.training
    module = module.to("cpu").eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            free = ({0: torch.export.Dim.DYNAMIC},)
            graph = torch.export.export(module, (example,), dynamic_shapes=free)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.export.save(graph, path)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        first = str(error).strip().partition("\n")[0]
        raise RayloomError(f"{path.stem} cannot be exported (torch.export): {first}") from error
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
