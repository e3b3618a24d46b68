"""A failing MLflow: what is permanent ends, what passes is asked seldom, nothing waits for long."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tracking_help import make_run, mlflow_client, only_run, sent, written

from rayloom.core.errors import RayloomError, UserError
from rayloom.tracking import MlflowFollower, resolve_uri, sync_run
from rayloom.tracking import backoff as pauses
from rayloom.tracking.trouble import diagnose


class BadServer(BaseHTTPRequestHandler):
    """Answers as `server.mode` says; `server.asked` holds when."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        """Nothing on the console."""

    def answer(self):
        server = self.server
        server.asked.append(time.monotonic())
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body, headers = server.mode
        if status == 0:  # no answer at all
            server.stopped.wait(30)
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is None:  # a byte now and then
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not server.stopped.wait(0.2):
                    self.wfile.write(b" ")
                    self.wfile.flush()
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = answer


@pytest.fixture
def bad_server():
    import mlflow  # noqa: F401  (loaded before the clock runs)

    server = ThreadingHTTPServer(("127.0.0.1", 0), BadServer)
    server.asked, server.stopped, server.mode = [], threading.Event(), (500, b"", {})
    server.daemon_threads = True
    server.uri = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


ENDS_AT_ONCE = {
    "401": (401, b"who are you", {}),
    "403 of a gateway": (403, b'{"message": "Forbidden"}', {}),
    "404": (404, b"<html>nothing here</html>", {}),
    "no MLflow": (200, b"{}", {}),
    "for ever elsewhere": (302, b"", {"Location": "/api/2.0/x"}),
}
IS_ASKED_AGAIN = {
    "500": (500, b'{"error_code": "INTERNAL_ERROR", "message": "disk"}', {}),
    "502 of a proxy": (502, b"<html><body>bad gateway</body></html>", {}),
    "a login page": (200, b"<html>log in</html>", {}),
    "429 without a time": (429, b"", {}),
}


@pytest.mark.parametrize("case", [*ENDS_AT_ONCE, *IS_ASKED_AGAIN])
def test_a_failing_server_is_asked_seldom_and_waited_for_once(
    tmp_path, monkeypatch, bad_server, case
):
    monkeypatch.setattr("rayloom.tracking.follower.FAILING_S", 1.2)
    bad_server.mode = (ENDS_AT_ONCE | IS_ASKED_AGAIN)[case]
    folder, heard = make_run(tmp_path), []
    follower = MlflowFollower(
        folder.path, bad_server.uri, "e", params={}, tags={}, say=heard.append, poll_s=0.02
    ).start()
    began = time.monotonic()
    assert not follower.flush(30)
    assert not follower.close("FINISHED", 30)
    waited = time.monotonic() - began
    assert waited < 8, "one wait, and a short one"
    limit = {"for ever elsewhere": 31, "no MLflow": 4}.get(case, 1 if case in ENDS_AT_ONCE else 4)
    assert 1 <= len(bad_server.asked) <= limit, f"{len(bad_server.asked)} requests in {waited} s"
    assert f"rayloom runs sync {folder.run_id}" in heard[-1]
    if case in ENDS_AT_ONCE:
        assert ("TOKEN" if case[:2] == "40" and case != "404" else "address of an MLflow") in (
            " ".join(heard)
        )
    elif case != "500":
        return
    asked = len(bad_server.asked)
    assert not sync_run(folder.path, say=heard.append)
    assert len(bad_server.asked) - asked <= limit


def test_eight_runs_at_once_do_not_hammer_a_failing_server(tmp_path, monkeypatch, bad_server):
    monkeypatch.setattr("rayloom.tracking.follower.FAILING_S", 1.2)
    folders, heard = [make_run(tmp_path) for _ in range(8)], []
    followers = [
        MlflowFollower(
            folder.path, bad_server.uri, "e", params={}, tags={}, say=heard.append, poll_s=0.02
        ).start()
        for folder in folders
    ]
    began = time.monotonic()
    ends = [threading.Thread(target=one.close, args=("FINISHED", 30)) for one in followers]
    for end in ends:
        end.start()
    for end in ends:
        end.join(20)
    assert time.monotonic() - began < 8
    assert len(bad_server.asked) <= 8 * 4
    told = [one for one in heard if "has not got everything" in one]
    assert {folder.run_id for folder in folders} == {one.split("`")[1].split()[-1] for one in told}
    assert all((folder.path / "tracking.json").is_file() for folder in folders)


def test_a_server_that_asks_to_wait_is_left_alone(tmp_path, monkeypatch, bad_server):
    monkeypatch.setattr("rayloom.tracking.follower.FAILING_S", 1.5)
    bad_server.mode = (503, b"later", {"Retry-After": "3600"})
    folder = make_run(tmp_path)
    follower = MlflowFollower(folder.path, bad_server.uri, "e", params={}, tags={}, poll_s=0.02)
    follower.start()
    assert not follower.flush(30)
    assert not follower.close("FINISHED", 30)
    assert len(bad_server.asked) == 1


@pytest.mark.parametrize("mode", [(0, b"", {}), (200, None, {})], ids=["silent", "dripping"])
def test_a_server_that_never_ends_its_answer_holds_nobody(tmp_path, bad_server, mode):
    bad_server.mode = mode
    folder, heard = make_run(tmp_path), []
    follower = MlflowFollower(
        folder.path, bad_server.uri, "e", params={}, tags={}, say=heard.append, poll_s=0.02
    ).start()
    began = time.monotonic()
    assert not follower.close("FINISHED", 0.5)
    assert time.monotonic() - began < 5
    assert "no answer for" in heard[-1]


def test_pauses_grow_and_differ(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pauses.time, "monotonic", lambda: now[0])
    runs = [pauses.Backoff("http://h") for _ in range(20)]
    for tries in range(8):
        for run in runs:
            run.failed()
        waits = [run.wait_s() for run in runs]
        nominal = min(2.0**tries, pauses.LONGEST_S)
        assert all(nominal / 2 <= wait <= nominal for wait in waits)
        assert len(set(waits)) > 10, "many runs do not come back at the same moment"
    asked_until = [run.wait_s() for run in runs]
    for run in runs:
        run.last_chance()
        assert run.wait_s() == pauses.FIRST_S, "the end of a run does not hammer either"
    assert min(asked_until) > pauses.FIRST_S


def test_what_mlflow_refuses_is_left_out_by_name_and_the_rest_is_sent(tmp_path, uri):
    folder, heard = make_run(tmp_path, points=5), []
    folder.journal().tags({"c d%": "1", "fine": "yes"})
    folder.journal().close()
    follower = MlflowFollower(
        folder.path, uri, "e", params={"a=b": 1, "lr": 2}, tags={"a b%": "x", "team": "y"},
        say=heard.append, poll_s=0.02,
    ).start()  # fmt: skip
    assert follower.close("FINISHED")
    run = only_run(uri, folder)
    assert run.info.status == "FINISHED"
    assert sent(uri, folder) == written(folder)
    assert run.data.params == {"lr": "2"}
    assert run.data.tags["team"] == "y"
    assert run.data.tags["fine"] == "yes"
    assert set(follower.refused) == {"tag 'a b%'", "tag 'c d%'", "param 'a=b'"}
    assert [text.split(":")[0] for text in heard] == [
        "MLflow refuses the param 'a=b'",
        "MLflow refuses the tag 'a b%'",
        "MLflow refuses the tag 'c d%'",
    ]
    assert sync_run(folder.path, say=heard.append), "sync ends well: there is no more to send"
    assert len(heard) == 6


def test_a_refused_file_and_a_broken_store_keep_no_curve_back(tmp_path, uri, monkeypatch):
    from mlflow import MlflowClient

    real, refuse = MlflowClient.log_artifact, [FileExistsError("no boto3 here")]

    def put(self, run_id, path, artifact_path=None):
        if refuse:
            raise refuse[0]
        real(self, run_id, path, artifact_path)

    monkeypatch.setattr(MlflowClient, "log_artifact", put)
    refuse[0] = ModuleNotFoundError("No module named 'boto3'", name="boto3")
    folder, heard = make_run(tmp_path, points=30, pictures=(3,)), []
    follower = MlflowFollower(
        folder.path, uri, "e", params={}, tags={}, say=heard.append, poll_s=0.02
    ).start()
    assert not follower.close("FINISHED")
    assert sent(uri, folder) == written(folder)
    assert only_run(uri, folder).info.status == "FINISHED"
    assert "pip install 'boto3'" in heard[-1]
    refuse.clear()
    assert sync_run(folder.path)
    client = mlflow_client(uri)
    run_id = only_run(uri, folder).info.run_id
    assert len(client.list_artifacts(run_id, "images")) == 4, "of its step, and as the newest"
    assert {"run.json", "config.yaml"} <= {a.path for a in client.list_artifacts(run_id)}


def test_a_run_deleted_meanwhile_is_no_refusal(tmp_path, uri):
    from tracking_help import write_points

    folder, heard = make_run(tmp_path), []
    follower = MlflowFollower(
        folder.path, uri, "e", params={}, tags={}, say=heard.append, poll_s=0.02
    ).start()
    assert follower.flush()
    mlflow_client(uri).delete_run(follower.mlflow_run_id)
    write_points(folder, 30, 40)
    assert follower.close("FINISHED")
    assert sent(uri, folder) == written(folder)
    assert heard == []


def _sql(text):
    import sqlalchemy.exc

    return sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception(text))


def _mlflow(code, text="x"):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(text, error_code=ErrorCode.Value(code))


def _store(status, code):
    error = Exception(f"An error occurred ({code}) when calling the PutObject operation")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}
    return error


@pytest.mark.parametrize(
    ("make", "kind", "word"),
    [
        (lambda: ModuleNotFoundError("No module named 'psycopg'", name="psycopg"), "closed", "pip"),
        (lambda: _sql("attempt to write a readonly database"), "closed", "owner"),
        (lambda: _sql("database is locked"), "passing", ""),
        (lambda: _sql("database or disk is full"), "passing", ""),
        (lambda: _sql('FATAL: password authentication failed for user "u"'), "closed", "password"),
        (lambda: _sql("FATAL: sorry, too many clients already"), "passing", ""),
        (lambda: _sql('FATAL: database "x" does not exist'), "closed", "make the database"),
        (lambda: PermissionError(13, "Permission denied", "/x/mlruns"), "closed", "owner"),
        (lambda: OSError(28, "No space left on device"), "passing", ""),
        (lambda: OSError(122, "Disk quota exceeded"), "passing", ""),
        (lambda: _mlflow("INVALID_PARAMETER_VALUE"), "refused", ""),
        (lambda: _mlflow("PERMISSION_DENIED"), "closed", "TOKEN"),
        (lambda: _mlflow("PERMISSION_DENIED", "Permission denied"), "closed", "TOKEN"),
        (lambda: _mlflow("TEMPORARILY_UNAVAILABLE"), "passing", ""),
        (lambda: _mlflow("REQUEST_LIMIT_EXCEEDED"), "passing", ""),
        (lambda: _mlflow("BAD_REQUEST", "got unsupported URI 'foo://'"), "closed", "uri"),
        (lambda: _store(403, "AccessDenied"), "closed", "artifact store"),
        (lambda: _store(404, "NoSuchBucket"), "closed", "artifact store"),
        (lambda: _store(503, "SlowDown"), "passing", ""),
        (lambda: _store(400, "EntityTooLarge"), "refused", ""),
        (lambda: RuntimeError("nobody has seen this before"), "passing", ""),
    ],
)  # fmt: skip
def test_permanent_and_passing_errors_are_told_apart(make, kind, word):
    found = diagnose(make())
    assert found.kind == kind
    assert word in str(found)
    assert "\n" not in found.text


def test_errors_are_one_short_line_without_passwords():
    text = diagnose(ValueError("http://me:secret@h/x said\n<html><style>a{}</style>no</html>")).text
    assert text == "http://***@h/x said no"
    gone = ConnectionError("('Connection aborted.', RemoteDisconnected('Remote end closed'))")
    assert diagnose(gone).text == "Remote end closed"
    assert diagnose(ValueError("a\x1b]0;title\x07b")).text == r"a\x1b]0;title\x07b"


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ((500, b'{"error_code": "INTERNAL_ERROR", "message": "disk"}', {}), "INTERNAL_ERROR: disk"),
        ((200, b"<html>log in</html>", {}), "check that tracking.uri is the address"),
        ((200, b"[1]", {}), "check that tracking.uri is the address"),
        ((403, b"no", {}), "MLFLOW_TRACKING_TOKEN"),
        ((302, b"", {"Location": "/api/2.0/x"}), "Exceeded 30 redirects"),
        ((0, b"", {}), "gives no answer for"),
        ((200, None, {}), "gives no answer for"),
    ],
    ids=["500", "login", "list", "403", "loop", "silent", "dripping"],
)
def test_a_registry_that_fails_ends_with_a_sentence(tmp_path, monkeypatch, bad_server, mode, told):
    """Registering, and whatever looks for a registered model, waits once and not for ever."""
    from rayloom.tracking import fetch_version, register_model, run_of_mlflow_id

    monkeypatch.setattr("rayloom.tracking.patience.SILENT_S", 0.7)
    bad_server.mode = mode
    folder = make_run(tmp_path)
    memory = {"uri": bad_server.uri, "mlflow_run_id": "0" * 32}
    (folder.path / "tracking.json").write_text(json.dumps(memory))
    began = time.monotonic()
    with pytest.raises(RayloomError) as register:
        register_model(folder.path, None, None, name="m", files={}, sha256="0" * 64)
    with pytest.raises(RayloomError) as fetch:
        fetch_version("models:/m@champion", bad_server.uri)
    with pytest.raises(RayloomError) as run:
        run_of_mlflow_id("0" * 32, bad_server.uri)
    assert time.monotonic() - began < 8
    for error in (register, fetch, run):
        assert str(error.value).startswith(f"MLflow at {bad_server.uri}")
        assert told in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", ["htp://h:5000", "postgres://u@h/d", "s3://bucket/x"])
def test_an_address_of_no_known_kind_is_told_before_anything_runs(bad):
    with pytest.raises(UserError, match=r"MLflow knows no"):
        resolve_uri(bad, "/w")


def test_a_run_that_is_being_written_is_not_synced(tmp_path, uri):
    folder = make_run(tmp_path)
    assert MlflowFollower(folder.path, uri, "e", params={}, tags={}).start().close("KILLED")
    with folder.lock(), pytest.raises(UserError, match="being written"):
        sync_run(folder.path)
