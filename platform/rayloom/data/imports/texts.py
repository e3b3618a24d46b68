"""Text into a store: `.txt`, `.jsonl`, or a folder of them; the field `tokens` and its tokenizer.

One text is one example (`data.rows` cuts windows or lanes of it). Splits are contiguous: of several
texts each is in one split, a single one is cut at the end of a line; never by windows, which share
what they overlap with.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.imports.checks import check_import, label_codes, target_folder
from rayloom.data.names import LABEL_NAMES, check_distinct, listed, split_of
from rayloom.data.ordering import content_order, num_test, split_order
from rayloom.data.preparation import store_lock
from rayloom.data.store.residency import available_memory
from rayloom.data.store.writer import StoreWriter
from rayloom.data.text.tokenizers import Tokenizer, make_tokenizer

SUFFIXES = (".txt", ".jsonl", ".ndjson")
TEXT_KEYS = ("text", "content", "caption")
DEFAULT = "bytes"


@dataclass
class Found:
    """Texts by split, "" where no name says one; labels beside them, if any.

    Attributes:
        texts: The bytes of each text.
        places: Where each is from, for messages.
        labels: Of each text; empty where there are none.
        notes: What was passed over.
    """

    texts: dict[str, list[bytes]] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, split: str, place: str, text: bytes) -> None:
        """One more text."""
        self.texts.setdefault(split, []).append(text)
        self.places.setdefault(split, []).append(place)


def import_texts(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    tokenizer: str | None = None,
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of text.

    Args:
        path: A `.txt` (one text), a `.jsonl` (a text a line, under the key `text`), or a folder of
            `.txt` (a text each) or of `.jsonl` files named after splits.
        name: Name of the data set.
        root: Folder of the stores.
        tokenizer: `chars`, `bytes` or `bpe:N`; None: bytes.
        test_fraction: Part that becomes `test` where no name says which.
        force: Replace a data set of that name.

    Raises:
        UserError: Nothing to read, not UTF-8 where characters are asked for; names file and line.
    """
    path = Path(path).expanduser().absolute()
    target = target_folder(name, root, force=force)
    found = _read(path)
    if sum(len(text) for texts in found.texts.values() for text in texts) == 0:
        raise UserError(f"{path}: holds no text")
    splits = _split(found, test_fraction)
    texts = {k: [found.texts[s][n] for s, n in rows] for k, rows in splits.items()}
    if splits.keys() == {"train"} and len(splits["train"]) == 1 and test_fraction:
        texts = cut(texts["train"][0], test_fraction)
    made = _make(path, found, texts, tokenizer or DEFAULT)
    codes, classes = _labels(path, found)
    dtype = "uint8" if made.num_tokens <= 256 else "int32"
    fields = {"tokens": FieldSpec((-1,), dtype, "tokens", made.num_tokens)}
    if codes:
        fields["label"] = FieldSpec((), "int64", "label", classes[1], classes[0])
    check_import(path, fields)
    with (
        store_lock(target),
        StoreWriter(
            target,
            fields,
            source=f"text {path}",
            description=f"text as {tokenizer or DEFAULT}",
            tokenizers={"tokens": made.plain()},
        ) as writer,
    ):
        for split, parts in texts.items():
            for number, text in enumerate(parts):
                row: dict[str, Any] = {"tokens": [made.encode(text).astype(dtype)]}
                if codes:
                    where, place = splits[split][number]
                    row["label"] = codes[where][place : place + 1]
                writer.add(split, row)
    opened = open_store(target)
    opened.notes = (*found.notes, *_notes(made, tokenizer, texts))
    return opened


def _notes(
    made: Tokenizer, tokenizer: str | None, texts: Mapping[str, Sequence[bytes]]
) -> Iterator[str]:
    if tokenizer is None:
        yield "a token is a byte; --tokenizer chars or bpe:N makes others"
    asked = (tokenizer or "").partition(":")[2]
    if asked and made.num_tokens < int(asked):
        yield f"{made.num_tokens} tokens: no other pair occurs twice in the training text"
    lengths = ", ".join(f"{k} {sum(map(len, v)):,}" for k, v in texts.items())
    yield f"bytes of text: {lengths}"


def _make(path: Path, found: Found, texts: Mapping[str, Sequence[bytes]], words: str) -> Tokenizer:
    """The tokenizer, learnt from the training texts alone."""
    if words == "chars":  # say which text
        for split, parts in found.texts.items():
            for place, text in zip(found.places[split], parts, strict=True):
                try:
                    text.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{place}: byte {error.start} is no UTF-8 ({error.reason}); --tokenizer "
                        "bytes and bpe:N keep any bytes"
                    ) from None
    return make_tokenizer(words, texts["train"], [t for parts in texts.values() for t in parts])


