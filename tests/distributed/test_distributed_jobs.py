"""Jobs on a `ray start --head` of their own, with token authentication on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayloom.core.errors import UserError
from rayloom.distributed import jobs
from rayloom.distributed.cluster import free_port
from rayloom.distributed.train import wait_until

PLUGIN = """
import os, signal, sys, time
CATALOGUE = {"datasets": {"mine": {"target": "Mine", "summary": "came with a plugin"}}}
class Mine: pass
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """(GCS address, dashboard URL) of a head node in token mode, loopback dashboard."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text("ab" * 32)
    token.chmod(0o600)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ADDRESS"):
        env.pop(name, None)
    gcs, dashboard = free_port(), free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    command += ["--num-cpus=2", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # the session's Ray has 52365
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{dashboard}"
    old = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")}
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ["RAY_AUTH_MODE"] = "token"
    _forget_token()

    def answers():
        try:
            jobs.listing(address=url)
        except UserError:
            return False
        return True

    try:
        assert wait_until(answers, timeout_s=90), (folder / "log").read_text()[-2000:]
        yield f"127.0.0.1:{gcs}", url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        for name, value in old.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _forget_token()


def _forget_token():
    """Ray keeps the token it read first."""
    from ray._raylet import AuthenticationTokenLoader

    AuthenticationTokenLoader.instance().reset_cache()


def submit(argv, url, files=None, **more):
    said, written = [], []
    code = jobs.submit(
        argv,
        files=files or {},
        job_id=more.pop("job_id", f"job-{time.time_ns()}"),
        address=url,
        say=said.append,
        write=written.append,
        **more,
    )
    return code, said, "".join(written)


def test_a_job_runs_the_code_and_the_plugin_that_were_sent(head, tmp_path):
    """The packages come from the upload, not from what is installed beside the cluster."""
    gcs, url = head
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    argv = ["list", "datasets", "--plugin", "plugins/mine.py"]
    code, said, log = submit(argv, url, {"plugins/mine.py": plugin}, job_id="list-1")
    assert code == 0, log
    assert "came with a plugin" in log
    assert "job_manager" not in log
    assert sum("sending" in line for line in said) == 4
    with pytest.raises(UserError, match="a job list-1 exists"):
        submit(argv, url, {"plugins/mine.py": plugin}, job_id="list-1")
    assert jobs.status("list-1", address=gcs).status == "SUCCEEDED"  # by the GCS address too


def test_a_jobs_exit_code_is_handed_on(head):
    code, _, log = submit(["no-such-verb"], head[1])
    assert code == 2
    assert "no-such-verb" in log


def test_logs_list_and_stop(head, tmp_path):
    """A job that writes a line and waits is told to stop by SIGTERM, and answers it."""
    packages = tmp_path / "p" / "rayloom_pipelines"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text("")
    (packages / "cli.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))\n"
        "print('working', flush=True)\n"
        "time.sleep(120)\n"
    )
    code, _, _ = submit(["x"], head[1], packages=[packages], follow=False, job_id="stop-me")
    assert code == 0
    written = []

    def working():
        written.clear()
        jobs.logs("stop-me", address=head[1], say=print, write=written.append)
        return "working" in "".join(written)

    assert wait_until(working, timeout_s=60)
    assert jobs.listing(address=head[1])[0].job_id == "stop-me"
    stopped = jobs.stop("stop-me", address=head[1])
    assert stopped.status == "STOPPED"
    assert jobs.exit_code_of(stopped) == 143


ASKED = """
import sys
from rayloom.core.errors import UserError
from rayloom.distributed import jobs, joining
from rayloom.distributed.doctor import examine
gcs, url = sys.argv[1:]
for ask in (lambda: jobs.listing(address=url), lambda: joining.check_address(gcs)):
    try:
        ask()
    except UserError as error:
        print("told:", error)
