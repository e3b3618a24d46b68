"""`rayloom ui`: MLflow's pages, on this machine only."""

from collections.abc import Sequence

from rayloom.core.errors import RayloomError
from rayloom_pipelines.cli.options import Parser


def run(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    parser = Parser("ui", "Serve the MLflow page of the runs in this folder, on loopback.")
    parser.add_argument("--port", type=int, metavar="P", help="default: a free one from 5000 on")
    parser.add_argument("--uri", metavar="URI", help="tracking URI (site file, ./mlflow.db)")
    given = parser.read(argv)
    from rayloom.tracking import serve_ui
    from rayloom_pipelines.places import tracking_uri

    uri = tracking_uri(given.uri)
    code = serve_ui(uri, given.port, say=_say)
    return code or _of_server(uri)


def _of_server(uri: str) -> int:
    """Of an MLflow server, which has pages of its own: what is wrong with it, if anything is."""
    if not uri.startswith(("http://", "https://")):
        return 0
    from rayloom.distributed.mlflow_check import check_tracking

    found = check_tracking(uri)
    if found.state == "ok":
        return 0
    raise RayloomError(f"{found.message}; {found.remedy}")


def _say(text: str) -> None:
    print(text, flush=True)
