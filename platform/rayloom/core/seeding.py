"""Seeds derived from one run seed by name, so that no two random streams are ever tied by chance.

A stream is named, not numbered: `stream_seed(seed, "replay")` and `stream_seed(seed, "group", 3)`
stay what they are when a program gains another stream.
"""

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of the run seeded `seed`."""
    text = "/".join([str(int(seed)), *(f"{type(n).__name__[0]}:{n}" for n in names)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) for one named stream."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
