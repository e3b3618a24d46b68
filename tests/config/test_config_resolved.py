"""Configs: merging, precedence, provenance, and every mistake said at once."""

import json
from pathlib import Path

import pytest

from rayloom.config.resolved import (
    RunConfig,
    config_from_dict,
    diff,
    fingerprint,
    load_config,
    site_settings,
    to_dict,
    with_overrides,
)
from rayloom.core.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]
MODEL = "model: {name: toy}\ndata: {name: digits}\n"
LEARNER = "algorithm: {name: toy-q}\nenv: {name: CartPole-v1}\n"


def test_the_two_halves(load):
    config = load(MODEL).config
    assert (config.task, config.model.latent_dim, config.data.name) == ("generative", 8, "digits")
    config = load(LEARNER).config
    assert (config.task, config.algorithm.gamma, config.env.num_envs) == ("rl", 0.99, 8)


def test_groups_divide_the_environments(load):
    for num_envs, group_size in ((16, 8), (8, 8), (6, 2), (3, 1)):
        config = load(LEARNER, f"env.num_envs={num_envs}", f"env.group_size={group_size}").config
        assert config.env.num_envs // config.env.group_size * group_size == num_envs


def test_a_config_is_frozen(load):
    config = load(MODEL).config
    for holder, name in ((config, "seed"), (config.model, "beta"), (config.optimizer, "lr")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(holder, name, 1)


def test_values_are_typed_by_the_schema(load):
    config = load(MODEL + "train: {grad_steps: 5e4}\noptimizer: {lr: 1}\n", "seed=0x10").config
    assert config.train.grad_steps == 50_000
    assert isinstance(config.train.grad_steps, int)
    assert isinstance(config.optimizer.lr, float)
    assert config.seed == 16
    assert load(MODEL, "resources.threads=2.0").config.resources.threads == 2
    assert load(MODEL, "model.widths=[8]").config.model.widths == (8,)


def test_one_optimizer_or_one_per_player(load):
    text = MODEL + "optimizer:\n  generator: {lr: 1e-4}\n  critic: {name: sgd, momentum: 0.5}\n"
    resolved = load(text, "optimizer.critic.lr=3")
    optimizer = resolved.config.optimizer
    assert (optimizer["generator"].name, optimizer["generator"].lr) == ("adamw", 1e-4)
    assert (optimizer["critic"].name, optimizer["critic"].lr) == ("sgd", 3.0)
    assert config_from_dict(resolved.to_dict()) == resolved.config
    assert resolved.why("optimizer.critic.lr") == "flag optimizer.critic.lr=3"


MISTAKES = {
    "unknown section": (MODEL + "modle: 1\n", ["c.yaml:3: modle: unknown key", "'model'?"]),
    "unknown key": (
        "model: {name: toy}\ndata:\n  name: digits\n  batch_siz: 3\n",
        ["c.yaml:4: data.batch_siz: unknown key of data", "(did you mean 'batch_size'?)"],
    ),
    "unknown model key": (
        "model:\n  name: toy\n  netwrk: mlp\ndata: {name: digits}\n",
        ["c.yaml:3: model.netwrk: unknown key of model", "latent_dim", "'network'?"],
    ),
    "unknown nested key": (
        MODEL + "train:\n  ema: {decy: 0.9}\n",
        ["c.yaml:4: train.ema.decy: unknown key of train.ema", "'decay'?"],
    ),
    "text for a number": (
        MODEL + "optimizer: {lr: 1_0}\n",
        ["optimizer.lr: must be a number, > 0, not the text '1_0'"],
    ),
    "text for a whole number": (
        MODEL + "seed: 'x'\n",
        ["c.yaml:3: seed: must be a whole number", "not the text 'x'"],
    ),
    "number in quotes": (MODEL + "seed: '3'\n", ["seed: must be a whole number", "'3'"]),
    "fraction": (MODEL + "seed: 1.5\n", ["seed: must be a whole number", "not 1.5"]),
    "yes": (MODEL + "train: {compile: yes}\n", ["must be true or false, not the text 'yes'"]),
    "boolean for a number": (MODEL + "seed: true\n", ["seed: must be a whole number", "not true"]),
    "number for text": (
        MODEL + "tracking: {tags: {version: 3}}\n",
        ["tracking.tags.version: must be text, not 3; write it in quotes"],
    ),
    "null": (MODEL + "train: {accumulate: null}\n", ["must be a whole number, >= 1, not null"]),
    "mapping for text": (MODEL + "storage: {a: 1}\n", ["storage: must be text, not a mapping"]),
    "text for a mapping": (MODEL + "train: 3\n", ["train: must be a mapping, not 3"]),
    "model by string": ("model: toy\ndata: {name: digits}\n", ["must be a mapping such as"]),
    "out of range": (
        "model: {name: toy, beta: 11}\ndata: {name: digits}\n",
        ["model.beta: 11 is out of range; allowed: 0 <= value <= 10 (weight of the KL)"],
    ),
    "one bound": (
        MODEL + "optimizer: {lr: 0}\n",
        ["c.yaml:3: optimizer.lr: 0 is out of range; allowed: > 0 (learning rate)"],
    ),
    "in a list": (
        "model:\n  name: toy\n  widths:\n    - 3\n    - -1\ndata: {name: digits}\n",
        ["c.yaml:5: model.widths.1: -1 is out of range; allowed: >= 1"],
    ),
    "short list": (MODEL + "optimizer: {betas: [0.9]}\n", ["optimizer.betas.1: is required"]),
    "choice": (
        MODEL + "train: {precision: fp16}\n",
        ["the text 'fp16' is not allowed; choose fp32, bf16, fp64, auto", "'fp64'?"],
    ),
    "pattern": (MODEL + "resources: {device: gpu}\n", ["the text 'gpu' is not allowed; wanted"]),
    "union": (MODEL + "resources: {threads: many}\n", ["must be a whole number", "choose auto"]),
    "missing": ("model: {name: toy}\ndata: {}\n", ["c.yaml:2: data.name: is required"]),
    "unknown model": (
        "model: {name: tony}\ndata: {name: digits}\n",
        ["c.yaml:1: model.name: no model is called 'tony'; known: beta-vae, ", "other, ", "'toy'?"],
    ),
    "no model name": ("model: {}\ndata: {name: digits}\n", ["model.name: is required; known:"]),
    "unknown optimizer": (
        MODEL + "optimizer: {name: adm}\n",
        ["optimizer.name: no optimizer is called 'adm'; known: adamw", "'adam'?"],
    ),
    "player's optimizer": (
        MODEL + "optimizer: {generator: {lr: -1}}\n",
        ["c.yaml:3: optimizer.generator.lr: -1 is out of range; allowed: > 0"],
    ),
    "not an optimizer": (MODEL + "optimizer: [1]\n", ["optimizer: must be a mapping such as"]),
    "model and algorithm": (
        MODEL + LEARNER,
        ["c.yaml:3: algorithm: contradicts model (c.yaml:1)"],
    ),
    "neither": ("seed: 1\n", ["has neither model nor algorithm"]),
    "model without data": ("model: {name: toy}\n", ["c.yaml:1: model: needs a section data"]),
    "algorithm without env": ("algorithm: {name: toy-q}\n", ["algorithm: needs a section env"]),
    "model with env": (MODEL + "env: {name: CartPole-v1}\n", ["c.yaml:3: env: contradicts model"]),
    "algorithm with data": (LEARNER + "data: {name: digits}\n", ["data: contradicts algorithm"]),
    "two lengths": (
        MODEL + "train:\n  epochs: 3\n  grad_steps: 5\n",
        ["train.grad_steps: epochs (c.yaml:4) and grad_steps (c.yaml:5) contradict each other"],
    ),
    "epochs of an agent": (LEARNER + "train: {epochs: 3}\n", ["train.epochs: has no meaning with"]),
    "env_steps of a model": (MODEL + "train: {env_steps: 3}\n", ["train.env_steps: has no meani"]),
    "groups": (
        "algorithm: {name: toy-q}\nenv:\n  name: CartPole-v1\n  num_envs: 10\n  group_size: 4\n",
        ["c.yaml:5: env.group_size: group_size 4 must divide num_envs 10"],
    ),
    "stop rule": (
        LEARNER + "train: {stop: {eval/return_men: 3}}\n",
        ["'eval/return_men' is no metric with a direction", "'eval/return_mean'?"],
    ),
    "import string": (
        "model: {name: 'os:system'}\ndata: {name: digits}\n",
        ["no model is called 'os:system'", "import strings are refused"],
    ),
    "dotted import": (
        "model: {name: rayloom.models.autoencoders.vae.VAE}\ndata: {name: digits}\n",
        ["no model is called", "import strings are refused"],
    ),
    "module in an id": (
        "algorithm: {name: toy-q}\nenv: {name: 'evil:CartPole-v1'}\n",
        ["c.yaml:2: env.name: the text 'evil:CartPole-v1' is refused: 'module:Id' would import"],
    ),
    "path in an id": (
        "algorithm: {name: toy-q}\nenv: {name: ../../evil}\n",
        ["env.name: the text '../../evil' is refused"],
    ),
    "path as a data set": (
        "model: {name: toy}\ndata: {name: /etc/passwd}\n",
        ["data.name: the text '/etc/passwd' is refused"],
    ),
    "import string in a wrapper": (
        "algorithm: {name: toy-q}\n"
        "env: {name: A-v0, wrappers: [os.system, {name: 'a:b'}, {x: 1}]}\n",
        [
            "env.wrappers.0: the text 'os.system' is no wrapper name",
            "env.wrappers.1: the text 'a:b' is no wrapper name",
            "env.wrappers.2: a wrapper is a name or a mapping with the key 'name'",
        ],
    ),
    "password": (
        MODEL + "tracking: {uri: 'https://me:s3cret@host/'}\n",
        ["c.yaml:3: tracking.uri: holds a password; secrets belong in the environment"],
    ),
    "unreadable extends": (MODEL + "extends: 3\n", ["extends: must be a file or a shipped name"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_with_place_path_value_and_what_is_allowed(name, mistakes):
    text, expected = MISTAKES[name]
    problems = mistakes(text)
    for part in expected:
        assert any(part in problem for problem in problems), problems
    assert "s3cret" not in "\n".join(problems)


def test_all_mistakes_come_at_once_each_with_its_own_place(mistakes):
    text = """\
model: {name: toy, latent_dim: 0, netwrk: 1}
data:
  name: digits
  batch_size: many
optimizer: {name: sgdd}
train:
  precision: fp8
  ema: {decay: 2}
resources: {workers: -1}
seed: 1
seed: 2
modle: 3
"""
    problems = mistakes(
        text, "checkpoint.keep_last=0", "sed=1", "novalue", "optimizer={", "data.x=1"
    )
    starts = [
        "c.yaml:1: model.latent_dim:",
        "c.yaml:1: model.netwrk:",
        "c.yaml:4: data.batch_size:",
        "c.yaml:5: optimizer.name:",
        "c.yaml:7: train.precision:",
        "c.yaml:8: train.ema.decay:",
        "c.yaml:9: resources.workers:",
        "c.yaml:11: seed: the key stands twice; first at c.yaml:10",
        "c.yaml:12: modle:",
        "flag checkpoint.keep_last=0: checkpoint.keep_last:",
        "flag sed=1: sed: unknown key",
        "flag novalue: an override is key=value",
        "flag optimizer={:",
        "flag data.x=1: data.x: unknown key",
    ]
    for start in starts:
        assert any(problem.startswith(start) for problem in problems), (start, problems)
    assert len(problems) == len(starts)


def test_thousands_of_mistakes_make_a_short_message(load):
    with pytest.raises(ConfigError) as caught:
        load(MODEL + "".join(f"k{i}: 1\n" for i in range(5000)))
    assert len(caught.value.problems) == 5000
    assert str(caught.value).endswith("and 4900 more")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("model.latnt_dim=3", "(did you mean 'latent_dim'?)"),
        ("model.latent_dim=x", "flag model.latent_dim=x: model.latent_dim: must be a whole number"),
        ("model.latent_dim", "an override is key=value"),
        ("=3", "an override is key=value"),
        ("model..x=3", "an override is key=value"),
        ("seed=!!int 3", "YAML tag"),
        ("seed=.nan", "flag seed=.nan: seed: .nan is not a finite number"),
        ("storage=[a", "is not YAML"),
        ("model=3", "model: must be a mapping"),
        ("model=nothing", "no model is called 'nothing'"),
        ("tracking.uri=http://a:pw@b", "flag tracking.uri: tracking.uri: holds a password"),
        ("a" * 20_000 + "=1", "unknown key"),
        ("seed=" + "1" * 20_000, "too long"),
        (".".join("a" * 50) + "=1", "too long"),
    ],
)
def test_mistakes_in_flags(flag, expected, mistakes):
    problems = mistakes(MODEL, flag)
    assert any(expected in problem for problem in problems), problems
    assert "pw@" not in str(problems)


def test_flags_win_and_later_ones_win_over_earlier(load):
    resolved = load(MODEL + "seed: 1\n", "seed=2", "seed=3", "model.latent_dim=4")
    assert (resolved.config.seed, resolved.config.model.latent_dim) == (3, 4)
    assert resolved.why("seed") == "flag seed=3"
    assert resolved.why("data.name") == "c.yaml:2"
    assert resolved.why("model.beta") == "default of ToyModelConfig"
    assert resolved.why("train.schedule.name") == "default of ScheduleConfig"
    assert resolved.why("storage") == "default of RunConfig"
    assert "model.latent_dim: flag model.latent_dim=4" in resolved.why("model").splitlines()
    assert len(resolved.why("").splitlines()) > 50
    with pytest.raises(UserError, match=r"did you mean 'model\.latent_dim'"):
        resolved.why("model.latnt_dim")


@pytest.mark.parametrize(
    ("text", "flags", "path", "value"),
    [
        (MODEL, ["data=fashion-mnist"], "data.name", "fashion-mnist"),
        (MODEL, ["model=other"], "model.name", "other"),
        (MODEL, ["optimizer=sgd"], "optimizer.name", "sgd"),
        (LEARNER, ["env=Acrobot-v1"], "env.name", "Acrobot-v1"),
        (MODEL, ["train.schedule=cosine"], "train.schedule.name", "cosine"),
        (MODEL, ["storage=s3://bucket/a"], "storage", "s3://bucket/a"),
        (MODEL, ["tracking.experiment='1e-3'"], "tracking.experiment", "1e-3"),
        (MODEL, ["tracking.experiment=no"], "tracking.experiment", "no"),
        (
            MODEL,
            ["tracking.tags={a: b}", "tracking.tags.c=d"],
            "tracking.tags",
            {"a": "b", "c": "d"},
        ),
        (LEARNER, ["train.stop.eval/return_mean=475"], "train.stop", {"eval/return_mean": 475.0}),
        (LEARNER, ["env.kwargs={a: [1, {b: x}]}"], "env.kwargs", {"a": [1, {"b": "x"}]}),
        (MODEL, ["train.ema={decay: 0.9}"], "train.ema.decay", 0.9),
        (MODEL + "train: {ema: {decay: 0.9}}\n", ["train.ema=null"], "train.ema", None),
        (MODEL + "train: {ema: {decay: 0.9}}\n", ["train.ema="], "train.ema", None),
    ],
)
def test_flags(text, flags, path, value, load):
    found = load(text, *flags).to_dict()
    for part in path.split("."):
        found = found[part]
    assert found == value


def test_a_changed_name_replaces_the_section_so_that_no_stale_key_survives(load, folder):
    (folder / "base.yaml").write_text(
        "model: {name: toy, latent_dim: 3}\ndata: {name: digits}\n"
        "optimizer: {betas: [0.5, 0.6]}\ntrain: {schedule: {name: cosine, warmup_steps: 9}}\n"
    )
    child = "extends: base.yaml\nmodel: {name: other}\noptimizer: {name: sgd, momentum: 0.5}\n"
    resolved = load(child, "train.schedule=linear")
    config = resolved.config
    assert config.model.model_dump() == {"name": "other", "depth": 2}
    assert (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0.5)
    assert config.train.schedule.warmup_steps == 0
    same = load(
        "extends: base.yaml\nmodel: {name: toy, beta: 2}\noptimizer: {name: adamw}\n"
    ).config
    assert (same.model.latent_dim, same.model.beta) == (3, 2.0)
    assert same.optimizer.betas == (0.5, 0.6), "adamw is the name that was meant all along"


def test_a_flag_may_come_before_the_name_that_replaces_its_section(load):
    text = "model: {name: toy, beta: 3}\ndata: {name: digits}\n"
    for flags in (["model.depth=5", "model=other"], ["model=other", "model.depth=5"]):
        assert load(text, *flags).config.model.depth == 5


def test_a_length_in_another_unit_replaces_the_one_below_it(load):
    resolved = load(MODEL + "train: {epochs: 3}\n", "train.grad_steps=7")
    assert resolved.config.train.length == ("grad_steps", 7)
    assert resolved.why("train.epochs") == "default of TrainConfig"


def test_players_never_mix_with_a_single_optimizer(load):
    resolved = load(MODEL + "optimizer: {name: sgd, lr: 1}\n", "optimizer={g: {lr: 2}, d: {lr: 3}}")
    assert {player: one.lr for player, one in resolved.config.optimizer.items()} == {"g": 2, "d": 3}
    resolved = load(MODEL + "optimizer: {g: {lr: 2}, d: {lr: 3}}\n", "optimizer={lr: 5}")
    assert resolved.config.optimizer.lr == 5


def test_extends_merges_deeply_and_says_which_file_set_what(load, folder):
    (folder / "low").mkdir()
    (folder / "low" / "a.yaml").write_text("extends: b.yaml\nmodel: {latent_dim: 5}\nseed: 1\n")
    (folder / "low" / "b.yaml").write_text(MODEL + "train:\n  epochs: 2\n  clip_norm: 3\n")
    (folder / "d.yaml").write_text("seed: 4\ntrain: {clip_norm: 9}\n")
    resolved = load("extends: [low/a.yaml, d.yaml]\ntrain:\n  epochs: 7\n")
    config = resolved.config
    assert (config.model.latent_dim, config.seed) == (5, 4)
    assert (config.train.epochs, config.train.clip_norm) == (7, 9)
    assert resolved.why("model.name") == "low/b.yaml:1"
    assert resolved.why("model.latent_dim") == "low/a.yaml:2"
    assert resolved.why("seed") == "d.yaml:1"
    assert resolved.why("train.epochs") == "c.yaml:3"
    assert [path.name for path in resolved.files] == ["c.yaml", "a.yaml", "b.yaml", "d.yaml"]


def test_a_mistake_in_an_extended_file_names_that_file(mistakes, folder):
    (folder / "base.yaml").write_text(MODEL + "seed: x\ntrian: 1\n")
    problems = mistakes("extends: base.yaml\nmodel: {latent_dim: 0}\n")
    assert [problem.split(": ")[0] for problem in sorted(problems)] == [
        "base.yaml:3",
        "base.yaml:4",
        "c.yaml:2",
    ]


def test_extends_in_a_circle_or_without_end(mistakes, folder):
    assert "extends: runs in a circle: c.yaml -> c.yaml" in mistakes("extends: c.yaml\n")[0]
    (folder / "b.yaml").write_text("extends: c.yaml\n")
    problems = mistakes("extends: b.yaml\n")
    assert "b.yaml:1: extends: runs in a circle: c.yaml -> b.yaml -> c.yaml" in problems[0]
    for i in range(30):
        (folder / f"n{i}.yaml").write_text(f"extends: n{i + 1}.yaml\n")
    assert any("more than 10 files extend" in p for p in mistakes("extends: n0.yaml\n"))
    for i in range(9):  # each twice: 2^9 files without a bound
        (folder / f"m{i}.yaml").write_text(f"extends: [m{i + 1}.yaml, m{i + 1}.yaml]\n")
    (folder / "m9.yaml").write_text(MODEL)
    assert any("more than 64 files" in p for p in mistakes("extends: m0.yaml\n"))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("../../../etc/passwd", "is neither a .yaml file nor a shipped name"),
        ("/etc/passwd", "is neither a .yaml file nor a shipped name"),
        ("../secret.yaml", "leads out of work/"),
        ("/etc/x.yaml", "leads out of work/"),
        ("a/../../secret.yaml", "leads out of work/"),
        ("link.yaml", "leads out of work/"),
        ("~/x.yaml", "there is no such file"),
        ("nothing.yaml", "c.yaml:3: extends: nothing.yaml: there is no such file"),
        ("sub", "no shipped config is called"),
        ("a b", "is neither a .yaml file nor a shipped name"),
        ("", "is neither a .yaml file nor a shipped name"),
        ("https://example.org/x.yaml", "there is no such file"),
    ],
)
def test_extends_does_not_lead_out_of_the_folder(entry, expected, mistakes, folder):
    (folder.parent / "secret.yaml").write_text("password: hunter2\n")
    (folder / "link.yaml").symlink_to(folder.parent / "secret.yaml")

    def find(name):
        raise UserError(f"no shipped config is called {name!r}")

    problems = mistakes(MODEL + f"extends: {json.dumps(entry)}\n", find=find)
    assert any(expected in problem for problem in problems), problems
    assert "hunter2" not in str(problems)


