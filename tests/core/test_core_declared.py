"""What a class declares of its metrics is read, checked, and gives directions."""

import pytest

from rayloom.core.declared import USUAL, declared_metrics, default_metrics
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, direction, judged, shared

COST = Metric("eval/cost", "1", "min", "what it costs")


class Says:
    metrics = (*shared("eval/accuracy"), COST, Metric("loss/weight", "1", "none", "of the term"))
    default_metric = "eval/cost"


class Silent:
    def __init__(self):
        self.metrics = {"something": "else"}  # an attribute of its own is no declaration


class Asked:
    """What is best depends on the settings: only the built model knows."""

    metrics = (COST,)

    def __init__(self, best):
        self.best = best

    @property
    def default_metric(self):
        return self.best


def test_directions_are_those_declared_then_the_table_s():
    own = declared_metrics(Says)
    assert list(own) == ["eval/accuracy", "eval/cost", "loss/weight"]
    assert [direction(key, own) for key in own] == ["max", "min", "none"]
    assert direction("eval/cost") == "none"
    assert direction("loss/weight") == "min"
    assert "eval/cost" in judged(own)
    assert "loss/weight" not in judged(own)
    for guessed in ("eval/my_loss", "eval/my_error", "eval/my_bpd"):
        assert direction(guessed) == "none", "a name alone says nothing"


def test_what_best_means():
    assert default_metrics(Says) == ("eval/cost",)
    assert default_metrics(Silent()) == USUAL
    assert declared_metrics(Silent()) == {}
    assert default_metrics(Asked) == USUAL
    assert default_metrics(Asked("eval/cost")) == ("eval/cost",)
    assert default_metrics(Asked(None)) == ()
    with pytest.raises(UserError, match="did you mean 'eval/cost'"):
        default_metrics(Asked("eval/costs"))
    with pytest.raises(UserError, match="without a known direction"):
        default_metrics(Asked("eval/kl_nats"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Metric("accuracy", "1", "max", "x"), "has no area.*such as 'eval/accuracy'"),
        (lambda: Metric("eval/", "1", "max", "x"), "has no area"),
        (lambda: Metric("eval/a", "1", "higher", "x"), "'higher' is none of min, max, none"),
        (lambda: Metric("eval/a", " ", "max", "x"), "nothing as its unit"),
        (lambda: Metric("eval/a", "1", "max", ""), "nothing as its meaning"),
        (lambda: shared("eval/accurac"), "no metric 'eval/accurac'; did you mean 'eval/accuracy'"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
