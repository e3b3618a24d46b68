"""The linear autoencoder: it is PCA, and PCA is the best linear autoencoder."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from rayloom.config.sections import RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import Turn
from rayloom.data import from_arrays, make_source
from rayloom.models.autoencoders.linear_ae import LinearAE, LinearAEConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from thread_ranks import on_ranks

pytestmark = pytest.mark.law("linear-ae")
K = 6
DIGITS = np.round(load_digits().images * 255 / 16).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
DATA = from_arrays("digits", {"train": {"image": DIGITS[:1000]}, "test": {"image": DIGITS[1000:]}})
X, HELD_OUT = (DIGITS[part].reshape(-1, 64) / 255 for part in (slice(1000), slice(1000, None)))


def engine(batch_size=100, collective=None, dim=K, **train):
    """An engine around a fresh model, in double precision."""
    settings = {"epochs": 1, "precision": "fp64", "log_every": 1} | train
    return Engine(
        LinearAE(LinearAEConfig(latent_dim=dim), DATA.spec),
        RunConfig(train=TrainConfig(**settings)),
        make_source(DATA, "train", batch_size=batch_size, seed=0, shuffle=True),
        make_source(DATA, "test", batch_size=300, seed=0, shuffle=False),
        collective=collective,
    )


def fitted(steps=None, made=None, **about):
    """(model, evaluation) after some steps; None: one epoch."""
    made = made or engine(**about)
    until = steps or made.train_source.batches_per_epoch
    made.advance(until, sink=MemorySink(), interrupted=lambda: False)
    return made.model, made.evaluate()


@pytest.mark.parametrize("batch_size", ["all", 100, 64])
def test_it_is_scikit_learn_s_pca(batch_size):
    """Mean, components with their signs, variances, codes and reconstructions, to 1e-8."""
    model, metrics = fitted(batch_size=1000 if batch_size == "all" else batch_size)
    theirs = PCA(K, svd_solver="full").fit(X)
    close = {"rtol": 0, "atol": 1e-8}
    np.testing.assert_allclose(model.mean.numpy(), theirs.mean_, **close)
    np.testing.assert_allclose(model.components.numpy(), theirs.components_, **close)
    ours = model.variance.numpy() * 1000 / 999  # theirs divides by n - 1
    np.testing.assert_allclose(ours, theirs.explained_variance_, **close)
    image = torch.from_numpy(DIGITS[1000:])
    codes = theirs.transform(HELD_OUT)
    np.testing.assert_allclose(model.encode(image).numpy(), codes, **close)
    back = theirs.inverse_transform(codes)
    np.testing.assert_allclose(model.decode(model.encode(image)).numpy(), back, **close)
    error = ((HELD_OUT - back) ** 2).sum(1)
    assert metrics["eval/loss"] == pytest.approx(error.mean(), abs=1e-8)
    whole = ((HELD_OUT - theirs.mean_) ** 2).sum()
    assert metrics["eval/explained"] == pytest.approx(1 - error.sum() / whole, abs=1e-8)
    assert metrics["eval/psnr_db"] == pytest.approx(-10 * np.log10(error.mean() / 64), abs=1e-8)


def plane(model):
    """Projection onto the span of the components."""
    return (model.components.T @ model.components).numpy()


def descended(x, steps=400):
    """Projection onto the span of a linear autoencoder's decoder, found by descent."""
    x = torch.from_numpy(x)
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(s, generator=generator, dtype=x.dtype) for s in ((8, 2), (2, 8)))
    optimizer = torch.optim.LBFGS(
        [down.requires_grad_(), up.requires_grad_()], max_iter=steps, tolerance_grad=1e-12,
        tolerance_change=1e-18, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = (x @ down @ up - x).square().sum(1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    basis, _ = torch.linalg.qr(up.detach().T)
    return (basis @ basis.T).numpy()


def test_descent_finds_the_same_plane_on_centred_data_alone():
    """Baldi and Hornik's theorem; without centring another plane is found."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 8)) * np.linspace(2, 0.2, 8)) @ rng.normal(size=(8, 8))
    x = (x - x.min()) / (x.max() - x.min())  # in [0, 1], its mean far from zero
    spec = from_arrays("x", {"train": {"image": x.reshape(-1, 1, 2, 4).astype(np.float32)}}).spec
    model = LinearAE(LinearAEConfig(latent_dim=2), spec).double()
    batch = {"image": torch.from_numpy(x.reshape(-1, 1, 2, 4))}
    sums = model.loss(batch, rng=Noise(0, total=300), turn=Turn())
    for name, part in sums.items():
        getattr(model, name).copy_(part.value)
    model.solve()
    np.testing.assert_allclose(plane(model), descended(x - x.mean(0)), atol=1e-4)
    assert np.abs(plane(model) - descended(x)).max() > 0.05


def test_no_other_plane_explains_more():
    """Held-out squared error below random planes of equal dimension and low frequencies (DCT)."""
    _, metrics = fitted()
    centred = HELD_OUT - X.mean(0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        basis, _ = np.linalg.qr(rng.normal(size=(64, K)))
        assert (centred**2).sum(1).mean() - ((centred @ basis) ** 2).sum(1).mean() > 2 * (
            metrics["eval/loss"]
        )
    waves = dctn(np.eye(64).reshape(64, 8, 8), axes=(1, 2), norm="ortho").reshape(64, 64)
    order = np.add.outer(np.arange(8), np.arange(8)).ravel().argsort(kind="stable")
    kept = centred @ waves[:, order[:K]]
    assert (centred**2).sum(1).mean() - (kept**2).sum(1).mean() > metrics["eval/loss"] + 0.1


def test_components_are_orthonormal_and_codes_uncorrelated_by_falling_variance():
    model, _ = fitted()
    rows = model.components
    torch.testing.assert_close(rows @ rows.T, torch.eye(K).double(), rtol=0, atol=1e-12)
    codes = model.encode(torch.from_numpy(DIGITS[:1000]))
    covariance = codes.T @ codes / 1000
    torch.testing.assert_close(covariance, torch.diag(model.variance), rtol=0, atol=1e-12)
    assert bool((model.variance.diff() < 0).all())


def test_all_dimensions_lose_nothing():
    model, metrics = fitted(dim=64)
    assert metrics["eval/loss"] < 1e-20
    image = torch.from_numpy(DIGITS[:5])
    torch.testing.assert_close(model.reconstruction(image), image.double() / 255)


@pytest.mark.parametrize("batch_size", [64, 7])
def test_ranks_and_chunks_equal_one_process(batch_size):
    alone, metrics = fitted(batch_size=batch_size)
    chunks, same = fitted(batch_size=batch_size, accumulate=4)
    found = on_ranks(2, lambda rank, group: fitted(batch_size=batch_size, collective=group))
    for model, values in [(chunks, same), *found]:
        for name in ("mean", "components", "variance"):
            torch.testing.assert_close(
                getattr(model, name), getattr(alone, name), rtol=1e-9, atol=1e-9
            )
        assert values == pytest.approx(metrics, rel=1e-9)


def test_killed_and_resumed_is_bit_equal():
    whole, first, second = engine(), engine(), engine()
    for made, until in ((whole, 10), (first, 4)):
        made.advance(until, sink=MemorySink(), interrupted=lambda: False)
    second.load_state_dict(first.state_dict())
    second.advance(10, sink=MemorySink(), interrupted=lambda: False)
    assert second.parameters_sha256() == whole.parameters_sha256()


def test_pictures_are_counted_once_and_a_short_run_uses_what_it_saw():
    once, twice = fitted(steps=10, epochs=3)[0], fitted(steps=25, epochs=3)[0]
    assert torch.equal(once.components, twice.components)
    assert float(twice.seen) == 1000
    short, _ = fitted(steps=3, grad_steps=3, epochs=None)
    assert float(short.seen) == 300
    assert float(short.variance[0]) > 0
    early, _ = fitted(steps=3)
    assert float(early.variance[0]) == 0, "before its pass is over there is no solution"


def test_it_is_no_density():
    for name in ("sample", "log_prob", "elbo", "nll"):
        assert not hasattr(LinearAE, name)


@pytest.mark.parametrize(("shape", "dim"), [((1, 8, 8), 65), ((3, 64, 64), 4)])
def test_pictures_that_do_not_fit_are_refused(shape, dim):
    data = from_arrays("x", {"train": {"image": np.zeros((2, *shape), np.uint8)}})
    with pytest.raises(UserError, match=rf"pictures of {np.prod(shape)} values do not fit"):
        LinearAE(LinearAEConfig(latent_dim=dim), data.spec)
