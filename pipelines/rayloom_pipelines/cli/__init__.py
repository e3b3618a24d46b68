"""The command line: a thin layer over `rayloom_pipelines.api`.

This module imports neither torch, ray, mlflow nor pydantic; a verb's module is imported when it is
called. Exit codes: 0 done; 2 the user's mistake (a message, never a traceback); 1 a failure while
running; 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint written.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from rayloom.core import interrupt, teardown
from rayloom.core.errors import RayloomError, UserError, did_you_mean
from rayloom_pipelines.outlet import guarded


@dataclass(frozen=True)
class Verb:
    """One word of the command line.

    Attributes:
        module: Where its `run(argv) -> exit code` lives, under `rayloom_pipelines.cli`.
        usage: What follows the word.
        summary: One line of help.
    """

    module: str
    usage: str
    summary: str


VERBS: dict[str, Verb] = {
    "list": Verb("listing", "[KIND]", "names: models, algorithms, envs, datasets, configs"),
    "new": Verb("new", "KIND NAME", "write a starting file, its config and its test"),
    "train": Verb("train", "CONFIG [key=value ...]", "train a model or an agent"),
    "resume": Verb("resume", "RUN [key=value ...]", "go on with a run or a sweep"),
    "sweep": Verb("sweep", "CONFIG [key=value ...]", "search hyperparameters"),
    "submit": Verb("submit", "-- VERB ...", "send train, sweep or resume to a Ray cluster"),
    "jobs": Verb("jobs", "ACTION [ID]", "list, status, logs, stop of submitted jobs"),
    "runs": Verb("runs", "ACTION [RUN ...]", "list, show, compare, export, gc, rm"),
    "evaluate": Verb("evaluate", "RUN", "evaluate a run's checkpoint afresh"),
    "sample": Verb("sample", "RUN --out FILE", "draw samples from a model"),
    "apply": Verb("apply", "RUN OPERATION --out FILE", "apply an operation of a model to data"),
    "play": Verb("play", "RUN --out FILE", "film an agent"),
    "config": Verb("config", "ACTION CONFIG", "show, schema, diff of configs"),
    "data": Verb("data", "ACTION ...", "prepare, import, show data sets"),
    "ui": Verb("ui", "", "serve the MLflow page on this machine"),
    "doctor": Verb("doctor", "", "check this machine and its cluster"),
    "bench": Verb("bench", "[NAME ...]", "measure speed beside peers"),
}


def _help() -> str:
    lines = ["usage: rayloom VERB ... [--plugin FILE.py|module ...]", ""]
    lines += [
        "Train reinforcement-learning agents and deep generative models, on a laptop or a Ray",
        "cluster. `rayloom VERB --help` tells more of a verb.",
        "",
    ]
    width = max(len(f"{name} {verb.usage}") for name, verb in VERBS.items())
    lines += [
        f"  {f'{name} {verb.usage}':<{width}}  {verb.summary}" for name, verb in VERBS.items()
    ]
    lines += ["", "Start here:  rayloom train autoencoders/vae-digits"]
    return "\n".join(lines)


def _split_plugins(argv: list[str]) -> tuple[list[str], list[str]]:
    """Plugins named before the verb, and the rest."""
    plugins: list[str] = []
    while argv and (argv[0] == "--plugin" or argv[0].startswith("--plugin=")):
        word = argv.pop(0)
        if "=" in word:
            plugins.append(word.partition("=")[2])
        elif argv:
            plugins.append(argv.pop(0))
        else:
            raise UserError("--plugin needs a file or a module")
    return plugins, argv


def dispatch(argv: Sequence[str]) -> int:
    """Run one command; errors pass through.

    Raises:
        UserError: The verb is unknown, or what the verb raises.
    """
    plugins, words = _split_plugins(list(argv))
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from rayloom import __version__

        print(f"rayloom {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        hint = did_you_mean(name, VERBS)
        raise UserError(f"there is no verb {name!r}{hint} Verbs: {', '.join(VERBS)}")
    for plugin in reversed(plugins):
        rest[:0] = ["--plugin", plugin]
    module = import_module(f"rayloom_pipelines.cli.{VERBS[name].module}")
    return int(module.run(rest))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `rayloom`; returns its exit code.

    Args:
        argv: The words after `rayloom`. None: this process is the command, so that its signals
            are ours to handle from here to its end.
    """
    if argv is not None:
        return _main(argv)
    teardown.prepare()
    interrupt.listen()
    try:
        return _main(sys.argv[1:])
    finally:
        interrupt.ignore()


def _main(argv: Sequence[str]) -> int:
    with guarded():
        return _command(argv)


def _command(argv: Sequence[str]) -> int:
    # Read by OpenMP when torch is loaded. Waiting threads sleep: where another process wants the
    # cores too, spinning ones make a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = dispatch(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        return _stopped(getattr(error, "exit_code", 130))
    except BrokenPipeError:  # `rayloom list | head` is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if interrupt.received():  # a library made an error of its own out of it
            return _stopped(128 + interrupt.received())
        if isinstance(error, RayloomError):
            print(f"rayloom: {error}{_more(error)}", file=sys.stderr)
            return error.exit_code
        if os.environ.get("RAYLOOM_TRACEBACK"):
            raise
        print(f"rayloom: failed: {_cause(error)}", file=sys.stderr)
        return 1


def _stopped(code: int) -> int:
    import threading

    print(f"rayloom: {'terminated' if code == 143 else 'interrupted'}", file=sys.stderr)
    for thread in threading.enumerate():  # one that is still importing MLflow makes Python's end
        if thread.name.startswith("rayloom-"):  # print a traceback; a second Ctrl-C ends it at once
            thread.join(5.0)
    return code


def _more(error: BaseException) -> str:
    """What an error of ours leaves out: the line of the user's code, where the traceback is."""
    told = ""
    if not isinstance(error, UserError):
        from rayloom.core.causes import place_of

        place = place_of(error)
        told = f" at {place}" if place and place.partition(" ")[0] not in str(error) else ""
    return "\n".join([told, *getattr(error, "__notes__", ())])


def _cause(error: BaseException) -> str:
    """One paragraph about a failure: what, where in the user's or our code, and how to see more."""
    from rayloom.core.causes import paragraph

    notes = getattr(error, "__notes__", ())
    text = paragraph(error)
    if not notes:
        return f"{text}. Set RAYLOOM_TRACEBACK=1 to see the whole traceback."
    return "\n".join([text, *notes])
