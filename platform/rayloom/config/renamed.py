"""Keys of before: read as the keys that they became, whichever layer says them.

A config class lists them (`old_keys`): `widths` of a VAE stands in its section `network` now, as
`widths` of a perceptron or `channels` of convolutions. Where two layers say both, the later one is
meant, as everywhere.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_origin

from pydantic import BaseModel

from rayloom.config.schema_walk import OPEN_SECTIONS, chosen_class, members, open_class
from rayloom.config.sections import Config, as_tuple
from rayloom.config.yaml_marks import Node
from rayloom.core.errors import Problem


def modern(tree: Node, problems: list[Problem]) -> Node:
    """A merged tree with the old keys of its model or algorithm at their new places.

    Keys below a section that is still searched for stay: each trial is read anew.
    """
    for section in OPEN_SECTIONS:
        node = tree.value.get(section)
        chosen = open_class(section, node, []) if node is not None else None
        if node is None or chosen is None or not chosen.old_keys:
            continue
        for old, new in targets(chosen, node.plain()).items():
            node = _moved(node, old, new, section, problems)
        tree = tree.with_value(section, node)
    return tree


def plainly(kind: type[Config], values: Any) -> Any:
    """The settings of a class, given in Python, with its old keys at their new places.

    Raises:
        ValueError: An old key and the new one are both there.
    """
    if not isinstance(values, Mapping):
        return values
    found = dict(values)
    for old, new in targets(kind, found).items():
        holder, _, key = new.partition(".")
        value, section = found.pop(old), _mapping(kind, found, holder)
        if value is None:
            continue
        if key in section:
            raise ValueError(f"{old} is called {new} now, which is given too; give one of them")
        found[holder] = {**section, key: value}
    for key, value in found.items():  # strict Python input, where a list is no tuple
        info = kind.model_fields.get(key)
        if info is not None and any(get_origin(m) is tuple for m in members(info.annotation)):
            found[key] = as_tuple(value)
    return found


def targets(kind: type[Config], values: Mapping[str, Any]) -> dict[str, str]:
    """Old key to new path, of the old keys among `values` whose section is settled."""
    found = {}
    for old, candidates in kind.old_keys.items():
        if old not in values:
            continue
        for new in candidates:
            holder, _, key = new.partition(".")
            section = _mapping(kind, values, holder)
            chosen = chosen_class(kind.model_fields[holder].annotation, section)
            if _settled(section) and chosen is not None and key in chosen.model_fields:
                found[old] = new
                break
    return found


def _mapping(kind: type[Config], values: Mapping[str, Any], holder: str) -> dict[str, Any]:
    """A section as plain data; where it says no name, with that of the field's default."""
    said = values.get(holder)
    if isinstance(said, BaseModel):
        return said.model_dump()
    section = dict(said) if isinstance(said, Mapping) else {} if said is None else {"name": said}
    if "name" not in section and "search" not in section:
        section = {"name": kind.model_fields[holder].default.name, **section}
    return section


def _settled(section: Mapping[str, Any]) -> bool:
    return "search" not in section and not isinstance(section["name"], Mapping)


def _moved(node: Node, old: str, new: str, section: str, problems: list[Problem]) -> Node:
    own = dict(node.value)
    value = own.pop(old)
    holder, _, key = new.partition(".")
    inner = own.get(holder, Node({}, value.where))
    if not isinstance(inner.value, dict):
        inner = Node({} if inner.value is None else {"name": inner}, inner.where)
    present = inner.value.get(key)
    if present is not None and present.rank == value.rank and value.value is not None:
        message = f"is called {section}.{new} now, which {present.where} gives too; give one"
        problems.append(Problem(f"{section}.{old}", message, value.where))
    elif value.value is not None and (present is None or present.rank < value.rank):
        inner = Node({**inner.value, key: value}, inner.where)
        if "name" not in inner.value:
            inner = _with_default_name(inner, node, section, holder)
    return replace(node, value={**own, holder: inner})


def _with_default_name(inner: Node, node: Node, section: str, holder: str) -> Node:
    chosen = open_class(section, node, [])
    assert chosen is not None
    name = chosen.model_fields[holder].default.name
    return Node({"name": Node(name, inner.where), **inner.value}, inner.where)
