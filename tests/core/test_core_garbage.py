"""The collector of cycles pauses while libraries are imported, and goes on as it was."""

import gc
import threading

from rayloom.core import garbage


def test_it_is_off_until_the_last_block_ends():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with garbage.paused():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with garbage.paused():
        thread.start()
        assert inside.wait(10)
        assert not gc.isenabled()
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with garbage.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_made_meanwhile_is_old_and_still_collected():
    class Cycle:
        gone = 0

        def __init__(self):
            self.cycle = self

        def __del__(self):
            Cycle.gone += 1

    with garbage.paused():
        kept = [[] for _ in range(20_000)]
        Cycle()
    assert gc.get_count()[0] < 1000
    assert len(gc.get_objects(generation=0)) < len(kept)
    assert gc.get_freeze_count() == 0
    gc.collect(1)
    assert Cycle.gone == 0  # it was promoted with the others
    gc.collect()
    assert Cycle.gone == 1