def test_a_file_elsewhere_may_extend_only_its_own_folder(folder, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "base.yaml").write_text(MODEL)
    (away / "good.yaml").write_text("extends: base.yaml\nseed: 5\n")
    (away / "bad.yaml").write_text("extends: ../work/mine.yaml\n")
    (folder / "mine.yaml").write_text(MODEL)
    assert load_config(away / "good.yaml").config.seed == 5
    with pytest.raises(ConfigError, match="leads out of away/"):
        load_config(away / "bad.yaml")
    (folder / "sub").mkdir()
    (folder / "sub" / "up.yaml").write_text("extends: ../mine.yaml\n")
    assert load_config("sub/up.yaml").config.data.name == "digits", "inside the working folder"


def test_shipped_names(folder, tmp_path):
    shipped = tmp_path / "shipped"
    (shipped / "generative").mkdir(parents=True)
    (shipped / "generative" / "base.yaml").write_text(MODEL)
    (shipped / "generative" / "toy.yaml").write_text("extends: base.yaml\nseed: 3\n")
    (shipped / "generative" / "sly.yaml").write_text("extends: ../../work/mine.yaml\n")
    (folder / "mine.yaml").write_text("extends: generative/toy\nmodel: {beta: 2}\n")

    def find(name):
        path = shipped / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"no config is called {name!r}; did you mean 'generative/toy'?")
        return path

    resolved = load_config("generative/toy", ["seed=4"], find=find)
    assert (resolved.name, resolved.config.seed) == ("generative/toy", 4)
    resolved = load_config("mine.yaml", find=find)
    assert (resolved.name, resolved.config.seed, resolved.config.model.beta) == ("mine", 3, 2.0)
    with pytest.raises(ConfigError, match="did you mean 'generative/toy'"):
        load_config("generative/tony", find=find)
    with pytest.raises(ConfigError, match="leads out of"):
        load_config("generative/sly", find=find)
    for trick in ("../work/mine", "/etc/passwd", "generative/../../x", "generative//toy", ""):
        with pytest.raises(ConfigError):
            load_config(trick, find=find)


