"""Does it learn: the shipped config solves CartPole-v1 on 9 of 10 seeds (minutes)."""

import pytest
from cartpole_seeds import attempt


@pytest.mark.learning
@pytest.mark.timeout(3600)
def test_cartpole_is_solved_within_50_000_environment_steps(tmp_path):
    rows = []
    for seed in range(10):
        rows.append(attempt(seed, tmp_path / str(seed)))
        print(rows[-1])  # `make learn` shows every attempt
    assert all(row["env_steps"] <= 50_000 for row in rows)
    assert sum(row["best"] >= 475 for row in rows) >= 9, rows
