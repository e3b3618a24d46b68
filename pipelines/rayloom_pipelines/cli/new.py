"""`rayloom new`: a working starting file, its config and its test."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template

from rayloom.catalogue import Kind, lookup
from rayloom.config.yaml_marks import resolve_plain
from rayloom.core.errors import UserError
from rayloom_pipelines.cli.options import Parser, action
from rayloom_pipelines.shipped import config_names

KINDS: dict[str, Kind] = {"model": "models", "algorithm": "algorithms", "env": "envs"}
_TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def run(argv: Sequence[str]) -> int:
    """Write NAME.py, NAME.yaml and test_NAME.py into the folder `--to`."""
    kind, words = action(
        argv,
        "new",
        {
            "model": "a generative model with a likelihood, on the digits",
            "algorithm": "an on-policy learner, on CartPole",
            "env": "a Gymnasium environment, with DQN",
        },
    )
    if kind == "help":
        return 0
    parser = Parser(f"new {kind}", "Write a working starting file, its config and its test.")
    parser.add_argument("name", metavar="NAME", help="name in configs, such as my-vae")
    parser.add_argument("--from", dest="source", metavar="NAME", help="start from a copy of this")
    parser.add_argument("--to", default=".", metavar="FOLDER", help="where to write; default: here")
    given = parser.read(words)
    written = write_files(kind, given.name, source=given.source, folder=Path(given.to))
    stem = written[0].stem
    print("wrote " + ", ".join(str(path) for path in written))
    folder = written[0].parent
    print(f"train it:  rayloom train {folder / stem}.yaml --plugin {folder / stem}.py")
    print(f"test it:   pytest {written[2]}")
    return 0


def write_files(kind: str, name: str, *, source: str | None, folder: Path) -> list[Path]:
    """The file, its config and its test, in that order.

    Raises:
        UserError: The name is no name or taken, or a file is there already.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*", name):
        raise UserError(f"{name!r}: a name is letters, digits and single - or _, such as my-vae")
    catalogue = KINDS[kind]
    _must_be_free(catalogue, name)
    stem = name.replace("-", "_").lower()
    class_name = "".join(
        part if part.isupper() else part[:1].upper() + part[1:] for part in re.split("[-_]", name)
    )
    if iskeyword(class_name) or not isinstance(resolve_plain(name), str):
        raise UserError(f"{name!r} is a word of YAML or Python; choose another name")
    fill = {"name": name, "file": stem, "Class": class_name}
    paths = [folder / f"{stem}.py", folder / f"{stem}.yaml", folder / f"test_{stem}.py"]
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise UserError(f"{', '.join(there)}: there already; nothing was written")
    texts = [_template(f"{kind}{part}.txt", fill) for part in (".py", ".yaml", "_test.py")]
    if source is not None:
        texts[0] = _copy_code(catalogue, source, name, class_name)
        texts[1] = _copy_config(kind, source, name, stem, texts[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _must_be_free(kind: Kind, name: str) -> None:
    try:
        taken = lookup(kind, name)
    except UserError:
        return
    raise UserError(f"{taken.source} has a {kind[:-1]} called {name!r} already; choose another")


def _template(file: str, fill: dict[str, str]) -> str:
    return Template((_TEMPLATES / file).read_text(encoding="utf-8")).substitute(fill)


def _copy_code(kind: Kind, source: str, name: str, class_name: str) -> str:
    """The source file of a catalogue entry with its class, config and name changed."""
    entry = lookup(kind, source)
    module, _, old_class = entry.target.partition(":")
    spec = find_spec(module) if old_class else None
    if spec is None or spec.origin is None:
        raise UserError(f"{source!r} comes from {entry.source}; copy that file instead")
    text = Path(spec.origin).read_text(encoding="utf-8")
    for suffix in ("Config", ""):
        text = re.sub(rf"\b{old_class}{suffix}\b", f"{class_name}{suffix}", text)
    text = text.replace(f'Literal["{source}"] = "{source}"', f'Literal["{name}"] = "{name}"')
    limit = _time_limit(source) if kind == "envs" else None
    if limit:  # of the registered id; a plugin's class says it itself
        text += f"\n\n{class_name}.max_episode_steps = {limit}  # type: ignore[attr-defined]"
    return f'{text}\n\nCATALOGUE = {{"{kind}": {{"{name}": {class_name}}}}}\n'


def _time_limit(name: str) -> int | None:
    """Steps after which Gymnasium truncates an episode of a registered id."""
    import gymnasium

    import rayloom_envs  # noqa: F401  (registers its ids)

    registered = gymnasium.registry.get(name)
    return registered.max_episode_steps if registered is not None else None


def _copy_config(kind: str, source: str, name: str, stem: str, default: str) -> str:
    """The first shipped config that uses `source`, with the name changed."""
    for name_of, path in config_names().items():
        text = path.read_text(encoding="utf-8")
        pattern = rf"^({kind}:\s*(?:\{{\s*|\n\s+)name:\s*){re.escape(source)}\b"
        found, count = re.subn(pattern, rf"\g<1>{name}", text, count=1, flags=re.M)
        if count:  # a base beside the shipped file is named as the shipped one that it is
            folder = name_of.rpartition("/")[0]
            found = re.sub(r"^extends: (\S+)\.yaml", rf"extends: {folder}/\1", found, flags=re.M)
            return f"# {name}: rayloom train {stem}.yaml --plugin {stem}.py\n{found}"
    return default
