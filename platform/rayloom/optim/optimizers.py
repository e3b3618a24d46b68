"""Optimizers on one flat tensor: the update rules of `torch.optim`, one kernel per step.

They call torch's fused kernels directly, because the Python around them (`torch.optim.Optimizer`)
costs more than the update of a small model. Tests hold each to its `torch.optim` twin.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rayloom.config.sections import (
    OPTIMIZERS,
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    Config,
    LBFGSConfig,
    RMSpropConfig,
    SGDConfig,
)
from rayloom.core.errors import UserError
from rayloom.optim.flat import FlatPiece
from rayloom.optim.lbfgs import FlatLBFGS

Closure = Callable[[], float]


class FlatOptimizer:
    """One update rule on one `FlatPiece`.

    Attributes:
        flat: What it updates, from `flat.grad`.
        lr: Base learning rate; a schedule's factor is given at each step.
        state: Its tensors by name.
        needs_closure: Whether a step evaluates the loss again.
    """

    needs_closure = False

    def __init__(self, flat: FlatPiece, lr: float) -> None:
        self.flat, self.lr = flat, lr
        self.state: dict[str, Tensor] = {}

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Closure | None = None,
    ) -> None:
        """One update with learning rate `lr * factor`.

        Args:
            factor: The schedule's factor.
            grad_scale: Scalar by which the gradient is divided first (clipping in the same pass).
            closure: Evaluates again; given where `needs_closure` says so.
        """
        raise NotImplementedError

    def _gradient(self, grad_scale: Tensor | None, decay: float) -> Tensor:
        """`flat.grad` in place: divided by the scale, with the gradient of the L2 penalty."""
        grad = self.flat.grad
        if grad_scale is not None:
            grad.div_(grad_scale)
        if decay:
            grad.add_(self.flat.data, alpha=decay)
        return grad

    def state_dict(self) -> dict[str, Any]:
        """Copies of the state's tensors."""
        return {name: value.clone() for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in.

        Raises:
            ValueError: Names or shapes differ: another optimizer or another model.
        """
        if set(state) != set(self.state):
            raise ValueError(f"the state holds {sorted(state)}, expected {sorted(self.state)}")
        for name, value in self.state.items():
            given = torch.as_tensor(state[name])
            if given.shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}, not {tuple(value.shape)}")
            value.copy_(given)


class _FlatAdam(FlatOptimizer):
    """Adam with an L2 penalty, or AdamW with decoupled decay."""

    def __init__(self, flat: FlatPiece, config: AdamConfig | AdamWConfig) -> None:
        super().__init__(flat, config.lr)
        decoupled = isinstance(config, AdamWConfig)
        self._kernel = cast(Any, torch._fused_adamw_ if decoupled else torch._fused_adam_)
        self._eps, self._decay = config.eps, config.weight_decay
        self._beta1, self._beta2 = config.betas
        data = flat.data
        self.state = {
            "step": torch.zeros((), dtype=torch.float32, device=data.device),
            "mean": torch.zeros_like(data),
            "square": torch.zeros_like(data),
        }
        moments = [self.state["mean"]], [self.state["square"]]
        self._args: tuple[list[Tensor], ...] = ([data], [flat.grad], *moments, [])
        self._in_kernel = data.dtype == torch.float32  # the kernels take no other scale
        self._count, self._counts = self.state["step"], [self.state["step"]]

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Closure | None = None,
    ) -> None:
        self._count.add_(1)
        if grad_scale is not None and not self._in_kernel:
            self.flat.grad.div_(grad_scale)
            grad_scale = None
        self._kernel(
            *self._args,
            self._counts,
            lr=self.lr * factor,
            beta1=self._beta1,
            beta2=self._beta2,
            weight_decay=self._decay,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
            grad_scale=grad_scale,
        )


class _FlatSGD(FlatOptimizer):
    """Gradient descent with (Nesterov) momentum, which starts as the first gradient."""

    def __init__(self, flat: FlatPiece, config: SGDConfig) -> None:
        super().__init__(flat, config.lr)
        self._momentum, self._nesterov = config.momentum, config.nesterov
        self._decay = config.weight_decay
        if self._momentum:
            # From zero, momentum * 0 + gradient is the gradient: no special first step.
            self.state = {"momentum": torch.zeros_like(flat.data)}

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Closure | None = None,
    ) -> None:
        data, update = self.flat.data, self._gradient(grad_scale, self._decay)
        if self._momentum:
            velocity = self.state["momentum"].mul_(self._momentum).add_(update)
            update = update.add_(velocity, alpha=self._momentum) if self._nesterov else velocity
        data.add_(update, alpha=-self.lr * factor)


class _FlatRMSprop(FlatOptimizer):
    """RMSprop (Hinton, lecture 6e)."""

    def __init__(self, flat: FlatPiece, config: RMSpropConfig) -> None:
        super().__init__(flat, config.lr)
        self._alpha, self._eps = config.alpha, config.eps
        self._momentum, self._decay = config.momentum, config.weight_decay
        self.state = {"square": torch.zeros_like(flat.data)}
        if self._momentum:
            self.state["momentum"] = torch.zeros_like(flat.data)

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Closure | None = None,
    ) -> None:
        data, grad = self.flat.data, self._gradient(grad_scale, self._decay)
        square = self.state["square"]
        square.mul_(self._alpha).addcmul_(grad, grad, value=1 - self._alpha)
        scale = square.sqrt().add_(self._eps)
        lr = self.lr * factor
        if self._momentum:
            velocity = self.state["momentum"].mul_(self._momentum).addcdiv_(grad, scale)
            data.add_(velocity, alpha=-lr)
        else:
            data.addcdiv_(grad, scale, value=-lr)


class _FlatAdagrad(FlatOptimizer):
    """Adagrad (Duchi, Hazan and Singer, 2011)."""

    def __init__(self, flat: FlatPiece, config: AdagradConfig) -> None:
        super().__init__(flat, config.lr)
        self._eps, self._decay = config.eps, config.weight_decay
        self.state = {"square": torch.zeros_like(flat.data)}

    def step(
        self,
        factor: float = 1.0,
        *,
        grad_scale: Tensor | None = None,
        closure: Closure | None = None,
    ) -> None:
        data, grad = self.flat.data, self._gradient(grad_scale, self._decay)
        square = self.state["square"].addcmul_(grad, grad)
        data.addcdiv_(grad, square.sqrt().add_(self._eps), value=-self.lr * factor)


def make_optimizer(config: Config, flat: FlatPiece) -> FlatOptimizer | FlatLBFGS:
    """The optimizer of a config section on a player's flat parameters.

    Raises:
        UserError: `config` is no optimizer section, or Nesterov is asked for without momentum.
    """
    if isinstance(config, AdamConfig | AdamWConfig):
        return _FlatAdam(flat, config)
    if isinstance(config, SGDConfig):
        if config.nesterov and not config.momentum:
            raise UserError("optimizer.nesterov needs optimizer.momentum above 0")
        return _FlatSGD(flat, config)
    if isinstance(config, RMSpropConfig):
        return _FlatRMSprop(flat, config)
    if isinstance(config, AdagradConfig):
        return _FlatAdagrad(flat, config)
    if isinstance(config, LBFGSConfig):
        return FlatLBFGS(flat, config)
    raise UserError(
        f"{type(config).__name__} is no optimizer section; known: {', '.join(OPTIMIZERS)}"
    )
