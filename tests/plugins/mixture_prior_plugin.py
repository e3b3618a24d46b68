"""A second stage as a plugin: a mixture of Gaussians over the codes of a trained, frozen VAE.

Maximises log sum_k w_k N(z; mean_k, diag(std_k^2)) for z ~ q(z|x) of the first stage.
Use: `rayloom train prior.yaml --plugin tests/plugins/mixture_prior_plugin.py`.

Dimension key: B images, D latent dimensions, K components.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from rayloom.config.references import RunReference
from rayloom.config.sections import Config, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.protocols import (
    Export,
    Player,
    Turn,
    operation,
)
from rayloom.media import (
    Images,
)


class MixturePriorConfig(Config):
    """Settings of the prior."""

    name: Literal["mixture-prior"] = "mixture-prior"
    first_stage: RunReference = Field(description="a trained VAE")
    num_components: PositiveInt = Field(8, description="K")


class MixturePrior(nn.Module):
    """Mixture of diagonal Gaussians over the first stage's codes."""

    config_class: ClassVar[type] = MixturePriorConfig

    def __init__(self, config, spec, *, stages):
        super().__init__()
        self.first_stage = stages["first_stage"]
        if not hasattr(self.first_stage, "decode_picture"):
            raise UserError(f"model.first_stage: {type(self.first_stage).__name__} is no VAE")
        shape = config.num_components, self.first_stage.config.latent_dim
        self.logits = nn.Parameter(torch.zeros(shape[0]))
        self.mean = nn.Parameter(torch.randn(shape))
        self.log_std = nn.Parameter(torch.zeros(shape))

    @property
    def players(self):
        return (Player("prior", [self.logits, self.mean, self.log_std]),)

    def log_prob(self, z):
        """log p(z) in nats, (B,)."""
        scaled = (z[:, None] - self.mean) * (-self.log_std).exp()  # (B, K, D)
        per_dim = -0.5 * scaled.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(per_dim.sum(-1) + self.logits.log_softmax(0), dim=1)

    def loss(self, batch, *, rng, turn):
        with torch.no_grad():
            z = self.first_stage.encode(batch["image"], rng=rng).sample(rng, "z")  # (B, D)
        return {"loss": -self.log_prob(z)}

    @torch.no_grad()
    def evaluate_batch(self, batch, *, rng):
        return self.loss(batch, rng=rng, turn=Turn())

    @operation(gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch, *, rng, settings=None):
        edges = self.logits.softmax(0).cumsum(0)
        which = torch.searchsorted(edges, rng.uniform("component").to(edges))
        which = which.clamp_max(len(edges) - 1)
        noise = rng.normal("code", self.mean.shape[1]).to(self.mean)
        code = self.mean[which] + noise * self.log_std.exp()[which]
        return {"image": self.first_stage.decode_picture(code)}

    @torch.no_grad()
    def show(self, batch, *, rng):
        return {"samples": Images(self.sample({}, rng=rng.of_length(16))["image"])}

    def exports(self):
        example = self.first_stage.exports()["encoder"].example
        return {"code_density": Export(CodeDensity(self), example)}


class CodeDensity(nn.Module):
    """Images (B, C, H, W) to log p of their mean codes, (B,)."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.model = model.first_stage.exports()["encoder"].module, model

    def forward(self, image):
        return self.model.log_prob(self.encoder(image))


CATALOGUE = {"models": {"mixture-prior": MixturePrior}}
