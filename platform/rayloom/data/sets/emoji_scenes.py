"""Emoji pasted by their alpha on photographs and textures, with the class of every pixel.

Emoji are those of `emoji`, without the category Component; photographs and textures those that the
library scikit-image (extra `scenes`) brings along, or a folder with them. A scene is a square piece
of a background, scaled, perhaps mirrored, and one to three emoji of 20 to 40 pixels, their
categories drawn evenly. A pixel has the class of the last emoji that covers it by half or more,
else `ground`. Split by base character and by background: neither is in both splits.

Scenes are numbered, and all that is drawn for one is a hash of its number: no generator is used.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from rayloom.config.base import Config, PositiveInt
from rayloom.core.protocols import FieldSpec
from rayloom.data.ordering import spread
from rayloom.data.sets import emoji, fetch
from rayloom.data.store.writer import StoreWriter

SIDE = 64
SIZES = (20, 40)  # pixels, of an emoji
CLASSES = ("ground", *(name for name in emoji.CATEGORIES if name != "Component"))
_DRAWS = 64  # numbers per scene
_ROWS = 500  # scenes written at once
_ADVICE = (
    "Install it (`pip install 'rayloom[scenes]'`), or put the files of its folder skimage/data "
    "into a folder and name it: `rayloom data prepare emoji-scenes --source FOLDER`"
)
BACKGROUNDS = {  # file: SHA-256, as in scikit-image 0.26
    "train": {
        "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        "camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        "hubble_deep_field.jpg": (
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"
        ),
        "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "motorcycle_left.png": ("db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
        "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    },
    "test": {
        "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
        "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    },
}


class EmojiScenesOptions(Config):
    """How many scenes."""

    num_train: PositiveInt = Field(5_000, le=1_000_000, description="scenes of the split train")
    num_test: PositiveInt = Field(1_000, le=1_000_000, description="scenes of the split test")
    most: PositiveInt = Field(3, le=8, description="emoji in a scene, at most")


class EmojiScenes:
    """Fields: `image` uint8 (3, 64, 64) and `mask` uint8 (64, 64)."""

    options_class = EmojiScenesOptions
    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((3, SIDE, SIDE), "uint8", "image"),
        "mask": FieldSpec((SIDE, SIDE), "uint8", "mask", len(CLASSES), CLASSES),
    }

    def prepare(
        self, folder: Path, *, source: Path | None = None, options: EmojiScenesOptions | None = None
    ) -> None:
        """Write the store.

        Args:
            folder: Where the store will be.
            source: Local folder with the emoji's package, scikit-image's pictures, or both.
            options: How many.

        Raises:
            UserError: No way led to the files; tells the reason of each.
        """
        options = options or EmojiScenesOptions()
        ways: list[tuple[str, Callable[[], dict[str, list[np.ndarray]]]]] = [
            ("a local folder", lambda: _from_folder(source)),
            ("the installed scikit-image", _from_package),
        ]
        grounds, _ = fetch.first_that_works(folder.name, ways, advice=_ADVICE)
        found, way = emoji.read(folder.name, source)
        with StoreWriter(
            folder,
            self.fields,
            source=f"npm package {emoji.PACKAGE} {emoji.VERSION}, from {way}, on scikit-image's "
            "photographs and textures",
            licence="Apache-2.0 (emoji); BSD-3-Clause and public domain (scikit-image's pictures)",
            description="emoji on photographs and textures, 64x64, the class of every pixel",
            options=options.model_dump(exclude_defaults=True),
        ) as writer:
            splits = emoji.split(found, "emoji-google")  # as there: no emoji changes sides
            for split, count in (("train", options.num_train), ("test", options.num_test)):
                painter = Painter(split, grounds[split], splits[split], options.most)
                for start in range(0, count, _ROWS):
                    scenes = [painter.scene(k) for k in range(start, min(start + _ROWS, count))]
                    images, masks = zip(*scenes, strict=True)
                    writer.add(split, {"image": np.stack(images), "mask": np.stack(masks)})


class Painter:
    """Paints scenes by number.

    Args:
        split: Its name: scenes of one number differ between splits.
        grounds: Backgrounds, uint8 (H, W, 3).
        pictures: The emoji.
        most: Emoji in a scene.
    """

    def __init__(
        self,
        split: str,
        grounds: Sequence[np.ndarray],
        pictures: Sequence[emoji.Emoji],
        most: int,
    ) -> None:
        self.key = int.from_bytes(split.encode(), "little") % (1 << 62)
        self.grounds, self.most = list(grounds), most
        self.by_class: dict[int, list[Image.Image]] = {}
        for one in pictures:
            name = emoji.CATEGORIES[one.category]
            if name in CLASSES:
                image = Image.fromarray(np.ascontiguousarray(one.image.transpose(1, 2, 0)))
                self.by_class.setdefault(CLASSES.index(name), []).append(image)
        self.labels = sorted(self.by_class)

    def scene(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """`image` (3, 64, 64) and `mask` (64, 64) of one scene."""
        numbers = np.arange(number * _DRAWS, (number + 1) * _DRAWS, dtype=np.uint64)
        drawn = iter((spread(numbers, self.key) >> np.uint64(11)).tolist())

        def below(high: int) -> int:
            return int(next(drawn)) % high

        ground = self.grounds[below(len(self.grounds))]
        side = SIDE + below(min(ground.shape[:2]) - SIDE + 1)
        top, left = below(ground.shape[0] - side + 1), below(ground.shape[1] - side + 1)
        piece = Image.fromarray(ground[top : top + side, left : left + side])
        canvas = np.array(piece.resize((SIDE, SIDE), Image.Resampling.BOX), np.int64)
        canvas = canvas[:, ::-1] if below(2) else canvas
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(1 + below(self.most)):
            label = self.labels[below(len(self.labels))]
            pictures = self.by_class[label]
            size = SIZES[0] + below(SIZES[1] - SIZES[0] + 1)
            picture = pictures[below(len(pictures))].resize((size, size), Image.Resampling.BOX)
            y, x = below(SIDE - size + 1), below(SIDE - size + 1)
            pixels = np.array(picture, np.int64)  # (size, size, 4)
            alpha = pixels[..., 3:]
            place = (slice(y, y + size), slice(x, x + size))
            under = canvas[place]
            canvas[place] = (alpha * pixels[..., :3] + (255 - alpha) * under + 127) // 255
            mask[place][alpha[..., 0] >= 128] = label
        return canvas.astype(np.uint8).transpose(2, 0, 1), mask


def _from_package() -> dict[str, list[np.ndarray]]:
    found = importlib.util.find_spec("skimage")  # the library itself is not imported
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise fetch.Unavailable("it is not installed")
    return _read(Path(places[0]) / "data")


def _from_folder(source: Path | None) -> dict[str, list[np.ndarray]]:
    names = [name for files in BACKGROUNDS.values() for name in files]
    paths = fetch.local_files(source, ["", "skimage/data", "scikit-image", "data"], names)
    return _read(paths[0].parent)


def _read(folder: Path) -> dict[str, list[np.ndarray]]:
    """Backgrounds by split, uint8 (H, W, 3)."""
    found: dict[str, list[np.ndarray]] = {}
    for split, files in BACKGROUNDS.items():
        for name, expected in files.items():
            try:
                fetch.check_sha256((folder / name).read_bytes(), expected, f"{folder / name}")
                with Image.open(folder / name) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except OSError as error:
                raise fetch.Unavailable(f"{folder / name} cannot be read ({error})") from None
            found.setdefault(split, []).append(pixels)
    return found
