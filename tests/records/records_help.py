"""Helpers of the records tests."""

import subprocess
import sys

import pytest


def run_python(code, *arguments, failpoint=None, environment=None):
    """Run a script in a fresh process; returns the finished process."""
    import os

    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    env.pop("RAYLOOM_FAILPOINT", None)
    if failpoint:
        env["RAYLOOM_FAILPOINT"] = failpoint
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_forked(function, *arguments, failpoint=None):
    """Run a function in a forked process (no import costs); returns its exit code, -9 if killed.

    The kill point is armed in the child as `RAYLOOM_FAILPOINT` would at its start.
    """
    import os

    from rayloom.core import failpoints

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if failpoint:
                name, _, count = failpoint.partition(":")
                assert name in failpoints.FAILPOINTS
                failpoints._name, failpoints._left = name, int(count or 1)
            function(*arguments)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Ear:
    """A `say` that remembers."""

    def __init__(self):
        self.heard = []

    def __call__(self, message):
        self.heard.append(message)

    def count(self, part):
        return sum(part in message for message in self.heard)


class SmallDisk:
    """A tmpfs of a few pages; skips where mounting is not possible."""

    def __init__(self, folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size = folder, size

    def __enter__(self):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
        return self

    def fill(self):
        """Take all the space; returns the file whose removal gives it back."""
        filler = self.folder / "filler"
        with open(filler, "wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    pass
        return filler

    def read_only(self, on):
        mode = "ro" if on else "rw"
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
