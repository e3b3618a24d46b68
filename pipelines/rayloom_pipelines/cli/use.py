"""What `rayloom evaluate`, `sample`, `apply` and `play` share."""

import argparse
import os
from pathlib import Path

from rayloom.core.errors import UserError
from rayloom_pipelines.cli.options import Parser
from rayloom_pipelines.facade import Which


def parser(verb: str, about: str) -> Parser:
    """RUN, `--checkpoint` and `--seed`."""
    made = Parser(verb, about)
    made.add_argument("run", metavar="RUN", help="id, prefix, path, models:/name@alias or latest")
    made.add_argument("--checkpoint", default="best", metavar="best|last|STEP")
    made.add_argument("--storage", metavar="FOLDER", help="where run folders live (./runs)")
    return made


def which(word: str) -> Which | int:
    """`best`, `last`, or a clock step.

    Raises:
        UserError: It is none of them.
    """
    known: dict[str, Which] = {"best": "best", "last": "last"}
    if word in known:
        return known[word]
    if word.isdigit():
        return int(word)
    raise UserError(f"--checkpoint {word!r}: say best, last or a step")


def use_options(made: Parser) -> None:
    """`--out`, `--given`, `--seed`, `--batch-size` and `--workers` of `sample` and `apply`."""
    from rayloom.media.endings import ENDINGS

    made.add_argument("--out", required=True, metavar="FILE", help=", ".join(ENDINGS))
    made.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a condition: label=3, label=0..9, label=sneaker, image=test:0..15; repeatable",
    )
    made.add_argument("--seed", type=int, default=0, metavar="S")
    made.add_argument("--batch-size", type=int, metavar="B", help="rows at a time (64)")
    made.add_argument("--workers", type=int, default=0, metavar="N", help="on Ray workers")


def out_path(word: str) -> Path:
    """The file to write.

    Raises:
        UserError: Nothing of its ending can be written, whatever the model, or nothing there.
    """
    from rayloom.media.endings import ENDINGS

    out = Path(word)
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"--out {out}: must end in {', '.join(ENDINGS)}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out {out}: {there} takes no files")
    return out


def compute_to(
    out: Path,
    given: argparse.Namespace,
    name: str,
    chosen: str | int,
    *,
    num: int | None = None,
    data: str | None = None,
) -> int:
    """Apply an operation as the command line says, and write its result.

    Args:
        out: The file.
        given: The options of `use_options` and `parser`, and `settings`.
        name: Of the operation.
        chosen: Checkpoint.
        num: How many rows, where they are not those of data.
        data: Where rows come from.
    """
    from rayloom_pipelines import api
    from rayloom_pipelines.load.application import prepare
    from rayloom_pipelines.load.forms import check_ending, media_of, save
    from rayloom_pipelines.load.given import words_of
    from rayloom_pipelines.run.quiet import quiet

    if given.workers < 0:
        raise UserError(f"--workers must be at least 0, not {given.workers}")
    with quiet(None):
        made = prepare(
            api.load(given.run, storage=given.storage),
            name,
            data=data,
            num=num,
            settings=given.settings,
            given=words_of(given.given),
            seed=given.seed,
            which=chosen,
            batch_size=given.batch_size,
        )
        check_ending(out, made.operation, made.spec)
        result = made.compute(workers=given.workers)
        forms = media_of(result, made.operation, made.spec, columns=made.columns)
    print(save(out, forms, made.facts()))
    return 0
