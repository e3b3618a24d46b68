"""beta-VAE (Higgins et al., 2017, OpenReview Sy2fzU9gl) and its KL-constrained form.

With a fixed beta: minimise -E_q log p(x|z) + beta KL(q(z|x) || p(z)).

With `target_kl_nats` (delta): minimise -E_q log p(x|z) subject to E KL <= delta, through the
Lagrangian -E_q log p(x|z) + beta (KL - delta) and projected dual ascent
beta <- max(0, beta + eta (KL - delta)) after each step, with the KL of the global batch. At a
solution the Karush-Kuhn-Tucker conditions hold: KL <= delta, beta >= 0, beta (KL - delta) = 0;
the three are logged. The multiplier is a buffer: it is checkpointed, broadcast and resumed.

Deviations from the paper: networks, optimizer and posterior are those of `vae` (the paper has an
architecture and an optimizer for each of its data sets, and compares disentanglement, which is not
measured here); its normalised weight beta M / N is not used, beta weighs nats. The paper does not
train the multiplier; Rezende and Viola, 2018, arXiv:1810.00597, constrain the reconstruction
instead and move it multiplicatively.

Dimension key: B images.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from rayloom.config.sections import PositiveFloat
from rayloom.core.metric_table import (
    Metric,
)
from rayloom.core.protocols import (
    DataSpec,
    Done,
)
from rayloom.functional.variational import multiplier_step
from rayloom.models.autoencoders.vae import VAE, VAESettings


class BetaVAEConfig(VAESettings):
    """Settings of a beta-VAE (Higgins et al., 2017) and of its constrained form."""

    name: Literal["beta-vae"] = "beta-vae"
    beta: float = Field(
        4.0, ge=0, description="weight of the KL; with target_kl_nats, where the multiplier starts"
    )
    target_kl_nats: PositiveFloat | None = Field(
        None, description="delta: hold the mean KL at or below this; null: beta stays fixed"
    )
    multiplier_lr: PositiveFloat = Field(
        1e-3, description="eta: change of the multiplier per step and nat of residual"
    )


class BetaVAE(VAE):
    """A VAE whose KL has a weight, fixed or found.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes the shape.
    """

    config_class: ClassVar[type] = BetaVAEConfig
    metrics: ClassVar[tuple[Metric, ...]] = (
        *VAE.metrics,
        Metric("loss/multiplier", "1", "none", "beta, where it is found"),
        Metric("loss/kl_residual_nats", "nats/example", "none", "KL - delta"),
        Metric("loss/slackness_nats", "nats/example", "none", "beta (KL - delta): 0 at a solution"),
    )
    multiplier: Float[Tensor, ""]

    def __init__(self, config: BetaVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.beta, self.target, self.multiplier_lr = (
            config.beta,
            config.target_kl_nats,
            config.multiplier_lr,
        )
        self.register_buffer("multiplier", torch.tensor(float(config.beta)))

    def objective(self, reconstruction: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """The Lagrangian (or the beta-weighted bound) and its parts; (B,) each.

        Constrained form, beside the two terms: `multiplier`, `kl_residual_nats` = KL - delta, and
        `slackness_nats` = multiplier * (KL - delta), which is 0 at a solution.
        """
        parts = {"reconstruction_nats": reconstruction, "kl_nats": kl}
        if self.target is None:
            return {"loss": torch.add(reconstruction, kl, alpha=self.beta), **parts}
        residual = kl - self.target
        price = self.multiplier * residual
        return {
            "loss": reconstruction + price,
            **parts,
            "multiplier": self.multiplier.expand_as(kl),
            "kl_residual_nats": residual.detach(),
            "slackness_nats": price.detach(),
        }

    @torch.no_grad()
    def after_step(self, done: Done) -> None:
        """Move the multiplier by the global batch's mean KL; see `core.protocols.Done`."""
        if self.target is None:
            return
        residual = done.means["kl_nats"].to(self.multiplier) - self.target
        self.multiplier.copy_(
            multiplier_step(self.multiplier, residual, step_size=self.multiplier_lr)
        )
