"""Which files of a folder travel to a cluster: code that was meant to, and never a key.

Of a plugin's folder go the files that git tracks; outside a work tree its Python files. Links,
hidden files and what is named or begins like a key or a list of passwords stay at home even if
tracked. A file that is named (`submit --send FILE`) goes, unless it is a link.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rayloom.core.errors import UserError
from rayloom.core.text import one_line
from rayloom.records.environment import run_git

_NO_CODE = {"__pycache__", "node_modules"}
_KEY_NAME = re.compile(
    r"""
    .*\.env(?:\..*)? | \.?envrc
    | .*\.(?:pem|key|p8|p12|pfx|jks|keystore|kdbx?|ppk|asc|gpg|pgp|der|crt|cer|ovpn|tfstate|tfvars)
    | .*\.(?:tfstate|pem|key)\..*
    | id_(?:rsa|dsa|ecdsa|ed25519|xmss)\w*.*
    | [._]?(?:netrc|pgpass|npmrc|pypirc|git-credentials|htpasswd|dockercfg|boto|s3cfg|my\.cnf)
    | kube_?config.* | .*\.kubeconfig
    | (?:.*[._-])?(?:credentials?|secrets?|passwords?|passwd|api_?keys?)(?:[._-].*)?
    | (?:(?:auth|api|access|my|hf|github|gitlab|bot)[._-])?tokens?(?:\.\w+)?
    | .*service[._-]?account.*\.json | client_secret.* | .*_rsa | authorized_keys
    """,
    re.IGNORECASE | re.VERBOSE,
)
_KEY_FOLDER = {".aws", ".ssh", ".gnupg", ".kube", ".docker", ".azure", ".gcloud", ".git", ".config"}
_PRIVATE = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File|AGE-SECRET-KEY-1")
_HEAD_BYTES = 65536


@dataclass
class Cargo:
    """What of a folder travels.

    Attributes:
        folder: The folder.
        files: Paths in it, relative, sorted.
        left_out: Relative path to the reason why it stays.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def remarks(self, limit: int = 12) -> list[str]:
        """What stays at home, in lines for a person: by reason, with names."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(one_line(name))
        lines = []
        for why, names in sorted(reasons.items()):
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            lines.append(
                f"not sent of {self.folder.name}/ ({why}): {', '.join(names[:limit])}{more}"
            )
        if lines:
            lines.append("a file that the job needs is sent with --send FILE")
        return lines


def is_key_like(relative: Path) -> bool:
    """Whether a name is one under which people keep keys, tokens or passwords.

    Python files are code whatever their name (`secrets.py`).
    """
    if any(part.lower() in _KEY_FOLDER for part in relative.parts[:-1]):
        return True
    return relative.suffix != ".py" and _KEY_NAME.fullmatch(relative.name) is not None


def pack(folder: Path, *, named: Iterable[Path] = (), everything: bool = False) -> Cargo:
    """Choose what of a folder travels.

    Args:
        folder: A plugin's folder.
        named: Files that the user named; those in the folder go whatever their name.
        everything: Whether untracked files and other kinds go, too: rayloom's own packages.

    Raises:
        UserError: A named file is a link or no file, or the folder would be no package.
    """
    cargo = Cargo(folder)
    wanted = {_named(path, folder) for path in named}
    listed = None if everything else run_git(folder, "ls-files", "-z", "--cached", "--", ".")
    tracked = None if listed is None else {Path(name) for name in listed.split("\0") if name}
    for relative, mode in _walk(folder, Path()):
        why = _reason(folder, relative, mode, tracked, everything)
        if relative in wanted or not why:
            cargo.files.append(relative)
        elif why != "-":
            cargo.left_out[relative.as_posix()] = why
    cargo.files.sort()
    if not everything and Path("__init__.py") not in cargo.files:
        why = cargo.left_out.get("__init__.py", "missing")
        raise UserError(
            f"the plugin {folder} cannot be sent: its __init__.py is {why}. `git add` its files, or"
            " name each with --send FILE"
        )
    return cargo


def _named(path: Path, folder: Path) -> Path | None:
    """A named file relative to a folder; None where it lies elsewhere."""
    whole = Path(os.path.normpath(path.expanduser().absolute()))
    place = whole.parent.resolve() / whole.name
    if not place.is_relative_to(folder.resolve()):
        return None
    if place.is_symlink() or not place.is_file():
        what = "a link: name the file itself" if place.is_symlink() else "no file"
        raise UserError(f"--send {path} is {what}")
    return place.relative_to(folder.resolve())


def _walk(folder: Path, relative: Path) -> Iterator[tuple[Path, int]]:
    """Everything below a folder but folders, with its mode; links are not followed."""
    with os.scandir(folder / relative) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            below = relative / entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if entry.name not in _NO_CODE:
                    yield from _walk(folder, below)
            else:
                yield below, mode


def _reason(
    folder: Path, relative: Path, mode: int, tracked: set[Path] | None, everything: bool
) -> str:
    """Why a file stays; "" if it goes, "-" if nobody misses it."""
    hidden = any(part.startswith(".") for part in relative.parts)
    if relative.suffix in (".pyc", ".pyo") or relative.name.endswith(".so.dbg"):
        return "-"
    if ".git" in relative.parts or (hidden and everything):
        return "-"
    if stat.S_ISLNK(mode):
        return "a link"
    if not stat.S_ISREG(mode):
        return "no file"
    if is_key_like(relative):
        return "named like a key or a secret"
    if hidden:
        return "hidden"
    if not everything and tracked is not None and relative not in tracked:
        return "not tracked by git"
    if not everything and tracked is None and relative.suffix != ".py":
        return "no Python file, and not in a git work tree"
    with open(folder / relative, "rb") as file:
        if relative.suffix != ".py" and _PRIVATE.search(file.read(_HEAD_BYTES)):
            return "holds a private key"
    return ""


def copy(source: Path, target: Path) -> None:
    """Copy one file that is no link.

    Raises:
        UserError: It has become a link.
    """
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise UserError(f"{source} cannot be sent: {error.strerror}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(handle, "rb") as file:
        target.write_bytes(file.read())
