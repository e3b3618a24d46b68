"""A merged tree to a `RunConfig`, or every mistake in it, said in words.

Sections are validated one by one in pydantic's strict JSON mode (text is never read as a number,
`yes` is no boolean), so that one bad section does not hide the mistakes of another. A whole number
written as a float (`5e4`) is welcome where a whole number is wanted.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from rayloom.config.metric_rules import metric_problems
from rayloom.config.renamed import modern
from rayloom.config.schema_walk import (
    OPEN_SECTIONS,
    ConfigClasses,
    bounds,
    is_player_mapping,
    open_class,
)
from rayloom.config.sections import LENGTHS, OPTIMIZERS, RunConfig
from rayloom.config.yaml_marks import MERGE_KEY, Node, printable, shown
from rayloom.core.errors import Problem, nearest

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(?:/[A-Za-z0-9][\w.+-]*)*\Z")
WRAPPER = re.compile(r"[A-Za-z][\w-]*\Z")

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}


@dataclass
class _Building:
    """What the checks of one tree share."""

    tree: Node
    plain: Any
    layout: ConfigClasses
    problems: list[Problem]


def build(tree: Node) -> tuple[RunConfig | None, list[Problem]]:
    """The config of a tree without search spaces, or None and all its mistakes."""
    problems: list[Problem] = []
    tree = modern(tree, problems)
    sections: dict[str, Any] = {}
    given = {key: node for key, node in tree.value.items() if node.value is not None}
    classes: dict[str, type[BaseModel]] = {}
    for section in OPEN_SECTIONS:
        found = open_class(section, given[section], problems) if section in given else None
        if found is not None:
            classes[section] = found
    work = _Building(tree, tree.plain(), ConfigClasses(classes), problems)
    for section, chosen in classes.items():
        sections[section] = _validated(chosen, given[section].plain(), (section,), work)
    if "optimizer" in given:
        sections["optimizer"] = _optimizer(given["optimizer"], work)
    own = {"model", "algorithm", "optimizer"}
    rest = {key: node.plain() for key, node in given.items() if key not in own}
    shell = _validated(RunConfig, rest, (), work)
    problems += _contradictions(tree, given) + _names(given) + metric_problems(given, classes)
    problems = _unique(problems)
    if problems or shell is None:
        return None, problems
    return shell.model_copy(update=sections), []


def build_section(kind: type[BaseModel], tree: Node, title: str) -> tuple[Any, list[Problem]]:
    """A section that stands alone (an operation's settings), or None and all its mistakes.

    Args:
        kind: Its class.
        tree: What was given, a mapping.
        title: What it is called where its keys are told.
    """
    work = _Building(tree, tree.plain(), ConfigClasses({}, kind, title), [])
    made = _validated(kind, work.plain, (), work)
    return made, _unique(work.problems)


def _optimizer(node: Node, work: _Building) -> Any:
    """One optimizer section, or a dict with one per player."""
    if not is_player_mapping(node.value):
        return _one_optimizer(("optimizer",), node, work)
    return {
        player: _one_optimizer(("optimizer", player), inner, work)
        for player, inner in node.value.items()
    }


def _one_optimizer(prefix: tuple[str, ...], node: Node, work: _Building) -> Any:
    path = ".".join(printable(part) for part in prefix)
    if not isinstance(node.value, dict):
        message = f"must be a mapping such as {{name: adamw, lr: 1e-3}}, not {_value(node.plain())}"
        work.problems.append(Problem(path, message, node.where))
        return None
    name = node.value.get("name", Node("adamw"))
    if not isinstance(name.value, str) or name.value not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        near = nearest(name.value, OPTIMIZERS) if isinstance(name.value, str) else None
        message = f"no optimizer is called {shown(name.plain())}; known: {known}"
        work.problems.append(Problem(f"{path}.name", message, name.where, near))
        return None
    return _validated(OPTIMIZERS[name.value], node.plain(), prefix, work)


def _validated(kind: type[BaseModel], data: Any, prefix: tuple[str, ...], work: _Building) -> Any:
    """An instance of `kind` from `data`, or None after saying what is wrong below `prefix`."""
    for attempt in (1, 2):
        try:
            return kind.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as failure:
            errors = failure.errors(include_url=False)
            if attempt == 1 and _make_whole(errors, data):
                continue
            work.problems += _problems(errors, data, prefix, work)
            break
    return None


def _make_whole(errors: list[Any], data: Any) -> bool:
    """Turn whole floats (5e4) into ints where an int is wanted; whether any was."""
    changed = False
    for error in errors:
        value = error["input"]
        if error["type"] not in ("int_type", "int_from_float", "int_parsing"):
            continue
        if isinstance(value, float) and value.is_integer():
            parts = _path(error["loc"], data, error["type"])
            holder = data
            for part in parts[:-1]:
                holder = holder[part]
            if parts and holder[parts[-1]] == value:
                holder[parts[-1]] = int(value)
                changed = True
    return changed


def _path(loc: tuple[Any, ...], data: Any, kind: str) -> list[Any]:
    """The keys of an error's location; names of union branches, which are no keys, are left out."""
    parts: list[Any] = []
    for place, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (kind == "missing" and place == len(loc) - 1):
            continue
        parts.append(part)
    return parts


def _problems(
    errors: list[Any], data: Any, prefix: tuple[str, ...], work: _Building
) -> list[Problem]:
    """Pydantic's errors in words; the branches of a union become one message."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    hints: dict[tuple[str, ...], str | None] = {}
    short: set[tuple[str, ...]] = set()
    for error in errors:
        parts = (*prefix, *(str(p) for p in _path(error["loc"], data, error["type"])))
        if error["type"].startswith("union_tag"):
            parts = (*parts, "name")
        message, hint = _message(error, parts, work.plain, work.layout)
        grouped.setdefault(parts, [])
        if message not in grouped[parts]:
            grouped[parts].append(message)
        hints[parts] = hints.get(parts) or hint
        if error["type"] == "too_short":
            short.add(parts)
    result = []
    for parts, messages in grouped.items():
        if parts in short and any(p[: len(parts)] == parts != p for p in grouped):
            continue  # its items are wrong, which is said
        path = ".".join(printable(part) for part in parts)
        if parts[:1] == ("train",) and len(parts) == 1 and _lengths(work.tree):
            continue  # said better by _contradictions
        where = work.tree.place(".".join(parts))
        result.append(Problem(path, " or ".join(messages), where, hints[parts]))
    return result


def _message(
    error: Any, parts: tuple[str, ...], plain: Any, layout: ConfigClasses
) -> tuple[str, str | None]:
    """(what is wrong and what is allowed, the nearest name)."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    field = layout.locate(parts, plain)
    info = field.info if field else None
    about = f" ({info.description})" if info is not None and info.description else ""
    allowed = bounds(info)
    if kind == "extra_forbidden":
        keys = layout.keys(parts[:-1], plain)
        if parts[-1] == "<<":
            return MERGE_KEY, None
        owner = ".".join(parts[:-1]) or layout.title
        near = nearest(parts[-1], keys)
        return f"unknown key of {owner}; known: {', '.join(keys)}", near
    if kind == "union_tag_not_found":
        return "is required", None
    if kind == "missing":
        return f"is required{about}", None
    if kind in ("union_tag_invalid", "literal_error", "enum"):
        names = context.get("expected") or context.get("expected_tags") or ""
        value = context.get("tag", value)
        known = [name.strip(" '") for name in re.split(r",| or ", str(names))]
        near = nearest(value, known) if isinstance(value, str) else None
        return f"{_value(value)} is not allowed; choose {', '.join(known)}{about}", near
    if kind in _TYPES:
        wanted = f"must be {_TYPES[kind]}"
        hint = f", {allowed}" if allowed else ""
        return f"{wanted}{hint}, not {_value(value)}{_quote_hint(kind, value)}{about}", None
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        one = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt"}.get(kind, "le")
        sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}[one]
        span = allowed or f"{sign} {context[one]}"
        return f"{_value(value)} is out of range; allowed: {span}{about}", None
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"])), None
    if kind == "string_pattern_mismatch":
        wanted = _pattern(context["pattern"])
        return f"{_value(value)} is not allowed; wanted: {wanted}{about}", None
    if kind in ("too_long", "too_short"):
        limit = context.get("max_length", context.get("min_length"))
        word = "at most" if kind == "too_long" else "at least"
        return f"{word} {limit} items are wanted{about}", None
    text = re.sub(r"^Input should be", "must be", error["msg"])
    text = re.sub(r"^(Value|Assertion) (error|failed), ", "", text)
    return f"{text}, not {_value(value)}{about}", None


