"""Ctrl-C and SIGTERM: raised at once, remembered where a library swallows them."""

import subprocess
import sys

import pytest

SENDS = """
import os, signal, sys
from rayloom.core import interrupt
interrupt.listen()
number = int(sys.argv[1])
"""
SWALLOWED = """
try:
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a point at which Python runs the handler
except BaseException as error:
    print(type(error).__name__)
print(interrupt.received() == number)
"""
CHECKED = """
try:
    interrupt.check()
except KeyboardInterrupt as error:
    print(type(error).__name__, getattr(error, "exit_code", 130))
"""
AGAIN = """
os.kill(os.getpid(), number)
signal.pthread_sigmask(signal.SIG_BLOCK, [])
print("still here")
"""
IGNORED = """
interrupt.ignore()
os.kill(os.getpid(), number)
interrupt.check()
print("still here")
"""


def run(code, number):
    return subprocess.run(
        [sys.executable, "-c", code, str(number)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(("number", "name"), [(2, "KeyboardInterrupt"), (15, "Terminated")])
def test_a_swallowed_signal_is_raised_again(number, name):
    done = run(SENDS + SWALLOWED + CHECKED, number)
    assert done.stdout.splitlines() == [name, "True", f"{name} {128 + number}"], done.stderr


@pytest.mark.parametrize("number", [2, 15])
def test_a_second_signal_ends_the_process_without_a_traceback(number):
    done = run(SENDS + SWALLOWED + AGAIN, number)
    assert done.returncode == 128 + number
    assert "still here" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("number", [2, 15])
def test_nothing_disturbs_the_end(number):
    done = run(SENDS + IGNORED, number)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "still here", "")
