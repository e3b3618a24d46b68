"""The doctor's checks of Ray's temporary folders, and of what killed commands left there."""

from collections.abc import Mapping

from rayloom.core.errors import RayloomError
from rayloom.distributed import place
from rayloom.distributed.findings import Finding


def check_temporary(environ: Mapping[str, str]) -> Finding:
    """A folder where Ray's sockets and logs fit."""
    try:
        root, passed = place.choose_root(environ)
    except RayloomError as error:
        return Finding("temporary folder", "fail", str(error), "set RAY_TMPDIR, or workers: 0")
    if passed:
        return Finding(
            "temporary folder",
            "warn",
            f"{'; '.join(passed)}: Ray's files go to {root}",
            f"correct it, or set RAY_TMPDIR to a path of at most {place.longest_root()} bytes",
        )
    return Finding("temporary folder", "ok", f"Ray's files go to {root}")


def check_leftovers(*, clean: bool = False) -> Finding:
    """Temporary folders and Ray processes of commands that were killed; `clean` ends them."""
    found = place.find_leftovers()
    listed = "; ".join(str(leftover) for leftover in found)
    if not found:
        return Finding("leftovers", "ok", "killed commands left nothing here")
    if not clean:
        remedy = "`rayloom doctor --clean` takes it away (so does the next run on workers)"
        return Finding("leftovers", "warn", listed, remedy)
    place.clear(found)
    still = place.find_leftovers()
    if still:
        listed = "; ".join(str(leftover) for leftover in still)
        return Finding("leftovers", "fail", f"cannot be taken away: {listed}", "remove it by hand")
    return Finding("leftovers", "ok", f"taken away: {listed}")
