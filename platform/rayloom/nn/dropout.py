"""Dropout whose masks come from the noise of the call, by the layer's path in the model.

Hinton et al., 2012, arXiv:1207.0580; inverted: what is kept is divided by the share kept, so that
evaluation changes nothing. Torch's own layers draw from the global generator: N workers would then
train another model than one, and so would a resumed run. These draw for the global batch:

    def loss(self, batch, *, rng, turn):
        with dropout_from(self, rng):
            logits = self.network(batch["image"])

Dimension key: B examples.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from rayloom.core.noise import Noise
from rayloom.nn.frozen import frozen_parts


class Dropout(nn.Module):
    """Zeroes each number of (B, ...) with probability `rate` in training, and scales the rest.

    Args:
        rate: Probability of a zero, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1), not {rate}")
        self.rate = rate
        self.source: _Source | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop, in training; in evaluation `x` itself."""
        if not self.training or not self.rate:
            return x
        if self.source is None:
            raise RuntimeError(
                "dropout has no noise: call the network inside `with dropout_from(self, rng):`"
            )
        kept = self.source.draw(x) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"rate={self.rate}"


class _Source:
    """The noise of one layer inside one block: its path names it, its calls are counted."""

    def __init__(self, rng: Noise, path: str) -> None:
        self.rng, self.path, self.calls = rng, path, 0

    def draw(self, x: Tensor) -> Tensor:
        """Uniform numbers in the shape of `x`."""
        if len(x) != len(self.rng):
            raise ValueError(
                f"dropout {self.path} got {len(x)} rows of a batch of {len(self.rng)}: it works on "
                "(B, ...), a row an example"
            )
        name = f"dropout/{self.path}" + (f"/{self.calls}" if self.calls else "")
        self.calls += 1
        return self.rng.uniform(name, *x.shape[1:])


@contextmanager
def dropout_from(model: nn.Module, rng: Noise) -> Iterator[None]:
    """Inside the block the dropout layers of `model` draw from `rng`.

    Args:
        model: Where the layers are looked for; their paths are counted from it.
        rng: Noise of the rows that the block works on.
    """
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, Dropout)]
    for name, layer in layers:
        layer.source = _Source(rng, name)
    try:
        yield
    finally:
        for _, layer in layers:
            layer.source = None


def unbound_noise(model: nn.Module) -> list[str]:
    """Layers of torch that would draw from its global generator in training, in words."""
    found = []
    still = {id(part) for _, part in frozen_parts(model)}
    for name, part in model.named_modules():
        if id(part) in still:
            continue
        if isinstance(part, nn.modules.dropout._DropoutNd):
            drawing = part.p > 0
        elif isinstance(part, (nn.RNNBase, nn.MultiheadAttention)):
            drawing = part.dropout > 0
        else:
            drawing = isinstance(part, nn.RReLU)
        if drawing:
            found.append(f"{name or 'the model'} ({type(part).__name__})")
    return found
