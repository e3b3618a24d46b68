"""Dropout: masks of the global batch by path, torch's own refused."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.nn.dropout import Dropout, dropout_from
from rayloom.nn.frozen import freeze
from rayloom.training.checks import check_noise


class Twice(nn.Module):
    """A layer used twice, and one below another name."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.a, self.b = Dropout(rate), nn.Sequential(nn.Linear(6, 6), Dropout(rate))

    def forward(self, x):
        return self.b(self.a(x) + 2 * self.a(x))


def masks(rng, x, rate=0.5):
    torch.manual_seed(0)
    model = Twice(rate).double()
    with dropout_from(model, rng):
        return model(x)


def test_slices_and_chunks_see_the_rows_of_the_whole():
    """Batches of 7 and of 300 (two blocks of noise) in uneven slices, an empty one among them."""
    for total in (7, 300):
        x = torch.randn(total, 6, dtype=torch.float64)
        rng = Noise(3, step=4, total=total)
        whole = masks(rng, x)
        cuts = [0, 0, 2, total // 2, total]
        parts = [masks(rng.rows(a, b), x[a:b]) for a, b in pairwise(cuts)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    later = masks(Noise(3, step=5, total=300), x)
    assert not torch.equal(later, whole)


def test_each_layer_and_each_call_has_its_own_mask():
    model = Twice()
    ones = torch.ones(64, 6)
    with dropout_from(model, Noise(0, total=64)):
        first, second = model.a(ones), model.a(ones)
        other = model.b[1](ones)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    with dropout_from(model, Noise(0, total=64)):  # a new block counts anew
        assert torch.equal(model.a(ones), first)


def test_it_is_inverted_and_still_in_evaluation():
    layer, x = Dropout(0.25), torch.full((50_000, 4), 3.0)
    assert layer.eval()(x) is x
    layer.train()
    with dropout_from(layer, Noise(0, total=len(x))):
        y = layer(x)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=5e-3)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 4.0))


def test_without_noise_or_with_other_rows_it_says_so():
    layer = Dropout(0.5)
    with pytest.raises(RuntimeError, match="dropout_from"):
        layer(torch.ones(2, 3))
    with (
        dropout_from(layer, Noise(0, total=2)),
        pytest.raises(ValueError, match="a row an example"),
    ):
        layer(torch.ones(6, 3))
    with pytest.raises(RuntimeError, match="dropout_from"):  # the block is over
        layer(torch.ones(2, 3))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(0.1),
        nn.Dropout2d(0.1),
        nn.AlphaDropout(0.1),
        nn.LSTM(3, 3, num_layers=2, dropout=0.1),
        nn.GRU(3, 3, num_layers=2, dropout=0.1),
        nn.MultiheadAttention(4, 2, dropout=0.1),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1),
        nn.RReLU(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_draw_from_the_global_generator_are_refused(layer):
    model = nn.ModuleDict({"part": layer})
    with pytest.raises(UserError, match=r"part.*global generator"):
        check_noise(model)
    freeze(layer)
    check_noise(model)  # a frozen part stays in evaluation


def test_the_same_layers_without_dropout_pass():
    check_noise(
        nn.ModuleList(
            [
                nn.Dropout(0.0),
                nn.LSTM(3, 3, num_layers=2),
                nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
                Dropout(0.5),
            ]
        )
    )
