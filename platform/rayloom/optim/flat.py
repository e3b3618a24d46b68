"""Parameters as views into one flat tensor, gradients as views into another.

Clipping, the optimizer, the moving average, zeroing and the all-reduce over workers each become one
operation, whatever the number of layers. A small model spends most of a step on the overhead of
such operations, so this is also what makes small steps fast.

Each parameter starts at a multiple of 64 bytes, as memory of its own would, so that vector kernels
run at full speed; the few elements between parameters stay zero.

Dimension key: n elements in all (gaps included), k elements of the tail.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes


class FlatPiece:
    """Some neighbouring parameters of a flat tensor: what an optimizer moves.

    Attributes:
        parameters: Which.
        data: (n,), their values.
        grad: (n,), their gradients.
    """

    __slots__ = ("_offsets", "data", "grad", "parameters")

    def __init__(
        self,
        parameters: tuple[nn.Parameter, ...],
        data: Tensor,
        grad: Tensor,
        offsets: Sequence[int],
    ) -> None:
        self.parameters, self.data, self.grad = parameters, data, grad
        self._offsets = list(offsets)

    def place(self, parameter: nn.Parameter) -> slice | None:
        """Where a parameter's elements stand in `data`; None: it is not here."""
        for mine, offset in zip(self.parameters, self._offsets, strict=True):
            if mine is parameter:
                return slice(offset, offset + parameter.numel())
        return None


class FlatParameters(FlatPiece):
    """Moves parameters into one contiguous tensor; the parameters become views of it.

    Move the module to its device and dtype first: `module.to(...)` afterwards gives the parameters
    new storage (`check` finds that). `module.load_state_dict(...)` copies and is safe, except with
    `assign=True`. A parameter that is given twice (tied weights) is held once.

    Args:
        parameters: The parameters of one player; one dtype, one device.
        tail: k, extra elements behind the gradient in `buffer`: room for the sums that travel in
            the same all-reduce.

    Attributes:
        parameters: The distinct parameters, in the given order.
        data: (n,), all parameter values.
        grad: (n,), all gradients; `parameter.grad` are views of it.
        buffer: (n + k,), `grad` and then the tail.
        tail: (k,), the tail of `buffer`.

    Raises:
        ValueError: No parameters, mixed dtypes or devices, integers, or a parameter that shares
            its memory with another one.
    """

    __slots__ = ("_views", "buffer", "tail")

    def __init__(self, parameters: Iterable[nn.Parameter], *, tail: int = 0) -> None:
        distinct = tuple({id(p): p for p in parameters}.values())
        _refuse_mixtures(distinct)
        like = distinct[0]
        offsets, total = _places(distinct)
        data = torch.zeros(total, dtype=like.dtype, device=like.device)
        self.buffer = torch.zeros(total + tail, dtype=like.dtype, device=like.device)
        super().__init__(distinct, data, self.buffer[:total], offsets)
        self.tail = self.buffer[total:]
        self._views: list[Tensor] = []
        for parameter, offset in zip(distinct, offsets, strict=True):
            end = offset + parameter.numel()
            place = self.data[offset:end].view(parameter.shape)
            place.copy_(parameter.detach())
            parameter.data = place
            view = self.grad[offset:end].view(parameter.shape)
            parameter.grad = view
            self._views.append(view)

    def __len__(self) -> int:
        """n, elements in all."""
        return self.data.numel()

    def piece(self, parameters: Iterable[nn.Parameter]) -> FlatPiece:
        """The piece that holds these parameters, which are neighbours in the given order.

        Raises:
            ValueError: They are not.
        """
        wanted = tuple({id(p): p for p in parameters}.values())
        first = next((n for n, p in enumerate(self.parameters) if p is wanted[0]), len(self))
        found = self.parameters[first : first + len(wanted)]
        if [id(p) for p in found] != [id(p) for p in wanted]:
            raise ValueError("these parameters are not neighbours in the flat tensor")
        offsets = [*self._offsets, len(self)]
        start, stop = offsets[first], offsets[first + len(wanted)]
        places = [offset - start for offset in offsets[first : first + len(wanted)]]
        return FlatPiece(wanted, self.data[start:stop], self.grad[start:stop], places)

    def check(self) -> None:
        """Make sure that the parameters are still views of `data`.

        Raises:
            RuntimeError: Something gave a parameter new memory.
        """
        start, size = self.data.data_ptr(), self.data.element_size()
        for number, parameter in enumerate(self.parameters):
            place = start + self._offsets[number] * size
            if parameter.data_ptr() != place and parameter.numel():
                raise RuntimeError(
                    f"parameter {number}, shape {tuple(parameter.shape)}, left its flat tensor: "
                    "move the module (`.to`, `.half`) before, and never load with `assign=True`"
                )

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        self.grad.zero_()

    def backward(self, loss: Tensor, weight: Tensor | None = None, *, add: bool = False) -> None:
        """Gradient of `loss` for these parameters only, into `grad`.

        Other parameters that the loss depends on (another player's) receive nothing, and nothing
        is computed for them.

        Args:
            loss: Scalar, or any shape with `weight` of the same shape.
            weight: Factors on the elements of `loss`; (weight * loss).sum() is differentiated.
            add: Add to `grad` rather than replace it.
        """
        grads = torch.autograd.grad(
            loss, self.parameters, weight, allow_unused=True, materialize_grads=True
        )
        if add:
            torch._foreach_add_(self._views, grads)
        else:
            torch._foreach_copy_(self._views, grads)

    def grad_norm(self) -> Tensor:
        """Euclidean norm of all gradients, a scalar tensor."""
        return torch.linalg.vector_norm(self.grad)

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gradient down to the norm `max_norm`; returns the norm before.

        The same formula as `torch.nn.utils.clip_grad_norm_`.
        """
        norm = self.grad_norm()
        self.grad.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm


def _places(parameters: Sequence[nn.Parameter]) -> tuple[list[int], int]:
    """First element of each parameter, and n."""
    step = max(1, ALIGNMENT // parameters[0].element_size())
    offsets, total = [], 0
    for parameter in parameters:
        offsets.append(total)
        total += -(-parameter.numel() // step) * step
    return offsets, total


def _refuse_mixtures(parameters: Sequence[nn.Parameter]) -> None:
    if not parameters:
        raise ValueError("there are no parameters to optimise")
    dtypes = sorted({str(p.dtype) for p in parameters})
    devices = sorted({str(p.device) for p in parameters})
    if len(dtypes) > 1 or not parameters[0].is_floating_point():
        raise ValueError(f"parameters must share one floating dtype, these have {dtypes}")
    if len(devices) > 1:
        raise ValueError(f"parameters must share one device, these lie on {devices}")
    seen: dict[int, int] = {}
    for number, parameter in enumerate(parameters):
        if not parameter.numel():
            continue
        other = seen.setdefault(parameter.data_ptr(), number)
        if other != number:
            raise ValueError(
                f"parameters {other} and {number} share memory but are two objects; tie weights "
                "by assigning the same nn.Parameter"
            )
