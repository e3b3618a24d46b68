"""Films: mp4 or gif, from pictures; equal pictures give equal bytes."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.files import write_atomic

# One thread and no marks of time or program: the same file on every machine with this ffmpeg.
_EXACT = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]


def encode_film(pictures: Sequence[np.ndarray], ending: str, *, fps: float) -> bytes:
    """Pictures as the bytes of a .mp4 or .gif.

    Args:
        pictures: uint8 (H, W, 3), all of one size, at least one.
        ending: `.mp4` or `.gif`.
        fps: Frames per second.
    """
    import imageio.v2 as imageio

    if ending == ".gif":
        buffer = io.BytesIO()
        imageio.mimsave(buffer, list(pictures), format="gif", duration=1000 / fps, loop=0)
        return buffer.getvalue()
    with tempfile.TemporaryDirectory(prefix="rayloom-film-") as room:
        path = Path(room) / "film.mp4"
        with imageio.get_writer(
            path, fps=fps, codec="libx264", macro_block_size=1, output_params=_EXACT
        ) as writer:
            for picture in pictures:
                writer.append_data(_padded(picture))
        return path.read_bytes()


def write_video(path: str | Path, pictures: list[np.ndarray], *, fps: int) -> Path:
    """Write pictures as .mp4 or .gif, by the path's ending; a file that was there stays or goes.

    Args:
        path: File to write; its folder is made.
        pictures: uint8 (H, W, 3), all of one size.
        fps: Frames per second.

    Raises:
        UserError: Another ending, no pictures, or the disk refuses.
    """
    path = checked_path(path)
    if not pictures:
        raise UserError(f"{path}: nothing to write, no pictures were drawn")
    content = encode_film(pictures, path.suffix.lower(), fps=fps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def checked_path(path: str | Path) -> Path:
    """The path of a video.

    Raises:
        UserError: It does not end in .mp4 or .gif.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UserError(f"--out {path}: a video ends in .mp4 or .gif")
    return path


def _padded(picture: np.ndarray) -> np.ndarray:
    """Sides made even, as the codec's colour format needs, by repeating the last row or column."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