print(examine(gcs)[-1])
"""


def test_unknown_jobs_and_wrong_tokens_are_told_in_words(head, tmp_path):
    with pytest.raises(UserError, match="no job nope at"):
        jobs.status("nope", address=head[1])
    wrong = tmp_path / "token"
    wrong.write_text("cd" * 32)
    env = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    env.pop("RAY_AUTH_MODE")
    command = [sys.executable, "-c", ASKED, *head]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    listing, preflight, finding = done.stdout.strip().splitlines()
    assert "wants a token, and this machine has a token that the cluster refuses" in listing
    assert f"told: the cluster at {head[0]} refuses this token" in preflight
    assert "copy the head's ~/.ray/auth_token here" in finding, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_what_a_cluster_never_will_hold_is_refused_before_there_is_a_run(
    head, tmp_path, verb, capsys
):
    from rayloom_pipelines.cli import main

    storage = tmp_path / "runs"
    words = [verb, "rl/dqn-cartpole", "resources.workers=3", f"resources.address={head[0]}"]
    words += [f"storage={storage}", "tracking.uri=null"]
    words += ["optimizer.lr=choice(1e-3)"] if verb == "sweep" else []
    assert main(words) == 2
    assert "resources: this run needs 3 CPUs" in capsys.readouterr().err
    assert not storage.exists()


def test_nobody_there_is_told_in_words():
    with pytest.raises(UserError, match="no Ray dashboard answers"):
        jobs.listing(address="http://127.0.0.1:1")


def test_what_is_sent_is_small_and_the_world_stays_here(tmp_path):
    with jobs.staged({"config.yaml": "seed: 0\n"}) as uploads:
        assert [u.name for u in uploads] == [
            "rayloom",
            "rayloom_envs",
            "rayloom_pipelines",
            "working folder",
        ]
        assert sum(upload.size for upload in uploads) < 5 * 2**20
        files = [f for u in uploads for f in u.path.rglob("*") if f.is_file()]
        suffixes = {f.suffix for f in files if f.parent.name != "extractors"}  # part of the package
        assert not suffixes & {".pyc", ".so", ".db", ".jsonl", ".safetensors", ".arrow"}
        root = uploads[0].path.parents[1]
    assert not root.exists()
    big = tmp_path / "plugin"
    big.mkdir()
    with (big / "__init__.py").open("wb") as file:
        file.truncate(jobs.LIMIT_BYTES + 1)
    with pytest.raises(UserError, match="the largest is working folder"):
        submit(["list"], "http://127.0.0.1:1", {"plugin": big})
    with pytest.raises(ValueError, match="leads out"), jobs.staged({"../x": "y"}):
        pass


SHARED = "http://mlflow.lab:5000"


@pytest.mark.parametrize(
    ("storage", "uri", "address", "words"),
    [
        (None, SHARED, None, "storage: ./runs is relative"),
        ("runs", SHARED, None, "storage: runs is relative"),
        ("/tmp/ray/session_latest/runs", SHARED, None, "session folder"),
        ("/srv/runs", SHARED, "http://10.9.8.7:8265", "a local disk here"),
        ("/srv/runs", None, None, "tracking.uri: null"),
        ("/srv/runs", "sqlite:///mlflow.db", None, "sqlite:///mlflow.db is relative"),
        ("/srv/runs", "sqlite:////srv/m.db", "http://10.9.8.7:8265", "a file on one machine"),
        ("/srv/runs", "http://localhost:5000", "http://10.9.8.7:8265", "own loopback"),
    ],
)
def test_what_would_die_with_the_job_is_refused(storage, uri, address, words):
    with pytest.raises(UserError, match="lost with the job") as caught:
        jobs.check_durable(storage=storage, tracking_uri=uri, address=address)
    assert words in str(caught.value)


def test_what_outlives_the_job_is_accepted():
    jobs.check_durable(storage="/srv/runs", tracking_uri="sqlite:////srv/m.db", address=None)
    far = "http://10.9.8.7:8265"
    jobs.check_durable(storage="/srv/runs", tracking_uri=SHARED, address=far, trust=True)


def test_no_ray_process_of_the_head_is_needed_for_the_checks():
    assert shutil.which("sh")  # the entry point is a shell line
    line = jobs._entrypoint(["train", "a b.yaml", "x=$(rm -rf /)"])
    assert "'a b.yaml' 'x=$(rm -rf /)'" in line
    assert "exec env RAYLOOM_CONSOLE=1 " in line  # its output is copied into the run folder


def test_a_lost_cluster_points_to_the_run_folder(capsys):
    from rayloom_pipelines.cli import main

    for verb in ("logs", "status"):
        assert main(["jobs", verb, "vae-1", "--address", "http://127.0.0.1:1"]) == 2
        assert "`rayloom runs show vae-1`" in capsys.readouterr().err


BROKEN = """
from typing import Literal
from rayloom.models.autoencoders.vae import VAE, VAEConfig

