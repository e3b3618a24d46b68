"""What a person (or a program) sees of a run: one live line, plain lines, or JSON events."""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from rayloom.core.secrets import mask_tree
from rayloom.core.text import one_line
from rayloom_pipelines.outlet import outlet

PLAIN_EVERY_S = 10.0  # between progress lines where output is piped, and between progress events
LIVE_EVERY_S = 0.1
_SHOWN = {
    "loss/total": "loss",
    "loss/td": "loss",
    "train/return_mean": "return",
    "train/epsilon": "epsilon",
}


class RunObserver(Protocol):
    """What a run tells while it goes on; `rayloom.training.Observer` and the two ends."""

    def on_start(self, event: Mapping[str, Any]) -> None:
        """Before the first step: run, path, config, workers, resumed."""
        ...

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """At each log point."""
        ...

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """After an evaluation."""
        ...

    def on_message(self, text: str) -> None:
        """One line for a person."""
        ...

    def on_table(self, event: Mapping[str, Any]) -> None:
        """A sweep's trial started, reported or ended: kind, row, rows, metric, trials."""
        ...

    def on_end(self, event: Mapping[str, Any]) -> None:
        """After the last step: run, status, reason, best, metrics."""
        ...


class Silent:
    """Tells nothing: the default of the Python API."""

    def on_start(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def on_message(self, text: str) -> None:
        """Nothing."""

    def on_table(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def on_end(self, event: Mapping[str, Any]) -> None:
        """Nothing."""


class Events:
    """One JSON object per line on standard output, for programs.

    Progress is paced as plain lines are; every other event is written at once.

    Args:
        out: Where to write; standard output if None.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = outlet(out or sys.stdout)
        self._last = time.monotonic()

    def _write(self, kind: str, event: Mapping[str, Any]) -> None:
        line = {"event": kind, "time_ms": time.time_ns() // 1_000_000, **event}
        # masked before it is JSON, so that no quote is lost; ASCII, so that any stream holds it
        self._out.control(json.dumps(mask_tree(line), default=str) + "\n")
        self._out.flush()

    def on_start(self, event: Mapping[str, Any]) -> None:
        """Event `start`."""
        self._write("start", event)
        self._last = time.monotonic()

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """Event `progress`, at most one every ten seconds."""
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S:
            self._last = now
            self._write("progress", event)

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """Event `evaluation`."""
        self._write("evaluation", event)

    def on_message(self, text: str) -> None:
        """Event `message`."""
        self._write("message", {"text": text})

    def on_table(self, event: Mapping[str, Any]) -> None:
        """Event `trial`."""
        self._write("trial", {"kind": event["kind"], **event["row"]})

    def on_end(self, event: Mapping[str, Any]) -> None:
        """Event `end`."""
        self._write("end", event)


class Console:
    """One live line on a terminal, plain lines elsewhere. Steps aside for `breakpoint()`.

    Args:
        out: Where to write; standard output if None.
        live: Whether to overwrite one line; None: if `out` is a terminal.
    """

    def __init__(self, out: TextIO | None = None, *, live: bool | None = None) -> None:
        self._out = outlet(out or sys.stdout)
        self.live = self._out.isatty() if live is None else live
        self._drawn = False
        self._last = 0.0
        self._evaluated = ""
        self._block = 0  # lines of the live table
        self._table: list[str] = []  # and what they say
        self._headed = False
        self._hook: Any = None

    # Events -------------------------------------------------------------------------------------

    def on_start(self, event: Mapping[str, Any]) -> None:
        """Which run, and where."""
        count = event.get("workers")
        where = f"on {count} worker{'s' * (count > 1)}" if count else "in process"
        how = "resuming" if event.get("resumed") else event.get("verb", "training")
        name, path = one_line(str(event["name"])), one_line(str(event["path"]))
        self.line(f"{how} {name} {where}, run {event['run']} in {path}")
        self._last = time.monotonic()
        if self.live and self._hook is None:
            self._hook = sys.breakpointhook
            sys.breakpointhook = self._aside

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """The live line; piped, a line at most every ten seconds."""
        now = time.monotonic()
        done = event["position"] >= event["budget"]
        if not done and now - self._last < (LIVE_EVERY_S if self.live else PLAIN_EVERY_S):
            return
        self._last = now
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            text = progress_text(event, self._evaluated, width)
            self._out.control("\r")
            self._out.write(text.ljust(width))
            self._out.flush()
            self._drawn = True
        elif not done:
            self.line(progress_text(event))

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """A plain line of the main metrics; on a terminal they join the live line."""
        best = " (best)" if event.get("is_best") else ""
        self._evaluated = evaluation_text(event["metrics"], _judged(event)) + best
        if not self.live:
            self.line(f"step {event['position']:,}  {self._evaluated}")

    def on_message(self, text: str) -> None:
        """A line of its own."""
        self.line(text)

    def on_table(self, event: Mapping[str, Any]) -> None:
        """The table of a sweep: redrawn on a terminal, a line per ended trial elsewhere."""
        if self.live:
            height = shutil.get_terminal_size().lines - 1
            self._table = table_lines(event["rows"], event["metric"], event["trials"], height)
            self.clear()
            self._draw_table()
        elif event["kind"] == "trial_ended":
            if not self._headed:
                self.line(f"trial  status        score  evaluations  ({event['metric']})")
                self._headed = True
            self.line(row_text(event["row"]))

    def on_end(self, event: Mapping[str, Any]) -> None:
        """How it ended, and what to do next."""
        if self._block:
            self._block = 0  # the table stays
        best = event.get("best")
        if best:
            where = (
                f"run {event['best_run']}" if event.get("best_run") else f"step {best['step']:,}"
            )
            self.line(f"best {best['metric']} {best['value']:.5g} at {where}")
        elif event.get("metrics"):
            self.line(evaluation_text(event["metrics"]))
        seconds = event.get("elapsed_s")
        took = f" in {duration(seconds)}" if seconds is not None else ""
        self.line(f"{event['status']}{took}: {event['reason']}")
        if event.get("status") in ("interrupted", "time_limit", "failed"):
            self.line(f"go on with: rayloom resume {event['run']}")
        self.close()

    # Drawing ------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """A line that stays; a live table moves below it."""
        below = self._block > 0
        self.clear()
        self._out.write(text + "\n")
        self._out.flush()
        if below:
            self._draw_table()

    def _draw_table(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._out.write("".join(f"{line[:width]}\n" for line in self._table))
        self._out.flush()
        self._block = len(self._table)

    def clear(self) -> None:
        """Remove the live line, or the live table."""
        if self._block:
            self._out.control(f"\x1b[{self._block}A\x1b[J")
            self._out.flush()
            self._block = 0
        if self._drawn:
            self._out.control("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._out.flush()
            self._drawn = False

    def close(self) -> None:
        """Give `breakpoint()` back."""
        if self._hook is not None:
            sys.breakpointhook, self._hook = self._hook, None

    def _aside(self, *arguments: Any, **named: Any) -> Any:
        """`breakpoint()` was called: no live line from here on."""
        self.clear()
        self.live = False
        hook = self._hook or sys.__breakpointhook__
        asked = os.environ.get("PYTHONBREAKPOINT") or "pdb.set_trace"
        if hook is sys.__breakpointhook__ and asked == "pdb.set_trace":
            import pdb

            # In the caller's frame, not in this one; Ctrl-C still writes a checkpoint afterwards.
            return pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))
        return hook(*arguments, **named)


def progress_text(event: Mapping[str, Any], evaluated: str = "", width: int | None = None) -> str:
    """`step 1,200/5,000 24 %  loss 31.2  1,180/s  0:03 left  eval/elbo_nats -30.5`.

    Args:
        event: What `on_progress` was told.
        evaluated: `evaluation_text` of the last evaluation.
        width: Columns there are; whole parts that do not fit are left out, from the end.
    """
    position, budget = int(event["position"]), int(event["budget"])
    values = event.get("values", {})
    shown = {name: f"{name} {values[key]:.4g}" for key, name in _SHOWN.items() if key in values}
    epsilon = shown.pop("epsilon", "")
    rate, left = event.get("rate_per_s"), event.get("remaining_s")
    parts = [
        f"step {position:,}/{budget:,} {100 * position // max(1, budget)} %",
        *shown.values(),
        (f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s") if rate else "",
        "" if left is None else f"{duration(left)} left",
        epsilon,
        *evaluated.split("  "),
    ]
    text = ""
    for part in filter(None, parts):
        longer = f"{text}  {part}" if text else part
        if width is not None and len(longer) > width:
            break
        text = longer
    return text


_MAIN = (
    "eval/return_mean",
    "eval/return_iqm",
    "eval/length_mean",
    "eval/elbo_nats",
    "eval/nll_nats",
    "eval/kl_nats",
    "eval/bpd",
)


def evaluation_text(metrics: Mapping[str, float], judged: str | None = None) -> str:
    """The metrics that matter most, in one line: what the run is judged by, then usual ones.

    Args:
        metrics: Of an evaluation.
        judged: What "best" means, if that is known.
    """
    every = [key for key in metrics if key.startswith("eval/") and not key.endswith("_se")]
    first = [key for key in (judged, *_MAIN) if key in every]
    shown = list(dict.fromkeys([*first, *(every if len(first) < 3 else ())]))
    shown = shown[: max(4, len(first))]
    return "  ".join(f"{key} {metrics[key]:.5g}" for key in shown)


def _judged(event: Mapping[str, Any]) -> str | None:
    return (event.get("best") or {}).get("metric")


_ROW = ("trial", "status", "score", "evaluations", "step", "run", "error")


def table_lines(
    rows: Sequence[Mapping[str, Any]], metric: str, trials: int, height: int | None = None
) -> list[str]:
    """A sweep's table, its head first; of more rows than fit the oldest ended ones are left out."""
    ended = [row["trial"] for row in rows if row["status"] != "running"]
    head = f"{len(ended)} of {trials} trials ended; score is {metric}"
    if height is None or len(rows) < height:
        return [head, *map(row_text, rows)]
    hidden = set(ended[: max(0, len(rows) - max(1, height - 2))])
    shown = [row_text(row) for row in rows if row["trial"] not in hidden]
    return [f"{head}; {len(hidden)} of them are not shown", *shown]


def row_text(row: Mapping[str, Any]) -> str:
    """One trial: number, status, score, evaluations, its values, and why it failed."""
    score = "-" if row["score"] is None else f"{row['score']:.5g}"
    values = "  ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.items()
        if key not in _ROW
    )
    error = f"  {row['error']}" if row.get("error") else ""
    return one_line(
        f"{row['trial']}  {row['status']:<8} {score:>10}  {row['evaluations']:>3}  {values}{error}"
    )


def duration(seconds: float) -> str:
    """`0:03`, `12:40`, `3:02:10`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
