"""A score that is not a finite number never wins, whatever it is compared with."""

import itertools
import math

import numpy as np
import pytest

from rayloom.core.scores import best_index, is_better, mean, merit, usable

BAD = [None, math.nan, math.inf, -math.inf, np.float32("nan"), "nan", "inf", "1.0", 10**400, True]
GOOD = [0, -1, 2.5, np.float64(-3.0), -1e308, 1e308, 5e-324]


@pytest.mark.parametrize("way", ["min", "max"])
def test_any_finite_score_beats_any_other_and_none_of_those_beats_anything(way):
    for bad, good in itertools.product(BAD, GOOD):
        assert usable(bad) is None
        assert is_better(good, bad, way)
        assert not is_better(bad, good, way)
        assert merit(bad, way) < merit(good, way)
        assert best_index([bad, good, bad], way) == 1
        assert math.isnan(mean([good, bad]))
    for one, two in itertools.product(BAD, BAD):
        assert not is_better(one, two, way)
    assert best_index(BAD, way) is None


def test_among_finite_scores_the_direction_decides():
    assert is_better(2, 1, "max")
    assert is_better(1, 2, "min")
    assert not is_better(1, 1, "max")
    assert not is_better(1.5, 1, "max", by=0.5)
    assert is_better(1.6, 1, "max", by=0.5)
    assert best_index([3, 1, 1, 2], "min") == 1
    assert best_index([3, 1, 3, 2], "max") == 0
    assert mean([1, 2.0]) == 1.5