class OwnConfig(VAEConfig):
    name: Literal["own"] = "own"

class Own(VAE):
    config_class = OwnConfig

    def loss(self, batch, **named):
        if named["step"] == 7:
            raise ValueError("the password=hunter2x9 of my own")
        return super().loss(batch, **named)

CATALOGUE = {"models": {"own": Own}}
"""


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_a_jobs_run_knows_its_code_its_cause_and_what_it_printed(head, tmp_path, monkeypatch, verb):
    """By the real way: submit, the job's process, its trials; then a resume as a job."""
    import json

    from rayloom.records.origin import describe_run
    from rayloom_pipelines.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(BROKEN)
    (tmp_path / "own.yaml").write_text(
        "model: {name: own}\ndata: {name: digits}\ntrain: {epochs: 1}\nevaluation: {metrics: []}\n"
    )
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        command = ["git", "-c", "user.email=a@b", "-c", "user.name=n", *words]
        subprocess.run(command, check=True)
    (tmp_path / "own.py").write_text(BROKEN + "# not committed\n")
    commit = describe_run()["git"]["commit"]
    more = ["optimizer.lr=choice(1e-3)", "sweep.trials=1"] if verb == "sweep" else []
    places = [f"storage={tmp_path / 'runs'}", f"tracking.uri=sqlite:///{tmp_path / 'm.db'}"]
    words = ["--", verb, "own.yaml", "--plugin", "own.py", *places, *more]
    assert main(["submit", "--address", head[1], "--follow", *words]) == 1
    runs = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/run.json")]
    assert len(runs) == (2 if verb == "sweep" else 1)
    for about in runs:
        assert about["command"].startswith("rayloom submit --address")
        assert (about["git"]["commit"], about["git"]["dirty"]) == (commit, True)
        assert about["cwd"] == str(tmp_path)
        assert about["status"] == "failed"
        assert (
            "ValueError: the password=*** of my own at plugins/own.py:13 (loss)" in about["cause"]
        )
        folder = tmp_path / "runs" / about["run_id"]
        assert "+# not committed" in (folder / "git.diff").read_text()
        log = (folder / "log.txt").read_text()
        assert "hunter2x9" not in log
        assert ("in loss\n" in log) == (about["kind"] == "run")
    (parent,) = [about for about in runs if not about.get("parent")]
    folder = tmp_path / "runs" / parent["run_id"]
    assert parent["job"]["id"] == parent["run_id"]

    def told():
        return "the run" in (folder / "console.txt").read_text() or verb == "sweep"

    assert wait_until(told, timeout_s=20)
    assert "hunter2x9" not in (folder / "console.txt").read_text()
    again = ["--", "resume", parent["run_id"], "--plugin", "own.py"]
    monkeypatch.setenv("RAYLOOM_STORAGE", str(tmp_path / "runs"))
    assert main(["submit", "--address", head[1], "--follow", *again]) == 1
    after = json.loads((folder / "run.json").read_text())
    assert after["attempt"]["number"] == 2
    assert after["attempt"]["job"]["id"] == f"{parent['run_id']}-2"
    assert after["attempt"]["git"]["commit"] == commit
    assert (folder / "console.txt").read_text().count("--- job ") == 2
