"""What a run folder keeps without secrets, and what leaves it without secrets.

Inside the folder `run.json` is masked but for what a resume reads back (`EXACT`); there and in
`config.yaml` the passwords of URIs are hidden, since they come again from the environment. What
leaves the folder (MLflow, `runs export`, registered models) is masked throughout.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from rayloom.core.secrets import mask, mask_tree, mask_urls
from rayloom.records.files import to_json
from rayloom.records.record import Record

# Read back by a resume or compared with: they stay as they are, but for passwords in URIs.
EXACT = frozenset(
    "schema_version run_id name created status config_sha256 config_now options plugins choices"
    " data stages parent kind task seed trial model parameters_sha256 position summary".split()
)


def hide(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level fields of `run.json` as they may be stored."""
    return {
        key: _without_passwords(value) if key in EXACT else mask_tree({key: value})[key]
        for key, value in fields.items()
    }


def _without_passwords(value: Any) -> Any:
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, Mapping):
        return {key: _without_passwords(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_passwords(item) for item in value]
    return value


def first_files(record: Record | None) -> list[str]:
    """Files that MLflow gets at the start: the config, and diffs where `tracking.upload_diff`."""
    config = record.config_now if record else None
    tracking = config.get("tracking") if config else None
    asked = isinstance(tracking, Mapping) and tracking.get("upload_diff") is True
    return ["config.yaml", *(("git.diff", "library.diff") if asked else ())]


def outgoing(name: str, data: bytes) -> bytes:
    """The content of a file of a run folder as it may leave it: texts of ours without secrets."""
    if name.endswith((".yaml", ".txt", ".diff", ".csv")):
        text = data.decode(errors="replace")
        return (hidden_config(text) if name.endswith(".yaml") else mask(text)).encode()
    if not name.endswith(".json"):
        return data
    try:
        tree = json.loads(data)
        shown = mask_tree(tree)
        return data if shown == tree else to_json(shown, indent=1) + b"\n"
    except (ValueError, RecursionError):
        return mask(data.decode(errors="replace")).encode()


def is_ours(relative: str) -> bool:
    """Whether a file of a run folder is a text that `outgoing` may rewrite: no checkpoint."""
    path = PurePosixPath(relative)
    texts = path.name in ("run.json", "config.yaml") or path.suffix in (".txt", ".diff", ".csv")
    return texts and "checkpoints" not in path.parts and path.parts[0] != "media"


def hidden_config(text: str) -> str:
    """A config as YAML without secrets; the same text if it holds none."""
    from rayloom.config.yaml_marks import parse
    from rayloom.config.yaml_text import dump
    from rayloom.core.errors import ConfigError

    try:
        node = parse(text, "config.yaml", [])
        tree = None if node is None else node.plain()
        masked = mask_tree(tree)
        return text if masked == tree else dump(masked)
    except ConfigError:  # damaged: nobody loads it either
        return mask(text)