def test_order_of_flag_config_variable_site_file_user_file(folder, tmp_path, monkeypatch):
    user = tmp_path / "home-config" / "rayloom"
    user.mkdir(parents=True)
    (user / "config.yaml").write_text(
        "storage: /user\ntracking: {uri: 'http://user', experiment: u}\ndata: {root: /user-data}\n"
        "resources: {address: user:1}\nimage: user/image\n"
    )
    (folder / "rayloom.yaml").write_text(
        "storage: /site\ntracking:\n  uri: http://site\nimage: site/image\n"
    )
    (folder / "c.yaml").write_text(MODEL + "storage: /config\ntracking: {uri: null}\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home-config")}

    def get(flags=(), **more):
        return load_config("c.yaml", flags, environ=environ | more)

    one = get(["storage=/flag"], RAYLOOM_STORAGE="/variable")
    assert (one.config.storage, one.why("storage")) == ("/flag", "flag storage=/flag")
    two = get(RAYLOOM_STORAGE="/variable")
    assert (two.config.storage, two.why("storage")) == ("/config", "c.yaml:3")
    assert two.config.tracking.uri == "http://site", "a null in a config lets the site speak"
    assert two.why("tracking.uri") == "rayloom.yaml:3"
    three = get(MLFLOW_TRACKING_URI="http://variable")
    assert three.config.tracking.uri == "http://variable"
    assert three.why("tracking.uri") == "environment variable MLFLOW_TRACKING_URI"
    assert three.config.tracking.experiment == "u"
    assert three.why("tracking.experiment") == f"{user / 'config.yaml'}:2"
    assert (three.config.data.root, three.config.resources.address) == ("/user-data", "user:1")
    assert get(RAYLOOM_DATA_ROOT="/v", RAY_ADDRESS="v:2").config.data.root == "/v"
    assert get(RAY_ADDRESS="v:2").config.resources.address == "v:2"
    assert (one.image, one.image_why) == ("site/image", "rayloom.yaml:4")
    monkeypatch.setenv("RAY_ADDRESS", "process:1")
    alone = load_config("c.yaml", site=None)
    assert (alone.config.tracking.uri, alone.config.resources.address) == (None, None)
    assert alone.image is None
    assert load_config("c.yaml", site=()).config.resources.address == "process:1"


