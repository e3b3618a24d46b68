"""Search spaces: typed, checked against the field that they search, refused outside a sweep."""

import pytest

from rayloom.config.resolved import apply, config_from_dict, load_config, resolve
from rayloom.config.spaces import Space
from rayloom.core.errors import ConfigError

MODEL = "model: {name: toy}\ndata: {name: digits}\n"
LEARNER = "algorithm: {name: toy-q}\nenv: {name: CartPole-v1}\n"

SAME = [
    ("optimizer.lr", "{search: loguniform, low: 1e-5, high: 1e-2}", "loguniform(1e-5,1e-2)"),
    ("optimizer.lr", "{search: uniform, low: 0.5, high: 2}", "uniform(0.5, 2)"),
    ("model.latent_dim", "{search: int, low: 2, high: 64}", " int( 2 , 64 ) "),
    ("model.latent_dim", "{search: logint, low: 2, high: 64}", "logint(2,64)"),
    ("model.network", "{search: choice, values: [mlp, conv]}", "choice(mlp,conv)"),
    ("model.tied", "{search: choice, values: [true, false]}", "choice(true, false)"),
    ("model.widths", "{search: choice, values: [[8], [8, 8]]}", "choice([8], [8, 8])"),
    ("seed", "{search: int, low: 0, high: 9}", "int(0,9)"),
    ("train.ema", "{search: choice, values: [null, {decay: 0.9}]}", "choice(null, {decay: 0.9})"),
]


@pytest.mark.parametrize(("path", "mapping", "call"), SAME)
def test_a_file_and_a_flag_say_the_same_space(path, mapping, call, load):
    by_file = load(MODEL, f"{path}={mapping}", search=True)
    by_flag = load(MODEL, f"{path}={call}", search=True)
    assert dict(by_file.spaces) == dict(by_flag.spaces)
    assert list(by_flag.spaces) == [path]
    space = by_flag.spaces[path]
    assert by_flag.why(path) == f"{space} from flag {path}={call}"


def test_spaces_in_a_file(load, folder):
    text = MODEL + (
        "optimizer:\n  lr: {search: loguniform, low: 1e-5, high: 1e-2}\n"
        "train: {grad_steps: 9}\nsweep: {trials: 3}\n"
    )
    resolved = load(text, search=True)
    assert resolved.spaces == {"optimizer.lr": Space("loguniform", 1e-5, 1e-2)}
    assert resolved.config.optimizer.lr == 1e-5, "the first end stands in its place"
    assert resolved.why("optimizer.lr") == "loguniform(1e-05, 0.01) from c.yaml:4"
    (folder / "again.yaml").write_text(resolved.to_yaml())
    again = load_config("again.yaml", search=True)
    assert (again.spaces, again.config) == (resolved.spaces, resolved.config)


def test_a_flag_may_move_one_end_or_end_the_search(load):
    text = MODEL + "optimizer: {lr: {search: loguniform, low: 1e-5, high: 1e-2}}\n"
    assert load(text, "optimizer.lr=1e-3").config.optimizer.lr == 1e-3
    replaced = load(text, "optimizer.lr=choice(1,2)", search=True).spaces["optimizer.lr"]
    assert replaced == Space("choice", values=(1, 2))


def test_a_search_space_is_refused_outside_a_sweep(mistakes):
    problems = mistakes(MODEL, "optimizer.lr=loguniform(1e-5,1e-2)", "model.latent_dim=int(2,4)")
    assert len(problems) == 2
    assert all("use `rayloom sweep`" in problem for problem in problems)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("optimizer.lr=loguniform(0,1)", "0 must be above 0 on a logarithmic scale"),
        ("optimizer.lr=uniform(2,1)", "low 2 must be below high 1"),
        ("optimizer.lr=uniform(1,1)", "low 1 must be below high 1"),
        ("optimizer.lr=uniform(a,1)", "optimizer.lr.low: 'a' is not a number"),
        ("optimizer.lr=uniform(true,2)", "optimizer.lr.low: true is not a number"),
        ("optimizer.lr=uniform(1)", "uniform takes two numbers, low and high, not 1"),
        ("optimizer.lr=uniform(1,2,3)", "uniform takes two numbers, low and high, not 3"),
        ("optimizer.lr=uniform(.nan,2)", ".nan is not a finite number"),
        ("optimizer.lr=uniform(-1,1)", "-1 is out of range; allowed: > 0"),
        ("optimizer.lr=logunifrom(1,2)", "(did you mean 'loguniform'?)"),
        ("optimizer.lr={search: normal, low: 1}", "'normal' is no search space; known: uniform"),
        ("optimizer.lr={search: uniform, low: 1}", "optimizer.lr.high: is required by uniform"),
        ("optimizer.lr={search: uniform, low: 1, hi: 2}", "(did you mean 'high'?)"),
        ("optimizer.lr={search: choice, values: []}", "must be a list of at least one value"),
        ("optimizer.lr={search: choice, values: 3}", "must be a list of at least one value"),
        ("optimizer.lr=choice(1,1)", "holds a value twice"),
        ("optimizer.lr=choice(1,x)", "must be a number, > 0, not the text 'x'"),
        ("optimizer.lr=choice()", "at least one value"),
        ("model.beta=uniform(1,11)", "11 is out of range; allowed: 0 <= value <= 10"),
        ("model.latent_dim=int(0,4)", "0 is out of range"),
        ("model.latent_dim=int(4,4096)", "4096 is out of range"),
        ("model.latent_dim=int(1.5,4)", "1.5 is not a whole number, which int needs"),
        ("model.latent_dim=uniform(2,64)", "draws real numbers, this key takes whole ones"),
        ("model.latent_dim=loguniform(1,3)", "draws real numbers, this key takes whole ones"),
        ("model.latent_dim=uniform(1,2)", "draws real numbers, this key takes whole ones"),
        ("model.tied=int(0,1)", "must be true or false, not 0"),
        ("model.network=int(0,1)", "0 is not allowed; choose mlp, conv"),
        ("model.nothing=int(0,1)", "model.nothing: unknown key of model"),
        ("model=uniform(1,2)", "must be a mapping"),
        ("resources.workers=int(0,4)", "cannot be searched; only model, data"),
        ("sweep.trials=int(1,4)", "cannot be searched"),
        ("storage=choice(a,b)", "cannot be searched"),
        ("env.kwargs.x=int(1,2)", "env: contradicts model"),
    ],
)
def test_a_space_is_checked_against_its_field(flag, expected, mistakes):
    problems = mistakes(MODEL, flag, search=True)
    assert any(expected in problem for problem in problems), problems


