"""One live line on a terminal, plain lines elsewhere, JSON for programs."""

import io
import json
import signal
import sys

import pytest

from rayloom_pipelines.console import (
    Console,
    Events,
    duration,
    evaluation_text,
    progress_text,
    table_lines,
)

START = {"run": "r-1", "path": "/runs/r-1", "name": "generative/x", "workers": 0, "resumed": False}
PROGRESS = {
    "position": 1200,
    "budget": 5000,
    "clock": "grad_step",
    "elapsed_s": 2.0,
    "rate_per_s": 600.0,
    "remaining_s": 6.3,
    "values": {"loss/total": 31.25},
}
EVALUATION = {"position": 2000, "metrics": {"eval/elbo_nats": -30.5}, "is_best": True, "best": None}
END = {
    "run": "r-1",
    "status": "interrupted",
    "reason": "Ctrl-C",
    "best": {"metric": "eval/elbo_nats", "value": -30.5, "step": 2000},
    "elapsed_s": 75.0,
}


def story(watcher):
    watcher.on_start(START)
    watcher.on_progress(PROGRESS)
    watcher.on_evaluation(EVALUATION)
    watcher.on_message("a word")
    watcher.on_end(END)


def test_piped_output_is_plain_lines():
    out = io.StringIO()
    story(Console(out))
    text = out.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "training generative/x in process, run r-1 in /runs/r-1"
    assert "step 2,000  eval/elbo_nats -30.5 (best)" in lines
    assert lines[-1] == "go on with: rayloom resume r-1"
    assert any("interrupted in 1:15: Ctrl-C" in line for line in lines)


def test_a_terminal_gets_one_line_that_is_overwritten():
    out = io.StringIO()
    console = Console(out, live=True)
    console.on_start(START)
    console._last = 0.0
    console.on_progress(PROGRESS)
    drawn = out.getvalue().rpartition("\n")[2]
    assert drawn.startswith("\r")
    assert "step 1,200/5,000 24 %  loss 31.25  600/s  0:06 left" in drawn
    console.on_message("a word")
    after = out.getvalue().splitlines()[-1]
    assert after.endswith("a word")
    assert "\n" not in drawn
    console.close()


def test_breakpoint_stops_the_live_line(monkeypatch):
    called = []
    monkeypatch.setattr(sys, "breakpointhook", lambda *a, **k: called.append(1))
    console = Console(io.StringIO(), live=True)
    console.on_start(START)
    breakpoint()
    assert called
    assert not console.live
    console.close()


def test_the_debugger_stops_where_breakpoint_stands(monkeypatch, capsys):
    """In the user's own frame, whose variables it shows; Ctrl-C keeps its meaning."""
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("p secret\nc\n"))
    on_interrupt = signal.getsignal(signal.SIGINT)
    console = Console(io.StringIO(), live=True)
    console.on_start(START)

    def loss():
        secret = 6 * 7
        breakpoint()
        return secret

    loss()
    console.close()
    assert "42" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is on_interrupt


def test_breakpoint_is_given_back(monkeypatch):
    before = sys.breakpointhook
    console = Console(io.StringIO(), live=True)
    story(console)
    assert sys.breakpointhook is before


