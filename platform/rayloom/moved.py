"""Modules that moved: the old names stay importable, for plugins and scripts written before.

An old name gives the very module that has the new one, so that a class is the same by both, and
warns of it (`DeprecationWarning`). Python asks here first: below a package that moved it would
find the files of the new one, and load them a second time.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "rayloom.core.catalogue": "rayloom.catalogue",
    "rayloom.core.config": "rayloom.config.resolved",
    "rayloom.core.hyperparameters": "rayloom.config.hyperparameters",
    "rayloom.core.layers": "rayloom.config.merge",
    "rayloom.core.names": "rayloom.config.names",
    "rayloom.core.plugins": "rayloom.catalogue.plugins",
    "rayloom.core.references": "rayloom.config.references",
    "rayloom.core.schema": "rayloom.config.schema",
    "rayloom.core.schema_walk": "rayloom.config.schema_walk",
    "rayloom.core.sections": "rayloom.config.sections",
    "rayloom.core.spaces": "rayloom.config.spaces",
    "rayloom.core.validate": "rayloom.config.validate",
    "rayloom.core.yaml_marks": "rayloom.config.yaml_marks",
    "rayloom.core.yaml_text": "rayloom.config.yaml_text",
    "rayloom.data.arrays": "rayloom.data.imports.arrays",
    "rayloom.data.columns": "rayloom.data.store.columns",
    "rayloom.data.describe": "rayloom.data.description",
    "rayloom.data.digits": "rayloom.data.sets.digits",
    "rayloom.data.fashion_mnist": "rayloom.data.sets.fashion_mnist",
    "rayloom.data.fetch": "rayloom.data.sets.fetch",
    "rayloom.data.images": "rayloom.data.imports.images",
    "rayloom.data.importing": "rayloom.data.imports.importing",
    "rayloom.data.layout": "rayloom.data.imports.layout",
    "rayloom.data.manifest": "rayloom.data.store.manifest",
    "rayloom.data.mnist_10k": "rayloom.data.sets.mnist_10k",
    "rayloom.data.npy": "rayloom.data.imports.npy",
    "rayloom.data.parquet": "rayloom.data.imports.parquet",
    "rayloom.data.pictures": "rayloom.data.imports.pictures",
    "rayloom.data.prepare": "rayloom.data.preparation",
    "rayloom.data.residency": "rayloom.data.store.residency",
    "rayloom.data.tables": "rayloom.data.imports.tables",
    "rayloom.data.verify": "rayloom.data.store.verification",
    "rayloom.generative": "rayloom.models.autoencoders",
    "rayloom.generative.beta_vae": "rayloom.models.autoencoders.beta_vae",
    "rayloom.generative.importance": "rayloom.models.autoencoders.importance",
    "rayloom.generative.vae": "rayloom.models.autoencoders.vae",
    "rayloom.nn.networks": "rayloom.nn.network",
    "rayloom.rl.dqn": "rayloom.rl.algorithms.dqn",
    "rayloom.rl.env_packages": "rayloom.rl.envs.packages",
    "rayloom.rl.env_state": "rayloom.rl.envs.state",
    "rayloom.rl.groups": "rayloom.rl.envs.groups",
    "rayloom.rl.n_step": "rayloom.rl.replay.n_step",
    "rayloom.rl.q_kernel": "rayloom.rl.algorithms.q_kernel",
    "rayloom.rl.q_network": "rayloom.rl.algorithms.q_network",
    "rayloom.rl.spaces": "rayloom.rl.envs.spaces",
    "rayloom.rl.sum_tree": "rayloom.rl.replay.sum_tree",
    "rayloom.training.pictures": "rayloom.media.grid",
    "rayloom_pipelines.load.fitting": "rayloom_pipelines.load.shapes",
    "rayloom_pipelines.resolve": "rayloom_pipelines.places",
}


class _Alias(Loader):
    """Loads a module under its new name."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself; what the import system notes on it is put back afterwards."""
        module = import_module(self.new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It ran when it was imported."""
        module.__spec__ = self._spec


class Finder(MetaPathFinder):
    """Finds the old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name; None for all others."""
        new = MOVED.get(fullname)
        if new is None:
            return None
        warnings.warn(f"{fullname} is now {new}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Alias(new))


def install() -> None:
    """Let Python ask here for old names."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
