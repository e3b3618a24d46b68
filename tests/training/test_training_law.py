"""N ranks equal one, and a resumed group equals an unbroken one (gloo, two spawned processes)."""

import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from training import law
from training.toys import CASES


def _rank(rank, world, folder):
    torch.set_num_threads(1)
    from rayloom.training.collective import TorchCollective

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    collective = TorchCollective()
    results = {
        "law": law.check(collective),
        "resume": law.check_resume(collective),
        "other world": law.check_other_world(collective),
        "json": collective.broadcast_json({"a": [1, None, "ü"]} if rank == 1 else None, source=1),
    }
    results["stops"] = law.check_stops(collective)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(results, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both ranks found, all cases in one pair of processes."""
    folder = tmp_path_factory.mktemp("law")
    multiprocessing.spawn(_rank, args=(2, str(folder)), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("batch_size", law.BATCH_SIZES)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(results, name, batch_size):
    """Parameters, buffers, log points and evaluation; also with an empty slice (batch of 1)."""
    for result in results:
        assert result["law"][f"{name}/{batch_size}"] < law.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_resume_in_bits(results, name):
    assert all(result["resume"][name] for result in results)


@pytest.mark.parametrize("name", CASES)
def test_one_rank_goes_on_where_two_were(results, name):
    assert all(result["other world"][name] < law.TOLERANCE for result in results)


def test_json_travels(results):
    assert all(result["json"] == {"a": [1, None, "ü"]} for result in results)


def test_ranks_agree_on_how_a_run_ends(results):
    """Early stopping, rules, a signal or time limit on one rank: both stop at the same step."""
    first, second = (result["stops"] for result in results)
    assert first == second
    assert first["budget"]["position"] == 40
    assert (first["rule"]["position"], first["rule"]["status"]) == (4, "finished")
    assert first["patience"]["position"] == 12  # the first counts as an improvement, then two
    assert first["signal on rank 1"]["exit_code"] == 143
    assert first["Ctrl-C on rank 0"]["exit_code"] == 130
    assert 0 < first["signal on rank 1"]["position"] < 40
    assert (first["time"]["status"], first["time"]["position"]) == ("time_limit", 1)