def test_json_events_are_one_object_a_line(monkeypatch):
    monkeypatch.setattr("rayloom_pipelines.console.PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    story(Events(out))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds == ["start", "progress", "evaluation", "message", "end"]
    assert all(line["time_ms"] > 0 for line in lines)
    assert lines[1]["values"] == {"loss/total": 31.25}


def test_progress_events_are_paced_as_plain_lines_are(monkeypatch):
    """24 log points in half a second, then one in each of 25 seconds; nothing else is held back."""
    clock = [100.0]
    monkeypatch.setattr("rayloom_pipelines.console.time.monotonic", lambda: clock[0])
    plain, events = io.StringIO(), io.StringIO()
    observers = (Console(plain), Events(events))
    waits = [0.02] * 24 + [1.0] * 25
    for observer in observers:
        clock[0] = 100.0
        observer.on_start(START)
        for step, wait in enumerate(waits):
            clock[0] += wait
            observer.on_progress(PROGRESS | {"position": step, "budget": len(waits)})
            if step % 10 == 0:
                observer.on_evaluation({"position": step, "metrics": {"eval/x": 1.0}})
    told = [json.loads(line) for line in events.getvalue().splitlines()]
    steps = [line["position"] for line in told if line["event"] == "progress"]
    assert steps == [33, 43]  # the first ones ten seconds and twenty after the start
    assert [line.split()[1] for line in plain.getvalue().splitlines() if "loss" in line] == [
        f"{step}/{len(waits)}" for step in steps
    ]
    assert [line["event"] for line in told].count("evaluation") == 5


def test_a_sweep_shows_a_table():
    rows = [
        {"trial": "0000", "status": "done", "score": -30.5, "evaluations": 2, "step": 24}
        | {"optimizer.lr": 1e-3, "run": "a", "error": ""},
        {"trial": "0001", "status": "running", "score": None, "evaluations": 0, "step": 0}
        | {"optimizer.lr": 1e-2, "run": "", "error": ""},
    ]
    event = {"kind": "trial_ended", "row": rows[0], "rows": rows, "metric": "eval/x", "trials": 2}
    plain, live = io.StringIO(), io.StringIO()
    console = Console(plain)
    console.on_table(event)
    console.on_table(event)
    assert plain.getvalue().count("trial  status") == 1
    assert plain.getvalue().count("0000  done") == 2
    assert "0001" not in plain.getvalue()
    console = Console(live, live=True)
    console.on_table(event)
    console.on_table(event)
    assert "1 of 2 trials ended; score is eval/x" in live.getvalue()
    assert "\x1b[3A" in live.getvalue()  # the table is redrawn in its place
    console.on_message("registered")
    console.on_end({"status": "finished", "reason": "done", "run": "r"})
    rest = live.getvalue().rpartition("\x1b[3A\x1b[J")[2].splitlines()
    assert [line[:4] for line in rest] == ["regi", "1 of", "0000", "0001", "fini"]


def test_a_table_is_not_taller_than_the_terminal():
    """Else its top scrolls away, cannot be overwritten, and is drawn again and again."""
    row = {"score": 1.0, "evaluations": 1}
    ended = [{**row, "trial": f"{k:04d}", "status": "done"} for k in range(30)]
    rows = [{**row, "trial": "0000", "status": "running"}, *ended[1:]]
    lines = table_lines(rows, "eval/x", 40, height=10)
    assert len(lines) <= 10
    assert lines[0] == "29 of 40 trials ended; score is eval/x; 22 of them are not shown"
    assert [line[:4] for line in lines[1:]] == ["0000", *(f"{k:04d}" for k in range(23, 30))]
    assert len(table_lines(rows, "eval/x", 40, height=31)) == 31
    assert len(table_lines(rows, "eval/x", 40)) == 31


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "0:03"), (75, "1:15"), (10930, "3:02:10")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_narrow_terminal_keeps_rate_and_time_left(monkeypatch):
    """What does not fit is left out whole, the last evaluation first: no number is cut."""
    evaluated = "eval/return_mean 123.45  eval/return_iqm 120.25  eval/length_mean 123.45 (best)"
    values = {"loss/td": 23.25, "train/return_mean": 314.0, "train/epsilon": 0.073}
    event = PROGRESS | {"values": values}
    must = "step 1,200/5,000 24 %  loss 23.25  return 314  600/s  0:06 left"
    whole = f"{must}  epsilon 0.073  {evaluated}"
    assert progress_text(event, evaluated) == whole
    assert progress_text(event, evaluated, 79) == f"{must}  epsilon 0.073"
    for width in range(len(must), len(whole) + 1):
        text = progress_text(event, evaluated, width)
        assert len(text) <= width
        assert whole.startswith(text)
        assert whole[len(text) :].startswith("  ") or text == whole
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    console = Console(out, live=True)
    console.on_start(START)
    console._last = 0.0
    console.on_evaluation(EVALUATION)
    console.on_progress(event)
    assert out.getvalue().rpartition("\r")[2].rstrip() == f"{must}  epsilon 0.073"
    console.close()


def test_progress_without_rate():
    event = PROGRESS | {"rate_per_s": 0.0, "remaining_s": None, "values": {}}
    assert progress_text(event) == "step 1,200/5,000 24 %"


def test_what_a_run_is_judged_by_comes_first():
    """Then the usual ones; of a method that has few of these, what else its evaluation gives."""
    told = {"eval/loss": 1.0, "eval/nll_nats": 2.0, "eval/nll_nats_se": 9.0, "eval/accuracy": 0.5}
    text = evaluation_text(told | {"eval/f1_macro": 0.4, "eval/ece": 0.1}, "eval/accuracy")
    assert text == "eval/accuracy 0.5  eval/nll_nats 2  eval/loss 1  eval/f1_macro 0.4"
    assert evaluation_text({"eval/loss": 1.0}, "eval/fid") == "eval/loss 1"
    bound = {"eval/loss": 3.0, "eval/elbo_nats": -3.0, "eval/kl_nats": 1.0, "eval/bpd": 0.1}
    assert "eval/loss" not in evaluation_text(bound, "eval/elbo_nats")
