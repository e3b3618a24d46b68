"""Ranks as threads of this process: the laws of data parallelism without the start of workers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


class ThreadCollective:
    """A rank among threads that meet at a barrier."""

    def __init__(self, rank, world, shared):
        self.rank, self.world, self._shared = rank, world, shared

    def _exchange(self, value):
        slots, gate = self._shared
        slots[self.rank] = value
        gate.wait(60)
        everyone = list(slots)
        gate.wait(60)
        return everyone

    def all_reduce(self, tensor):
        everyone = self._exchange(tensor.clone())
        return tensor.copy_(torch.stack(everyone).sum(0))

    def broadcast(self, tensor, source=0):
        return tensor.copy_(self._exchange(tensor.clone())[source])

    def broadcast_json(self, value, source=0):
        return self._exchange(value)[source]

    def barrier(self):
        self._exchange(None)


def on_ranks(world, run):
    """`run(rank, collective)` on every rank; their results in order.

    Build models before: torch's global generator, which draws weights, is shared by threads.
    """
    shared = ([None] * world, threading.Barrier(world))
    with ThreadPoolExecutor(world) as pool:
        jobs = [pool.submit(run, r, ThreadCollective(r, world, shared)) for r in range(world)]
        return [job.result() for job in jobs]
