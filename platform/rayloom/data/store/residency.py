"""How much memory a data set may hold resident, and what this process may use at all."""

import os
import re
from pathlib import Path

import psutil

from rayloom.core.errors import UserError

BUDGET_VARIABLE = "RAYLOOM_DATA_BUDGET"
SHARE = 4  # a data set may map a quarter of what is available
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_UNLIMITED = 1 << 60  # cgroup v1 says "no limit" with a number close to 2^63


def parse_bytes(text: str) -> int:
    """Bytes from `1500000`, `512M`, `1.5GiB` and the like (powers of 1024).

    Raises:
        UserError: The text is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None:
        raise UserError(f"{text!r} is no size; write bytes or a size such as 512M or 1.5GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def memory_budget(budget: int | None = None) -> int:
    """Bytes of one split that may be memory-mapped; a larger split is read row by row.

    Args:
        budget: Overrides everything; else `RAYLOOM_DATA_BUDGET`, else a quarter of what is
            available to this process.
    """
    if budget is not None:
        return budget
    if text := os.environ.get(BUDGET_VARIABLE):
        return parse_bytes(text)
    return available_memory() // SHARE


def available_memory() -> int:
    """Bytes available to this process: of the machine, its control group and its own limits."""
    return min([psutil.virtual_memory().available, *_cgroup_limits(), *_process_limits()])


def _process_limits() -> list[int]:
    import resource

    memory = psutil.Process().memory_info()
    found = []
    for kind, used in ((resource.RLIMIT_AS, memory.vms), (resource.RLIMIT_DATA, memory.rss)):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(max(0, soft - used))
    return found


def _cgroup_limits(
    process: Path = Path("/proc/self"), mounts: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Memory limits of the control groups around this process (v1 and v2), in bytes."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            tops, file = [mounts, mounts / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            tops, file = [mounts / "memory"], "memory.limit_in_bytes"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for top in tops:
            for depth in range(len(parts) + 1):
                found += _read_limit(top.joinpath(*parts[:depth]) / file)
    return found


def _read_limit(path: Path) -> list[int]:
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() and int(text) < _UNLIMITED else []
