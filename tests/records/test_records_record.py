"""run.json is one typed record: everybody reads it by its fields, and nothing else is lost."""

import ast
import json
from pathlib import Path

import pytest

from rayloom.records import RunFolder, attempts, hiding
from rayloom.records.record import Attempt, Best, Record, Summary

ROOT = Path(__file__).resolve().parents[2]
SPINE = sorted((ROOT / "tests" / "fixtures" / "spine").glob("*/run.json"))
SOURCES = [*(ROOT / "platform").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
GIVERS = ("read_about", "check_about")  # functions that give the content of a run.json as a dict
RAW = {  # who writes the whole tree again, field by field as it is
    "platform/rayloom/records/attempts.py": {"begin"},
}


def is_raw(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is the content of a run.json as a dict."""
    match node:
        case ast.Name(name):
            return name in names
        case ast.Attribute(attr="about"):
            return True
        case ast.Call(func=ast.Name(name)):
            return name in GIVERS
        case ast.Call(func=ast.Attribute(value=ast.Name(owner), attr="read"), args=[]):
            return owner not in ("file", "source")
        case ast.Call(func=ast.Attribute(attr="read"), args=[]):
            return False
        case ast.BoolOp(values=values):
            return any(is_raw(one, names) for one in values)
    return False


def untyped_reads(source: str) -> list[str]:
    """`function:line` of each `raw[...]` or `raw.get(...)`, wherever `raw` comes from."""
    found = []
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for function in functions:
        taken = {one.arg for one in function.args.args if one.arg == "about"}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and is_raw(node.value, taken):
                taken |= {one.id for one in node.targets if isinstance(one, ast.Name)}
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                for target in node.targets:
                    pairs = zip(getattr(target, "elts", []), node.value.elts, strict=False)
                    taken |= {to.id for to, value in pairs if is_raw(value, taken)}
        for node in ast.walk(function):
            match node:
                case ast.Subscript(value=value) if is_raw(value, taken):
                    found.append(f"{function.name}:{node.lineno}")
                case ast.Call(func=ast.Attribute(value=value, attr="get")) if is_raw(value, taken):
                    found.append(f"{function.name}:{node.lineno}")
    return found


def test_nobody_reads_a_run_json_by_key():
    found = {}
    for path in SOURCES:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if not any(word in text for word in ("about", ".read()")):
            continue
        wrong = [
            place
            for place in untyped_reads(text)
            if place.partition(":")[0] not in RAW.get(name, ())
        ]
        if wrong:
            found[name] = wrong
    assert not found, f"read run.json by `.record`, a typed `Record`: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "folder.read()['status']",
        "folder.read().get('status')",
        "run.about['summary']",
        "(run.about.get('tracking') or {}).get('uri')",
        "about = folder.read()\n    return about['name']",
        "about, now = folder.read(), 3\n    return about.get('name')",
        "x = read_about(folder)\n    return x['name']",
    ],
)
def test_the_search_finds_each_way_to_do_so(code):
    assert untyped_reads(f"def f(folder, run):\n    {code}\n")
    assert not untyped_reads("def f(folder):\n    return folder.record.status\n")


@pytest.mark.parametrize("path", SPINE, ids=lambda path: path.parent.name)
def test_an_old_run_json_is_read_whole(path):
    """Every field that a run writes has a type, and the record holds what the file holds."""
    tree = json.loads(path.read_text())
    record = RunFolder.open(path.parent).record
    assert record.model_extra == {}
    assert record.to_dict() == {key: value for key, value in tree.items() if value is not None}


def test_fields_of_a_newer_version_survive_every_rewrite(tmp_path):
    folder = RunFolder.create(tmp_path, "a", config={}, info={"data": None})
    tree = json.loads((folder.path / "run.json").read_text())
    tree |= {"newer": {"a": [1, None]}, "tracking": {"uri": None, "newer": 1}, "tags": None}
    (folder.path / "run.json").write_text(json.dumps(tree))
    best = Best.model_validate({"metric": "eval/loss", "value": 0.5, "step": 3, "newer": 2})
    with folder.lock():
        attempts.begin(folder, facts={"newer_fact": 1})
        assert folder.update(summary=Summary(step=3, metrics={"eval/loss": 0.5}, best=best))
        attempts.begin(folder, facts={})
        mark = attempts.begin(folder, facts={})
        assert attempts.withdraw(folder, mark)
    after = json.loads((folder.path / "run.json").read_text())
    assert after["newer"] == {"a": [1, None]}
    assert after["tracking"] == {"uri": None, "newer": 1}
    first = after["attempts"][0]
    assert first["newer_fact"] == 1
    assert first["best"] == {"metric": "eval/loss", "value": 0.5, "step": 3, "newer": 2}
    assert folder.record.attempts[0].best == best


def test_what_no_reader_would_take_is_not_written(tmp_path):
    folder = RunFolder.create(tmp_path, "a", config={}, info={})
    before = (folder.path / "run.json").read_bytes()
    for wrong in ({"status": "Of course!"}, {"position": -1}, {"data": {"name": 3}}):
        with pytest.raises(ValueError, match=rf"not written: run\.json.*{next(iter(wrong))}"):
            folder.update(**wrong)
    assert (folder.path / "run.json").read_bytes() == before
    assert folder.update(position=1)
    with pytest.raises(ValueError, match=r"not written: run\.json.*seed"):
        RunFolder.create(tmp_path, "b", config={}, info={"seed": "three"})
    assert [path.name for path in tmp_path.iterdir()] == [folder.run_id]


def test_names_told_elsewhere_are_fields():
    fields = set(Record.model_fields)
    assert set(attempts.RESULTS) <= fields
    assert hiding.EXACT <= fields
    assert set(Attempt.model_fields) - fields <= {
        *("number", "began", "last_written", "host", "pid", "best", "memory_kills")
    }
