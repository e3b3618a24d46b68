"""TD updates of action-value networks: by autograd, and by hand for perceptrons on a CPU.

Dimension key: U updates, B transitions of a batch, D numbers per observation, O network outputs, A
actions.

A 64x64 perceptron on a batch of 32 is so little work that autograd's bookkeeping costs several
times the arithmetic. `PerceptronKernel` runs forward and backward as a fixed list of operations on
memory that is allocated once; tests hold it to `AutogradKernel`, which is the definition.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from rayloom.functional.rl import huber, q_learning_target
from rayloom.optim import FlatParameters
from rayloom.rl.algorithms.q_network import QNetwork


@runtime_checkable
class Kernel(Protocol):
    """Gradient of one minibatch."""

    def gradient(
        self,
        obs_pair: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        discount: np.ndarray,
        q_next: np.ndarray,
        weight: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write the gradient of mean(weight * huber(td)) to the flat gradient.

        Args:
            obs_pair: Observations and next observations, (2, B, *obs_shape).
            action: int64 (B,).
            reward: float32 (B,).
            discount: float32 (B,).
            q_next: Target network at the next observations, float32 (B, A).
            weight: Importance weights float32 (B,), or None for ones.

        Returns:
            TD errors q_taken - y, and q_taken, float32 (B,) each; valid until the next call.
        """
        ...


class AutogradKernel:
    """The definition: torch's autograd on any module and device.

    Args:
        network: The online network.
        flat: Its parameters.
        double: Choose the next action with the online network.
        delta: Huber threshold.
    """

    def __init__(
        self, network: nn.Module, flat: FlatParameters, *, double: bool, delta: float
    ) -> None:
        self.network, self.flat, self.double, self.delta = network, flat, double, delta
        self.device = flat.data.device

    def gradient(
        self,
        obs_pair: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        discount: np.ndarray,
        q_next: np.ndarray,
        weight: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Kernel`."""
        device = self.device
        obs, next_obs = torch.from_numpy(obs_pair).to(device)
        target_q = torch.from_numpy(q_next).to(device)
        with torch.no_grad():
            q_select = self.network(next_obs) if self.double else target_q
        y = q_learning_target(
            torch.from_numpy(reward).to(device),
            torch.from_numpy(discount).to(device),
            target_q,
            q_select,
        )
        chosen = torch.from_numpy(action).to(device).unsqueeze(-1)
        q_taken = self.network(obs).gather(-1, chosen).squeeze(-1)  # (B,)
        loss = huber(q_taken - y, self.delta)
        if weight is not None:
            loss = loss * torch.from_numpy(weight).to(device)
        self.flat.backward(loss.mean())
        td = (q_taken - y).detach().cpu().numpy()
        return td, q_taken.detach().cpu().numpy()


class PerceptronKernel:
    """The same for a `QNetwork` in float32 on a CPU, without autograd and without allocation.

    Args:
        network: The online network, its parameters already flat.
        batch_size: B.
        double: Choose the next action with the online network.
        delta: Huber threshold.
    """

    def __init__(self, network: QNetwork, *, batch_size: int, double: bool, delta: float) -> None:
        self.batch_size, self.double, self.delta = batch_size, double, delta
        self.dueling = network.dueling
        linears = network.linears()
        self._tanh = any(isinstance(layer, nn.Tanh) for layer in network.body)
        rows = 2 * batch_size if double else batch_size
        self._weights = [layer.weight.detach() for layer in linears]  # (out, in)
        self._turned = [w.t() for w in self._weights]
        self._biases = [layer.bias.detach() for layer in linears]
        self._grad_w = [layer.weight.grad for layer in linears]
        self._grad_b = [layer.bias.grad for layer in linears]
        self._outs = [torch.empty(rows, len(b)) for b in self._biases]
        self._kept = [out[:batch_size] for out in self._outs]
        self._deltas = [torch.empty(batch_size, len(b)) for b in self._biases]
        self._deltas_turned = [d.t() for d in self._deltas]
        self._out = self._outs[-1].numpy()
        self._d_out = self._deltas[-1].numpy()
        self._rows = np.arange(batch_size)

    def _forward(self, x: Tensor) -> None:
        last = len(self._outs) - 1
        for i, out in enumerate(self._outs):
            torch.addmm(self._biases[i], x, self._turned[i], out=out)
            if i < last:
                x = out.tanh_() if self._tanh else out.relu_()

    def _backward(self, x: Tensor) -> None:
        """From the last delta to all gradients; x (B, D) is the input of the first rows."""
        for i in range(len(self._outs) - 1, -1, -1):
            delta = self._deltas[i]
            below = self._kept[i - 1] if i else x
            torch.mm(self._deltas_turned[i], below, out=self._grad_w[i])
            torch.sum(delta, 0, out=self._grad_b[i])
            if i:
                down = self._deltas[i - 1]
                torch.mm(delta, self._weights[i], out=down)
                if self._tanh:
                    torch.ops.aten.tanh_backward.grad_input(down, below, grad_input=down)
                else:
                    torch.ops.aten.threshold_backward.grad_input(down, below, 0, grad_input=down)

    def gradient(
        self,
        obs_pair: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        discount: np.ndarray,
        q_next: np.ndarray,
        weight: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Kernel`; takes float32 observations (2, B, D)."""
        b, rows = self.batch_size, self._rows
        both = torch.from_numpy(obs_pair).view(2 * b, -1)
        self._forward(both if self.double else both[:b])
        q = self._out
        if self.dueling:
            advantage = q[:, 1:]
            q = q[:, :1] + advantage - advantage.mean(-1, keepdims=True)
        q_select = q[b:] if self.double else q_next
        q_taken = q[rows, action]
        y = reward + discount * q_next[rows, q_select.argmax(-1)]
        td = q_taken - y
        slope = np.clip(td, -self.delta, self.delta)
        slope *= np.float32(1.0 / b) if weight is None else weight / np.float32(b)
        d = self._d_out
        d.fill(0.0)
        if self.dueling:  # dQ_a/dA_k = [a = k] - 1/A, dQ_a/dV = 1
            num_actions = d.shape[1] - 1
            d[:, 1:] -= (slope / np.float32(num_actions))[:, None]
            d[rows, action + 1] += slope
            d[:, 0] = slope
        else:
            d[rows, action] = slope
        self._backward(both[:b])
        return td, q_taken


def make_kernel(
    network: nn.Module, flat: FlatParameters, *, batch_size: int, double: bool, delta: float
) -> Kernel:
    """The fast kernel where it applies, else the definition."""
    plain = flat.data.device.type == "cpu" and flat.data.dtype == torch.float32
    if plain and isinstance(network, QNetwork):
        return PerceptronKernel(network, batch_size=batch_size, double=double, delta=delta)
    return AutogradKernel(network, flat, double=double, delta=delta)