def test_a_data_root_makes_no_data_section_in_an_agent_s_config(folder):
    (folder / "c.yaml").write_text(LEARNER)
    config = load_config("c.yaml", environ={"RAYLOOM_DATA_ROOT": "/data"}).config
    assert config.data is None


def test_a_site_file_may_set_only_what_belongs_to_the_site(mistakes, folder):
    (folder / "rayloom.yaml").write_text(
        "seed: 3\nmodel: {name: toy}\ntracking: {url: x}\nresources: {workers: 9}\nstorage: 3\n"
        "image: [a]\nplugins: [evil.py]\n"
    )
    problems = mistakes(MODEL)
    assert len(problems) == 7
    assert all(problem.startswith("rayloom.yaml:") for problem in problems)
    assert any(
        "tracking.url: a site file may set only" in p and "'tracking.uri'" in p for p in problems
    )
    (folder / "rayloom.yaml").write_text("- a\n")
    assert "must be a mapping" in mistakes(MODEL)[0]
    (folder / "rayloom.yaml").write_text("a: !!python/name:os.system\n\tb")
    assert "rayloom.yaml:2" in mistakes(MODEL)[0]


def test_site_settings_for_commands_without_a_config(folder):
    (folder / "rayloom.yaml").write_text("tracking: {uri: 'http://site'}\nimage: a/b\n")
    found = site_settings({"RAYLOOM_DATA_ROOT": "/data", "RAYLOOM_STORAGE": "/runs"})
    assert found == {
        "data.root": "/data",
        "storage": "/runs",
        "tracking.uri": "http://site",
        "image": "a/b",
    }
    (folder / "rayloom.yaml").write_text("sede: 3\n")
    with pytest.raises(ConfigError, match=r"rayloom\.yaml:1"):
        site_settings({})


