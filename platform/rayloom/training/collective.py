"""The collective of N processes: a thin skin over a `torch.distributed` group (gloo or NCCL)."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class TorchCollective:
    """Sums and copies over an initialised process group.

    Tensors may lie on any device: where the backend cannot reduce them there (NCCL and CPU
    tensors), they travel through the backend's device.

    Args:
        group: The group; None means the default one.

    Raises:
        RuntimeError: No process group is initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise RuntimeError("torch.distributed has no process group; call init_process_group")
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.world: int = dist.get_world_size(group)
        on_gpu = dist.get_backend(group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None

    def _carrier(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a contiguous copy where the backend can work on it."""
        carrier = tensor if self._device is None else tensor.to(self._device)
        return carrier.contiguous()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; returns the tensor."""
        carrier = self._carrier(tensor)
        dist.all_reduce(carrier, group=self.group)
        return tensor if carrier is tensor else tensor.copy_(carrier)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """The source's tensor on every rank, in place; returns the tensor."""
        carrier = self._carrier(tensor)
        dist.broadcast(carrier, group=self.group, group_src=source)
        return tensor if carrier is tensor else tensor.copy_(carrier)

    def broadcast_json(self, value: Any, source: int = 0) -> Any:
        """A JSON-able value of the source on every rank."""
        text = json.dumps(value).encode() if self.rank == source else b""
        size = self.broadcast(torch.tensor([len(text)], dtype=torch.int64), source)
        letters = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == source:
            letters.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        self.broadcast(letters, source)
        return json.loads(bytes(letters.numpy()))

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(group=self.group)
