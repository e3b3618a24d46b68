"""What a field of a data set may look like: one table, for import and for training.

`rayloom data import` refuses what is not in it, a model's first look at its data
(`DataSpec.image`) does, and docs/data.md prints it.
"""

from dataclasses import dataclass

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
KINDS = (
    *("image", "label", "mask", "vector", "tokens", "text", "keypoints"),
    # names that stand for nothing yet but numbers: their families bring what they mean
    *("audio", "video", "strokes", "points", "rays", "camera", "voxels", "instance"),
)
NUMBERS = (
    "image",
    "vector",
    "keypoints",
    "audio",
    "video",
    "strokes",
    "points",
    "voxels",
)  # kinds whose mean and deviation mean something
IMAGE_CHANNELS = (1, 3)  # by which an axis of channels is known; 2 and 4 where there is no such
FEW_CHANNELS = (2, 4)
IMAGE_DTYPES = ("uint8", "float16", "float32", "float64")
MAX_CLASSES = 1 << 20
IMAGE_RULE = "a picture is (C, H, W), of uint8 or of floating numbers in [0, 1]"


@dataclass(frozen=True)
class Accepted:
    """One row of the table.

    Attributes:
        kind: Of `FieldSpec`, or what the field is called.
        shape: Of one example.
        numbers: Dtypes and range.
        trains: What trains on it.
    """

    kind: str
    shape: str
    numbers: str
    trains: str


ACCEPTED = (
    Accepted(
        "image",
        "(C, H, W), every size 1 or more: C is 1 for grey, 3 for colour; of two channels MLflow's "
        "pictures show the first, four are colour and alpha, of more they show the first three",
        "uint8, or float16, float32, float64 in [0, 1]",
        "every model of images, from the field `image`",
    ),
    Accepted(
        "label",
        "() a number",
        f"int64 from 0, at most {MAX_CLASSES:,} classes",
        "conditional models; `vae` and `beta-vae` leave it alone",
    ),
    Accepted(
        "mask",
        "(H, W), the class of each pixel",
        "uint8 or int64 from 0; the classes as of a label",
        "models that segment",
    ),
    Accepted(
        "vector",
        "any fixed shape, () too, every size 1 or more",
        f"{', '.join(DTYPES)}; finite",
        "models of one's own",
    ),
    Accepted(
        "varying",
        "(-1, ...), only the first axis varies",
        "as vector",
        "models of one's own",
    ),
    Accepted(
        "tokens",
        "(-1,), or (L,) with `data.rows`",
        "whole numbers from 0, each below the number of classes",
        "models of sequences",
    ),
    Accepted(
        "text",
        "(-1,), UTF-8",
        "uint8",
        "models that are told what they make",
    ),
    Accepted(
        "keypoints",
        "(K, 2), x and y of points in the field `image`, in pixels",
        "float32 or float64",
        "models of one's own; augmentation moves them with the picture",
    ),
)


def image_fault(shape: tuple[int, ...], dtype: str) -> str:
    """Why a field cannot be a picture, or "" if it can.

    Args:
        shape: Of one example.
        dtype: Numpy name.
    """
    if len(shape) != 3 or min(shape) < 1:
        return f"{shape} is no fixed (C, H, W)"
    return "" if dtype in IMAGE_DTYPES else f"its numbers are {dtype}"
