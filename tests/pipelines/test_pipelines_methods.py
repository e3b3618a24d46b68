"""The table of methods: what a cell says, what is tried again, and that cells can fail."""

import json
from types import SimpleNamespace

import pytest
import torch

from rayloom.catalogue import Entry
from rayloom.core.errors import UserError
from rayloom_pipelines.benchmarks import methods, methods_cells, results
from rayloom_pipelines.benchmarks.methods_table import page


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with a line of code, where two cells are tried."""
    for folder in ("docs", "tests", "platform"):
        (tmp_path / folder).mkdir()
    (tmp_path / "platform" / "a.py").write_text("x = 1")
    tried = []

    def holds(trial):
        tried.append(trial.entry.name)
        return "4 | 5"

    def breaks(trial):
        raise ZeroDivisionError("by  zero\nhere")

    monkeypatch.setattr(methods, "ROOT", tmp_path)
    monkeypatch.setattr(methods, "CELLS", {"trains": holds, "sweep": breaks})
    return tmp_path, tried


def test_every_cell_is_kept_also_one_that_fails(clone):
    root, tried = clone
    lines = []
    found = methods.run(names=["vae"], say=lines.append)
    assert tried == ["vae"]
    assert found["vae"]["trains"]["passed"]
    assert found["vae"]["sweep"]["said"] == "ZeroDivisionError: by zero here"
    assert lines == ["vae: trains: 4 | 5", "vae: sweep: FAILS: ZeroDivisionError: by zero here"]
    text = (root / "docs" / "methods.md").read_text()
    assert "| `vae` | autoencoder | 2014 | 4 \\| 5 | **fails** |" in text
    assert "- `vae`, sweep: ZeroDivisionError" in text
    assert "| `dqn` | value-based | 2015 |  |  |  |" in text
    assert methods.table(found).startswith("vae: 1 of 2 cells hold\n  sweep: Zero")


def test_what_was_tried_with_this_code_is_not_tried_again(clone):
    root, tried = clone
    methods.run(names=["vae"], say=lambda line: None)
    methods.run(names=["vae"], say=lambda line: None)
    assert tried == ["vae"]
    (root / "platform" / "a.py").write_text("x = 2")
    methods.run(names=["vae"], say=lambda line: None)
    assert tried == ["vae", "vae"]


def test_an_interrupted_matrix_goes_on_where_it_was(clone, monkeypatch):
    root, tried = clone

    def stopped(trial):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(methods.CELLS, "sweep", stopped)
        with pytest.raises(KeyboardInterrupt):
            methods.run(names=["vae"], say=lambda line: None)
    methods.run(names=["vae"], say=lambda line: None)
    assert tried == ["vae"]
    assert set(json.loads((root / "matrix-out" / "vae.json").read_text())) == {"trains", "sweep"}


def test_a_name_of_no_method_is_told(clone):
    with pytest.raises(UserError, match="no method is called 'vea'; did you mean 'vae'"):
        methods.run(names=["vea"])


def trial(tmp_path, name="vae"):
    return methods_cells.Trial(Entry(name, "m:M"), tmp_path, tmp_path, lambda: None)


def a_run(sha, weight):
    model = SimpleNamespace(state_dict=lambda: {"w": torch.tensor([1.0, weight])})
    record = SimpleNamespace(parameters_sha256=sha)
    return SimpleNamespace(record=record, model=lambda which: model)


@pytest.mark.parametrize(
    ("name", "sha", "weight", "said"),
    [
        ("vae", "a", 9.0, "bit-equal"),
        ("vae", "b", 0.5 + 1e-4, "within 0.0001"),
        ("dqn", "a", 0.5, "bit-equal"),
    ],
)
def test_workers_that_end_alike(tmp_path, monkeypatch, name, sha, weight, said):
    monkeypatch.setattr(methods_cells, "_train", lambda *words: a_run(sha, weight))
    one = trial(tmp_path, name)
    one.alone = a_run("a", 0.5)
    assert methods_cells.workers(one) == said


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [
        ("vae", 0.6, "parameters differ by 0.1, the largest is 1"),
        ("vae", float("nan"), "parameters differ by nan"),
        ("dqn", 0.5, "differ in bits"),
    ],
)
def test_workers_that_end_apart_fail(tmp_path, monkeypatch, name, weight, said):
    monkeypatch.setattr(methods_cells, "_train", lambda *words: a_run("b", weight))
    one = trial(tmp_path, name)
    one.alone = a_run("a", 0.5)
    with pytest.raises(methods_cells.Missing, match=said):
        methods_cells.workers(one)


def test_laws_are_counted_and_run(tmp_path):
    one = trial(tmp_path)
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n law\n faults\n learning\n gpu\n bench\n mutants\n"
    )
    with pytest.raises(methods_cells.Missing, match="no test is marked"):
        methods_cells.laws(one)
    (folder / "test_a.py").write_text(
        "import pytest\n@pytest.mark.law('beta-vae', 'vae')\ndef test_a(): pass\n"
        "@pytest.mark.law('vae')\n@pytest.mark.faults\ndef test_b(): assert 0\n"
        "@pytest.mark.law('other')\ndef test_c(): assert 0\ndef test_d(): assert 0\n"
    )
    assert methods_cells.laws(one) == "1 tests"
    (folder / "test_b.py").write_text(
        "import pytest\npytestmark = pytest.mark.law('vae')\ndef test_a(): assert 0\n"
    )
    with pytest.raises(methods_cells.Missing, match="a law is broken"):
        methods_cells.laws(one)


def test_a_page_has_all_its_sections(tmp_path):
    one = trial(tmp_path)
    (tmp_path / "docs" / "models").mkdir(parents=True)
    with pytest.raises(methods_cells.Missing, match=r"docs has no vae\.md"):
        methods_cells.page(one)
    path = tmp_path / "docs" / "models" / "vae.md"
    path.write_text("## Paper\n## Equation\n## Deviations from the paper\n## Command\n")
    with pytest.raises(methods_cells.Missing, match="no section Results"):
        methods_cells.page(one)
    path.write_text(path.read_text() + "## Results\n")
    assert methods_cells.page(one) == "models/vae.md"


def test_the_small_config_of_each_method_is_found(tmp_path):
    found = {name: trial(tmp_path, name).configs[0] for name in ("vae", "beta-vae", "dqn")}
    assert found == {
        "vae": "autoencoders/vae-digits",
        "beta-vae": "autoencoders/beta-vae-digits-constrained",
        "dqn": "rl/dqn-cartpole",
    }
    with pytest.raises(methods_cells.Missing, match="no shipped config"):
        methods_cells.config(trial(tmp_path, "nothing"))


def test_a_table_without_failures_has_no_list_of_them():
    entry = Entry("vae", "m:M", family="autoencoder")
    verdict = {"passed": True, "said": "yes", "date": "2026-01-02"}
    text = page({"vae": entry}, {"vae": {"trains": verdict}}, ["trains"])
    assert "| `vae` | autoencoder |  | yes | 2026-01-02 |" in text
    assert "What fails" not in text


# Results ----------------------------------------------------------------------------------------


def noted(folder, method="vae", **more):
    one = {
        "method": method, "config": "vae-digits", "seed": 0, "metric": "eval/elbo_nats",
        "best": -24.0, "seconds": 10.0, "commit": "aaaaaaa", "date": "2026-01-01", "machine": "m",
    } | more  # fmt: skip
    (folder / method).mkdir(parents=True, exist_ok=True)
    name = f"{one['config']}-{one['seed']}-{one['commit']}-{one['date']}.json"
    (folder / method / name).write_text(json.dumps(one))


def test_a_table_shows_the_newest_commit_of_each_config(tmp_path):
    noted(tmp_path, best=-99.0)
    noted(tmp_path, commit="bbbbbbb", date="2026-01-02", best=-24.0)
    noted(tmp_path, commit="bbbbbbb", date="2026-01-02", best=-22.0, seed=1, seconds=20.0)
    noted(tmp_path, config="other", best=1.0)
    text = results.table("vae", tmp_path)
    row = "| `vae-digits` | `eval/elbo_nats` | -23 ± 1.4 | 0, 1 | 15 | bbbbbbb | 2026-01-02 | m |"
    assert row in text
    assert "-99" not in text
    assert "| `other` | `eval/elbo_nats` | 1 | 0 | 10 |" in text
    head = results.headline(results.of_method(tmp_path, "vae"))
    assert head == "eval/elbo_nats -23 ± 1.4 (2 seeds, bbbbbbb, 2026-01-02)"


def test_a_seed_that_was_run_again_counts_once(tmp_path):
    noted(tmp_path, best=1.0)
    noted(tmp_path, best=2.0, date="2026-01-02")
    assert "| 2 | 0 |" in results.table("vae", tmp_path)


def test_pages_are_filled_between_their_marks(tmp_path):
    noted(tmp_path / "results")
    before = "# VAE\n<!-- results of vae -->\nold\n<!-- end of results -->\nafter\n"
    (tmp_path / "vae.md").write_text(before)
    (tmp_path / "other.md").write_text("nothing to fill\n")
    assert results.fill_pages(tmp_path) == [tmp_path / "vae.md"]
    text = (tmp_path / "vae.md").read_text()
    assert text.startswith("# VAE\n<!-- results of vae -->\n| config |")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in text
    assert results.fill_pages(tmp_path) == []


def test_a_finished_run_is_noted(place, tmp_path):
    import rayloom

    words = ["train.epochs=1", "evaluation.metrics=[]", "seed=3"]
    run = rayloom.train("autoencoders/vae-digits", words, track=False)
    path = results.add(str(run.path), tmp_path)
    found = json.loads(path.read_text())
    assert path.parent.name == "vae"
    assert (found["method"], found["seed"]) == ("vae", 3)
    assert found["config"] == "autoencoders/vae-digits"
    assert found["best"] == run.best["value"]
    assert len(found["commit"].rstrip("+")) == 7
    assert found["seconds"] >= 0
    run.folder.update(status="failed")
    with pytest.raises(UserError, match="only a finished run has a result"):
        results.add(str(run.path), tmp_path)
