"""Flat parameters and optimizers equal torch's over separate parameters."""

import pytest
import torch
from torch import nn

from rayloom.config.sections import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RMSpropConfig,
    SGDConfig,
)
from rayloom.core.errors import UserError
from rayloom.optim import FlatParameters, make_optimizer

OPTIMIZERS = {
    "adamw": (AdamWConfig(lr=0.01, weight_decay=0.1), torch.optim.AdamW, {"weight_decay": 0.1}),
    "adam": (
        AdamConfig(lr=0.01, betas=(0.5, 0.9), weight_decay=0.1),
        torch.optim.Adam,
        {"weight_decay": 0.1, "betas": (0.5, 0.9)},
    ),
    "sgd": (SGDConfig(lr=0.01), torch.optim.SGD, {}),
    "momentum": (
        SGDConfig(lr=0.01, momentum=0.9, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "nesterov": (
        SGDConfig(lr=0.01, momentum=0.9, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
    "adagrad": (
        AdagradConfig(lr=0.05, weight_decay=0.1),
        torch.optim.Adagrad,
        {"weight_decay": 0.1},
    ),
    "rmsprop": (
        RMSpropConfig(lr=0.01, weight_decay=0.1),
        torch.optim.RMSprop,
        {"weight_decay": 0.1},
    ),
    "rmsprop-momentum": (
        RMSpropConfig(lr=0.01, momentum=0.5, alpha=0.9),
        torch.optim.RMSprop,
        {"momentum": 0.5, "alpha": 0.9},
    ),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def losses(net, step):
    torch.manual_seed(100 + step)
    return net(torch.randn(4, 5)).square().sum(1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_flat_equals_separate(float64, name, clip):
    """Ten steps with a changing learning rate, clipped or not."""
    config, make, settings = OPTIMIZERS[name]
    ours, theirs = network(), network()
    flat = FlatParameters(ours.parameters())
    optimizer = make_optimizer(config, flat)
    reference = make(theirs.parameters(), lr=config.lr, **settings)
    for step in range(10):
        factor = 1.0 / (1 + step)
        flat.backward(losses(ours, step), torch.full((4,), 0.25))
        reference.zero_grad()
        losses(theirs, step).mean().backward()
        scale = None
        if clip is not None:
            norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            torch.testing.assert_close(flat.grad_norm(), norm)
            scale = ((flat.grad_norm() + 1e-6) / clip).clamp(min=1)
        reference.param_groups[0]["lr"] = config.lr * factor
        reference.step()
        optimizer.step(factor, grad_scale=scale)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_round_trip(name):
    """Six steps equal three, a state into new objects, and three more, in bits."""
    config = OPTIMIZERS[name][0]

    def run(net, optimizer, flat, steps):
        for step in steps:
            flat.backward(losses(net, step).mean())
            optimizer.step(grad_scale=torch.tensor(1.5))

    whole = network()
    flat = FlatParameters(whole.parameters())
    run(whole, make_optimizer(config, flat), flat, range(6))

    first = network()
    flat = FlatParameters(first.parameters())
    optimizer = make_optimizer(config, flat)
    run(first, optimizer, flat, range(3))
    weights = {k: v.clone() for k, v in first.state_dict().items()}
    state = optimizer.state_dict()
    run(first, optimizer, flat, range(3, 6))  # the copies must not move along

    second = network()
    flat = FlatParameters(second.parameters())
    optimizer = make_optimizer(config, flat)
    second.load_state_dict(weights)
    optimizer.load_state_dict(state)
    run(second, optimizer, flat, range(3, 6))
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_clip_equals_torch(float64):
    ours, theirs = network(), network()
    flat = FlatParameters(ours.parameters())
    flat.backward(losses(ours, 0).mean())
    losses(theirs, 0).mean().backward()
    for limit in (0.01, 100.0):
        torch.testing.assert_close(
            flat.clip_grad_norm_(limit), nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        )
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)


def test_parameters_and_gradients_are_views():
    net = network()
    flat = FlatParameters(net.parameters(), tail=3)
    flat.data.fill_(2.0)
    assert all((p == 2).all() for p in net.parameters())
    net.load_state_dict(network().state_dict())
    flat.check()
    assert torch.equal(net[0].weight.flatten(), flat.data[:35])
    losses(net, 0).mean().backward()  # autograd accumulates into the views
    assert torch.equal(net[0].weight.grad.flatten(), flat.grad[:35])
    assert all(p.data_ptr() % 64 == flat.data.data_ptr() % 64 for p in net.parameters())
    assert len(flat.buffer) == len(flat) + 3


def test_leaving_the_flat_tensor_is_noticed():
    net = network()
    flat = FlatParameters(net.parameters())
    net.double()
    with pytest.raises(RuntimeError, match="left its flat tensor"):
        flat.check()


def test_tied_weights_are_held_once():
    net = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    net[1].weight = net[0].weight
    flat = FlatParameters([net[0].weight, net[1].weight])
    assert len(flat) == 16
    x = torch.randn(2, 4)
    flat.backward(net[1](net[0](x)).sum())
    assert net[0].weight.data_ptr() == net[1].weight.data_ptr() == flat.data.data_ptr()


def test_only_this_players_gradients():
    """Another player's parameters in the same loss receive nothing; unused ones get zeros."""
    mine, other, unused = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(2, 2)
    flat = FlatParameters([*mine.parameters(), *unused.parameters()])
    flat.grad.fill_(7.0)
    flat.backward(other(mine(torch.randn(5, 3))).sum())
    assert other.weight.grad is None
    assert unused.weight.grad.abs().sum() == 0
    assert mine.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (lambda: [], "no parameters"),
        (lambda: [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2).double())], "dtype"),
        (
            lambda: [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))],
            "device",
        ),
        (lambda: [nn.Parameter(t) for t in [torch.ones(3)] * 2], "share memory"),
    ],
)
def test_refusals(parameters, message):
    with pytest.raises(ValueError, match=message):
        FlatParameters(parameters())


def test_optimizer_refusals():
    flat = FlatParameters([nn.Parameter(torch.zeros(2))])
    with pytest.raises(UserError, match="momentum above 0"):
        make_optimizer(SGDConfig(nesterov=True), flat)
    with pytest.raises(ValueError, match="expected"):
        make_optimizer(AdamConfig(), flat).load_state_dict({"step": torch.zeros(())})