def _pattern(pattern: str) -> str:
    """`^(auto|cpu)$` reads `auto or cpu`."""
    text = pattern.removeprefix("^").removesuffix("$")
    if re.fullmatch(r"\([^()]*(\([^()]*\)\??)?[^()]*\)", text):
        text = text[1:-1]
    return text.replace(r"(:\d+)?", " (or with :N)").replace("|", ", ")


def _quote_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, (int, float, bool)):
        return "; write it in quotes"
    return ""


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else shown(value)


def _lengths(tree: Node) -> list[str]:
    train = tree.value.get("train")
    if train is None or not isinstance(train.value, dict):
        return []
    given = [k for k in LENGTHS if k in train.value and train.value[k].value is not None]
    return given if len(given) > 1 else []


def _contradictions(tree: Node, given: dict[str, Node]) -> list[Problem]:
    """Keys that exclude or need each other."""
    problems = []

    def where(path: str) -> str:
        return tree.place(path)

    def add(path: str, message: str) -> None:
        problems.append(Problem(path, message, where(path)))

    if "model" in given and "algorithm" in given:
        add("algorithm", f"contradicts model ({where('model')}); a config has one of the two")
    elif "model" not in given and "algorithm" not in given:
        add("", "has neither model nor algorithm; a config has one of the two")
    elif "model" in given:
        if "data" not in given:
            add("model", "needs a section data, such as {name: digits}")
        if "env" in given:
            add("env", "contradicts model; env goes with algorithm, data with model")
    else:
        if "env" not in given:
            add("algorithm", "needs a section env, such as {name: CartPole-v1}")
        if "data" in given:
            add("data", "contradicts algorithm; data goes with model, env with algorithm")
    lengths = _lengths(tree)
    if lengths:
        places = " and ".join(f"{key} ({where(f'train.{key}')})" for key in lengths)
        add(f"train.{lengths[-1]}", f"{places} contradict each other; give one of them")
    for section, key in (("algorithm", "epochs"), ("model", "env_steps")):
        node = tree.at(f"train.{key}")
        if section in given and node is not None and node.value is not None:
            other = "env_steps" if key == "epochs" else "epochs"
            add(f"train.{key}", f"has no meaning with {section}; use {other} or grad_steps")
    env = given.get("env")
    if env is not None and isinstance(env.value, dict):
        sizes = [env.value.get(k, Node(8)).value for k in ("num_envs", "group_size")]
        whole = [isinstance(s, (int, float)) and not isinstance(s, bool) and s >= 1 for s in sizes]
        if all(whole) and sizes[0] % sizes[1]:
            path = "env.group_size" if "group_size" in env.value else "env.num_envs"
            add(path, f"group_size {sizes[1]} must divide num_envs {sizes[0]}")
    return problems


