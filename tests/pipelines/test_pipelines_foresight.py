"""What the end of a run needs is imported when the end is near, and only then."""

import pytest

from rayloom_pipelines.run import foresight
from rayloom_pipelines.run.folder import Options


class Hears:
    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda event: self.heard.append((name, event))


@pytest.fixture
def begun(monkeypatch):
    """What was begun; nothing is imported."""
    names = []
    for name in ("tracking", "registry"):
        monkeypatch.setattr(foresight, name, lambda name=name: names.append(name))
    return names


@pytest.mark.parametrize(("left", "expected"), [(None, []), (500.0, []), (3.0, ["registry"])])
def test_registering_is_got_ready_in_the_last_seconds(begun, left, expected):
    watcher = foresight.foresee(Hears(), Options(), 0)
    watcher.on_progress({"position": 7, "remaining_s": left})
    assert begun == ["tracking", *expected]


def test_workers_start_before_anything_is_imported(begun):
    watcher = foresight.foresee(Hears(), Options(), 2)
    assert begun == []
    watcher.on_progress({"position": 7, "remaining_s": 3.0})
    assert begun == ["registry"]


def test_everything_is_handed_on(begun):
    observer = Hears()
    watcher = foresight.foresee(observer, Options(), 0)
    names = ["on_start", "on_progress", "on_evaluation", "on_message", "on_table", "on_end"]
    for name in names:
        getattr(watcher, name)({"of": name})
    assert observer.heard == [(name, {"of": name}) for name in names]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(track=False), []),
        (Options(register=False), ["tracking"]),
        (Options(smoke=True), ["tracking"]),
    ],
)
def test_what_a_run_will_not_need_is_not_imported(begun, options, expected):
    observer = Hears()
    assert foresight.foresee(observer, options, 0) is observer
    assert begun == expected


def test_one_import_waits_for_the_other(monkeypatch):
    """Two threads that import the same packages hinder each other, and main waits for both."""
    order = []
    monkeypatch.setattr(foresight, "_threads", {})
    foresight._begin("first", lambda: order.append("first"))
    foresight._begin("second", lambda: order.append("second"))
    foresight._begin("first", lambda: order.append("again"))
    foresight.settle()
    assert order == ["first", "second"]


def test_a_broken_import_is_left_to_whoever_needs_it(monkeypatch, capfd):
    """A package that is broken may raise anything, and a thread's traceback is nobody's to read."""

    def broken():
        raise AttributeError("'_OpNamespace' 'prims' object has no attribute 'sum'")

    monkeypatch.setattr(foresight, "_threads", {})
    foresight._begin("broken", broken)
    foresight.settle()
    assert capfd.readouterr() == ("", "")


def test_registering_is_got_ready_while_others_wait(monkeypatch):
    """PyTorch's parts import each other in circles, and the training loads some of them late."""
    import builtins

    from rayloom.tracking import tracing

    plain, seen = builtins.__import__, []
    monkeypatch.setattr(foresight, "_threads", {})
    monkeypatch.setattr(tracing, "load", lambda: seen.append(builtins.__import__ is plain))
    foresight.registry()
    foresight.settle()
    assert seen == [False]
    assert builtins.__import__ is plain
