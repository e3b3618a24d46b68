"""What the user of this machine has allowed: plugins by their hash, tracking servers by address.

A run folder is data: it may name a plugin or a server, and neither is used for that alone. What the
user names (`--plugin`, `RAYLOOM_PLUGINS`, `tracking.uri=...`, `MLFLOW_TRACKING_URI`) is noted here,
so that a later `resume` needs no flag:

    <XDG_CONFIG_HOME or ~/.config>/rayloom/trusted.json      mode 600, replaced in one move
    {"schema_version": 1, "plugins": {"<sha256>": {"name", "path", "time"}},
     "servers": {"http://host:5000": {"time"}}}

A file that others may write, or that is damaged, allows nothing; where it cannot be written nothing
is remembered, and what is needed must be named each time.
"""

import datetime
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayloom.core.files import exclusive, write_atomic

SCHEMA_VERSION = 1
MAX_BYTES = 4 << 20
MAX_ENTRIES = 5_000  # of a kind; the oldest go first
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Kind = Literal["plugins", "servers"]
_KINDS: tuple[_Kind, ...] = ("plugins", "servers")


@dataclass(frozen=True)
class TrustedPlugin:
    """A plugin that the user named once.

    Attributes:
        sha256: Of its source.
        name: As it was named.
        path: Where its source lay.
    """

    sha256: str
    name: str
    path: str


def trust_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """Where it is noted; None where there is no home."""
    environ = os.environ if environ is None else environ
    given = environ.get("XDG_CONFIG_HOME") or environ.get("APPDATA") or ""
    if os.path.isabs(given):
        return Path(given) / "rayloom" / "trusted.json"
    try:
        home = environ.get("HOME") or str(Path.home())
    except RuntimeError:
        return None
    return Path(home) / ".config" / "rayloom" / "trusted.json" if os.path.isabs(home) else None


def trusted_plugin(sha256: str) -> TrustedPlugin | None:
    """The plugin of a hash, if the user of this machine has named it before."""
    entry = _read()[0]["plugins"].get(sha256)
    return None if entry is None else TrustedPlugin(sha256, entry["name"], entry["path"])


def is_trusted_server(address: str) -> bool:
    """Whether the user of this machine has named this tracking server before."""
    return address in _read()[0]["servers"]


def trust_problem() -> str:
    """Why what was noted does not count, in words; nothing if it does."""
    return _read()[1]


def remember_plugin(plugin: TrustedPlugin) -> bool:
    """Note a plugin that the user named. Returns whether it is noted."""
    entry = {"name": plugin.name[:1000], "path": plugin.path[:4096]}
    return _remember("plugins", plugin.sha256, entry)


def remember_server(address: str) -> bool:
    """Note a tracking server that the user named. Returns whether it is noted."""
    return len(address) <= 1000 and _remember("servers", address, {})


def _nothing() -> dict[_Kind, dict[str, dict[str, str]]]:
    return {"plugins": {}, "servers": {}}


def _read() -> tuple[dict[_Kind, dict[str, dict[str, str]]], str]:
    """(what is noted, why it does not count)."""
    path = trust_file()
    if path is None:
        return _nothing(), "there is no home folder"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _nothing(), ""
    except OSError as error:
        return _nothing(), f"{path}: {error.strerror}"
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        wrong = _unsafe(status) or _unsafe_folder(path.parent)
        if wrong:
            return _nothing(), f"{path} {wrong}"
        try:
            data = file.read(MAX_BYTES + 1)
            return _checked(json.loads(data) if len(data) <= MAX_BYTES else None), ""
        except (OSError, ValueError, RecursionError):
            return _nothing(), f"{path} is damaged"


def _unsafe(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return "may be written by others (chmod 600)" if status.st_mode & 0o022 else ""


def _unsafe_folder(folder: Path) -> str:
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o002:
        return "lies in a folder that others may write"
    return ""


def _checked(tree: Any) -> dict[_Kind, dict[str, dict[str, str]]]:
    """What was read, without entries that make no sense.

    Raises:
        ValueError: It is not what this module writes.
    """
    if not isinstance(tree, dict) or tree.get("schema_version") != SCHEMA_VERSION:
        raise ValueError("another format")
    found = _nothing()
    for kind in _KINDS:
        entries = tree.get(kind, {})
        if not isinstance(entries, dict):
            raise ValueError("another format")
        needed = ("name", "path", "time") if kind == "plugins" else ("time",)
        for key, entry in entries.items():
            whole = isinstance(entry, dict) and all(isinstance(entry.get(n), str) for n in needed)
            if whole and (kind == "servers" or _SHA256.fullmatch(key)):
                found[kind][key] = {name: entry[name] for name in needed}
    return found


def _remember(kind: _Kind, key: str, entry: dict[str, str]) -> bool:
    path = trust_file()
    if path is None:
        return False
    known = _read()[0][kind].get(key)
    if known is not None and known.get("path", "") == entry.get("path", ""):
        return True
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        guard = path.with_name(".trusted.lock")
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with exclusive(os.open(guard, flags, 0o600)):
            content, problem = _read()
            if problem:
                return False
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            entries = content[kind] | {key: entry | {"time": now}}
            newest = sorted(entries, key=lambda k: entries[k]["time"], reverse=True)[:MAX_ENTRIES]
            content[kind] = {k: v for k, v in entries.items() if k in set(newest)}
            tree: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
            tree.update((name, entries) for name, entries in content.items())
            write_atomic(path, json.dumps(tree, indent=1).encode(), mode=0o600)
    except OSError:
        return False
    return True
