"""`rayloom sample`: draws from a model, to a file."""

from collections.abc import Sequence

from rayloom.core.errors import UserError
from rayloom_pipelines.cli.use import compute_to, out_path, parser, use_options, which


def run(argv: Sequence[str]) -> int:
    """Write the samples and, beside them, what made them."""
    made = parser("sample", "Draw samples from a model.")
    made.add_argument("settings", nargs="*", metavar="key=value", help="settings of the sampler")
    made.add_argument("-n", "--num", type=int, metavar="N", help="how many (64)")
    use_options(made)
    given = made.read(argv)
    if given.num is not None and given.num < 1:
        raise UserError(f"-n must be at least 1, not {given.num}")
    return compute_to(out_path(given.out), given, "sample", which(given.checkpoint), num=given.num)
