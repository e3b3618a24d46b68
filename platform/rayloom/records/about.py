"""`run.json`, read in one place: a typed record, and the same content as a dict.

Whoever reads `run.json` gets a `Record` (see `records.record`), or an error that says which field
is wrong. Of a wrong `summary` or attempt nothing is kept: a run can go on without.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rayloom.core.errors import UserError
from rayloom.records.inside import parse_json, read_inside
from rayloom.records.record import RUN_JSON, Record, lacking, record_of

HEAD = ("run_id", "name", "created", "status")  # texts that every run.json has
_EMPTY = ("options", "choices", "summary", "tags", "stages", "plugins", "resumed")  # null: absent


class About(dict[str, Any]):
    """The content of a `run.json` as a dict; a missing key is said as a fault of that file.

    For scripts, and for writing all of it again: what rayloom reads it reads from `record`.

    Attributes:
        place: Its path.
        record: The same, typed.
    """

    def __init__(self, content: Mapping[str, Any], place: Path, record: Record) -> None:
        super().__init__(content)
        self.place, self.record = place, record

    def __missing__(self, key: str) -> Any:
        raise lacking(str(self.place), key)


def read_about(folder: Path) -> About:
    """The content of a run folder's `run.json`.

    Raises:
        UserError: It is missing, no plain file, damaged, or holds what it may not; says what.
    """
    place = folder / RUN_JSON
    try:
        data = read_inside(folder, RUN_JSON)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder (no {RUN_JSON})") from error
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror}") from error
    try:
        tree = parse_json(data)
    except ValueError as error:
        raise UserError(f"{place} is damaged: {error}") from error
    return check_about(tree, place)


def check_about(tree: Any, place: Path) -> About:
    """The same, of what was parsed already.

    Raises:
        UserError: It holds what it may not; says what.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{place} is damaged: it holds a {type(tree).__name__}")
    missing = [key for key in HEAD if key not in tree]
    if missing:
        raise UserError(f"{place} is damaged: it lacks {', '.join(missing)}")
    try:
        record = record_of(tree, str(place))
    except ValidationError as error:
        raise UserError(f"{place} is damaged: {first_fault(error)}") from None
    content = {k: v for k, v in tree.items() if v is not None or k not in _EMPTY}
    for key in ("summary", "attempt"):
        if getattr(record, key) is None:
            content.pop(key, None)
    if "attempts" in content:
        content["attempts"] = [one.to_dict() for one in record.attempts]
    return About(content, place, record)


def readable(tree: Mapping[str, Any]) -> None:
    """Make sure that what is about to be written will be read.

    Raises:
        ValueError: It would not; says which field is wrong.
    """
    try:
        check_about(dict(tree), Path(RUN_JSON))
    except UserError as error:
        raise ValueError(f"not written: {error}") from None


def first_fault(error: ValidationError) -> str:
    """Where the first fault is and what, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where[:200]}: {first['msg'].removeprefix('Value error, ')[:300]}"
