"""`rayloom runs`: what there is on disk, side by side, exported, tidied."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.secrets import mask_urls
from rayloom.core.text import one_line
from rayloom_pipelines.cli.options import Parser, action

ACTIONS = {
    "list": "all runs, oldest first",
    "show": "one run: how it ended, metrics, files",
    "compare": "configs and metrics of several runs side by side",
    "export": "a run as a folder, zip, CSV of its curves, or JSON",
    "sync": "send what MLflow lacks of a run",
    "gc": "free the space of surplus checkpoints and leftovers",
    "rm": "delete runs",
}


def run(argv: Sequence[str]) -> int:
    """One of the actions."""
    name, words = action(argv, "runs", ACTIONS)
    if name == "help":
        return 0
    return {
        "list": _list,
        "show": _show,
        "compare": _compare,
        "export": _export,
        "sync": _sync,
        "gc": _gc,
        "rm": _rm,
    }[name](words)


def _parser(name: str) -> Parser:
    made = Parser(f"runs {name}", ACTIONS[name].capitalize() + ".")
    made.add_argument("--storage", metavar="FOLDER", help="where run folders live (./runs)")
    return made


def _list(argv: Sequence[str]) -> int:
    parser = _parser("list")
    parser.add_argument("--all", action="store_true", help="also --smoke runs")
    parser.json_option()
    given = parser.read(argv)
    from rayloom.records import list_runs
    from rayloom_pipelines.places import storage_path

    folder = storage_path(given.storage)
    found = list_runs(folder, smoke=given.all, say=_aside)
    if given.json:
        print(json.dumps([_row(summary) for summary in found], indent=1), flush=True)
        return _set_right(found)
    if not found:
        print(f"no runs in {folder}")
        return 0
    width = max(len(summary.run_id) + 2 * bool(summary.parent) for summary in found)
    print(f"{'run':<{width}}  {'status':<11}  {'step':>11}  best")
    for summary in found:
        name = f"  {summary.run_id}" if summary.parent else summary.run_id
        kind = "" if summary.kind == "run" else f" ({summary.kind})"
        best = summary.best or {}
        shown = f"{best['metric']} {_number(best.get('value'))}" if best.get("metric") else ""
        row = f"{name:<{width}}  {summary.status:<11}  {summary.step:>11,}  {shown}{kind}"
        print(one_line(row.rstrip()))
    sys.stdout.flush()
    return _set_right(found)


def _set_right(found: Sequence[Any]) -> int:
    """Tell MLflow of runs that were killed: only this user's own MLflow, and not for long."""
    from rayloom.tracking import left_running, same_mlflow, tell_killed
    from rayloom_pipelines.places import tracking_uri

    tracked = [one for one in found if one.record.tracking.uri]
    left = left_running(one.path for one in tracked)
    if not left:
        return 0
    uri = tracking_uri()
    own = [path for path, where in left.items() if same_mlflow(where, uri)]
    told = tell_killed(own, uri) if own else []
    if told:
        _aside(f"killed, and MLflow knows it now: {', '.join(path.name for path in told)}")
    for path in left:
        if path not in told:
            _aside(
                f"{path.name} was killed, and MLflow still says that it runs: "
                f"`rayloom runs sync {path.name}` sets it right"
            )
    return 0


def _aside(text: str) -> None:
    """A remark that does not belong into the output."""
    print(f"rayloom: {text}", file=sys.stderr)


def _row(summary: Any) -> dict[str, Any]:
    return {
        "id": summary.run_id,
        "name": summary.name,
        "kind": summary.kind,
        "status": summary.status,
        "created": summary.created,
        "step": summary.step,
        "best": summary.best,
        "metrics": {k: v if math.isfinite(v) else repr(v) for k, v in summary.metrics.items()},
        "parent": summary.parent,
        "seed": summary.seed,
        "path": str(summary.path),
    }


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)


def _show(argv: Sequence[str]) -> int:
    parser = _parser("show")
    parser.add_argument("run", metavar="RUN")
    parser.json_option()
    given = parser.read(argv)
    from rayloom_pipelines import api

    found = api.load(given.run, storage=given.storage)
    tree = found.about
    if given.json:
        print(json.dumps(tree, indent=1, default=str))
        return 0
    from rayloom_pipelines.cli.page import page_of

    print("\n".join(page_of(found)))
    return 0


def _compare(argv: Sequence[str]) -> int:
    parser = _parser("compare")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.json_option()
    given = parser.read(argv)
    from rayloom.records.index import compare
    from rayloom_pipelines.places import run_path

    result = compare([run_path(word, given.storage) for word in given.runs], say=_aside)
    if given.json:
        body = {
            "runs": [_row(summary) for summary in result.runs],
            "differences": result.differences,
            "metrics": result.metrics,
        }
        print(json.dumps(body, indent=1))
        return 0
    columns = [summary.run_id for summary in result.runs]
    rows = [("", columns), ("status", [summary.status for summary in result.runs])]
    rows += [(key, [v or "-" for v in values]) for key, values in result.differences.items()]
    for key, values in result.metrics.items():
        rows.append((key, ["-" if v is None else _both(*v) for v in values]))
    _print_table(rows)
    return 0


