"""Network sections: `network: conv` with `widths` beside it, as the spine wrote it, still reads."""

import pytest
import yaml

from rayloom.config.resolved import config_from_dict, load_config, resolve, to_dict
from rayloom.config.schema import json_schema
from rayloom.core.errors import ConfigError
from rayloom.models.autoencoders.vae import VAEConfig
from rayloom.nn.network import ConvNetwork, MLPNetwork

CONV, MLP = ConvNetwork(channels=(8, 16)), MLPNetwork(widths=(8, 16))


def tree(**model):
    return {"model": {"name": "vae", **model}, "data": {"name": "digits"}}


def network(config):
    return config.model.network


@pytest.mark.parametrize(
    ("old", "meant"),
    [
        ({"network": "conv", "widths": [8, 16]}, CONV),
        ({"network": "mlp", "widths": [8, 16]}, MLP),
        ({"widths": [8, 16]}, MLP),
        ({"network": "conv", "widths": None}, ConvNetwork()),
        ({"network": "conv"}, ConvNetwork()),
        ({"widths": None, "activation": "tanh"}, MLPNetwork(activation="tanh")),
        ({"network": "conv", "activation": "elu"}, ConvNetwork(activation="elu")),
        ({"network": {"name": "conv"}, "widths": [8, 16]}, CONV),
    ],
)
def test_what_the_spine_wrote_means_the_same(old, meant):
    """A run folder (plain data), a config, and settings made in Python."""
    run = config_from_dict(tree(**old))
    assert network(run) == meant
    assert config_from_dict(to_dict(run)) == run
    python = {key: tuple(v) if isinstance(v, list) else v for key, v in old.items()}
    assert VAEConfig(**python) == run.model


def write(folder, name, base=None, **model):
    extends = {"extends": base} if base else {}
    (folder / name).write_text(yaml.safe_dump({**extends, **tree(**model)}))
    return folder / name


@pytest.mark.parametrize(
    ("below", "above", "flags", "meant"),
    [
        # a file of before on a shipped one, and the other way round
        ({"network": {"name": "conv", "channels": [4]}}, {"widths": [8, 16]}, [], CONV),
        ({"network": "conv", "widths": [4]}, {"network": {"channels": [8, 16]}}, [], CONV),
        ({"widths": [4]}, {"network": {"name": "conv", "channels": [8, 16]}}, [], CONV),
        ({"network": {"name": "mlp", "widths": [4]}}, {"network": "conv"}, [], ConvNetwork()),
        ({"network": {"name": "conv", "channels": [8, 16]}}, {"network": "conv"}, [], CONV),
        # flags, old and new
        ({"network": {"name": "conv", "channels": [8, 16]}}, {}, ["model.network=conv"], CONV),
        ({"network": "mlp", "widths": [8, 16]}, {}, ["model.network=conv"], CONV),
        ({"network": {"name": "conv", "channels": [4]}}, {}, ["model.widths=[8,16]"], CONV),
        ({"network": "conv", "widths": [4]}, {}, ["model.network.channels=[8,16]"], CONV),
        ({}, {"widths": [4]}, ["model.network={name: conv, channels: [8, 16]}"], CONV),
        ({}, {}, ["model.network=conv", "model.widths=[8,16]"], CONV),
    ],
)
def test_the_later_layer_wins_by_whichever_name(tmp_path, below, above, flags, meant):
    write(tmp_path, "below.yaml", **below)
    resolved = load_config(write(tmp_path, "above.yaml", "below.yaml", **above), flags)
    assert network(resolved.config) == meant
    key = "channels" if meant.name == "conv" else "widths"
    place = resolved.why(f"model.network.{key}")
    assert place.startswith("default") == (getattr(meant, key) != (8, 16))


def test_a_key_said_twice_in_one_layer_is_a_mistake(tmp_path):
    both = {"network": {"name": "conv", "channels": [8]}, "widths": [8, 16]}
    with pytest.raises(ConfigError, match=r"model\.network\.channels now.*give one"):
        load_config(write(tmp_path, "both.yaml", **both))
    with pytest.raises(ValueError, match=r"network\.channels now"):
        VAEConfig(network=ConvNetwork(channels=(8,)), widths=(8, 16))


def test_a_sweep_over_an_old_key_searches_the_new_one():
    words = ["model.widths=choice([8],[8, 16])"]
    swept = resolve(tree(network={"name": "conv", "channels": [4]}), words, search=True)
    assert list(swept.spaces) == ["model.network.channels"]
    assert network(swept.apply({"model.network.channels": [8, 16]})) == CONV
    assert resolve(yaml.safe_load(swept.to_yaml()), search=True).spaces == swept.spaces


def test_a_sweep_over_kind_and_widths_together_reads_each_trial_anew():
    words = ["model.network=choice(mlp,conv)", "model.widths=choice([8],[8, 16])"]
    swept = resolve(tree(), words, search=True)
    for name, meant in (("mlp", MLP), ("conv", CONV)):
        trial = {"model.network": name, "model.widths": [8, 16]}
        assert network(swept.apply(trial)) == meant
    again = resolve(yaml.safe_load(swept.to_yaml()), search=True)
    assert again.spaces == swept.spaces


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"network": "cnn"}, r"model\.network\.name: .*'cnn' is not allowed; choose mlp, conv"),
        ({"network": 3}, r"model\.network\.name: the text '3' is not allowed"),
        ({"network": "conv", "widths": []}, r"model\.network\.channels: at least 1 items"),
        ({"network": "conv", "widths": [8, -1]}, r"network\.channels\.1: -1 is out of range"),
        ({"network": {"name": "mlp", "channels": [8]}}, r"model\.network\.channels: unknown key"),
        ({"network": {"name": "conv", "channels": 8}}, r"model\.network\.channels: must be a list"),
        ({"thickness": [8]}, r"model\.thickness: unknown key"),
    ],
)
def test_mistakes_are_told_at_the_new_place(model, message):
    with pytest.raises(ConfigError, match=message):
        resolve(tree(**model))


def test_asking_for_an_old_key_tells_the_new_one():
    with pytest.raises(ConfigError.__mro__[1], match=r"it is model\.network\.widths now"):
        resolve(tree()).why("model.widths")


def test_an_editor_is_told_both_forms():
    properties = json_schema(resolve(tree()).config)["definitions"]["model vae"]["properties"]
    text = str(properties["network"])
    assert "conv" in text
    assert "ConvNetwork" in text
