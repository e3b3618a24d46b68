"""Global batch norm equals torch's on one worker; its all-reduce differentiates twice."""

import pytest
import torch
from torch import nn

from rayloom.nn.batch_norm import GlobalBatchNorm, set_collective, sum_over_ranks


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 2)])
def test_equals_torch_on_one_worker(float64, shape):
    """Values, both gradients, running statistics, and evaluation."""
    torch.manual_seed(0)
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](4)
    ours = GlobalBatchNorm(4)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2)
        theirs.bias.normal_()
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
    for _ in range(3):
        x = (5 + 2 * torch.randn(shape)).requires_grad_(True)
        results = []
        for norm in (ours, theirs):
            y = norm(x)
            (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
            twice = torch.autograd.grad(slope.square().sum(), [x, norm.weight])
            results.append([y, slope, *twice, norm.running_mean, norm.running_var])
        for mine, other in zip(*results, strict=True):
            torch.testing.assert_close(mine, other)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_gradcheck(float64):
    torch.manual_seed(0)
    norm = GlobalBatchNorm(2)
    x = torch.randn(4, 2, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradgradcheck(norm, (x,))


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"expected \(B, 3"):
        GlobalBatchNorm(3)(torch.zeros(2, 4))


class Doubling:
    """As if another rank held the same tensor."""

    rank, world = 0, 2

    def all_reduce(self, tensor):
        return tensor.mul_(2)

    def broadcast(self, tensor, source=0):
        return tensor

    def broadcast_json(self, value, source=0):
        return value

    def barrier(self):
        pass


def test_sum_over_ranks_leaves_its_input_and_differentiates_twice():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = sum_over_ranks(x, Doubling())
    assert torch.equal(y, torch.tensor([2.0, 4.0]))
    assert torch.equal(x.detach(), torch.tensor([1.0, 2.0]))
    (slope,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
    assert torch.equal(slope, 2 * 2 * y)  # each rank's loss feels x
    (twice,) = torch.autograd.grad(slope.sum(), x)
    assert torch.equal(twice, torch.full((2,), 2.0 * 2 * 2))


def test_equal_halves_give_the_statistics_of_one():
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    one, two = GlobalBatchNorm(3), GlobalBatchNorm(3)
    set_collective(nn.Sequential(two), Doubling())
    torch.testing.assert_close(one(torch.cat([x, x]))[:8], two(x))
    torch.testing.assert_close(one.running_var, two.running_var)
