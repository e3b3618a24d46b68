"""`rayloom doctor`: is this machine, and its cluster, fit to run on; and if not, what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rayloom_pipelines.cli.options import Parser


def run(argv: Sequence[str]) -> int:
    """Check; exit code 1 where a check failed."""
    parser = Parser("doctor", "Check versions, threads, ports, storage, tracking, token and clock.")
    parser.address_option()
    parser.add_argument("--storage", metavar="FOLDER", help="where run folders live (./runs)")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="take away what killed commands left: their temporary folders and Ray processes",
    )
    parser.json_option()
    given = parser.read(argv)
    from rayloom.config.resolved import site_settings
    from rayloom.distributed.doctor import examine
    from rayloom_pipelines.places import storage_path, tracking_uri

    address = given.address or site_settings().get("resources.address")
    found = examine(
        address,
        storage=storage_path(given.storage),
        tracking_uri=tracking_uri(),
        clean=given.clean,
        on_finding=None if given.json else _show,
    )
    if given.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    return 1 if any(finding.state == "fail" for finding in found) else 0


def _show(finding: Any) -> None:
    print(f"{finding.state:<5} {finding.check}: {finding.message}", flush=True)
    if finding.remedy:
        print(f"      {finding.remedy}", flush=True)