def cut(text: bytes, fraction: float) -> dict[str, list[bytes]]:
    """One text in two contiguous parts: the end is the test split. Cut behind an end of line."""
    num_test(2, fraction)  # checks it
    place = round(len(text) * (1 - fraction))
    line = text.rfind(b"\n", 0, place) + 1 or place
    while 0 < line < len(text) and text[line] & 0xC0 == 0x80:  # not inside a character
        line -= 1
    if line <= 0 or line >= len(text):
        return {"train": [text]}
    return {"train": [text[:line]], "test": [text[line:]]}


def _split(found: Found, fraction: float) -> dict[str, list[tuple[str, int]]]:
    """(split as found, number in it) of the texts of each split."""
    if "" not in found.texts:
        if "train" not in found.texts:
            said = listed(found.texts)
            raise UserError(f"there are texts for {said}, but none for train; add it")
        return {k: [(k, n) for n in range(len(v))] for k, v in found.texts.items()}
    texts = found.texts[""]
    if len(texts) == 1:
        return {"train": [("", 0)]}
    order = content_order(texts, "texts")
    parts = split_order(order, fraction)
    # in a split the texts stand in the order in which they were found
    return {k: [("", int(n)) for n in np.sort(v)] for k, v in parts.items()}


def _labels(path: Path, found: Found) -> tuple[dict[str, np.ndarray], tuple[tuple[str, ...], int]]:
    """Codes of the labels by split as found, and (names, number) of the classes."""
    every = [label for labels in found.labels.values() for label in labels]
    if not every:
        return {}, ((), 0)
    if len(every) != sum(map(len, found.texts.values())):
        raise UserError(f"{path}: some lines have a label and others none")
    names: tuple[str, ...] = ()
    if all(isinstance(label, str) for label in every):
        codes, names = label_codes(every, str(path))
    elif all(isinstance(label, int) and not isinstance(label, bool) for label in every):
        codes = np.array(every, np.int64)
        if codes.min() < 0:
            raise UserError(f"{path}: labels must be 0 or more, found {codes.min()}")
    else:
        raise UserError(f"{path}: labels must be all text or all whole numbers")
    made, start = {}, 0
    for split, labels in found.labels.items():
        made[split] = codes[start : start + len(labels)]
        start += len(labels)
    return made, (names, len(names) or int(codes.max()) + 1)


def is_text(path: Path) -> bool:
    """Whether it is a file of text, or a folder of such."""
    if path.is_dir():
        return any(file.suffix.lower() in SUFFIXES for file in _files(path))
    return path.suffix.lower() in SUFFIXES


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _read(path: Path) -> Found:
    found = Found()
    if not path.is_dir():
        _read_file(found, "", path)
        return found
    files = _files(path)
    texts = [file for file in files if file.suffix.lower() in SUFFIXES]
    if len({file.suffix.lower() == ".txt" for file in texts}) > 1:
        raise UserError(f"{path}: holds .txt and .jsonl; give each a folder of its own")
    check_distinct([str(file.relative_to(path)) for file in texts], str(path), "files")
    said = {file: _said(file.relative_to(path)) for file in texts}
    silent = [file for file in texts if not said[file]]
    if silent and len(silent) < len(texts):
        raise UserError(
            f"{silent[0]}: says no split, others do: put it into a folder train, test or validation"
        )
    for file in texts:
        if not file.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{file}: a link that leads out of {path}; copy the file there")
        _read_file(found, said[file], file)
    others = len(files) - len(texts)
    if others:
        found.notes.append(f"passed over, no text by their names: {others} files")
    return found


def _said(file: Path) -> str:
    """The split that the name or the outermost folder of a file says, or ""."""
    return split_of(file.parts[0] if len(file.parts) > 1 else file.stem) or ""


def _read_file(found: Found, split: str, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file")
    size = path.stat().st_size
    if size > available_memory() // 16:  # numbers of 8 bytes, twice
        raise UserError(f"{path}: has {size:,} bytes, too many for the memory here; split it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix.lower() == ".txt":
        found.add(split, str(path), data)
        return
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            _read_line(found, split, f"{path}, line {number}", line)
    if not found.texts.get(split):
        raise UserError(f"{path}: has no lines")


def _read_line(found: Found, split: str, place: str, line: bytes) -> None:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is no JSON ({error})") from None
    keys = [key for key in TEXT_KEYS if isinstance(tree, dict) and key in tree]
    if not keys or not isinstance(tree[keys[0]], str):
        have = ", ".join(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise UserError(f'{place}: must be {{"text": "..."}}; it has: {have}')
    try:
        text = tree[keys[0]].encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: holds half a surrogate pair, which is no text") from None
    found.add(split, place, text)
    for key in tree:
        if str(key).casefold() in LABEL_NAMES:
            found.labels.setdefault(split, []).append(tree[key])
            break
