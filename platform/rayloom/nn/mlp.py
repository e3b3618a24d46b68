"""Multilayer perceptrons, also from pictures and to pictures of any size.

Initial weights come from torch's global generator, as in every torch layer: whoever builds a
network seeds that generator first (inside `torch.random.fork_rng`), the library does not.

Dimension key: B examples, C channels, H height, W width, F features, D latent dimensions.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from rayloom.nn.activation import make_activation


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (*, in_dim) to (*, out_dim).

    Args:
        in_dim: Width of the input.
        widths: Widths of the hidden layers; none makes it one linear layer.
        out_dim: Width of the output; None leaves out the last linear layer.
        activation: Name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        out_dim: int | None = None,
        *,
        activation: str = "relu",
    ) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(in_dim, width), make_activation(activation)]
            in_dim = width
        if out_dim is not None:
            layers.append(nn.Linear(in_dim, out_dim))
            in_dim = out_dim
        super().__init__(*layers)
        self.out_dim = in_dim


class MLPEncoder(nn.Module):
    """Flattened images through a perceptron: (B, C, H, W) to (B, F).

    Args:
        image_shape: (C, H, W).
        widths: Hidden widths; the last one is F.
        activation: Name in `ACTIVATIONS`.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], *, activation: str = "relu"
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.layers = MLP(channels * height * width, widths, activation=activation)
        self.out_dim = self.layers.out_dim

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Features of images."""
        return self.layers(x.flatten(1))


class MLPDecoder(nn.Module):
    """Latents through a perceptron: (B, D) to (B, C, H, W).

    Args:
        in_dim: D, latent dimensions.
        out_shape: (C, H, W); C counts the parameters of the likelihood.
        widths: Hidden widths, in the order of the encoder (they are reversed here).
        activation: Name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_dim: int,
        out_shape: tuple[int, int, int],
        widths: Sequence[int],
        *,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.out_shape = out_shape
        channels, height, width = out_shape
        self.layers = MLP(in_dim, widths[::-1], channels * height * width, activation=activation)

    def forward(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        """Parameters of the pixels."""
        return self.layers(z).unflatten(1, self.out_shape)  # (B, C, H, W)
