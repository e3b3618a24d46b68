"""Films: mp4 or gif, from pictures."""

from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError


def write_video(path: str | Path, pictures: list[np.ndarray], *, fps: int) -> Path:
    """Write pictures as .mp4 or .gif, by the path's ending.

    Args:
        path: File to write; its folder is made.
        pictures: uint8 (H, W, 3), all of one size.
        fps: Frames per second.

    Raises:
        UserError: Another ending, or no pictures.
    """
    import imageio.v2 as imageio

    path = checked_path(path)
    if not pictures:
        raise UserError(f"{path}: nothing to write, no pictures were drawn")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.mimsave(path, pictures, duration=1000 / fps, loop=0)
        return path
    with imageio.get_writer(path, fps=fps, codec="libx264", macro_block_size=1) as writer:
        for picture in pictures:
            writer.append_data(_padded(picture))
    return path


def checked_path(path: str | Path) -> Path:
    """The path of a video.

    Raises:
        UserError: It does not end in .mp4 or .gif.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"--out {path}: a video ends in .mp4 or .gif")
    return path


def _padded(picture: np.ndarray) -> np.ndarray:
    """Sides made even, as the codec's colour format needs, by repeating the last row or column."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
