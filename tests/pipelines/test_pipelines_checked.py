"""What a run would be refused for is told before it begins, and no run folder is left behind."""

from typing import ClassVar, Literal

import pytest
import torch
from torch import nn

import rayloom
from rayloom import catalogue
from rayloom.config.resolved import config_from_dict
from rayloom.config.sections import Config
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.metric_table import (
    Metric,
)
from rayloom.core.protocols import (
    Player,
    Turn,
)
from rayloom.records.told_metrics import (
    told_metrics,
)
from rayloom_pipelines.cli import main

VAE = {
    "model": {"name": "vae", "latent_dim": 2, "widths": [4]},
    "data": {"name": "digits", "limit": 64},
    "train": {"grad_steps": 2},
}
DQN = {"algorithm": {"name": "dqn"}, "env": {"name": "CartPole-v1"}, "train": {"env_steps": 64}}


class OwnConfig(Config):
    """Settings of the model below."""

    name: Literal["own-metric"] = "own-metric"


class OwnMetric(nn.Module):
    """A plugin's model: its metrics are known by asking it only."""

    config_class = OwnConfig
    default_metric: ClassVar[str | None] = None
    keys: ClassVar[tuple[str, ...]] = ("distance_error", "accuracy")

    def __init__(self, config, spec):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    @property
    def players(self):
        return (Player("model", tuple(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        return {"loss": (batch["image"].float().flatten(1).mean(1) - self.bias) ** 2}

    def evaluate_batch(self, batch, *, rng):
        return {key: self.loss(batch, rng=rng, turn=Turn())["loss"] for key in self.keys}


@pytest.fixture
def own():
    """The model's class, its settings put back afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnMetric, "default_metric", None)
        patch.setattr(OwnMetric, "metrics", (), raising=False)
        yield OwnMetric
    catalogue.CATALOGUE["models"].pop("own-metric", None)


@pytest.fixture
def empty(place):
    """The working folder; nothing may be left in its storage."""
    yield place
    assert not (place / "runs").exists()
    assert not (place / "mlflow.db").exists()


NO_NLL = (
    r"no evaluation gives 'eval/nll_nats'; there are: eval/bpd, eval/elbo_nats.*metrics=\[nll\]"
)
CASES = [
    (VAE, "checkpoint.metric=eval/nll_nats", {}, f"flag checkpoint.*{NO_NLL} adds it"),
    (VAE, "train.stop={eval/nll_nats: 3}", {}, rf"flag train.stop=.*: train\.stop\.eval.*{NO_NLL}"),
    (VAE, "train.stop={loss/total: 3}", {"seeds": 2}, "no evaluation gives 'loss/total'"),
    (VAE, "train.early_stopping={metric: eval/los_error}", {}, "did you mean 'eval/loss'"),
    (
        VAE,
        "checkpoint.metric=eval/kl_nats",
        {},
        "no metric with a direction .*checkpoint.mode, min",
    ),
    (VAE, "train.stop={eval/kl_nats: 1}", {}, r"no metric with a direction [^;]*them\)$"),
    (VAE, "checkpoint.metric=eval/return_mean", {}, "flag checkpoint.metric=eval/return_mean"),
    (VAE, "data.eval_split=tset", {"seeds": 2}, "did you mean 'test'"),
    (VAE, "evaluation.metrics=[fid]", {}, "there is no metric 'fid'"),
    (VAE, "optimizer={critic: {lr: 1}}", {}, "no such player"),
    (DQN, "checkpoint.metric=eval/bpd", {}, "there are: eval/episodes, eval/length_mean"),
    (DQN, "env.name=Pendulum-v1", {"seeds": 2}, "needs discrete actions"),
]
WORKERS = [
    (VAE, "checkpoint.metric=eval/nll_nats", {}, NO_NLL),
    (VAE, "data.eval_split=tset", {}, "did you mean 'test'"),
    (VAE, "evaluation.metrics=[fid]", {}, "there is no metric 'fid'"),
    (VAE, "optimizer={critic: {lr: 1}}", {}, "no such player"),
    (DQN, "env.name=Pendulum-v1", {}, "needs discrete actions"),
    (DQN, "train.stop={eval/bpd: 1}", {}, "no evaluation gives 'eval/bpd'"),
]


@pytest.mark.parametrize(("tree", "flag", "more", "said"), CASES)
def test_a_refused_run_leaves_nothing_behind(tree, flag, more, said, empty):
    with pytest.raises(UserError, match=said):
        rayloom.train(tree, [flag], **more)


@pytest.mark.parametrize(("tree", "flag", "more", "said"), WORKERS)
def test_nor_does_one_on_workers_and_ray_is_not_started(tree, flag, more, said, empty):
    with pytest.raises(UserError, match=said):
        rayloom.train(tree, [flag, "resources.workers=2"], **more)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["resources.address=127.0.0.1:9"], "resources.address: no Ray answers at 127.0.0.1:9"),
        (["resources.address=nowhere"], r"resources\.address: 'nowhere': give host:port"),
        (["resources.address='http://h:8265'"], "is that of a dashboard"),
        (["resources.gpus_per_worker=9"], "18 GPUs are needed in all; this machine has"),
        (
            ["storage='s3://bucket/runs'"],
            r"flag storage=.*: storage: 's3://bucket/runs' is no fold",
        ),
        (["seed=9223372036854775807"], r"go beyond the last seed, 2\*\*63-1"),
    ],
)
def test_resources_that_cannot_be_are_told_before_ray_is_started(flags, said, empty, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=said):
        rayloom.train(VAE, ["resources.workers=2", *flags], seeds=2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["sweep.metric=eval/nll_nats"], rf"flag sweep\.metric.*{NO_NLL}"),
        (["sweep.metric=eval/fid", "sweep.mode=min"], "no evaluation gives 'eval/fid'"),
        (["train.stop={eval/nll_nats: 1}"], NO_NLL),
        (["data.eval_split=choice(test, tset)"], "did you mean 'test'"),
        (["data.name=choice(digits, digitz)"], r"'digitz'.*an end of choice"),
    ],
)
def test_a_sweep_is_refused_before_its_first_trial(flags, said, empty):
    with pytest.raises(UserError, match=said):
        rayloom.sweep(VAE, ["optimizer.lr=uniform(0.1, 0.2)", *flags])


@pytest.mark.parametrize(
    ("default", "keys", "said"),
    [
        ("eval/kid", ("accuracy",), "its default_metric, 'eval/kid', is not in its evaluation"),
        ("eval/charm", ("charm",), "OwnMetric.default_metric is 'eval/charm', a metric without a"),
        (["eval/loss"], ("loss",), r"OwnMetric.default_metric is \['eval/loss'\], a metric"),
        (None, ("acc%",), r"its metric 'eval/acc%' cannot be tracked: MLflow takes no such key"),
    ],
)
def test_a_model_s_own_metrics_are_asked_for(default, keys, said, own, empty, monkeypatch):
    monkeypatch.setattr(own, "default_metric", default)
    monkeypatch.setattr(own, "keys", keys)
    with pytest.raises(UserError, match=said):
        rayloom.train({**VAE, "model": {"name": "own-metric"}}, model=own)


CHARM = Metric("eval/charm", "1", "max", "how it is liked")
TREE = {**VAE, "model": {"name": "own-metric"}}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (("eval/charm",), "metrics must be a tuple of Metric .* it is tuple"),
        ({"eval/charm": "max"}, "metrics must be a tuple of Metric .* it is dict"),
        ((CHARM, CHARM), "metrics has 'eval/charm' twice"),
        (
            (Metric("eval/accuracy", "share", "min", "errors"),),
            r"metrics says of .* what the shared table does not: take it by shared\('eval/acc",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_told(metrics, said, own, empty, monkeypatch):
    monkeypatch.setattr(own, "metrics", metrics)
    with pytest.raises(ConfigError, match=rf"model\.name: OwnMetric\.{said}"):
        rayloom.train(TREE, model=own)


def test_directions_of_own_metrics_are_those_declared(own, place, tmp_path, monkeypatch):
    """Best, stop rules and early stopping; the run tells of them without the class."""
    monkeypatch.setattr(own, "metrics", (CHARM,))
    monkeypatch.setattr(own, "keys", ("charm",))
    flags = [f"storage={tmp_path}", "train.grad_steps=8", "evaluation.every=2", "optimizer.lr=0.1"]
    early = "train.early_stopping={metric: eval/charm, patience: 2}"
    rules = ["train.stop={eval/charm: 1e9}", early, "checkpoint.metric=eval/charm"]
    run = rayloom.train(TREE, [*flags, *rules], model=own, track=False)
    assert "has not improved for 2" in run.about["reason"], "it falls, and higher is better"
    assert run.best["step"] == 2
    assert told_metrics(run.record) == {"eval/charm": CHARM}
    assert {one.direction for one in run.folder.checkpoints().complete()} == {"max"}
    with pytest.raises(ConfigError, match=r"'eval/charn' is no metric .*did you mean 'eval/charm'"):
        rayloom.train(TREE, ["checkpoint.metric=eval/charn"], model=own)
    with pytest.raises(ConfigError, match=r"checkpoint.mode: is 'min', but of 'eval/charm' higher"):
        rayloom.train(TREE, ["checkpoint={metric: eval/charm, mode: min}"], model=own)
    with pytest.raises(ConfigError, match=r"checkpoint.mode: says nothing without"):
        rayloom.train(TREE, ["checkpoint={mode: min}"], model=own)


def test_a_kind_of_work_is_said_by_its_word(own, tmp_path, monkeypatch):
    """In run.json, and so in MLflow's tag; what cannot be done with it is said in its words."""
    monkeypatch.setattr(own, "task", "supervised", raising=False)
    monkeypatch.setattr(own, "keys", ("rmse",))
    monkeypatch.delattr(own, "default_metric")
    run = rayloom.train(TREE, [f"storage={tmp_path}"], model=own, track=False)
    assert (run.about["task"], run.config.task) == ("supervised", "supervised")
    assert run.best["metric"] == "eval/rmse", "what is usual for this kind of work"
    with pytest.raises(UserError, match="is of a supervised model, not of an agent"):
        run.policy()


def test_endings_that_were_judged_by_a_guess_are_read_and_refused_of_a_new_run(own, empty):
    """A run of then can be looked at; a new one must say which is better."""
    rule = "checkpoint.metric=eval/distance_error"
    tree = {**TREE, "checkpoint": {"metric": "eval/distance_error"}}
    with pytest.raises(
        ConfigError, match="nothing says whether lower or higher is better of 'eval"
    ):
        rayloom.train(TREE, [rule], model=own)
    assert config_from_dict(tree).checkpoint.metric == "eval/distance_error"
    with pytest.raises(ConfigError, match=r"train\.stop.*nothing says"):
        rayloom.train(TREE, ["train.stop={eval/distance_error: 1}"], model=own)


def test_no_default_metric_keeps_the_last_checkpoint(own, place, tmp_path, monkeypatch):
    monkeypatch.setattr(own, "keys", ("loss",))
    flags = [f"storage={tmp_path}", "train.grad_steps=4", "evaluation.every=2"]
    run = rayloom.train(TREE, flags, model=own, track=False)
    assert run.best is None
    assert [one.score for one in run.folder.checkpoints().complete()] == [None, None]
    monkeypatch.delattr(own, "default_metric")
    run = rayloom.train(TREE, flags, model=own, track=False)
    assert run.best["metric"] == "eval/loss"


def plan_of(tree, *flags, model=None):
    from rayloom.config.resolved import resolve
    from rayloom_pipelines.groups.sweep_checks import checked_plan
    from rayloom_pipelines.run import own as owned
    from rayloom_pipelines.run.folder import Options

    more = [*owned.replace_by_own(model, None), "optimizer.lr=uniform(0.1, 0.2)", *flags]
    return checked_plan(resolve(tree, more, search=True), Options(track=False)).config


@pytest.mark.parametrize(
    ("flags", "metric", "mode"),
    [
        ([], "eval/elbo_nats", "max"),
        (["sweep.metric=eval/loss"], "eval/loss", "min"),
        (["checkpoint.metric=eval/bpd"], "eval/bpd", "min"),
        (["sweep={metric: eval/kl_nats, mode: max}"], "eval/kl_nats", "max"),
        (["checkpoint={metric: eval/kl_nats, mode: min}"], "eval/kl_nats", "min"),
    ],
)
def test_trials_and_their_checkpoints_are_judged_alike(flags, metric, mode, empty):
    config = plan_of(VAE, *flags)
    assert (config.sweep.metric, config.sweep.mode) == (metric, mode)
    assert (config.checkpoint.metric, config.checkpoint.mode) == (metric, mode)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["sweep.metric=eval/loss", "checkpoint.metric=eval/bpd"], "but checkpoint.metric is 'ev"),
        (["sweep.mode=min"], "sweep.mode: is 'min', but of 'eval/elbo_nats' higher is better"),
        (["sweep={metric: eval/loss, mode: max}"], "of 'eval/loss' lower is better"),
    ],
)
def test_a_sweep_judged_in_two_ways_is_refused(flags, said, empty):
    with pytest.raises(ConfigError, match=said):
        rayloom.sweep(VAE, ["optimizer.lr=uniform(0.1, 0.2)", *flags])


