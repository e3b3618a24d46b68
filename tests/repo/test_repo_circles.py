"""No module imports, at its top or within a function, one that imports it, however far around."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOTS = {"rayloom": "platform", "rayloom_envs": "envs", "rayloom_pipelines": "pipelines"}


def modules(root=ROOT):
    """Source file of each module by its dotted name."""
    found = {}
    for package, folder in ROOTS.items():
        for path in sorted((root / folder / package).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def for_types_alone(node):
    """`if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imports_of(path, known):
    """The modules of ours that a module imports, wherever in it; of a package its `__init__`."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if for_types_alone(node):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in known)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inner = [f"{node.module}.{one.name}" for one in node.names]
            yield from (one if one in known else node.module for one in inner)


def circles(graph):
    """The strongly connected components of more than one module (Tarjan), each in its order."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def graph_of(files):
    return {
        name: (set(imports_of(path, files)) & files.keys()) - {name} for name, path in files.items()
    }


def test_there_is_no_circle():
    found = circles(graph_of(modules()))
    assert not found, "\n".join(" - ".join(part) for part in found)


def test_a_circle_through_a_function_is_found(tmp_path):
    room = tmp_path / "platform" / "rayloom" / "room"
    room.mkdir(parents=True)
    (room / "a.py").write_text("from rayloom.room import b\n")
    (room / "b.py").write_text("def f():\n    from rayloom.room.c import g\n")
    (room / "c.py").write_text(
        "if TYPE_CHECKING:\n    import rayloom.room.b\nimport rayloom.room.a\n"
    )
    (room / "d.py").write_text("import rayloom.room.c\n")
    files = modules(tmp_path)
    assert circles(graph_of(files)) == [[f"rayloom.room.{one}" for one in "abc"]]
