"""Configs by name: whole, by its last part, by the name of before."""

import pytest

from rayloom.core.errors import UserError
from rayloom_pipelines.config import resolve_config
from rayloom_pipelines.shipped import config_folders, config_names, find_config, whole_name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("word", ["autoencoders/vae-digits", "vae-digits", "generative/vae-digits"])
def test_three_words_mean_one_config(here, word):
    assert find_config(word) == config_names()["autoencoders/vae-digits"]
    resolved = resolve_config(word)
    assert resolved.name == "autoencoders/vae-digits"
    assert resolved.config == resolve_config("autoencoders/vae-digits").config


def test_the_names_of_before_can_be_extended(here):
    (here / "mine.yaml").write_text("extends: generative/vae-digits\nseed: 7\n")
    assert resolve_config("mine.yaml").config.seed == 7


def test_every_name_of_before_is_known(here):
    for name in (
        *("vae-fashion", "vae-digits", "vae-mnist", "vae-fashion-logistic"),
        *("beta-vae-fashion", "beta-vae-digits-constrained"),
    ):
        assert find_config(f"generative/{name}").is_file()


@pytest.mark.parametrize("folder", ["generative", "autoencoders", "rl"])
def test_a_configs_folder_of_ones_own_counts_by_its_families(here, folder):
    own = here / "configs" / folder
    assert here / "configs" not in config_folders()
    own.mkdir(parents=True)
    assert config_folders()[0] == here / "configs"
    shipped = config_names()["autoencoders/vae-digits"].read_text()
    (own / "vae-digits.yaml").write_text(shipped)
    if folder == "generative":  # one's own of that very name comes before the one that moved
        assert find_config("generative/vae-digits") == own / "vae-digits.yaml"
    if folder == "rl":
        with pytest.raises(UserError, match="several configs are called 'vae-digits': auto"):
            find_config("vae-digits")


def test_a_file_comes_before_a_name(here):
    (here / "vae-digits").write_text("seed: 1\n")
    assert whole_name("vae-digits") == "vae-digits"
    assert find_config("vae-digits").resolve() == here / "vae-digits"


def test_an_unknown_name_is_told_the_nearest(here):
    with pytest.raises(UserError, match="did you mean 'autoencoders/vae-digits'"):
        find_config("vae-digit")
