"""`rayloom sample`: draws from a model, to a file."""

from collections.abc import Sequence
from pathlib import Path

from rayloom.core.errors import UserError
from rayloom_pipelines.cli.use import parser, which


def run(argv: Sequence[str]) -> int:
    """Write the samples."""
    made = parser("sample", "Draw samples from a model.")
    made.add_argument("-n", "--num", type=int, default=64, metavar="N", help="how many (64)")
    made.add_argument("--out", required=True, metavar="FILE", help=".png, .npy, .npz, .safetensors")
    made.add_argument("--seed", type=int, default=0, metavar="S")
    made.add_argument("--workers", type=int, default=0, metavar="N", help="draw on Ray workers")
    given = made.read(argv)
    if given.num < 1:
        raise UserError(f"-n must be at least 1, not {given.num}")
    out = Path(given.out)
    if out.suffix not in (".png", ".npy", ".npz", ".safetensors"):
        raise UserError(f"--out {out}: must end in .png, .npy, .npz or .safetensors")
    from rayloom_pipelines import api
    from rayloom_pipelines.load.sample import write
    from rayloom_pipelines.load.sample_workers import draw_on_workers
    from rayloom_pipelines.run.quiet import quiet

    with quiet(None):
        found, chosen = api.load(given.run, storage=given.storage), which(given.checkpoint)
        if given.workers:
            samples = draw_on_workers(
                found, given.num, seed=given.seed, which=chosen, workers=given.workers
            )
        else:
            samples = found.sample(given.num, seed=given.seed, which=chosen)
    print(write(samples, out))
    return 0
