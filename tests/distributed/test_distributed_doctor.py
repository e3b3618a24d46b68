"""The doctor: every check is shown failing on a planted fault."""

import base64
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest

from rayloom.distributed import doctor
from rayloom.distributed.doctor import View, examine, judge, verdict


def state(finding):
    assert finding.state == "ok" or finding.remedy, f"{finding} does not say what to do"
    return finding.state


OWN = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "rayloom": "0.1.0"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.12.1"}, "Python 3.11"),
        ({"ray": "2.41.0"}, "2.60"),
        ({"mlflow": ""}, "mlflow is missing"),
    ],
)
def test_wrong_versions(change, words):
    assert state(doctor.check_versions(OWN)) == "ok"
    finding = doctor.check_versions({**OWN, **change})
    assert state(finding) == "fail"
    assert words in finding.message


def test_too_many_threads():
    assert state(doctor.check_threads({})) == "ok"
    assert state(doctor.check_threads({"OMP_NUM_THREADS": "4096"})) == "warn"


def test_a_taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = doctor.check_port(server.getsockname()[1])
        assert state(taken) == "warn"
        assert "is taken" in taken.message
        port = server.getsockname()[1]
    assert state(doctor.check_port(port)) == "ok"


def test_storage_that_cannot_be_written(tmp_path):
    assert state(doctor.check_storage(tmp_path / "runs")) == "ok"
    (tmp_path / "file").write_text("")
    finding = doctor.check_storage(tmp_path / "file" / "runs")
    assert state(finding) == "fail"
    assert str(tmp_path) in finding.message
    assert os.listdir(tmp_path / "runs") == []  # nothing is left behind


def test_a_full_disk(tmp_path):
    assert state(doctor.check_space(tmp_path, wanted=1)) == "ok"
    assert state(doctor.check_space(tmp_path, wanted=2**62)) == "fail"


class Handler(BaseHTTPRequestHandler):
    status, body = 200, b"3.17.2"

    def do_GET(self):
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("Location", self.path)
        self.end_headers()
        try:
            while self.body is None:  # a byte now and then
                self.wfile.write(b"3")
                time.sleep(0.1)
            self.wfile.write(self.body)
        except OSError:
            pass

    def log_message(self, *args):
        pass


def test_a_tracking_server_that_is_down_or_refuses(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    assert state(doctor.check_tracking(uri)) == "ok"
    Handler.status = 401
    refused = doctor.check_tracking(uri)
    assert state(refused) == "fail"
    assert "MLFLOW_TRACKING" in refused.remedy
    server.shutdown()
    server.server_close()
    assert "does not answer" in doctor.check_tracking(uri).message
    assert state(doctor.check_tracking(f"sqlite:///{tmp_path}/m.db")) == "ok"
    assert state(doctor.check_tracking(f"sqlite:///{tmp_path}/no/m.db")) == "fail"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>Welcome</html>", "not as MLflow does: '<html>Welcome</html>'"),
        (200, b"{}\x1b[31m", "not as MLflow does"),
        (500, b"", "answers 500 Internal Server Error"),
        (302, b"", "redirects without end"),
        (200, None, "does not answer: no answer for"),
    ],
)
def test_a_server_that_is_no_mlflow_is_told_in_one_line(monkeypatch, status, body, told):
    monkeypatch.setattr(Handler, "status", status)
    monkeypatch.setattr(Handler, "body", body)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    found = doctor.check_tracking(f"http://127.0.0.1:{server.server_port}", timeout_s=0.3)
    server.shutdown()
    assert state(found) == "fail"
    assert told in found.message
    assert found.message.isprintable()
    assert found.remedy