def _names(given: dict[str, Node]) -> list[Problem]:
    """Names of environments, wrappers and data sets that could stand for code or a path."""
    problems = []
    for section in ("env", "data"):
        name = given[section].at("name") if section in given else None
        text = name.value if name is not None else None
        if name is None or not isinstance(text, str) or NAME.match(text):
            continue
        reason = "a name holds letters, digits and . _ + - between single slashes"
        if section == "env" and ":" in text:
            alone = shown(text.rpartition(":")[2])
            reason = (
                f"'module:Id' would import code that a config names; give the id alone, {alone} "
                "(what registers it comes in by --plugin)"
            )
        problems.append(
            Problem(f"{section}.name", f"{_value(text)} is refused: {reason}", name.where)
        )
    wrappers = given["env"].at("wrappers") if "env" in given else None
    listed = wrappers.value if wrappers is not None and isinstance(wrappers.value, list) else []
    for place, item in enumerate(listed):
        name = item.value.get("name") if isinstance(item.value, dict) else item
        if name is None or (isinstance(item.value, dict) and not isinstance(name.value, str)):
            message = "a wrapper is a name or a mapping with the key 'name'"
            problems.append(Problem(f"env.wrappers.{place}", message, item.where))
        elif isinstance(name.value, str) and not WRAPPER.match(name.value):
            message = f"{_value(name.value)} is no wrapper name; import strings are refused"
            problems.append(Problem(f"env.wrappers.{place}", message, name.where))
    return problems


def _unique(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
