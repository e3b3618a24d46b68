"""U-Net: any size, told time and class, segmentation without; attention: causal, cached."""

import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.nn.attention import SelfAttention, TransformerBlock
from rayloom.nn.dropout import dropout_from
from rayloom.nn.unet import UNet, UNetNetwork, sinusoids

SMALL = UNetNetwork(channels=(8, 16), heads=2, groups=4)


def awake(net):
    """Layers that start at zero, moved off it, so that what is before them is seen."""
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return net


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (28, 28), (1, 5), (2, 1)])
@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 16, 16)])
def test_any_size_comes_back(size, channels):
    net = UNet(UNetNetwork(channels=channels, heads=2, groups=4, blocks=2), 3, 5)
    x = torch.randn(2, 3, *size)
    assert net(x).shape == (2, 5, *size)
    assert net(x[:0]).shape == (0, 5, *size)


def test_every_parameter_and_pixel_counts_and_the_coarse_map_sees_all(seed):
    net = awake(UNet(SMALL, 1, 2, timed=True, num_classes=3)).double()
    x = torch.randn(4, 1, 9, 7, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 2, 3])
    out = net(x, time=torch.tensor([0.0, 10.0, 500.0, 999.0]), label=label)
    out[:, :, 0, 0].square().sum().backward()
    assert (x.grad != 0).all()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("project.bias"):  # of the keys it has no gradient
            assert parameter.grad.any(), name


def test_time_and_class_are_told_per_example(seed):
    net = awake(UNet(SMALL, 1, 1, timed=True, num_classes=3)).double().eval()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64).expand(4, -1, -1, -1)
    time, label = torch.tensor([5.0, 5.0, 400.0, 5.0]), torch.tensor([0, 1, 0, 3])
    out = net(x, time=time, label=label)
    for one in (1, 2, 3):
        assert (out[one] - out[0]).abs().max() > 1e-3
    alone = torch.cat(
        [net(x[n : n + 1], time=time[n : n + 1], label=label[n : n + 1]) for n in range(4)]
    )
    torch.testing.assert_close(out, alone)
    torch.testing.assert_close(net(x, time=time)[3], out[3])  # no class is the class beyond
    with pytest.raises(ValueError, match="a time is wanted"):
        net(x, label=label)
    with pytest.raises(ValueError, match="no class"):
        UNet(SMALL, 1, 1)(x, label=label)


def test_times_are_told_apart():
    e = sinusoids(torch.arange(1000.0, dtype=torch.float64), 32)
    distance = torch.cdist(e, e) + torch.eye(1000)
    assert distance.min() > 0.05


def test_dropout_is_inside(seed):
    net = awake(UNet(UNetNetwork(channels=(8,), heads=2, groups=4, dropout=0.5), 1, 1))
    x = torch.randn(2, 1, 4, 4)
    with dropout_from(net, Noise(0, total=2)):
        dropped = net(x)
    assert not torch.allclose(dropped, net.eval()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups 3 must divide"),
        ({"heads": 3}, "heads 3 must divide"),
        ({"heads": 3, "attention_levels": 9}, "heads 3 must divide"),
    ],
)
def test_numbers_that_do_not_divide_are_told(change, message):
    with pytest.raises(UserError, match=message):
        UNet(SMALL.model_copy(update=change), 1, 1)


def test_attention_equals_the_formula(seed):
    layer = SelfAttention(6, 2, causal=True).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in layer.project(x).chunk(3, -1))
    scores = q @ k.mT / 3**0.5
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), layer.out(mixed))


@pytest.mark.parametrize("prompt", [1, 4, 7])
def test_a_cached_block_equals_the_naive_one(seed, prompt):
    """The first positions at once, then one by one."""
    block = TransformerBlock(6, 2, causal=True).double()
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    cache = block.attention.cache(3, 7)
    pieces = [block(x[:, :prompt], cache)]
    pieces += [block(x[:, t : t + 1], cache) for t in range(prompt, 7)]
    torch.testing.assert_close(torch.cat(pieces, 1), block(x))
    with pytest.raises(ValueError, match="holds 7 positions"):
        block(x[:, :1], cache)


def test_a_causal_block_looks_back_only(seed):
    block = TransformerBlock(6, 2, causal=True).double()
    x = torch.randn(1, 5, 6, dtype=torch.float64, requires_grad=True)
    for t in range(5):
        (slope,) = torch.autograd.grad(block(x)[0, t].square().sum(), x)
        assert (slope[0].abs().sum(-1) > 0).tolist() == [s <= t for s in range(5)]
