"""Fixtures: a tiny model and algorithm in the catalogue, and a working folder of the test's own."""

from typing import ClassVar, Literal

import pytest
from pydantic import Field

from rayloom import catalogue
from rayloom.config.sections import Config, PositiveInt


class ToyModelConfig(Config):
    """Settings of a model that nobody builds."""

    name: Literal["toy"] = "toy"
    latent_dim: PositiveInt = Field(8, le=1024, description="size of z")
    network: Literal["mlp", "conv"] = "mlp"
    beta: float = Field(1.0, ge=0, le=10, description="weight of the KL")
    widths: tuple[PositiveInt, ...] = (32, 32)
    tied: bool = False


class OtherModelConfig(Config):
    """A second one, with other keys."""

    name: Literal["other"] = "other"
    depth: PositiveInt = 2


class ToyLearnerConfig(Config):
    """Settings of a learner that nobody builds."""

    name: Literal["toy-q"] = "toy-q"
    gamma: float = Field(0.99, ge=0, le=1, description="discount per environment step")
    double: bool = True


class ToyModel:
    """A model."""

    config_class: ClassVar[type] = ToyModelConfig


class OtherModel:
    """Another."""

    config_class: ClassVar[type] = OtherModelConfig


class ToyLearner:
    """A learner."""

    config_class: ClassVar[type] = ToyLearnerConfig


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The catalogue with the toys; put back afterwards, whatever a test registers."""
    before = {kind: dict(table) for kind, table in catalogue.CATALOGUE.items()}
    objects = dict(catalogue.table.OBJECTS)
    catalogue.register("models", "toy", ToyModel, source="tests")
    catalogue.register("models", "other", OtherModel, source="tests")
    catalogue.register("algorithms", "toy-q", ToyLearner, source="tests")
    yield
    for kind, table in before.items():
        catalogue.CATALOGUE[kind].clear()
        catalogue.CATALOGUE[kind].update(table)
    catalogue.table.OBJECTS.clear()
    catalogue.table.OBJECTS.update(objects)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, with no site file and no user settings."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    for variable in ("RAYLOOM_STORAGE", "RAYLOOM_DATA_ROOT", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    return work


MODEL = "model: {name: toy}\ndata: {name: digits}\n"
LEARNER = "algorithm: {name: toy-q}\nenv: {name: CartPole-v1}\n"


@pytest.fixture
def load(folder):
    """`load(text, *flags, **options)`: writes `c.yaml` in the working folder and loads it."""
    from rayloom.config.resolved import load_config

    def run(text, *flags, **options):
        (folder / "c.yaml").write_text(text)
        return load_config("c.yaml", flags, **options)

    return run


@pytest.fixture
def mistakes(load):
    """`mistakes(text, *flags)`: the problems that loading reports, as texts."""
    from rayloom.core.errors import ConfigError

    def run(text, *flags, **options):
        with pytest.raises(ConfigError) as caught:
            load(text, *flags, **options)
        assert caught.value.exit_code == 2
        for problem in caught.value.problems:
            assert "pydantic" not in str(problem)
        return [str(problem) for problem in caught.value.problems]

    return run
