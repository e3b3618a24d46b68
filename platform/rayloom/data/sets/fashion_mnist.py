"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28x28 grey (Xiao et al., 2017, 1708.07747).

Splits, order and labels are the authors'. Ways to the files, in order: a local folder, the
authors' address, the Debian package `dataset-fashion-mnist`. Whatever the way, the uncompressed
content must have the SHA-256 below.
"""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.sets import fetch
from rayloom.data.store.writer import StoreWriter

ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
FILES = {  # name: SHA-256 of the uncompressed content
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_LONGEST = 47_040_016  # bytes of the largest file, uncompressed
_ADVICE = (
    "Put the four files (*-ubyte.gz) into a folder and name it: "
    "`rayloom data prepare fashion-mnist --source FOLDER`, data.source or RAYLOOM_DATA_SOURCE"
)


class FashionMNIST:
    """Fields: `image` uint8 (1, 28, 28) and `label` int64; splits `train` and `test`."""

    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((1, 28, 28), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 10),
    }

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store.

        Args:
            folder: Where the store will be.
            source: Local folder with the four files, gzipped or not.

        Raises:
            UserError: No way led to the files; tells the reason of each.
        """
        with tempfile.TemporaryDirectory(prefix="rayloom-fashion-") as work:
            ways: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
                ("a local folder", lambda: from_folder(source)),
                ("the official address", from_address),
                (f"the Debian package {DEBIAN_PACKAGE}", lambda: from_debian(Path(work))),
            ]
            content, way = fetch.first_that_works(folder.name, ways, advice=_ADVICE)
        with StoreWriter(
            folder,
            self.fields,
            source=f"Fashion-MNIST (Zalando Research), from {way}",
            licence="MIT",
            description="60,000 + 10,000 pictures of clothes, 28x28 grey, 10 classes",
            classes={"label": CLASSES},
        ) as writer:
            for split, stem in (("train", "train"), ("test", "t10k")):
                image = parse_idx(content[f"{stem}-images-idx3-ubyte"])[:, None]
                label = parse_idx(content[f"{stem}-labels-idx1-ubyte"]).astype(np.int64)
                writer.add(split, {"image": image, "label": label})


def parse_idx(data: bytes) -> np.ndarray:
    """The uint8 array in an IDX file.

    Raises:
        ValueError: The bytes are no IDX file of unsigned bytes.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError("not an IDX file of unsigned bytes")
    axes = data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">i4", axes, 4))
    if min(shape, default=0) < 0 or len(data) - 4 - 4 * axes != int(np.prod(shape)):
        raise ValueError(f"IDX header says {shape}, the content has another size")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def from_folder(source: Path | None) -> dict[str, bytes]:
    """Content of the files in a local folder, or in its subfolder `fashion-mnist`."""
    places = ["", "fashion-mnist"]
    try:
        paths = fetch.local_files(source, places, [f"{name}.gz" for name in FILES])
    except fetch.Unavailable as reason:
        try:
            paths = fetch.local_files(source, places, list(FILES))
        except fetch.Unavailable:
            raise reason from None
    content = {}
    for (name, sha256), path in zip(FILES.items(), paths, strict=True):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise fetch.Unavailable(f"{path} cannot be read ({error.strerror})") from None
        data = _gunzip(data, str(path)) if path.suffix == ".gz" else data
        content[name] = fetch.check_sha256(data, sha256, str(path))
    return content


def from_address() -> dict[str, bytes]:
    """Content of the files at the authors' address."""
    content = {}
    for name, sha256 in FILES.items():
        url = f"{ADDRESS}{name}.gz"
        data = _gunzip(fetch.download(url, limit=_LONGEST), url)
        content[name] = fetch.check_sha256(data, sha256, url)
    return content


def from_debian(work: Path) -> dict[str, bytes]:
    """Content of the files in the Debian package."""
    unpacked = fetch.debian_package(DEBIAN_PACKAGE, work)
    return from_folder(unpacked / "usr" / "share" / "datasets" / "fashion-mnist")


def _gunzip(data: bytes, what: str) -> bytes:
    """Uncompressed content, at most as long as the longest file is."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(data, _LONGEST + 1)
    except zlib.error:
        raise fetch.Unavailable(f"{what} is not a gzip file") from None
    if len(content) > _LONGEST:
        raise fetch.Unavailable(f"{what} holds more than it should")
    return content
