"""VAE and beta-VAE: what any model must hold, for every network and likelihood."""

import subprocess
import sys

import pytest
import torch

from rayloom.catalogue import load
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Model, Turn
from rayloom.models.autoencoders.beta_vae import BetaVAE, BetaVAEConfig
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.testing.models import check_model

pytestmark = pytest.mark.law("vae")


def spec_of(shape):
    return DataSpec({"image": FieldSpec(shape, "uint8", "image")}, "toy")


def build(cls, config, shape=(1, 8, 8), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config, spec_of(shape))


def images(num, shape=(1, 8, 8), seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (num, *shape), dtype=torch.uint8, generator=generator)
    return {"image": x}


MAKERS = {
    f"{network}-{likelihood['name']}-{likelihood.get('scale', 'x')}": (
        lambda network=network, likelihood=likelihood, **about: build(
            VAE,
            VAEConfig(latent_dim=3, network=network, widths=(6,), likelihood=likelihood),
            **about,
        )
    )
    for network in ("mlp", "conv")
    for likelihood in (
        {"name": "bernoulli"},
        {"name": "gaussian", "scale": "shared"},
        {"name": "gaussian", "scale": "predicted", "dequantise": True},
        {"name": "discretised-logistic", "scale": "shared"},
        {"name": "discretised-logistic", "scale": "predicted"},
    )
}
MAKERS["beta"] = lambda **about: build(BetaVAE, BetaVAEConfig(latent_dim=3, widths=(6,)), **about)
MAKERS["constrained"] = lambda **about: build(
    BetaVAE, BetaVAEConfig(latent_dim=3, widths=(6,), target_kl_nats=2), **about
)
make_models = pytest.mark.parametrize("make_model", MAKERS.values(), ids=MAKERS)


@make_models
def test_it_is_a_model_and_its_player_owns_every_parameter(make_model):
    model = make_model()
    assert isinstance(model, Model)
    (player,) = model.players
    assert {id(p) for p in player.parameters} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (VAE, VAEConfig(widths=(6,), latent_dim=3)),
        (VAE, VAEConfig(network="conv", widths=(4, 6), likelihood="discretised-logistic")),
        (VAE, VAEConfig(widths=(6,), likelihood="gaussian")),
        (BetaVAE, BetaVAEConfig(widths=(6,), latent_dim=3)),
        (BetaVAE, BetaVAEConfig(widths=(6,), latent_dim=3, target_kl_nats=2)),
    ],
)
def test_conformance(cls, config):
    """The same rules that a user's model is checked against."""
    check_model(cls, config)


@make_models
def test_gradients_reach_every_parameter(make_model):
    model = make_model()
    out = model.loss(images(16), rng=Noise(0, total=16), turn=Turn())
    out["loss"].mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@make_models
def test_loss_does_not_depend_on_how_the_batch_is_split(make_model):
    """Uneven chunks, an empty one among them, through `Noise.rows`; in double precision."""
    model, batch = make_model().double(), images(13)
    rng = Noise(5, step=3, total=13, dtype=torch.float64)
    whole = model.loss(batch, rng=rng, turn=Turn())
    parts = []
    for start, stop in ((0, 1), (1, 8), (8, 8), (8, 13)):
        chunk = {"image": batch["image"][start:stop]}
        rows = rng.rows(start, stop)
        parts.append(model.loss(chunk, rng=rows, turn=Turn()))
    for key, value in whole.items():
        assert value.shape == (13,), key
        assert value.dtype is torch.float64, key
        together = torch.cat([part[key] for part in parts])
        torch.testing.assert_close(together, value, rtol=1e-12, atol=1e-12)


@make_models
def test_loss_is_a_function_of_its_noise_alone(make_model):
    """Same noise, same numbers; the global generator is neither read nor moved."""
    model, batch = make_model(), images(8)

    def loss(step):
        rng = Noise(0, step=step, total=8)
        return model.loss(batch, rng=rng, turn=Turn(step))["loss"]

    before = torch.get_rng_state()
    first = loss(0)
    torch.rand(5)
    assert torch.equal(first, loss(0))
    assert not torch.equal(first, loss(1))
    torch.set_rng_state(before)
    loss(2), model.show(batch, rng=Noise(0, total=8))
    assert torch.equal(before, torch.get_rng_state())


@make_models
def test_same_seed_same_weights_and_state_survives(make_model):
    model, again, other = make_model(seed=4), make_model(seed=4), make_model(seed=5)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in again.state_dict().items())
    assert any(not torch.equal(state[k], v) for k, v in other.state_dict().items())
    other.load_state_dict(state)
    batch, rng = images(4), Noise(0, total=4)
    want = model.evaluate_batch(batch, rng=rng)
    got = other.evaluate_batch(batch, rng=rng)
    assert all(torch.equal(want[k], got[k]) for k in want)


