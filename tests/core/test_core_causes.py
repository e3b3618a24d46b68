"""Causes: the reason a person understands, the line of their own code, no secrets."""

import json
import pickle
from pathlib import Path

import pytest

from rayloom.core import causes
from rayloom.core.errors import CheckpointError, NonFiniteError, UserError

HERE = Path(__file__).name


def raised(make):
    """What `make` raises, as it comes out."""
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def plain():
    raise ValueError("a batch of 0")


def missing_key():
    return {}["image"]


def chained():
    try:
        missing_key()
    except KeyError as error:
        raise RuntimeError("cannot make a batch") from error


def twice_chained():
    try:
        chained()
    except RuntimeError as error:
        raise OSError(5, "worker gone") from error


def while_handling():
    try:
        plain()
    except ValueError:
        raise RuntimeError("cleaning up failed")  # noqa: B904


def grouped():
    raise ExceptionGroup("two of them", [ValueError("first"), TypeError("second")])


def ours_from_theirs():
    try:
        plain()
    except ValueError as error:
        raise CheckpointError("step-3 does not verify") from error


def theirs_from_ours():
    try:
        raise UserError("model.latent_dim: 0 is too small")
    except UserError as error:
        raise RuntimeError("a wrapper") from error


def in_a_library():
    json.loads("{")


def unprintable():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise Odd


def no_memory():
    raise MemoryError


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (plain, ["ValueError: a batch of 0 at ", f"{HERE}:", "(plain)"]),
        (missing_key, ["KeyError: 'image' at ", "(missing_key)"]),
        (chained, ["KeyError: 'image' at ", "(told as RuntimeError: cannot make a batch)"]),
        (twice_chained, ["KeyError: 'image' at ", "(told as OSError: [Errno 5] worker gone)"]),
        (
            while_handling,
            ["RuntimeError: cleaning up", "(while handling ValueError: a batch of 0)"],
        ),
        (grouped, ["ValueError: first at ", "(grouped)"]),
        (ours_from_theirs, ["step-3 does not verify"]),
        (theirs_from_ours, ["model.latent_dim: 0 is too small", "told as RuntimeError: a wrapper"]),
        (in_a_library, ["JSONDecodeError: Expecting", f"{HERE}:", "(in_a_library)"]),
        (unprintable, ["Odd: (its text cannot be made: RuntimeError) at "]),
        (no_memory, ["MemoryError: no message at ", "too little memory"]),
        (lambda: (_ for _ in ()).throw(NonFiniteError("loss is NaN at step 3")), ["loss is NaN"]),
    ],
)
def test_one_paragraph_names_the_reason_and_the_users_line(make, parts):
    text = causes.paragraph(raised(make))
    assert "\n" not in text
    for part in parts:
        assert part in text
    assert text.startswith(parts[0])


def test_a_chain_in_a_circle_has_an_end():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert "two" in causes.paragraph(one)


def test_nothing_secret_and_nothing_that_a_terminal_obeys():
    secret = "hunter2" * 2

    def leak():
        raise ValueError(f"\x1b]0;title\x07 \x1b[31mpassword={secret}\n{'x' * 9000}")

    error = raised(leak)
    text, trace = causes.paragraph(error), causes.traceback_of(error)
    assert secret not in text + trace
    assert "\x1b" not in text
    assert len(text) <= causes.PARAGRAPH
    assert "in leak" in trace


def test_a_long_traceback_is_cut_in_its_middle():
    error = raised(plain)
    error.add_note("y" * 300_000)
    trace = causes.traceback_of(error)
    assert len(trace) < causes.TRACEBACK + 100
    assert "characters left out" in trace
    assert trace.startswith("Traceback")


class Unreadable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


@pytest.mark.parametrize("kind", [ValueError, Unreadable])
def test_an_exception_of_another_process_keeps_its_kind_and_its_line(kind):
    def there():
        raise kind("no", "data") if kind is Unreadable else kind("no data")

    told = pickle.loads(pickle.dumps(causes.packed(raised(there))))
    here = causes.unpacked(told)
    assert isinstance(here, ValueError if kind is ValueError else causes.RemoteError)
    outer = UserError("worker 1: no data")
    outer.__cause__ = here
    assert f"{HERE}:" in causes.paragraph(outer)
    assert "(there)" in causes.paragraph(outer)
    assert "in there" in causes.traceback_of(outer)


def test_a_task_of_ray_tells_the_line_in_its_text():
    """As Ray raises what a task raised: of both classes, the remote traceback is its text."""

    class RayTaskError(IndexError):
        def __init__(self, cause, text):
            self.cause, self.text, self.args = cause, text, (cause,)

        def __str__(self):
            return self.text

    lines = "\n".join(
        [
            "\x1b[36mray::GroupRunner.collect_task()\x1b[39m (pid=3)",
            f'  File "{causes.__file__}", line 3, in collect',
            '  File "/home/me/maze.py", line 30, in step',
            f'  File "{json.__file__}", line 9, in loads',
            "IndexError: no such field",
        ]
    )
    outer = CheckpointError("an env runner failed: IndexError: no such field")
    outer.__cause__ = RayTaskError(IndexError("no such field"), lines)
    told = "an env runner failed: IndexError: no such field at /home/me/maze.py:30 (step)"
    assert causes.paragraph(outer) == told
    bare = causes.paragraph(outer.__cause__)
    assert bare.startswith("IndexError: no such field at /home/me/maze.py:30 (step)")


@pytest.mark.parametrize(
    ("file", "users"),
    [
        ("/home/me/project/mine.py", True),
        ("/home/me/rayloom/mine.py", True),
        ("/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/plugins/mine.py", True),
        ("/tmp/ray/s/py_modules_files/_ray_pkg_2/rayloom/core/causes.py", False),
        (causes.__file__, False),
        (json.__file__, False),
        (pytest.__file__, False),
        ("<frozen importlib._bootstrap>", False),
        ("<string>", False),
    ],
)  # fmt: skip
def test_whose_file_it_is(file, users):
    assert causes.is_users(file) is users