def test_a_password_in_a_variable_stays_out_of_the_config(folder):
    (folder / "c.yaml").write_text(MODEL)
    environ = {"MLFLOW_TRACKING_URI": "https://me:s3cret@host"}
    resolved = load_config("c.yaml", environ=environ)
    assert resolved.config.tracking.uri is None
    assert "s3cret" not in resolved.to_yaml()


def test_a_config_round_trips_as_dict_json_and_yaml(load, folder):
    text = MODEL + (
        "tracking: {tags: {a: 'no', b: '1e-3', c: '0o7', d: 'null', e: '.nan', f: ' x: y # z'}}\n"
        "optimizer: {lr: 3.0000000000000004e-05}\ntrain: {ema: {}, stop: {eval/loss: 1}}\n"
    )
    resolved = load(text)
    config = resolved.config
    assert config_from_dict(to_dict(config)) == config
    assert config_from_dict(json.loads(json.dumps(to_dict(config)))) == config
    (folder / "again.yaml").write_text(resolved.to_yaml())
    assert load_config("again.yaml").config == config
    assert "algorithm" not in to_dict(config)
    assert config.tracking.tags["a"] == "no"


def test_python_callers_get_the_same_checks():
    with pytest.raises(ConfigError, match=r"model\.latent_dim: must be a whole number"):
        config_from_dict({"model": {"name": "toy", "latent_dim": "3"}, "data": {"name": "a"}})
    for bad in ([], None, 3, {"model": object()}, {1: 2}, {"env": {"kwargs": {"f": print}}}):
        with pytest.raises(ConfigError):
            config_from_dict(bad)


