"""The collective of one process. Gloo and NCCL live in `rayloom.training.collective`."""

from typing import Any

from torch import Tensor


class Solo:
    """World of one: every operation is the identity."""

    rank = 0
    world = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """The tensor itself."""
        return tensor

    def broadcast_json(self, value: Any, source: int = 0) -> Any:
        """The value itself."""
        return value

    def barrier(self) -> None:
        """Nothing to wait for."""
