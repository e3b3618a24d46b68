"""What `rayloom evaluate`, `sample` and `play` share."""

from rayloom.core.errors import UserError
from rayloom_pipelines.cli.options import Parser


def parser(verb: str, about: str) -> Parser:
    """RUN, `--checkpoint` and `--seed`."""
    made = Parser(verb, about)
    made.add_argument("run", metavar="RUN", help="id, prefix, path, models:/name@alias or latest")
    made.add_argument("--checkpoint", default="best", metavar="best|last|STEP")
    made.add_argument("--storage", metavar="FOLDER", help="where run folders live (./runs)")
    return made


def which(word: str) -> str | int:
    """`best`, `last`, or a clock step.

    Raises:
        UserError: It is none of them.
    """
    if word in ("best", "last"):
        return word
    if word.isdigit():
        return int(word)
    raise UserError(f"--checkpoint {word!r}: say best, last or a step")