def test_diff_lists_leaves():
    a = config_from_dict({"model": {"name": "toy"}, "data": {"name": "digits"}})
    b = config_from_dict(
        {"model": {"name": "other"}, "data": {"name": "digits"}, "seed": 1, "train": {"ema": {}}}
    )
    assert diff(a, a) == []
    found = {d.path: (d.left, d.right) for d in diff(a, b)}
    assert found["model.name"] == ("toy", "other")
    assert found["seed"] == (0, 1)
    assert found["model.depth"] == ("(absent)", 2)
    assert found["train.ema"] == (None, "(absent)")
    assert found["train.ema.decay"] == ("(absent)", 0.999)
    assert "data.name" not in found
    assert str(diff({"a": {"b": 1}}, {"a": {"b": "1"}})[0]) == "a.b: 1 -> '1'"


def test_the_fingerprint_is_of_the_values_not_of_the_spelling(load):
    one = load(MODEL + "seed: 3\noptimizer: {lr: 1e-3}\n").config
    two = load("seed: 0x3\noptimizer: {name: adamw, lr: 0.001}\n" + MODEL).config
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(load(MODEL + "seed: 4\n").config)


def test_with_overrides_keeps_to_what_may_change(load):
    config = load(MODEL + "train: {epochs: 3}\n").config
    allowed = ("train.epochs", "train.grad_steps", "resources", "tracking")
    longer = with_overrides(config, ["train.epochs=9", "resources.workers=2"], allowed=allowed)
    assert (longer.train.epochs, longer.resources.workers) == (9, 2)
    assert longer.model == config.model
    with pytest.raises(ConfigError, match=r"model\.beta: may not change here"):
        with_overrides(config, ["train.epochs=9", "model.beta=2"], allowed=allowed)
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        with_overrides(config, ["train.epoch=9"])


