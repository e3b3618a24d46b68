"""Runs that a job makes carry the submitter's code, not the job's temporary folder."""

import json
import subprocess

import pytest

import rayloom
from rayloom.records import origin

SMALL = ["train.epochs=1", "evaluation.every=1", "evaluation.metrics=[]", "train.log_every=6"]
TYPED = ["rayloom", "submit", "--token", "abcd1234efgh", "--", "train", "own.yaml"]


def git(folder, *words):
    command = ["git", "-c", "user.email=a@b", "-c", "user.name=n", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work tree with a line that is not committed, and a file that git does not know."""
    folder = tmp_path_factory.mktemp("work")
    git(folder, "init", "-q", "-b", "idea")
    (folder / "mine.py").write_text("x = 1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    (folder / "mine.py").write_text("x = 2\n")
    (folder / "new.py").write_text("")
    return folder


@pytest.fixture
def job(work, place, tmp_path, monkeypatch):
    """This process becomes one that a job started, far away from the work tree."""
    with monkeypatch.context() as patch:
        patch.chdir(work)
        told = origin.travelling(TYPED)
    told |= {"host": "laptop", "packages": told["packages"] | {"rayloom": "9.9", "torch": "0.1"}}
    (tmp_path / origin.JOB_FILE).write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(origin.JOB_VARIABLE, "own-20260101-000000-abcde")
    return "own-20260101-000000-abcde"


def check(about, work, job):
    assert about["command"] == "rayloom submit --token '***' -- train own.yaml"
    assert about["cwd"] == str(work)
    assert about["git"]["root"] == str(work)
    assert about["git"]["commit"] == git(work, "rev-parse", "HEAD")
    assert (about["git"]["branch"], about["git"]["dirty"]) == ("idea", True)
    assert about["git"]["untracked"] == ["new.py"]
    assert about["job"]["id"] == job
    assert about["submitted"]["host"] == "laptop"
    assert about["submitted"]["packages"]["torch"] == "0.1"  # what computed it is another one
    assert about["job"]["ray"]


def train(place, **more):
    words = [*SMALL, f"storage={place / 'runs'}"]
    return rayloom.train("autoencoders/vae-digits", words, track=False, **more)


def test_a_jobs_run_carries_the_submitters_code(job, work, place, tmp_path):
    run = train(place)
    check(run.about, work, job)
    assert run.id == job
    assert "+x = 2" in (run.path / "git.diff").read_text()
    assert run.about["packages"]["rayloom"] == "9.9"  # the code that was sent
    assert run.about["packages"]["torch"] != "0.1"
    assert run.about["job"]["cwd"] == str(tmp_path)
    assert not (run.path / "git-2.diff").exists()


def test_every_seed_of_a_jobs_group_too(job, work, place, monkeypatch):
    monkeypatch.setenv(origin.JOB_VARIABLE, job + "2")
    group = train(place, seeds=2)
    for run in (group, *group.children):
        check(run.about, work, job + "2")
        assert "+x = 2" in (run.path / "git.diff").read_text()


def test_a_resume_by_a_job_notes_its_own_origin(job, work, place, monkeypatch):
    """The run stays what it was; the attempt says which code went on with it."""
    with monkeypatch.context() as patch:
        patch.delenv(origin.JOB_VARIABLE)
        patch.chdir(place)
        run = train(place)
    first = run.about
    assert "job" not in first
    rayloom.resume(run, ["train.epochs=2"])
    assert run.about["command"] == first["command"]
    attempt = run.about["attempt"]
    check({"submitted": run.about["attempt"]["submitted"], **attempt}, work, job)
    diff = run.path / "git-2.diff"
    assert "+x = 2" in diff.read_text()
    assert diff.stat().st_mode & 0o777 == 0o600
    with pytest.raises(rayloom.UserError):
        rayloom.resume(run, ["train.epochs=3", "resources.workers=2", "resources.address=x"])
    assert not (run.path / "git-3.diff").exists()


def test_a_trial_carries_what_its_sweep_knows(job, work, place, tmp_path, monkeypatch):
    """It runs in a worker of Ray: another folder, and a command that nobody typed."""
    from rayloom_pipelines.config import resolve_config
    from rayloom_pipelines.groups.sweep_plan import settle
    from rayloom_pipelines.groups.trial import payload_of, train_trial
    from rayloom_pipelines.run.folder import Options, make_folder

    words = [*SMALL, f"storage={place / 'runs'}", "optimizer.lr=choice(1e-3,1e-4)"]
    resolved = resolve_config("autoencoders/vae-digits", words, search=True)
    monkeypatch.setenv(origin.JOB_VARIABLE, job + "3")
    options = Options(track=False)
    sweep = make_folder(resolved.config, "s", options, tree=resolved.to_dict())
    payload = json.loads(json.dumps(payload_of(sweep, resolved, options, settle(resolved))))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = train_trial(payload, {"optimizer.lr": 1e-3}, "0000", lambda metrics, step: False)
    run = rayloom.load(told["run_id"], storage=place / "runs")
    assert run.about["parent"] == sweep.run_id
    check(run.about, work, job + "3")
    assert "+x = 2" in (run.path / "git.diff").read_text()


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_submit_sends_what_identifies_the_code(work, place, monkeypatch, verb):
    """The whole way to the cluster but the cluster."""
    from rayloom.distributed import jobs
    from rayloom_pipelines.cli import main

    sent = {}
    monkeypatch.setattr(jobs, "listing", lambda address: [])
    monkeypatch.setattr(jobs, "submit", lambda argv, **named: sent.update(argv=argv, **named) or 0)
    words = ["train", "autoencoders/vae-digits", *SMALL, f"storage={place / 'runs'}"]
    if verb == "resume":
        monkeypatch.chdir(place)
        words = ["resume", str(train(place).path), "train.epochs=2"]
    monkeypatch.chdir(work)
    words = ["submit", "--", *words, "tracking.uri=sqlite:////nowhere/m.db"]
    assert main(words) == 0
    told = json.loads(sent["files"][origin.JOB_FILE])
    assert told["command"].startswith(f"rayloom submit -- {verb} ")
    assert told["cwd"] == str(work)
    assert told["git"]["commit"] == git(work, "rev-parse", "HEAD")
    assert "+x = 2" in told["git"]["diff"]
    assert told["packages"]["torch"]


def test_no_secret_of_uncommitted_lines_or_the_environment_goes_with_a_job(
    place, tmp_path_factory, monkeypatch, capfd
):
    """What `submit` says of the code, its command and what it prints hold no planted secret."""
    from planted import planted
    from rayloom.distributed import jobs
    from rayloom_pipelines.cli import main

    kinds, word = planted(11), "hunter" + "78y"
    tree = tmp_path_factory.mktemp("planted")
    git(tree, "init", "-q")
    (tree / "a.py").write_text("x = 1\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "first")
    lines = "".join(f"{kind.text}\n".replace("\n+", "\n") for kind in kinds)
    (tree / "a.py").write_text(f"x = 2\n{lines}")
    sent = {}
    monkeypatch.setattr(jobs, "listing", lambda address: [])
    monkeypatch.setattr(jobs, "submit", lambda argv, **named: sent.update(argv=argv, **named) or 0)
    monkeypatch.setenv("RAYLOOM_PAT", word)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{word}@127.0.0.1:9/x")
    monkeypatch.chdir(tree)
    words = ["train", "autoencoders/vae-digits", f"storage={place / 'runs'}"]
    assert main(["submit", "--", *words, "tracking.uri=http://127.0.0.1:9"]) == 0
    told = capfd.readouterr()
    texts = {"printed": told.out + told.err, "command": " ".join(sent["argv"])}
    # not the plugins that other tests have loaded: files of the user's own, sent as they are
    texts |= {name: text for name, text in sent["files"].items() if isinstance(text, str)}
    assert "+x = 2" in texts[origin.JOB_FILE]
    for name, text in texts.items():
        assert [kind.kind for kind in kinds if kind.secret in text] == [], name
        assert word not in text, name


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"git": 3, "packages": []}'])
def test_a_damaged_note_of_the_job_fails_no_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(origin.JOB_VARIABLE, "a")
    if content is not None:
        (tmp_path / origin.JOB_FILE).write_text(content)
    about = origin.describe_run()
    assert about["packages"]["torch"]
    origin.brief(about)