def test_two_keys_are_checked_at_the_ends_of_each_other(mistakes):
    problems = mistakes(LEARNER, "env.num_envs=choice(8,12)", search=True)
    assert any(
        "group_size 8 must divide num_envs 12 (an end of choice(8, 12))" in p for p in problems
    )


def test_the_names_of_models_can_be_searched(load):
    resolved = load(MODEL, "model=choice(toy,other)", search=True)
    assert apply(resolved, {"model.name": "other"}).model.depth == 2


def test_tags_and_stop_rules_may_be_called_search(load):
    config = load(MODEL + "tracking: {tags: {search: wide}}\n", search=True).config
    assert config.tracking.tags == {"search": "wide"}


def test_apply_gives_the_config_of_a_trial(load):
    numpy = pytest.importorskip("numpy")
    resolved = load(
        LEARNER + "optimizer: {lr: {search: loguniform, low: 1e-5, high: 1e-2}}\n",
        "env.kwargs={gravity: {search: uniform, low: 1, high: 20}, x: 3}",
        "seed=int(0,9)",
        search=True,
    )
    values = {
        "optimizer.lr": numpy.float64(3e-4),
        "env.kwargs.gravity": 9.8,
        "seed": numpy.int64(4),
    }
    config = apply(resolved, values)
    assert (config.optimizer.lr, config.seed) == (3e-4, 4)
    assert config.env.kwargs == {"gravity": 9.8, "x": 3}
    assert resolved.apply(values) == config
    with pytest.raises(ConfigError, match="seed: this search space has no value"):
        apply(resolved, {"optimizer.lr": 1e-3, "env.kwargs.gravity": 1.0})
    with pytest.raises(ConfigError, match=r"trial value of optimizer\.lr: optimizer\.lr: -1"):
        apply(resolved, values | {"optimizer.lr": -1})
    assert apply(resolved, values | {"train.grad_steps": 5}).train.grad_steps == 5


def test_python_callers_may_give_spaces_too():
    tree = {
        "model": {"name": "toy", "beta": {"search": "uniform", "low": 0, "high": 4}},
        "data": {"name": "digits"},
    }
    assert resolve(tree, search=True).spaces == {"model.beta": Space("uniform", 0, 4)}
    with pytest.raises(ConfigError, match="rayloom sweep"):
        config_from_dict(tree)


def test_spaces_of_extended_files_do_not_mix(load, folder):
    (folder / "base.yaml").write_text(
        MODEL + "optimizer: {lr: {search: uniform, low: 1, high: 2}}\n"
    )
    text = "extends: base.yaml\noptimizer: {lr: {search: choice, values: [3]}}\n"
    assert load(text, search=True).spaces["optimizer.lr"] == Space("choice", values=(3,))
    assert load("extends: base.yaml\noptimizer: {lr: 5}\n").config.optimizer.lr == 5


def test_more_spaces_than_a_person_writes_are_refused(mistakes):
    kwargs = "".join(f"    k{i}: {{search: int, low: 1, high: 2}}\n" for i in range(300))
    text = "algorithm: {name: toy-q}\nenv:\n  name: A-v0\n  kwargs:\n" + kwargs
    assert "more than 500 ends and choices" in mistakes(text, search=True)[-1]
