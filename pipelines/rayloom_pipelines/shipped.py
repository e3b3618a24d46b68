"""Where configs live: a path of one's own, a checkout's `configs/`, or those in the wheel."""

from pathlib import Path

from rayloom.core.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent


def config_folders() -> list[Path]:
    """Folders of named configs, the first wins: the working folder's, the checkout's, the wheel's.

    `./configs` counts only when it holds a folder that shipped configs use (`generative`, `rl`).
    """
    here = Path.cwd() / "configs"
    found = []
    if (here / "generative").is_dir() or (here / "rl").is_dir():
        found.append(here)
    found += [_PACKAGE.parents[1] / "configs", _PACKAGE / "configs"]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def config_names() -> dict[str, Path]:
    """Every named config, such as `generative/vae-digits`, and its file."""
    names: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            names.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return names


def find_config(name: str) -> Path:
    """The file of a config given as a path or a name.

    A word that ends in .yaml or .yml, or that names an existing file, is a path.

    Raises:
        UserError: There is no such file or name; tells the nearest name and all of them.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_dir():
            raise UserError(f"{name}: a folder, not a config file")
        if not path.is_file():
            raise UserError(f"{name}: there is no such config file")
        return path
    known = config_names()
    if name in known:
        return known[name]
    short = {known_name.rpartition("/")[2]: known_name for known_name in known}
    near = short.get(name) or nearest(name, [*known, *short])
    near = short.get(near, near) if near else None
    hint = f"; did you mean {near!r}?" if near else "."
    raise UserError(f"no config is called {name!r}{hint} Known: {', '.join(sorted(known))}")
