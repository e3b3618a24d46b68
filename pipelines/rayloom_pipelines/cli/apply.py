"""`rayloom apply`: an operation of a run's model on rows of data, to a file."""

from collections.abc import Sequence

from rayloom_pipelines.cli.use import compute_to, out_path, parser, use_options, which


def run(argv: Sequence[str]) -> int:
    """Write the result and, beside it, what made it."""
    made = parser("apply", "Apply an operation of a model (`rayloom list models NAME`) to data.")
    made.add_argument("operation", metavar="OPERATION", help="such as predict or reconstruct")
    made.add_argument("settings", nargs="*", metavar="key=value", help="its settings")
    made.add_argument(
        "--in",
        dest="source",
        metavar="PATH|DATASET[:SPLIT[:RANGE]]",
        help="a file, a folder of pictures, or rows such as test:0..15",
    )
    use_options(made)
    given = made.read(argv)
    chosen = which(given.checkpoint)
    return compute_to(out_path(given.out), given, given.operation, chosen, data=given.source)
