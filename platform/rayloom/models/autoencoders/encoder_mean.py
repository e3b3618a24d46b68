"""The encoder of a variational autoencoder alone, for export and registration.

Dimension key: B images, C channels, H height, W width, D latent dimensions.
"""

from jaxtyping import Float
from torch import Tensor, nn

from rayloom.distributions.gaussian import DiagonalGaussianHead
from rayloom.distributions.likelihoods import Likelihood


class EncoderMean(nn.Module):
    """(B, C, H, W) to the posterior mean (B, D), deterministic.

    Args:
        likelihood: Says what is observed of an image.
        encoder: To features.
        posterior: To the posterior; all parts are shared, not copied.
    """

    def __init__(
        self, likelihood: Likelihood, encoder: nn.Module, posterior: DiagonalGaussianHead
    ) -> None:
        super().__init__()
        self.likelihood, self.encoder, self.posterior = likelihood, encoder, posterior

    def forward(self, image: Tensor) -> Float[Tensor, "B D"]:
        """Posterior means of images."""
        x = self.likelihood.observe(image, None, self.posterior.linear.weight.dtype)
        return self.posterior(self.encoder(x)).mean