@make_models
def test_metrics_belong_together(make_model):
    model, batch, rng = make_model(), images(10), Noise(0, total=10)
    values = model.evaluate_batch(batch, rng=rng)
    bound = values["reconstruction_nats"] + values["kl_nats"]
    torch.testing.assert_close(values["elbo_nats"], -bound)
    torch.testing.assert_close(values["elbo_nats"], model.elbo(batch["image"], rng=rng).detach())
    assert not values["loss"].requires_grad
    assert ("bpd" in values) == (model.likelihood.bits_offset is not None)
    assert model.protocol


@make_models
def test_pictures_are_pictures(make_model):
    model = make_model()
    shown = model.show(images(20), rng=Noise(0, total=20))
    shapes = {"samples": (64,), "reconstructions": (40,), "interpolations": (8, 8)}
    shapes["traversals"] = (3, 8)
    assert set(shown) == set(shapes)
    for name, shape in shapes.items():
        pixels = shown[name].pixels
        assert pixels.shape == (*shape, 1, 8, 8), name
        assert pixels.min() >= 0, name
        assert pixels.max() <= 1, name


def test_pictures_of_one_image():
    model = build(VAE, VAEConfig(latent_dim=2, widths=(4,)))
    shown = model.show(images(1), rng=Noise(0, total=1))
    assert shown["reconstructions"].pixels.shape == (2, 1, 8, 8)
    assert "interpolations" not in shown  # there is no pair


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 7, 9), (1, 8, 8)])
@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised-logistic"])
def test_any_image_size(shape, network, likelihood):
    config = VAEConfig(network=network, widths=(8, 4), likelihood=likelihood)
    model = build(VAE, config, shape)
    rng = Noise(0, total=2)
    assert model.loss(images(2, shape), rng=rng, turn=Turn())["loss"].shape == (2,)
    pairs = model.reconstruct(images(2, shape), rng=rng.of_length(2))["image"]
    assert pairs.shape == (2, *shape)
    assert model.sample({}, rng=rng.of_length(3))["image"].shape == (3, *shape)


def test_catalogue_names_are_the_config_names():
    for name, cls in (("vae", VAE), ("beta-vae", BetaVAE)):
        assert load("models", name) is cls
        assert cls.config_class().name == name


def test_data_without_images_are_refused():
    spec = DataSpec({"vector": FieldSpec((3,), "float32")}, "points")
    with pytest.raises(UserError, match="'points' has no field 'image'"):
        VAE(VAEConfig(), spec)


def test_images_without_a_size_are_refused():
    with pytest.raises(UserError, match="fixed"):
        VAE(VAEConfig(), spec_of((1, -1, 28)))
    with pytest.raises(UserError, match="halvings"):
        build(VAE, VAEConfig(network="conv", widths=(4, 4, 4, 4)), (1, 8, 8))


def test_samples_of_two_workers_are_those_of_one():
    model = build(VAE, VAEConfig(latent_dim=3, widths=(6,))).double()
    whole = model.sample({}, rng=Noise(1, total=10))["image"]
    parts = [Noise(1, total=10, start=s, stop=s + 5) for s in (0, 5)]
    rows = [model.sample({}, rng=rng)["image"] for rng in parts]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-12, atol=1e-12)


def test_interpolation_ends_at_the_reconstructions():
    model = build(VAE, VAEConfig(latent_dim=3, widths=(6,), likelihood="gaussian")).double()
    first, second = images(4)["image"], images(4, seed=2)["image"]
    path = model.interpolate(first, second, steps=5)
    assert path.shape == (4, 5, 1, 8, 8)
    for end, image in ((0, first), (-1, second)):
        pair = model.reconstruct({"image": image}, rng=Noise(0, total=4))["image"]
        torch.testing.assert_close(path[:, end], pair)


def test_traversal_moves_one_dimension_only():
    """Checked on what the decoder is given."""
    model = build(VAE, VAEConfig(latent_dim=3, widths=(6,))).double()
    seen = []
    decode = model.decode
    model.decode = lambda z: (seen.append(z), decode(z))[1]
    image = images(1)["image"]
    rest = model.encode(image).mean[0]
    model.traverse(image, [2, 0], span=1.5, steps=4)
    (z,) = seen
    assert z.shape == (2, 4, 3)
    for row, dim in enumerate((2, 0)):
        others = [d for d in range(3) if d != dim]
        torch.testing.assert_close(z[row][:, others], rest[others].expand(4, 2))
        torch.testing.assert_close(z[row][:, dim], torch.linspace(-1.5, 1.5, 4).double())


EXPORT = """
import torch
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.models.autoencoders.vae import VAE, VAEConfig
spec = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")})
for network in ("mlp", "conv"):
    for likelihood in ("bernoulli", "gaussian", "discretised-logistic"):
        torch.manual_seed(0)
        model = VAE(VAEConfig(network=network, widths=(6,), likelihood=likelihood), spec).eval()
        module = model.exports()["encoder"].module
        x = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(program.module()(x[:3]), model.encode(x[:3]).mean)
        torch.testing.assert_close(module(x / 255), module(x))
"""


def test_export_gives_the_posterior_mean():
    """In a process without the shape checks, which torch.export cannot trace."""
    done = subprocess.run([sys.executable, "-c", EXPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
