"""Names that MLflow would refuse are told with the config; the rules are the installed MLflow's."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayloom.config.names import experiment_problem, key_problem, model_problem
from rayloom.config.resolved import load_config, resolve, with_overrides
from rayloom.core.errors import ConfigError

MODEL = {"model": {"name": "toy"}, "data": {"name": "digits"}}
KEYS = ["a b%", "a\nb", "a\n", "", ".", "..", "./a", "a//b", "/a", "a/", "a/../b", "..a", "a=b"]
KEYS += ["a,b", "a'b", "😀", "\u202e", "a\x00b", "x" * 251]
GOOD_KEYS = ["a", "a b", "a/b", "a:b", "a-b.c_d", "é", "日本", "x" * 250, "0", "a..b"]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab0/._-: %'@\n\té日😀\x00"), max_size=6) | st.text(max_size=6))
@example("x" * 257)
@example("x" * 251)
@example("..a")
@example("a\n")
def test_what_passes_here_passes_there(name):
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    def taken(check, *arguments):
        try:
            check(*arguments)
        except MlflowException:
            return False
        return True

    for own, theirs, arguments in (
        (key_problem, validation._validate_tag, (name, "v")),
        (key_problem, validation._validate_param, (name, "v")),
        (key_problem, validation._validate_metric_name, (name,)),
        (experiment_problem, validation._validate_experiment_name, (name,)),
        (model_problem, validation._validate_model_name, (name,)),
    ):
        assert own(name) is not None or taken(theirs, *arguments), (own, theirs, name)


@pytest.mark.parametrize("key", GOOD_KEYS)
def test_ordinary_names_are_taken(key):
    assert key_problem(key) is None
    assert experiment_problem(key) is None
    assert (model_problem(key) is None) == (not set(key) & set("/:"))


def mistakes(tree, flags=()):
    with pytest.raises(ConfigError) as caught:
        resolve({**MODEL, **tree}, flags)
    return str(caught.value)


@pytest.mark.parametrize("key", [k for k in KEYS if "\x00" not in k])
def test_a_tag_that_mlflow_refuses_is_a_mistake_of_the_config(key):
    assert "MLflow takes no" in mistakes({"tracking": {"tags": {key: "v"}}})


def test_every_source_of_a_name_is_checked(tmp_path, monkeypatch):
    """File, flag, site file, Python: with place and key, and with the other mistakes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "model: {name: toy}\ndata: {name: digits}\ntracking:\n  tags:\n    a b%: x\n"
        "    mlflow.runName: x\n    rayloom.run_id: x\nseed: -1\n"
    )
    (tmp_path / "rayloom.yaml").write_text("tracking: {experiment: ' '}\n")
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml", ["tracking.register_as=a:b"])
    said = str(caught.value)
    for line in (
        "c.yaml:8: seed: -1 is out of range",
        "rayloom.yaml:1: tracking.experiment: ' ': is empty",
        "flag tracking.register_as=a:b: tracking.register_as: 'a:b': holds ':'",
        "c.yaml:5: tracking.tags.a b%: 'a b%': MLflow takes no such key; one holds letters",
        "c.yaml:6: tracking.tags.mlflow.runName: 'mlflow.runName': the names mlflow.* and",
        "c.yaml:7: tracking.tags.rayloom.run_id",
    ):
        assert line in said
    assert said.startswith("6 problems")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("experiment", "", "is empty"),
        ("experiment", "a\x1b[31m", "does not print"),
        ("experiment", "a\u202eb", "does not print"),
        ("experiment", "x" * 257, "has 257 characters"),
        ("register_as", "a/b", "holds '/'"),
        ("register_as", "a@b", "holds '@'"),
        ("register_as", "it's", 'holds "\'"'),
        ("register_as", "..", "leads out"),
        ("register_as", " ", "is empty"),
        ("register_as", "a\nb", "does not print"),
    ],
)
def test_experiments_and_registered_models(key, value, why):
    assert re.search(re.escape(why), mistakes({"tracking": {key: value}}))


def test_a_parameter_s_key_of_one_s_own_is_checked_too():
    tree = {"algorithm": {"name": "dqn"}, "env": {"name": "A-v0", "kwargs": {"a%": 1}}}
    with pytest.raises(ConfigError, match=r"env\.kwargs\.a%: as a parameter of the run: MLflow"):
        resolve(tree)


def test_an_older_run_is_read_whatever_its_names(tmp_path):
    """Its config stands; only what a flag gives now is checked."""
    old = {**MODEL, "tracking": {"tags": {"a b%": "x"}}}
    config = resolve(old, new=False).config
    assert with_overrides(config, ["seed=3"]).tracking.tags == {"a b%": "x"}
    with pytest.raises(ConfigError, match=r"flag tracking\.experiment="):
        with_overrides(config, ["tracking.experiment=' '"])
    (tmp_path / "config.yaml").write_text(
        "model: {name: toy}\ndata: {name: digits}\ntracking: {tags: {a b%: x}}\n"
    )
    assert load_config(tmp_path / "config.yaml", site=None).config == config
