"""L-BFGS with a strong Wolfe line search on a flat tensor (Liu and Nocedal, 1989).

The algorithm is `torch.optim.LBFGS`; here are its state in a form that checkpoints hold, and a
closure that evaluates on all workers. It needs the same loss at every call, so the whole data set
is the batch (`data.batch_size: all`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.config.sections import LBFGSConfig
from rayloom.optim.flat import FlatPiece

_VECTORS, _LISTS = ("d", "prev_flat_grad"), ("old_dirs", "old_stps", "ro")
_NUMBERS, _COUNTS = ("t", "H_diag", "prev_loss"), ("func_evals", "n_iter")


class FlatLBFGS:
    """One L-BFGS on one `FlatPiece`; see `optim.optimizers.FlatOptimizer`.

    Args:
        flat: What it updates.
        config: Settings.
    """

    needs_closure = True

    def __init__(self, flat: FlatPiece, config: LBFGSConfig) -> None:
        self.flat, self.lr = flat, config.lr
        self.state: dict[str, Tensor] = {}  # no moments to move
        self._vector = nn.Parameter(flat.data)  # the same memory
        self._vector.grad = flat.grad
        self._inner = torch.optim.LBFGS(
            [self._vector],
            lr=config.lr,
            max_iter=config.max_iter,
            history_size=config.history_size,
            tolerance_grad=config.tolerance_grad,
            tolerance_change=config.tolerance_change,
            line_search_fn="strong_wolfe" if config.line_search else None,
        )

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Callable[[], float] | None = None,
    ) -> None:
        """Up to `max_iter` iterations on one batch.

        Args:
            factor: The schedule's factor.
            grad_scale: Unused: a clipped gradient is no gradient of the loss.
            closure: Evaluates the loss at the present parameters and leaves its gradient in
                `flat.grad`; equal on every rank.

        Raises:
            ValueError: There is no closure.
        """
        if closure is None:
            raise ValueError("lbfgs needs a closure")
        self._inner.param_groups[0]["lr"] = self.lr * factor
        evaluate = closure
        self._inner.step(lambda: evaluate())

    def state_dict(self) -> dict[str, Any]:
        """Its memory of earlier steps, as tensors and numbers."""
        inner: dict[str, Any] = self._inner.state[self._vector]
        state: dict[str, Any] = {name: int(inner.get(name, 0)) for name in _COUNTS}
        if inner.get("d") is None:
            return state
        state |= {name: inner[name].clone() for name in _VECTORS}
        state |= {name: float(inner[name]) for name in _NUMBERS}
        lists = {name: inner[name] for name in _LISTS}
        like = self.flat.data
        for name, values in lists.items():
            none = like.new_zeros(0) if name == "ro" else like.new_zeros(0, len(like))
            state[name] = torch.stack(list(values)) if values else none
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in.

        Raises:
            ValueError: It is of another size.
        """
        inner: dict[str, Any] = {name: int(state[name]) for name in _COUNTS}
        if "d" in state:
            like = self.flat.data
            for name in _VECTORS:
                given = torch.as_tensor(state[name]).to(like)
                if given.shape != like.shape:
                    raise ValueError(f"{name} has {len(given)} elements, not {len(like)}")
                inner[name] = given.clone()
            inner |= {name: float(state[name]) for name in _NUMBERS}
            for name in _LISTS:
                inner[name] = list(torch.as_tensor(state[name]).to(like).clone().unbind(0))
        self._inner.state[self._vector] = inner
