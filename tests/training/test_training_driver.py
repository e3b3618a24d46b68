"""The driver: cadence, rules, checkpoints, resume, signals."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayloom.config.sections import EarlyStoppingConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import Sink
from rayloom.records import RunFolder
from rayloom.training import Engine, Plan, drive
from rayloom.training.driver import Observer
from rayloom.training.fitting import MemorySink
from rayloom.training.plan import Cadence
from training.law import never
from training.toys import build


def engine(name="regression", **changes):
    model, config, source, held_out = build(name, batch_size=7, **changes)
    return Engine(model, config, source, held_out)


def plan(amount=12, **settings):
    settings.setdefault("evaluate_every", 4)
    return Plan("grad_steps", amount, **settings)


def folder_in(path):
    return RunFolder.create(path, "toy", config={}, info={})


class Watcher:
    def __init__(self):
        self.progress, self.evaluations, self.messages = [], [], []

    def on_progress(self, event):
        self.progress.append(event)

    def on_evaluation(self, event):
        self.evaluations.append(event)

    def on_message(self, text):
        self.messages.append(text)


class Scripted:
    """A trainable with a scripted metric; its clock jumps in rounds of 3."""

    clock = "env_step"

    def __init__(self, scores, metric="eval/return_mean"):
        self.scores, self.metric, self.now, self.seen = scores, metric, 0, []

    def position(self):
        return self.now

    def progress(self):
        return {"env_step": self.now}

    def to_clock(self, unit, amount):
        if unit != "env_steps":
            raise UserError("counts env_steps")
        return round(amount)

    def advance(self, until, *, sink, interrupted):
        while self.now < until and not interrupted():
            self.now += 3

    def evaluate(self):
        value = self.scores[min(len(self.seen), len(self.scores) - 1)]
        self.seen.append(self.now)
        return {self.metric: value, "eval/length_mean": 1.0}

    def show(self, sink):
        sink.scalars(self.now, {"shown": 1.0})

    def state_dict(self):
        return {"now": self.now, "seen": list(self.seen)}

    def load_state_dict(self, state):
        self.now, self.seen = state["now"], list(state["seen"])

    def parameters_sha256(self):
        return f"hash of {self.now}"


def scripted(scores, *, amount=30, every=6, sink=None, folder=None, resume=False, **rules):
    trainable = Scripted(scores)
    sink = sink or MemorySink()
    settings = {"evaluate_every": every, **rules}
    outcome = drive(
        trainable, Plan("env_steps", amount, **settings), folder=folder, sink=sink, resume=resume
    )
    return trainable, outcome, sink


def test_types():
    assert isinstance(MemorySink(), Sink)
    watcher: Observer = Watcher()
    assert watcher


def test_order_at_a_cadence_point(tmp_path, monkeypatch):
    """Evaluate, journal, pictures, checkpoint."""
    order = []
    folder = folder_in(tmp_path)
    checkpoints = folder.checkpoints()
    monkeypatch.setattr(folder, "checkpoints", lambda **_: checkpoints)
    save, trainable = checkpoints.save, Scripted([1.0])
    monkeypatch.setattr(
        checkpoints, "save", lambda *a, **k: (order.append("save"), save(*a, **k))[1]
    )
    evaluate, show = trainable.evaluate, trainable.show
    trainable.evaluate = lambda: (order.append("evaluate"), evaluate())[1]
    trainable.show = lambda sink: (order.append("show"), show(sink))[1]
    sink = MemorySink()
    sink.scalars = lambda step, values: order.append("journal") if "shown" not in values else None
    drive(trainable, Plan("env_steps", 6, evaluate_every=6), folder=folder, sink=sink)
    assert order == ["show", "evaluate", "journal", "show", "save"], (
        "the first of untrained weights"
    )


def test_cadence_and_the_last_evaluation():
    trainable, outcome, sink = scripted([1, 2, 3], amount=20)
    assert trainable.seen == [6, 12, 18, 21]  # rounds of 3 overshoot the budget of 20
    assert (outcome.status, outcome.exit_code, outcome.position) == ("finished", 0, 21)
    assert [s for s, _ in sink.history("eval/return_mean")] == [6, 12, 18, 21]
    assert outcome.best == {"metric": "eval/return_mean", "value": 3.0, "step": 18}
    assert [s for s, _ in sink.history("shown")] == [0, 6, 12, 18, 21]
    assert outcome.parameters_sha256 == "hash of 21"
    assert json.loads(json.dumps(outcome.to_dict()))["position"] == 21


def test_show_at_the_end_only():
    trainable = Scripted([1.0])
    trainable.show_at = "end"
    sink = MemorySink()
    drive(trainable, Plan("env_steps", 12, evaluate_every=3), folder=None, sink=sink)
    assert [s for s, _ in sink.history("shown")] == [12]


@pytest.mark.parametrize("every", [0.2, 1, 7.3, 2000.5])
def test_cadence_points_are_the_multiples(every):
    trainable = Scripted([0.0])
    cadence = Cadence(trainable, "env_steps", every)
    expected = sorted({max(1, round(every * k)) for k in range(1, 400)})
    for position in [*range(60), 2000, 2001]:
        if every >= 1 and position < expected[-1]:
            assert cadence.after(position) == next(p for p in expected if p > position)
        else:
            assert cadence.after(position) > position


def test_default_cadence_is_a_twentieth():
    trainable, _, _ = scripted([0.0], amount=600, every=None)
    assert trainable.seen == list(range(30, 601, 30))


# Rules ------------------------------------------------------------------------------------------


def test_stop_rule_knows_the_direction():
    trainable, outcome, _ = scripted([100, 474, 475, 480], stop={"eval/return_mean": 475})
    assert trainable.now == 18
    assert outcome.status == "finished"
    assert "475" in outcome.reason
    trainable = Scripted([5.0, 0.5], metric="eval/loss")
    rule = Plan("env_steps", 30, evaluate_every=6, stop={"eval/loss": 1.0})
    drive(trainable, rule, folder=None, sink=MemorySink())
    assert trainable.now == 12


def test_early_stopping_waits_for_its_patience():
    early = EarlyStoppingConfig(metric="eval/return_mean", patience=2, min_delta=0.5)
    scores = [1, 2, 2.4, 3, float("nan"), 3.4, 9]
    trainable, outcome, _ = scripted(scores, amount=300, early_stopping=early)
    assert trainable.now == 36
    assert "has not improved for 2" in outcome.reason
    assert outcome.best["value"] == 3.4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_never_the_best_and_reaches_nothing(bad, tmp_path):
    early = EarlyStoppingConfig(metric="eval/return_mean", patience=3)
    rules = {"early_stopping": early, "stop": {"eval/return_mean": 1e9}, "keep_best": 1}
    scores = [bad, 1, bad, bad, 2, bad]
    folder = folder_in(tmp_path)
    trainable, outcome, _ = scripted(scores, amount=300, folder=folder, **rules)
    assert outcome.best == {"metric": "eval/return_mean", "value": 2, "step": 30}
    assert trainable.now == 48, "patience counts from the best one"
    assert folder.checkpoints().best().step == 30
    _, nothing, _ = scripted([bad])
    assert nothing.best is None


def test_patience_survives_a_resume_but_not_another_metric(tmp_path):
    early = EarlyStoppingConfig(metric="eval/return_mean", patience=3)
    folder = folder_in(tmp_path)
    scripted([3, 2, 1], amount=18, folder=folder, early_stopping=early)
    resumed, outcome, _ = scripted(
        [1], amount=300, folder=folder, early_stopping=early, resume=True
    )
    assert outcome.position == resumed.now == 24
    again = folder_in(tmp_path / "again")
    scripted([3, 2, 1], amount=18, folder=again)
    _, outcome, _ = scripted([1], amount=300, folder=again, early_stopping=early, resume=True)
    assert outcome.position == 18 + 6 * 4


def test_rules_with_mistakes_are_explained():
    with pytest.raises(UserError, match="did you mean 'eval/return_mean'"):
        scripted([1.0], stop={"eval/return_meen": 3.0})
    with pytest.raises(UserError, match="no direction"):
        scripted([1.0], metric="eval/kl_nats")
    with pytest.raises(UserError, match="the evaluation has no 'eval/loss'"):
        scripted([1.0], stop={"eval/loss": 3.0})
    with pytest.raises(UserError, match="positive"):
        Plan("epochs", 0)
    with pytest.raises(UserError, match="env_steps"):
        drive(Scripted([1]), Plan("epochs", 3), folder=None, sink=MemorySink())


def test_time_limit():
    class Slow(Scripted):
        def advance(self, until, *, sink, interrupted):
            while self.now < until and not interrupted():
                self.now += 3
                time.sleep(0.02)

    trainable = Slow([1.0])
    outcome = drive(
        trainable,
        Plan("env_steps", 10**6, evaluate_every=10**5, time_limit_s=0.2),
        folder=None,
        sink=MemorySink(),
    )
    assert (outcome.status, outcome.exit_code) == ("time_limit", 0)
    assert 3 <= trainable.now < 100


def test_plan_of_a_config():
    config = RunConfig(train=TrainConfig(env_steps=500, stop={"eval/loss": 1.0}, time_limit_s=9.0))
    made = Plan.from_config(config)
    assert (made.unit, made.amount, made.time_limit_s) == ("env_steps", 500, 9.0)
    assert (made.keep_last, made.keep_best, made.stop) == (2, 1, {"eval/loss": 1.0})


# Checkpoints and resume -------------------------------------------------------------------------


def keys(folder):
    points = {}
    for line in folder.journal_path.read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] == "scalars":
            for key, value in entry["values"].items():
                if not key.startswith(("time/", "system/")):
                    assert (key, entry["step"]) not in points
                    points[key, entry["step"]] = value
    return points


@pytest.mark.parametrize("name", ["regression", "adversaries"])
def test_killed_and_resumed_equals_unbroken(tmp_path, name):
    """Dies in the middle of an epoch and of a log interval, three times; the journal too."""

    class Death(BaseException):
        pass

    whole = folder_in(tmp_path / "whole")
    expected = drive(engine(name), plan(25), folder=whole, sink=whole.journal())
    whole.journal().close()

    folder, outcome = folder_in(tmp_path / "broken"), None
    for death in (3, 9, 17, None):
        steps = iter(range(1000))
        trainable = engine(name)

        def poll(steps=steps, death=death):
            if death is not None and next(steps) >= death:
                raise Death
            return 0

        folder = RunFolder.open(folder.path)
        try:
            outcome = drive(
                trainable,
                plan(25, checkpoint_every=3),
                folder=folder,
                sink=folder.journal(),
                resume=True,
                should_stop=poll,
            )
        except Death:
            folder.journal().flush()
        folder.journal().close()
    assert outcome.parameters_sha256 == expected.parameters_sha256
    assert outcome.metrics == expected.metrics
    assert outcome.best == expected.best
    assert keys(folder) == keys(whole)


def test_a_finished_run_resumes_to_the_same_outcome(tmp_path):
    folder = folder_in(tmp_path)
    first = drive(engine(), plan(), folder=folder, sink=MemorySink())
    sink = MemorySink()
    again = drive(engine(), plan(), folder=folder, sink=sink, resume=True)
    assert again == first
    assert not sink.points


def test_a_stopped_run_goes_on_under_other_rules(tmp_path):
    folder = folder_in(tmp_path)
    scripted([500], folder=folder, stop={"eval/return_mean": 475})
    trainable, outcome, _ = scripted([500], folder=folder, stop={}, resume=True)
    assert trainable.now == 30
    trainable, outcome, _ = scripted(
        [500], folder=folder, stop={"eval/return_mean": 475}, resume=True
    )
    assert (outcome.position, outcome.status) == (30, "finished")


def test_a_longer_resume_keeps_cadence_and_horizon(tmp_path):
    folder = folder_in(tmp_path)
    short = engine(grad_steps=20, log_every=None)
    drive(short, Plan("grad_steps", 20), folder=folder, sink=MemorySink())
    longer, sink = engine(grad_steps=60, log_every=None), MemorySink()
    outcome = drive(longer, Plan("grad_steps", 60), folder=folder, sink=sink, resume=True)
    assert outcome.position == 60
    assert [s for s, _ in sink.history("eval/loss")] == list(range(21, 61))
    assert longer.choices["horizon"] == 20


def test_keep_last_and_best(tmp_path):
    folder = folder_in(tmp_path)
    scripted([5, 9, 7, 6, 5, 4], amount=36, folder=folder)
    found = {c.step: c.score for c in folder.checkpoints().complete()}
    assert found == {12: 9.0, 30: 5.0, 36: 4.0}
    assert folder.checkpoints().best().step == 12


def test_a_new_best_is_written_between_checkpoints(tmp_path):
    folder = folder_in(tmp_path)
    scripted([5, 9, 7, 6], amount=24, folder=folder, checkpoint_every=24)
    assert folder.checkpoints().best().step == 12


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch):
    """Said once; tried again at the next checkpoint; the end tells whether the last one stands."""
    from rayloom.records.checkpoints import Checkpoints

    monkeypatch.setattr("rayloom.training.driver.LAST_SAVE_TRIES", 1)
    said, broken = [], [True]
    folder = RunFolder.open(folder_in(tmp_path).path, say=said.append)
    write = Checkpoints._write

    def full(self, *args):
        if broken[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args)

    monkeypatch.setattr(Checkpoints, "_write", full)
    _, outcome, sink = scripted([1, 2, 3], amount=18, folder=folder)
    assert (outcome.status, outcome.exit_code) == ("finished", 1)
    assert "could not be written" in outcome.reason
    assert len(sink.history("eval/return_mean")) == 3
    assert any("No space left" in line for line in said)
    broken[0] = False
    _, outcome, _ = scripted([1, 2, 3], amount=18, folder=folder, resume=True)
    assert outcome.exit_code == 0


def test_interruption_in_process(tmp_path):
    folder, watcher = folder_in(tmp_path), Watcher()
    left = iter([0] * 7)
    outcome = drive(
        engine(),
        plan(),
        folder=folder,
        sink=MemorySink(),
        observer=watcher,
        should_stop=lambda: next(left, signal.SIGTERM),
    )
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("interrupted", 143, "SIGTERM")
    assert 0 < outcome.position < 12
    assert folder.checkpoints().latest().step == outcome.position
    assert any("stopping after this step" in m for m in watcher.messages)
    resumed = drive(engine(), plan(), folder=folder, sink=MemorySink(), resume=True)
    whole = drive(engine(), plan(), folder=None, sink=MemorySink())
    assert resumed.parameters_sha256 == whole.parameters_sha256


def test_observer_hears_everything():
    watcher = Watcher()
    drive(engine(), plan(), folder=None, sink=MemorySink(), observer=watcher)
    assert [e["position"] for e in watcher.progress] == [3, 6, 9, 12]
    last = watcher.progress[-1]
    assert last["budget"] == 12
    assert last["clock"] == "grad_step"
    assert last["remaining_s"] == 0
    assert "loss/total" in last["values"]
    assert [e["position"] for e in watcher.evaluations] == [4, 8, 12]
    assert watcher.evaluations[0]["is_best"]


# Signals, in a process of their own -------------------------------------------------------------

PROGRAM = """
import sys, json
import torch
torch.set_num_threads(1)
from rayloom.records import RunFolder
from rayloom.training import Engine, Plan, drive
from rayloom.training.fitting import MemorySink
from training.toys import build

