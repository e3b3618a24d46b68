"""Law: a run that was killed anywhere and resumed equals one that was never stopped.

Parameters, the full metric history and every picture, in the run folder and in MLflow.
`make faults` kills at every labelled point, `make test` at two per half.
"""

import pytest
from kill_harness import Site, journal_points, killed, mlflow_points, new_site, summary

POINTS = {
    "vae": [
        "checkpoint.before:2",
        "checkpoint.during:2",
        "checkpoint.before_rename:2",
        "checkpoint.before_marker:2",
        "checkpoint.after:2",
        "journal.appended:3",
        "tracking.run_created:1",
        "tracking.batch_sent:1",
        "train.step:1",
        "train.step:17",
        "evaluation.middle:2",
    ],
    "dqn": [
        "checkpoint.before:3",
        "checkpoint.during:3",
        "checkpoint.before_rename:3",
        "checkpoint.before_marker:3",
        "checkpoint.after:3",
        "journal.appended:3",
        "tracking.run_created:1",
        "tracking.batch_sent:1",
        "evaluation.middle:2",
        "rl.round_collected:1",
        "rl.round_collected:9",
        "rl.group_collected:6",
    ],
}
QUICK = {
    ("vae", "train.step:17"),
    ("vae", "checkpoint.before_marker:2"),
    ("dqn", "rl.round_collected:9"),
    ("dqn", "evaluation.middle:2"),
}
CASES = [
    pytest.param(
        half,
        point,
        id=f"{half}-{point}",
        marks=[] if (half, point) in QUICK else pytest.mark.faults,
    )
    for half, points in POINTS.items()
    for point in points
]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data_root):
    """One undisturbed run per half, made when first asked for."""
    made: dict[str, Site] = {}

    def get(half: str) -> Site:
        if half not in made:
            site = new_site(tmp_path_factory.mktemp(f"unbroken-{half}") / "site", None, data_root)
            result = site.train(half)
            assert result.returncode == 0, result.stdout + result.stderr
            made[half] = site
        return made[half]

    return get


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("half", "point"), CASES)
def test_killed_and_resumed_equals_unbroken(half, point, tmp_path, unbroken, data_root):
    reference = unbroken(half)
    site = new_site(tmp_path / "site", None, data_root)
    died = site.train(half, failpoint=point)
    assert killed(died), f"the run did not reach {point}:\n{died.stdout}{died.stderr}"
    began = summary(site.run)["status"] != "created"  # MLflow hears of a run before it begins
    assert began or point.startswith("tracking.")

    resumed = site.command("resume", str(site.run))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "not bit-equal" not in resumed.stdout + resumed.stderr

    for run in (site.run, reference.run):
        assert summary(run)["status"] == "finished"
    past = summary(site.run).get("attempts", [])
    assert [one["status"] for one in past] == (["killed"] if began else [])
    assert summary(site.run)["attempt"]["number"] == 2
    assert summary(site.run)["parameters_sha256"] == summary(reference.run)["parameters_sha256"]

    points, pictures = journal_points(site.run)
    expected_points, expected_pictures = journal_points(reference.run)
    assert expected_points
    assert expected_pictures
    assert points == expected_points
    assert pictures == expected_pictures

    assert mlflow_points(site) == (expected_points, expected_pictures)
    assert mlflow_points(reference) == (expected_points, expected_pictures)


def test_the_comparison_can_fail(unbroken, tmp_path, data_root):
    """Canary: another seed gives other parameters and another history."""
    reference = unbroken("vae")
    site = new_site(tmp_path / "site", None, data_root)
    result = site.train("vae", "seed=1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert summary(site.run)["parameters_sha256"] != summary(reference.run)["parameters_sha256"]
    assert journal_points(site.run)[0] != journal_points(reference.run)[0]
