"""The short end of a command's process loses nothing that Python's own end would have kept."""

import subprocess
import sys

MODULE = """
import atexit, threading, time

table = open("table.txt", "w")
table.write("held back in a buffer")


class Writer:
    \"\"\"Writes when it is finalized.\"\"\"

    def __init__(self, name):
        self.name, self.cycle = name, self
        self.file = open(name + "-file.txt", "w")
        self.file.write("held back")

    def __del__(self):
        with open(self.name, "w") as file:
            file.write("finalized")


class Straight(Writer):
    def __init__(self, name):
        super().__init__(name)
        self.cycle = None


kept, dropped = Straight("kept.txt"), Writer("dropped.txt")
del dropped


def late():
    time.sleep(0.2)
    open("thread.txt", "w").write("done")


def later():
    time.sleep(0.3)
    open("imports.txt", "w").write("done")


threading.Thread(target=late).start()
threading.Thread(target=later, name="rayloom-imports", daemon=True).start()
atexit.register(lambda: open("atexit.txt", "w").write("called"))
"""
COMMAND = """
import gc, sys
from rayloom.core import teardown

teardown.prepare()
sys.path.insert(0, ".")
gc.disable()  # the cycle is still there at the end
import their_module

REGISTRY = [their_module.Writer]  # what a library keeps of a plugin
print([module.__name__ for module in teardown.own_modules()])
sys.exit(3)
"""
WRITTEN = {
    "table.txt": "held back in a buffer",
    "kept.txt": "finalized",
    "kept.txt-file.txt": "held back",
    "dropped.txt": "finalized",
    "dropped.txt-file.txt": "held back",
    "thread.txt": "done",
    "imports.txt": "done",
    "atexit.txt": "called",
}


def test_nothing_of_a_users_module_is_lost(tmp_path):
    (tmp_path / "their_module.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "['their_module']", done.stderr
    assert (done.returncode, done.stderr) == (3, "")
    assert {name: (tmp_path / name).read_text() for name in WRITTEN} == WRITTEN


def test_libraries_are_not_taken_apart(tmp_path):
    """What is frozen is not collected: a cycle of a library's objects is not finalized."""
    code = """
import gc
from rayloom.core import teardown

class Loud:
    def __init__(self):
        self.cycle = self
    def __del__(self):
        print("taken apart")

Loud()
teardown.hasten()
gc.collect()
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")