class Sink(MemorySink):
    def scalars(self, step, values):
        print("step", step, flush=True)

model, config, source, held_out = build("regression", batch_size=7, grad_steps=10**7)
if sys.argv[2] == "slow":
    def loss(*args, **settings):
        import time
        time.sleep(60)
    model.loss = loss
    print("step 0", flush=True)
folder = RunFolder.open(sys.argv[1])
outcome = drive(
    Engine(model, config, source, held_out),
    Plan("grad_steps", 10**7, evaluate_every=10**7),
    folder=folder,
    sink=Sink(),
)
print(json.dumps(outcome.to_dict()), flush=True)
sys.exit(outcome.exit_code)
"""


def start(folder, mode):
    root = Path(__file__).parents[2]
    paths = [str(root / name) for name in ("platform", "envs", "pipelines", "tests")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", PROGRAM, str(folder.path), mode]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("step")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_writes_a_checkpoint(tmp_path, number, code):
    folder = folder_in(tmp_path)
    process = start(folder, "fast")
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    outcome = json.loads(out.splitlines()[-1])
    assert process.returncode == code == outcome["exit_code"]
    assert outcome["status"] == "interrupted"
    assert folder.checkpoints().latest().step == outcome["position"] > 0
    resumed = engine(grad_steps=10**7)
    resumed.load_state_dict(folder.checkpoints().load(outcome["position"])["trainable"])
    resumed.advance(outcome["position"] + 2, sink=MemorySink(), interrupted=never)


def test_second_signal_stops_at_once(tmp_path):
    folder = folder_in(tmp_path)
    process = start(folder, "slow")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
