"""The only room that knows MLflow. It reads a run's journal and sends it on; training never waits.

`MlflowClient` only, never MLflow's fluent global state. `mlflow` is imported when the first line is
sent, not before. The names are handed on lazily.
"""

from rayloom.core.lazy import handed_on

_HOME = {
    "MlflowFollower": "follower",
    "allowed": "address",
    "ensure_parent": "client",
    "fetch_version": "versions",
    "find_run": "client",
    "left_running": "dead",
    "name_server": "address",
    "numbered": "versions",
    "refused_of": "sync",
    "register_model": "registry",
    "same_mlflow": "dead",
    "recall_uri": "uri",
    "resolve_uri": "uri",
    "run_of_mlflow_id": "versions",
    "run_of_model": "versions",
    "serve_ui": "ui",
    "set_parent_results": "client",
    "sync_run": "sync",
    "tell_killed": "dead",
}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