def _both(last: float, best: float, step: int) -> str:
    """`last`, and the best with its step where that is another number."""
    return f"{last:.5g}" if last == best else f"{last:.5g} (best {best:.5g} at {step:,})"


def _print_table(rows: list[tuple[str, list[str]]]) -> None:
    first = max(len(name) for name, _ in rows)
    widths = [max(len(row[i]) for _, row in rows) for i in range(len(rows[0][1]))]
    for name, row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print(one_line(f"{name:<{first}}  {'  '.join(cells)}".rstrip()))


def _export(argv: Sequence[str]) -> int:
    parser = _parser("export")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", required=True, metavar="PATH", help="folder, .zip, .csv or .json")
    parser.add_argument("--checkpoints", choices=("best", "all", "none"), default="best")
    given = parser.read(argv)
    from rayloom.records.manage import Format, export_run
    from rayloom_pipelines.places import run_path

    kinds: dict[str, Format] = {".zip": "zip", ".csv": "csv", ".json": "json"}
    out = Path(given.out)
    kind = kinds.get(out.suffix, "folder")
    run = run_path(given.run, given.storage)
    print(export_run(run, out, kind, checkpoints=given.checkpoints, say=_aside))
    return 0


def _sync(argv: Sequence[str]) -> int:
    parser = _parser("sync")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--uri", metavar="URI", help="the run's MLflow, if you did not name it yet")
    given = parser.read(argv)
    from rayloom.records import RunFolder
    from rayloom.tracking import name_server, refused_of, resolve_uri
    from rayloom.tracking.address import server_of
    from rayloom_pipelines.cli.watch import watch
    from rayloom_pipelines.groups.group import children_of
    from rayloom_pipelines.places import run_path
    from rayloom_pipelines.run.publish import send_rest
    from rayloom_pipelines.run.server import mlflow_of

    first = RunFolder.open(run_path(given.run, given.storage))
    if given.uri:
        uri = resolve_uri(given.uri, Path.cwd())
        name_server(uri)
        own = mlflow_of(first.record)
        if own and server_of(own) != server_of(uri):
            raise UserError(
                f"{first.run_id} is tracked in {mask_urls(own)}, and --uri {mask_urls(uri)} is "
                "another MLflow; it names the run's own one where you have not named that yet"
            )
    folders = [first, *(RunFolder.open(child.path) for child in children_of(first))]
    with watch(json=False) as observer:
        sent = all([send_rest(folder, observer) for folder in folders])
    refused = [name for folder in folders for name in refused_of(folder.path)]
    but = f" but what it refuses: {', '.join(dict.fromkeys(refused))}" if refused else ""
    print(f"MLflow has everything{but}" if sent else "MLflow lacks some of it")
    return 0 if sent else 1


def _gc(argv: Sequence[str]) -> int:
    parser = _parser("gc")
    parser.add_argument("--keep-last", type=int, default=1, metavar="N")
    parser.add_argument("--keep-best", type=int, default=1, metavar="N")
    parser.add_argument("--yes", action="store_true", help="delete; without it, only show")
    given = parser.read(argv)
    from rayloom.records.manage import collect, find_waste
    from rayloom_pipelines.places import storage_path

    folder = storage_path(given.storage)
    keep = {"keep_last": given.keep_last, "keep_best": given.keep_best}
    waste = find_waste(folder, **keep, say=_aside)
    for item in waste:
        print(one_line(f"{item.size / 1e6:>9.1f} MB  {item.path}  ({item.why})"))
    if not given.yes:
        total = sum(item.size for item in waste) / 1e6
        print(f"{total:.1f} MB can go: `rayloom runs gc --yes` deletes them")
        return 0
    print(f"freed {collect(waste, say=_aside) / 1e6:.1f} MB")
    return 0


def _rm(argv: Sequence[str]) -> int:
    parser = _parser("rm")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.read(argv)
    from rayloom.records import list_runs
    from rayloom.records.manage import remove_run
    from rayloom_pipelines.places import run_path, storage_path

    paths = [run_path(word, given.storage) for word in given.runs]
    for path in list(paths):  # what a run groups goes with it
        children = list_runs(storage_path(given.storage), smoke=True, parent=path.name)
        paths += [child.path for child in children]
    paths = list(dict.fromkeys(paths))
    if not given.yes:
        print("\n".join(one_line(str(path)) for path in paths))
        if not sys.stdin.isatty():
            raise UserError("runs rm deletes for good: say --yes")
        if input(f"delete {len(paths)} runs for good? [y/N] ").strip().lower() != "y":
            return 0
    code = 0
    for path in paths:
        try:
            remove_run(path)
        except UserError as error:
            _aside(str(error))
            code = error.exit_code
        else:
            print(one_line(f"deleted {path}"))
    return code