def test_a_sweep_of_a_method_without_a_default_must_say_its_metric(own, empty, monkeypatch):
    monkeypatch.setattr(own, "keys", ("loss",))
    with pytest.raises(ConfigError, match=r"sweep.metric: is needed: OwnMetric names no metric"):
        plan_of(TREE, model=own)
    assert plan_of(TREE, "sweep.metric=eval/loss", model=own).checkpoint.metric == "eval/loss"


def test_all_mistakes_of_a_config_come_at_once(empty, capsys):
    (empty / "c.yaml").write_text(
        "extends: vae-digits\ndata:\n  name: digitz\n  source: /nowhere\nmodel: {x: 1}\n"
        "storage: c.yaml/runs\ntracking: {uri: 'file:///x'}\nresources: {device: 'cuda:99'}\n"
    )
    assert main(["train", "c.yaml", "optimizer.lr=0"]) == 2
    said = capsys.readouterr().err
    for line in (
        "7 problems in the config",
        "c.yaml:5: model.x: unknown key",
        "flag optimizer.lr=0: optimizer.lr: 0 is out of range",
        "c.yaml:3: data.name: no data set is called 'digitz'; known: digits, ",
        "(did you mean 'digits'?)",
        "c.yaml:4: data.source: names the folder /nowhere, which does not exist",
        "c.yaml:6: storage: ",
        "c.yaml:7: tracking.uri: 'file:///x' is a folder",
        "c.yaml:8: resources.device: 'cuda:99', but this machine has",
    ):
        assert line in said
    assert main(["train", "rl/dqn-cartpole", "env.name=CartPol-v1", "seed=-1"]) == 2
    said = capsys.readouterr().err
    assert "flag env.name=CartPol-v1: env.name: Gymnasium knows no environment" in said
    assert "flag seed=-1: seed: -1 is out of range" in said
    flags = ["env.wrappers=[TimeLimt]", "env.kwargs.render_mode=human", "train.accumulate=2"]
    assert main(["train", "rl/dqn-cartpole", *flags, "train.compile=true"]) == 2
    said = capsys.readouterr().err
    assert "4 problems" in said
    assert "env.wrappers.0: no wrapper is called 'TimeLimt'" in said


def test_a_name_that_cannot_be_registered_is_told_first(empty):
    with pytest.raises(ConfigError, match=r"tracking\.register_as: is needed: 'a:b'"):
        rayloom.train(VAE, name="a:b")
    flags = ["tracking.register_as=ab", "checkpoint.metric=eval/nll_nats"]
    with pytest.raises(ConfigError, match="no evaluation gives"):  # goes on with one
        rayloom.train(VAE, flags, name="a:b")


def test_a_resume_with_a_metric_that_is_not_there_changes_nothing(place, tmp_path):
    storage = f"storage={tmp_path / 'own'}"
    run = rayloom.train(VAE, [storage], track=False)
    before = run.about
    with pytest.raises(ConfigError, match=rf"flag train\.stop=.*{NO_NLL}"):
        rayloom.resume(run, ["train.grad_steps=4", "train.stop={eval/nll_nats: 1}"])
    assert run.about == before
