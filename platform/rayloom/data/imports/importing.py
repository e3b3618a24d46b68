"""One's own data: the door that picks the way in by the path.

Splits: given by folder or file names where those say `train`, `test` or `validation`; else
`test_fraction` of the examples, chosen by a hash, so that the same data split the same way
everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rayloom.core.errors import UserError
from rayloom.data.dataset import Dataset
from rayloom.data.imports.checks import PARQUET
from rayloom.data.imports.kinds import parse_fields
from rayloom.data.names import listed, one_form


def import_data(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    columns: Sequence[str] = (),
    vector: Sequence[str] = (),
    keys: Sequence[str] = (),
    layout: str = "auto",
    kind: str = "auto",
    tokenizer: str | None = None,
    fields: Mapping[str, str] | None = None,
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of one's own data: a folder of images, `.npy`, `.npz`, Parquet or text.

    Args:
        path: A folder of images, a folder of Parquet files named after splits, a folder of texts,
            or one file.
        name: Name of the data set; configs then say `data: {name: NAME}`.
        root: Folder of the stores; see `prepare.data_root`.
        size: Images: side length in pixels to crop and scale to.
        columns: Parquet: columns to use; all by default.
        vector: Parquet: numeric columns to be joined into one float32 field `vector`.
        keys: `.npz`: arrays to use; all by default.
        layout: Arrays: where the channels of pictures are: `chw`, `hwc`, or `auto`.
        kind: Arrays: what they hold: `image`, `vector`, or `auto`.
        fields: Kind by name of a key, a column or a folder of pairs, where it is not what the name
            says: `image`, `mask`, `label`, `vector`, `tokens`, `text`.
        tokenizer: Text: `chars`, `bytes` or `bpe:N`.
        test_fraction: Part of the examples that becomes the split `test` where names say nothing.
        force: Replace a data set of that name.

    Raises:
        UserError: Names the file that cannot be used, and says what would be right.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    arrays = path.is_file() and suffix in (".npy", ".npz")
    table = _is_table(path)
    text = not table and _is_text(path)
    flags = [
        ("--columns and --vector", columns or vector, table, "Parquet"),
        ("--keys", keys, arrays and suffix == ".npz", ".npz"),
        ("--layout and --kind", (layout, kind) != ("auto", "auto"), arrays, ".npy and .npz"),
        ("--tokenizer", tokenizer is not None, text, ".txt and .jsonl"),
        (
            "--size",
            size is not None,
            not arrays and not text,
            "images in a folder or in Parquet, not for arrays and text",
        ),
    ]
    said = {one_form(name): kind for name, kind in (fields or {}).items()}
    parse_fields([f"{name}={kind}" for name, kind in said.items()])
    flags.append(
        (
            "--field",
            bool(said),
            table or path.is_dir() or (arrays and suffix == ".npz"),
            ".npz, Parquet and folders of pairs",
        )
    )
    for flag, given, fits, what in flags:
        if given and not fits:
            raise UserError(f"{path}: {flag}: for {what}")
    if table:
        from rayloom.data.imports.tables import import_table

        return import_table(
            path,
            name,
            root=root,
            columns=columns,
            vector=vector,
            size=size,
            said=said,
            test_fraction=test_fraction,
            force=force,
        )
    if text:
        from rayloom.data.imports.texts import import_texts

        return import_texts(
            path,
            name,
            root=root,
            tokenizer=tokenizer,
            test_fraction=test_fraction,
            force=force,
        )
    if path.is_dir():
        from rayloom.data.imports.images import import_images
        from rayloom.data.imports.pairs import import_pairs, roles_of

        pairs = roles_of(path, said)
        if pairs is not None:
            return import_pairs(
                path.absolute(),
                name,
                *pairs,
                root=root,
                size=size,
                test_fraction=test_fraction,
                force=force,
            )

        return import_images(
            path, name, root=root, size=size, test_fraction=test_fraction, force=force
        )
    if arrays:
        from rayloom.data.imports.arrays import import_arrays

        return import_arrays(
            path,
            name,
            root=root,
            keys=keys,
            layout=layout,
            kind=kind,
            said=said,
            test_fraction=test_fraction,
            force=force,
        )
    hint = ""
    if suffix in (".csv", ".tsv"):
        hint = '; pandas turns it into Parquet: pandas.read_csv("in.csv").to_parquet("out.parquet")'
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        hint = "; unpack it first"
    raise UserError(
        f"{path}: cannot import {suffix or 'a file without a suffix'}; "
        f"what can: a folder of images, .npy, .npz, .parquet, .txt, .jsonl{hint}"
    )


def _is_text(path: Path) -> bool:
    """Whether it is text, or a folder with texts and no pictures (a picture's caption is none)."""
    from rayloom.data.imports.layout import SUFFIXES
    from rayloom.data.imports.texts import is_text

    if path.is_dir() and any(f.suffix.lower() in SUFFIXES for f in path.rglob("*")):
        return False
    return is_text(path)


def _is_table(path: Path) -> bool:
    """Whether it is a Parquet file, or a folder of such and of nothing else that could be meant."""
    if not path.is_dir():
        return path.suffix.lower() in PARQUET
    from rayloom.data.imports.layout import SUFFIXES

    by_kind: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()):
        suffix = file.suffix.lower()
        known = "table" if suffix in PARQUET else "picture" if suffix in SUFFIXES else ""
        if known and not file.name.startswith("."):
            by_kind.setdefault(known, []).append(file.name)
    if len(by_kind) == 2:
        raise UserError(
            f"{path}: holds Parquet ({listed(by_kind['table'], 3)}) and pictures "
            f"({listed(by_kind['picture'], 3)}); give each a folder of its own"
        )
    return "table" in by_kind
