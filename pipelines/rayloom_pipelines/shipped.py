"""Where configs live: a path of one's own, a checkout's `configs/`, or those in the wheel."""

from collections.abc import Mapping
from pathlib import Path

from rayloom.core.errors import UserError, meant, nearest

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = (_PACKAGE.parents[1] / "configs", _PACKAGE / "configs")
_MOVED = {"generative": "autoencoders"}  # folders of names that were published before


def config_folders() -> list[Path]:
    """Folders of named configs, the first wins: the working folder's, the checkout's, the wheel's.

    `./configs` counts only when it holds a folder that shipped configs use (`autoencoders`, `rl`).
    """
    shipped = [folder for folder in _SHIPPED if folder.is_dir()]
    families = {family.name for folder in shipped for family in folder.iterdir()} | set(_MOVED)
    here = Path.cwd() / "configs"
    found = [here] if any((here / family).is_dir() for family in families) else []
    return list(dict.fromkeys([*found, *shipped]))


def config_names() -> dict[str, Path]:
    """Every named config, such as `autoencoders/vae-digits`, and its file."""
    names: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            names.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return names


def whole_name(word: str) -> str:
    """The name of the config that a word means: itself, its name of before, or the last part.

    A word that means none is given back, and so is one that ends in .yaml or .yml or names a file.

    Raises:
        UserError: Several names end so.
    """
    if Path(word).suffix in (".yaml", ".yml") or Path(word).is_file():
        return word
    return _whole(word, config_names())


def _whole(word: str, known: Mapping[str, Path]) -> str:
    folder, _, stem = word.rpartition("/")
    for name in (word, f"{_MOVED.get(folder, folder)}/{stem}"):
        if name in known:
            return name
    ends_so = sorted(name for name in known if name.rpartition("/")[2] == word)
    if len(ends_so) > 1:
        raise UserError(f"several configs are called {word!r}: {', '.join(ends_so)}; say which")
    return ends_so[0] if ends_so else word


def find_config(name: str) -> Path:
    """The file of a config given as a path, a name, or the last part of one name.

    A word that ends in .yaml or .yml, or that names an existing file, is a path.

    Raises:
        UserError: There is no such file or name, or several end so; tells the nearest name and all
            of them.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_dir():
            raise UserError(f"{name}: a folder, not a config file")
        if not path.is_file():
            raise UserError(f"{name}: there is no such config file")
        return path
    known = config_names()
    whole = _whole(name, known)
    if whole in known:
        return known[whole]
    short = {known_name.rpartition("/")[2]: known_name for known_name in known}
    near = nearest(name, [*known, *short])
    hint = meant(short.get(near, near) if near else None) or "."
    raise UserError(f"no config is called {name!r}{hint} Known: {', '.join(sorted(known))}")
