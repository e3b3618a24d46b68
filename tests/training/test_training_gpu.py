"""The engine on a CUDA device (`make gpu`)."""

import pytest
import torch

from rayloom.core.protocols import Turn
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from training.law import never, points
from training.toys import CASES, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def trained(name, *, stop_at=None, steps=8, **changes):
    sink = MemorySink()
    state = None
    for until in [*([stop_at] if stop_at else []), steps]:
        model, config, source, held_out = build(name, batch_size=32, **changes)
        engine = Engine(model, config, source, held_out, device="cuda")
        if state is not None:
            engine.load_state_dict(state)
        engine.advance(until, sink=sink, interrupted=never)
        state = engine.state_dict()
    return engine, sink


@pytest.mark.parametrize("name", CASES)
def test_trains_and_resumes_in_bits(name):
    whole, sink = trained(name)
    broken, pieces = trained(name, stop_at=3)
    assert whole.parameters_sha256() == broken.parameters_sha256()
    assert points(sink) == points(pieces)
    assert whole.evaluate() == broken.evaluate()


@pytest.mark.parametrize("name", ["regression", "two-stage"])
def test_bf16_is_close(name):
    exact, sink = trained(name)
    half, other = trained(name, precision="bf16")
    mine, theirs = other.history("loss/total")[-1][1], sink.history("loss/total")[-1][1]
    assert mine == pytest.approx(theirs, rel=0.05)
    assert exact.players[0].segments.flat.data.is_cuda
    assert half.players[0].segments.flat.data.dtype == torch.float32


def test_steps_do_not_wait_for_the_device():
    """Within a log interval nothing is moved off the device."""
    model, config, source, held_out = build("regression", batch_size=32, log_every=100)
    engine = Engine(model, config, source, held_out, device="cuda")
    engine.advance(2, sink=MemorySink(), interrupted=never)
    batches = engine.batches
    batches.take(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.players[0].step(
            engine._losses[0],
            batches.local,
            batches.inputs,
            batches.noise,
            turn=Turn(2, player_step=2),
            vote=False,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
