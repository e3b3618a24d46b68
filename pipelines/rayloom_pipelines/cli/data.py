"""`rayloom data`: prepare, import, show, export data sets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.text import one_line
from rayloom_pipelines.cli.options import Parser, action

ACTIONS = {
    "prepare": "make the store of a catalogue data set",
    "import": "make a store of your own images, .npy, .npz, Parquet or text",
    "show": "what a data set holds; without a name, which stores there are",
    "export": "write a data set as Parquet",
}
MOST_CLASSES = 50  # printed after an import


def run(argv: Sequence[str]) -> int:
    """One of the actions."""
    name, words = action(argv, "data", ACTIONS)
    if name == "help":
        return 0
    return {"prepare": _prepare, "import": _import, "show": _show, "export": _export}[name](words)


def _parser(name: str) -> Parser:
    made = Parser(f"data {name}", ACTIONS[name].capitalize() + ".")
    made.add_argument("--root", metavar="FOLDER", help="folder of the stores")
    return made


def _prepare(argv: Sequence[str]) -> int:
    parser = _parser("prepare")
    parser.add_argument("name", metavar="NAME", help="from `rayloom list datasets`")
    parser.add_argument("--source", metavar="FOLDER", help="local folder with the raw files")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the data set's maker, as data.options in a config; as often as you like",
    )
    parser.add_argument("--force", action="store_true", help="make it again")
    given = parser.read(argv)
    from rayloom.data.preparation import prepare

    made = prepare(
        given.name,
        root=given.root,
        source=given.source,
        options=_options(given.option),
        force=given.force,
    )
    _say_made(made)
    return 0


def _options(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE`s as plain data; values as YAML has them."""
    import yaml

    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key:
            raise UserError(f"--option {word!r}: write KEY=VALUE, such as num_train=500")
        found[key] = value
    return found


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _import(argv: Sequence[str]) -> int:
    parser = _parser("import")
    parser.add_argument(
        "path", metavar="PATH", help="folder of images, .npy, .npz, .parquet, .txt, .jsonl"
    )
    parser.add_argument("name", metavar="NAME", help="configs then say data.name=NAME")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="images: side length")
    parser.add_argument(
        "--columns", type=_names, default=(), metavar="A,B", help="Parquet: use these only"
    )
    parser.add_argument(
        "--vector", type=_names, default=(), metavar="A,B", help="Parquet: join these into `vector`"
    )
    parser.add_argument(
        "--keys", type=_names, default=(), metavar="A,B", help=".npz: use these arrays only"
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "image", "vector"),
        default="auto",
        help="arrays: what the .npy, or `x`, `data`, `image*` of an .npz, hold",
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "chw", "hwc"),
        default="auto",
        help="arrays of pictures: channels first or last",
    )
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=KIND",
        help="what a key, a column or a folder of pairs holds: image, mask, label, vector, tokens, "
        "text; as often as you like",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND", help="text: chars, bytes or bpe:N (N tokens in all)"
    )
    parser.add_argument("--test-fraction", type=float, default=0.1, metavar="F")
    parser.add_argument("--force", action="store_true", help="replace a data set of that name")
    given = parser.read(argv)
    from rayloom.data.imports.importing import import_data
    from rayloom.data.imports.kinds import parse_fields

    made = import_data(
        given.path,
        given.name,
        root=given.root,
        size=given.size,
        columns=given.columns,
        vector=given.vector,
        keys=given.keys,
        layout=given.layout,
        kind=given.kind,
        tokenizer=given.tokenizer,
        fields=parse_fields(given.field),
        test_fraction=given.test_fraction,
        force=given.force,
    )
    _say_made(made)
    _say_content(made)
    return 0


def _say_content(made: Any) -> None:
    """Fields, classes with counts, and what to know of a data set that was imported."""
    from rayloom.data.description import caveats, class_counts

    for name, field in made.spec.fields.items():
        print(one_line(f"{'field':<8} {name}: {field.dtype} {field.shape} {field.kind}"))
    for key, classes in class_counts(made).items():
        start = "class" if key == "label" else f"class of {key}"
        for name, counts in classes[:MOST_CLASSES]:
            said = ", ".join(f"{split} {count:,}" for split, count in counts.items())
            print(f"{start:<8} {one_line(name)}: {said}")
        if len(classes) > MOST_CLASSES:
            more = f"{len(classes) - MOST_CLASSES:,} more, {len(classes):,} in all"
            print(f"{start:<8} and {more}: rayloom data show {made.name}")
    for note in (*made.notes, *caveats(made)):
        print(f"{'note':<8} {one_line(note)}")


def _say_made(made: Any) -> None:
    """Splits with counts, place and fingerprint of a store."""
    rows = ", ".join(f"{name} {len(made.split(name)):,}" for name in made.splits)
    print(one_line(f"{made.name}: {rows} in {made.folder}, fingerprint {made.fingerprint[:12]}"))


def _show(argv: Sequence[str]) -> int:
    parser = _parser("show")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.json_option()
    given = parser.read(argv)
    if given.name is None:
        from rayloom.data.preparation import data_root, stored

        names = stored(given.root)
        if given.json:
            print(json.dumps(names))
        else:
            print("\n".join(names) or f"no data sets in {data_root(given.root)}")
        return 0
    from rayloom.config.sections import DataConfig
    from rayloom.data import open_dataset
    from rayloom.data.description import describe

    about = describe(open_dataset(DataConfig(name=given.name, root=given.root)))
    if given.json:
        print(json.dumps(about, indent=1))
        return 0
    for key in ("name", "description", "source", "licence", "fingerprint", "folder", "bytes"):
        print(one_line(f"{key:<12} {about[key]}"))
    for name, field in about["fields"].items():
        print(
            one_line(
                f"{'field':<12} {name}: {field['dtype']} {tuple(field['shape'])} {field['kind']}"
            )
        )
        if field["classes"]:
            print(one_line(f"{'classes':<12} {_some(field['classes'])}"))
    for name, split in about["splits"].items():
        seen = "" if split["examples"] == split["rows"] else f", of {split['examples']:,} of them"
        print(one_line(f"{'split':<12} {name}: {split['rows']:,} rows{seen}"))
        for key, numbers in split["fields"].items():
            print(one_line(f"{'':<12}   {key}: {_statistics(numbers)}"))
    return 0


def _statistics(numbers: Mapping[str, Any]) -> str:
    """One line for what `describe` says of a field."""
    parts = []
    if "counts" in numbers:
        parts.append(f"counts {_some(numbers['counts'])}")
    if "mean" in numbers:
        parts += [f"{name} {numbers[name]:.4g}" for name in ("mean", "std", "min", "max")]
    if "length" in numbers:
        length = numbers["length"]
        parts.append(f"length {length['min']} to {length['max']}, mean {length['mean']:.4g}")
    return ", ".join(parts)


def _some(values: Sequence[object], most: int = 20) -> str:
    shown = " ".join(map(str, values[:most]))
    return f"{shown} ... ({len(values)} in all)" if len(values) > most else shown


def _export(argv: Sequence[str]) -> int:
    parser = _parser("export")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    given = parser.read(argv)
    from rayloom.config.sections import DataConfig
    from rayloom.data import open_dataset
    from rayloom.data.exporting import export_parquet

    dataset = open_dataset(DataConfig(name=given.name, root=given.root))
    for path in export_parquet(dataset, Path(given.out), force=given.force):
        print(path)
    return 0
