"""`rayloom ui`: MLflow's pages, on this machine only."""

from collections.abc import Sequence

from rayloom_pipelines.cli.options import Parser


def run(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    parser = Parser("ui", "Serve the MLflow page of the runs in this folder, on loopback.")
    parser.add_argument("--port", type=int, metavar="P", help="default: a free one from 5000 on")
    parser.add_argument("--uri", metavar="URI", help="tracking URI (site file, ./mlflow.db)")
    given = parser.read(argv)
    from rayloom.tracking import serve_ui
    from rayloom_pipelines.resolve import tracking_uri

    return serve_ui(tracking_uri(given.uri), given.port, say=_say)


def _say(text: str) -> None:
    print(text, flush=True)
