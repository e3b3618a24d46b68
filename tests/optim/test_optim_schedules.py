"""Schedules are pure functions of the grad_step; the averages have a closed form."""

import math

import pytest
import torch

from rayloom.config.sections import ScheduleConfig
from rayloom.nn.ema import EMA
from rayloom.optim import make_schedule


def test_values_at_the_corners():
    linear = make_schedule(ScheduleConfig(name="linear", warmup_steps=4, final_factor=0.1), 104)
    assert [linear(t) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert linear(4) == 1.0
    assert linear(54) == pytest.approx(0.55)
    assert linear(104) == linear(10_000) == pytest.approx(0.1)
    cosine = make_schedule(ScheduleConfig(name="cosine", final_factor=0.2), 100)
    assert cosine(0) == 1.0
    assert cosine(50) == pytest.approx(0.6)
    assert cosine(25) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine(100) == cosine(101) == pytest.approx(0.2)
    constant = make_schedule(ScheduleConfig(warmup_steps=2), 1)
    assert [constant(t) for t in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_factors_stay_between_zero_and_one(name):
    factor = make_schedule(ScheduleConfig(name=name, warmup_steps=7), 5)  # horizon in the warm-up
    assert all(0 <= factor(t) <= 1 for t in range(30))


def test_average_closed_form(float64):
    """shadow_k = d^k x_0 + (1 - d) sum_i d^(k-i) x_i."""
    x = torch.tensor([1.0, -2.0])
    ema = EMA([x], decay=0.8, warmup=False)
    values = [x.clone()]
    for step in range(1, 6):
        x.copy_(torch.tensor([step**2, 1.0 / step]))
        values.append(x.clone())
        ema.update()
    expected = 0.8**5 * values[0] + 0.2 * sum(0.8 ** (5 - i) * values[i] for i in range(1, 6))
    torch.testing.assert_close(ema.shadow[0], expected)


def test_warmup_decay():
    ema = EMA([torch.zeros(1)], decay=0.99)
    assert ema.decay_at(0) == pytest.approx(0.1)
    assert ema.decay_at(9) == pytest.approx(10 / 19)
    assert ema.decay_at(10_000) == 0.99


def test_one_tensor_and_many_agree():
    torch.manual_seed(0)
    x = torch.randn(10)
    parts = [x[:4].clone(), x[4:].clone()]
    one, many = EMA([x], decay=0.9), EMA(parts, decay=0.9)
    for _ in range(3):
        change = torch.randn(10)
        x.add_(change)
        parts[0].add_(change[:4])
        parts[1].add_(change[4:])
        one.update()
        many.update()
    assert torch.equal(one.shadow[0], torch.cat(many.shadow))


def test_swap_comes_back_in_bits_after_an_error():
    x = torch.randn(5)
    kept = x.clone()
    ema = EMA([x], decay=0.5)
    x.add_(1.0)
    moved = x.clone()
    ema.update()

    def fails_inside():
        with ema.swapped():
            assert torch.equal(x, ema.shadow[0])
            assert not torch.equal(x, kept)
            x.zero_()
            raise KeyError

    with pytest.raises(KeyError):
        fails_inside()
    assert torch.equal(x, moved)


def test_average_state_round_trip():
    x = torch.randn(3)
    ema, other = EMA([x], decay=0.9), EMA([torch.zeros(3)], decay=0.9)
    x.mul_(2)
    ema.update()
    state = ema.state_dict()
    ema.update()
    other.load_state_dict(state)
    assert other.updates == 1
    assert torch.equal(other.shadow[0], state["shadow"]["0"])
    with pytest.raises(ValueError, match="other shapes"):
        EMA([torch.zeros(4)], decay=0.9).load_state_dict(state)
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMA([x], decay=1.0)
