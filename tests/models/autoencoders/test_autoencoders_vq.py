"""VQ-VAE: nearest codes, the straight-through gradient, a book that follows its vectors, ranks."""

import math

import numpy as np
import pytest
import torch

from rayloom.core.noise import Noise
from rayloom.core.protocols import Done, Turn
from rayloom.data import from_arrays
from rayloom.functional.codes import entropy_of_counts, nearest_codes, revived
from rayloom.models.autoencoders.vq_vae import VQVAE, VQVAEConfig
from rayloom.nn.network import ConvNetwork
from rayloom.testing import check_model
from rayloom.testing.models import IMAGES, random_batch
from thread_ranks import same_after_resume, same_on_ranks

pytestmark = pytest.mark.law("vq-vae")

SMALL = VQVAEConfig(num_codes=5, code_dim=3, network=ConvNetwork(channels=(4, 6)), revive_below=0.0)


def build(config=SMALL, spec=IMAGES):
    torch.manual_seed(0)
    return VQVAE(config, spec).double()


def noise(num):
    return Noise(3, total=num, dtype=torch.float64)


def done(sums, num=6):
    return Done(Turn(), means=dict, sums=sums, rng=lambda: noise(num))


def test_the_contract():
    check_model(VQVAE, SMALL)


def test_codes_are_the_nearest_ones(seed):
    z, book = torch.randn(4, 7, 3).double(), torch.randn(11, 3).double()
    assert torch.equal(nearest_codes(z, book), torch.cdist(z, book).argmin(-1))


def test_the_gradient_passes_straight_through_the_book(seed):
    """The slope in z_e is that in e; commitment pulls z_e to e; the book gets none."""
    model, batch = build(), random_batch(IMAGES, 3)
    x = model.observe(batch["image"], noise(3))
    z = model.vectors(x).detach().requires_grad_()
    e = model.codebook[nearest_codes(z, model.codebook)].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(-model.decode(e).log_prob(x).sum(), e)
    model.vectors = lambda x: z
    reconstruction, commitment, _, _ = model.terms(batch["image"], noise(3))
    (found,) = torch.autograd.grad(reconstruction.sum(), z, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (pull,) = torch.autograd.grad(commitment.sum(), z)
    torch.testing.assert_close(pull, 2 * (z - e).detach())
    assert not model.codebook.requires_grad


def test_the_book_becomes_the_means_of_its_vectors(seed):
    """With the batch always the same, N_k and m_k become its counts and sums: k-means' step."""
    model = build()
    z = torch.randn(1, 400, 3).double()
    codes = nearest_codes(z, model.codebook)[0]
    counts = torch.bincount(codes, minlength=5).double()
    sums = torch.zeros(5, 3).double().index_add_(0, codes, z[0])
    for _ in range(3_000):
        model.after_step(done({"counts": counts, "sums": sums}))
    means = sums / counts[:, None]
    torch.testing.assert_close(model.codebook[counts > 0], means[counts > 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.uses[counts > 0], counts[counts > 0])


def test_what_the_loss_sums_is_what_the_batch_used(seed):
    model, batch = build(), random_batch(IMAGES, 6)
    parts = model.loss(batch, rng=noise(6), turn=Turn())
    codes = model.codes_of(batch["image"], rng=noise(6))
    z = model.vectors(model.observe(batch["image"], noise(6)))
    for k in range(5):
        assert parts["counts"].value[k] == (codes == k).sum()
        torch.testing.assert_close(parts["sums"].value[k], z[codes == k].sum(0))
    torch.testing.assert_close(
        parts["loss"], parts["reconstruction_nats"] + 0.25 * parts["commitment"]
    )


def test_the_book_starts_at_vectors_of_the_batch():
    model, batch = build(), random_batch(IMAGES, 6)
    model.initialise(batch, rng=noise(6))
    z = model.vectors(model.observe(batch["image"], noise(6))).flatten(0, 1)
    assert torch.cdist(model.codebook, z).min(1).values.max() < 1e-6
    assert len(torch.unique(model.codebook, dim=0)) == 5


def test_codes_out_of_use_take_half_of_the_most_used(seed):
    uses = torch.tensor([0.1, 10.0, 0.2, 6.0, 3.0, 0.3, 1.2])
    mass = uses[:, None] * torch.randn(7, 2)
    quiet = torch.zeros(7, 2)
    found, moved = revived(uses, mass, quiet, below=0.5)
    # 0 takes of 1, 2 of 3, 5 of 4; nothing of 6, which is no dead code
    assert found.tolist() == pytest.approx([5.0, 5.0, 3.0, 3.0, 1.5, 1.5, 1.2])
    places, before = moved / found[:, None], mass / uses[:, None]
    torch.testing.assert_close(places[[0, 2, 5]], before[[1, 3, 4]])
    torch.testing.assert_close(places[[1, 3, 4, 6]], before[[1, 3, 4, 6]])
    _, noisy = revived(uses, mass, torch.randn(7, 2), below=0.5)
    assert (noisy[[0, 2, 5]] != moved[[0, 2, 5]]).all()
    assert torch.equal(noisy[[1, 3, 4, 6]], moved[[1, 3, 4, 6]])


def test_none_is_split_that_would_fall_out_of_use_itself():
    uses = torch.tensor([0.1, 0.9, 0.2, 0.6])
    mass = torch.arange(8.0).view(4, 2)
    found, moved = revived(uses, mass, torch.ones(4, 2), below=0.5)
    assert torch.equal(found, uses)
    assert torch.equal(moved, mass)


def test_perplexity_is_exp_of_the_entropy_of_use():
    assert math.exp(entropy_of_counts(torch.ones(8).double())) == pytest.approx(8)
    assert math.exp(entropy_of_counts(torch.tensor([5.0, 0, 5, 0]))) == pytest.approx(2)
    said = build().summarise(done({"uses": torch.tensor([1.0, 1, 0, 0, 0]).double()}))
    assert float(said["code_perplexity"]) == pytest.approx(2)
    assert float(said["unigram_nats"]) == pytest.approx(4 * math.log(2))  # 2x2 places


def made():
    """With many codes and few vectors, so that some are always out of use."""
    config = SMALL.model_copy(update={"num_codes": 16, "revive_below": 0.3, "decay": 0.7})
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    data = from_arrays("noise", {"train": {"image": images}})
    return build(config, data.spec), data


@pytest.mark.parametrize(("ranks", "batch_size", "accumulate"), [(2, 7, 1), (3, 1, 1), (2, 16, 4)])
def test_books_of_ranks_and_chunks_equal_that_of_one_process(ranks, batch_size, accumulate):
    """Revival included."""
    same_on_ranks(made, batch_size=batch_size, ranks=ranks, accumulate=accumulate)


def test_resumed_equals_unbroken_in_bits():
    same_after_resume(made)
