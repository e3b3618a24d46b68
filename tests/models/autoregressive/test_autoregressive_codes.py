"""Transformer over codes: a distribution, in order, told the class, cached as naive, ranks."""

import itertools
import math

import numpy as np
import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec
from rayloom.data import from_arrays
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.models.autoencoders.vq_vae import VQVAE, VQVAEConfig
from rayloom.models.autoregressive.code_prior import CodePrior, CodePriorConfig, SampleSettings
from rayloom.nn.frozen import freeze
from rayloom.nn.network import ConvNetwork
from rayloom.testing import check_model
from rayloom.testing.models import IMAGES
from thread_ranks import same_after_resume, same_on_ranks

pytestmark = pytest.mark.law("code-prior")

CONFIG = CodePriorConfig(first_stage="x", dim=8, layers=2, heads=2)
FIRST = VQVAEConfig(num_codes=3, code_dim=2, network=ConvNetwork(channels=(4, 6)))  # 2x2 places


def build(spec=IMAGES, config=CONFIG):
    torch.manual_seed(0)
    first = freeze(VQVAE(FIRST, spec).double())
    model = CodePrior(config, spec, stages={"first_stage": first}).double()
    with torch.no_grad():
        for parameter in model.players[0].parameters:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def all_codes():
    return torch.tensor(list(itertools.product(range(3), repeat=4)))  # (81, 4)


def test_the_contract():
    check_model(CodePrior)


@pytest.mark.parametrize("label", [0, 7])
def test_probabilities_sum_to_one_for_each_class(label):
    model, codes = build().eval(), all_codes()
    total = model.log_prob(codes, torch.full((81,), label)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_each_code_sees_those_before_it_and_the_class():
    model = build().eval()
    codes = torch.tensor([[0, 1, 2, 0]])
    logits = model.logits(codes, torch.tensor([1]))
    for place in range(4):
        other = codes.clone()
        other[0, place] = (other[0, place] + 1) % 3
        changed = (model.logits(other, torch.tensor([1])) != logits).any(-1)[0]
        assert changed.tolist() == [t > place for t in range(4)]
    assert (model.logits(codes, torch.tensor([2])) != logits).any(-1).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_cached_sampler_equals_the_naive_one(temperature):
    model = build().eval()
    uniform, label = torch.rand(50, 4).double(), torch.arange(50) % 10
    found = model.draw(uniform, label, temperature)
    codes = torch.zeros(50, 4, dtype=torch.int64)
    for place in range(4):
        p = (model.logits(codes, label)[:, place] / temperature).softmax(-1)
        codes[:, place] = (p.cumsum(-1) <= uniform[:, place, None]).sum(-1)
    assert torch.equal(found, codes)


def test_samples_have_the_frequencies_of_the_density():
    model = build().eval()
    label = torch.full((40_000,), 3)
    drawn = model.draw(torch.rand(40_000, 4).double(), label, 1.0)
    index = (drawn * torch.tensor([27, 9, 3, 1])).sum(1)
    frequency = torch.bincount(index, minlength=81) / 40_000
    p = model.log_prob(all_codes(), torch.full((81,), 3)).exp()
    assert (frequency - p).abs().max() < 5 * math.sqrt(p.max().item() / 40_000)


def test_classes_are_given_or_drawn_and_rows_do_not_depend_on_their_neighbours():
    model, label = build().eval(), torch.arange(6)
    rng = Noise(5, total=6, dtype=torch.float64)
    whole = model.sample({"label": label}, rng=rng, settings=SampleSettings(temperature=0.7))
    parts = [
        model.sample(
            {"label": label[a:b]}, rng=rng.rows(a, b), settings=SampleSettings(temperature=0.7)
        )
        for a, b in ((0, 2), (2, 6))
    ]
    assert torch.equal(torch.cat([p["codes"] for p in parts]), whole["codes"])
    free = model.sample({}, rng=rng)
    classes = rng.integers("label", 10)
    assert torch.equal(free["codes"], model.sample({"label": classes}, rng=rng)["codes"])


def test_without_labels_it_is_told_nothing():
    spec = DataSpec({"image": IMAGES.fields["image"]})
    model = build(spec).eval()
    assert model.reads == ("image",)
    assert model.log_prob(all_codes()).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_another_first_stage_is_refused():
    with pytest.raises(UserError, match="must be a vq-vae, not a VAE"):
        CodePrior(CONFIG, IMAGES, stages={"first_stage": VAE(VAEConfig(), IMAGES)})
    with pytest.raises(UserError, match="heads 3 must divide"):
        build(config=CONFIG.model_copy(update={"heads": 3}))


def made():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    data = from_arrays("noise", {"train": {"image": images, "label": rng.integers(0, 3, 40)}})
    return build(data.spec), data


@pytest.mark.parametrize(("ranks", "batch_size", "accumulate"), [(2, 7, 1), (3, 1, 1), (2, 16, 4)])
def test_ranks_and_chunks_equal_one_process(ranks, batch_size, accumulate):
    same_on_ranks(made, batch_size=batch_size, ranks=ranks, accumulate=accumulate)


def test_resumed_equals_unbroken_in_bits():
    same_after_resume(made)
