"""Runs a server that must not outlive whoever started it. Started by path; imports nothing of ours.

Its standard input is a pipe whose other end the starter alone holds. The end of that pipe means
that the starter is gone, by SIGKILL too; the whole process group is ended then. It takes nothing
that Linux alone has, so that it holds on macOS as well.
"""

import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE_S = 2.0


def _watch() -> None:
    while os.read(0, 4096):
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(0, number)
        time.sleep(PATIENCE_S)


def main(command: list[str]) -> int:
    """Run a command, in this process group, until it ends or the starter does.

    Returns:
        Its exit code.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for the command, which is waited for
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, daemon=True).start()
    code = server.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
