"""What is shown of a config where there is little room."""

from pathlib import Path

from rayloom.config.hyperparameters import hyperparameters
from rayloom.config.resolved import load_config, resolve

CONFIGS = Path(__file__).parents[2] / "configs" / "autoencoders"
TREE = {
    "model": {"name": "vae", "latent_dim": 4},
    "data": {"name": "digits"},
    "train": {"epochs": 2, "stop": {"eval/elbo_nats": -20}},
    "tracking": {"experiment": "mine", "tags": {"who": "me"}},
    "storage": "/somewhere",
}


def test_the_method_is_whole_and_the_rest_is_what_was_changed():
    config = resolve(TREE, ["optimizer.eps=1e-6", "resources.workers=2"]).config
    shown = hyperparameters(config)
    assert {key for key in shown if key.startswith("model.")} == {
        "model.name",
        "model.latent_dim",
        "model.network.name",
        "model.network.widths",
        "model.network.activation",
        "model.likelihood.name",
        "model.likelihood.binarise",
    }
    rest = {key: value for key, value in shown.items() if not key.startswith("model.")}
    assert rest == {
        "data.name": "digits",
        "data.batch_size": config.data.batch_size,
        "optimizer.name": config.optimizer.name,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.eps": 1e-6,
        "train.epochs": 2.0,
        "train.stop.eval/elbo_nats": -20.0,
        "resources.workers": 2,
        "seed": 0,
    }


def test_what_a_sweep_searches_is_shown_at_its_default_too():
    config = resolve(TREE).config
    assert "optimizer.weight_decay" not in hyperparameters(config)
    shown = hyperparameters(config, keep=["optimizer.weight_decay"])
    assert shown["optimizer.weight_decay"] == config.optimizer.weight_decay


def test_above_every_picture_there_is_room_for_little():
    """MLflow prints all params above each picture, about 50 characters a line."""
    config = resolve(TREE, ["model.network=conv", "resources.workers=2"]).config
    assert hyperparameters(config, keep=["evaluation.every"], short=True) == {
        "model.name": "vae",
        "model.latent_dim": 4,
        "model.network.name": "conv",
        "data.name": "digits",
        "optimizer.lr": config.optimizer.lr,
        "train.epochs": 2.0,
        "train.stop.eval/elbo_nats": -20.0,
        "evaluation.every": config.evaluation.every,
        "seed": 0,
    }
    for name in ("vae-digits", "vae-fashion", "beta-vae-digits-constrained"):
        shown = hyperparameters(load_config(CONFIGS / f"{name}.yaml").config, short=True)
        assert len(", ".join(f"{key}={value}" for key, value in shown.items())) < 210, name