SHIPPED = sorted((ROOT / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_configs_load_and_are_named(path, folder):
    resolved = load_config(path)
    assert isinstance(resolved.config, RunConfig)
    assert resolved.name == f"{path.parent.name}/{path.stem}"
    assert config_from_dict(to_dict(resolved.config)) == resolved.config


def test_a_broken_target_is_a_message(mistakes, monkeypatch, folder):
    from rayloom import catalogue

    class NoSettings:
        pass

    catalogue.register("models", "lost", "no_such_module_here:X", source="plugin p.py")
    catalogue.register("models", "bare", NoSettings, source="plugin p.py")
    catalogue.register("models", "odd", catalogue.load("models", "toy"), source="plugin p.py")
    data = "\ndata: {name: digits}\n"
    assert "'lost' (from plugin p.py) cannot be loaded" in mistakes("model: {name: lost}" + data)[0]
    (folder / "breaks_at_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(folder)
    catalogue.register("models", "broken", "breaks_at_import:X", source="plugin p.py")
    said = mistakes("model: {name: broken}\nseed: -1" + data)
    assert "cannot be loaded: ZeroDivisionError" in said[0]
    assert "seed: -1" in said[1]
    assert "must name its settings" in mistakes("model: {name: bare}" + data)[0]
    assert "must be Literal['odd']" in mistakes("model: {name: odd}" + data)[0]


def test_the_name_of_a_file(folder):
    (folder / "configs" / "rl").mkdir(parents=True)
    (folder / "configs" / "rl" / "x.y.yaml").write_text(LEARNER)
    assert load_config(Path("configs/rl/x.y.yaml")).name == "rl/x.y"