@pytest.mark.parametrize("given", ["address", "percent", "variables", "token", "none", "wrong"])
def test_a_server_is_asked_with_the_credentials_that_a_run_would_send(given, monkeypatch):
    word = "p@ss" + "/w0rd"
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            packed = base64.b64encode(f"me:{word}".encode()).decode()
            good = seen[-1] in (f"Basic {packed}", f"Bearer {word}")
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(b"3.13.0" if good else b"")

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    user = {"address": "me:p@ss%2Fw0rd@", "percent": "me:p%40ss%2Fw0rd@", "wrong": "me:other12@"}
    if given == "variables":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word)
    if given == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", word)
    found = doctor.check_tracking(f"http://{user.get(given, '')}127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    assert state(found) == ("fail" if given in ("none", "wrong") else "ok"), found
    shown = f"{found.message} {found.remedy}"
    assert not [part for part in (word, "w0rd", "other12") if part in shown]
    assert ("***@" in shown) is (given in user)


def test_a_database_that_does_not_answer_is_told_without_its_password():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = doctor.check_tracking(f"postgresql://me:{'hunter' + '22x'}@127.0.0.1:{port}/x")
    assert state(found) == "fail"
    assert "hunter22x" not in found.message
    assert "***@" in found.message


def test_a_missing_open_or_switched_off_token(tmp_path, monkeypatch):
    path = tmp_path / "token"
    env = {"RAY_AUTH_TOKEN_PATH": str(path)}
    assert state(doctor.check_token("head:6379", env)) == "fail"
    path.write_text("x")
    path.chmod(0o644)
    assert state(doctor.check_token("head:6379", env)) == "warn"
    path.chmod(0o600)
    assert state(doctor.check_token("head:6379", env)) == "ok"
    off = {**env, "RAY_AUTH_MODE": "disabled"}
    assert state(doctor.check_token("head:6379", off)) == "warn"


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ({"versions": {**OWN, "ray": "2.50.0"}}, "versions on the nodes", "2.50.0"),
        ({"sees": False}, "shared storage", "does not see"),
        ({"writes": "Permission denied"}, "shared storage", "Permission denied"),
        ({"free": 10}, "space", "0.0 GiB"),
        ({"offset_s": -7.0}, "clock", "-7.0 s off"),
        ({"error": "the node died"}, "nodes", "the node died"),
    ],
)
def test_a_fault_on_one_node(fault, check, words):
    good = View("a", OWN)
    assert {state(finding) for finding in judge(OWN, [good, good], "/s")} == {"ok"}
    bad = View("b", **{"versions": OWN, **fault})
    findings = judge(OWN, [good, bad], "/s")
    failed = [finding for finding in findings if state(finding) == "fail"]
    assert [finding.check for finding in failed] == [check]
    assert words in failed[0].message
    assert "b" in failed[0].message
    assert verdict(findings) == 1


def test_a_slow_answer_is_not_a_wrong_clock():
    slow = View("a", OWN, offset_s=3.0, uncertainty_s=2.0)
    assert {finding.state for finding in judge(OWN, [slow], "/s")} == {"ok"}


def test_nobody_at_the_address_is_told_within_seconds(tmp_path):
    findings = examine("127.0.0.1:1", storage=tmp_path)
    last = findings[-1]
    assert (last.check, last.state) == ("cluster", "fail")
    assert "no Ray answers at 127.0.0.1:1" in last.message


def test_a_healthy_cluster(ray_cluster, tmp_path):
    findings = examine(ray_cluster.address, storage=tmp_path)
    by_check = {finding.check: finding.state for finding in findings}
    for check in ("cluster", "versions on the nodes", "shared storage", "clock"):
        assert by_check[check] == "ok", findings


def test_a_storage_that_the_nodes_do_not_see(ray_cluster, tmp_path, monkeypatch):
    """The same look from the nodes, at a folder that only this process has."""
    monkeypatch.setattr(doctor, "_look", _elsewhere)
    views = doctor.look_from_nodes(str(tmp_path))
    failed = [f.check for f in judge(doctor.own_versions(), views, str(tmp_path)) if f.remedy]
    assert failed == ["shared storage"]


def _elsewhere(marker):
    import time

    from rayloom.distributed.doctor import own_versions

    facts = {"sees": False, "writes": "", "free": 2**40, "clock": time.time()}
    return {"versions": own_versions(), **facts}
