"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "vae",
        "rayloom.models.autoencoders.vae:VAE",
        "Variational autoencoder (Kingma and Welling)",
        "autoencoder",
        2014,
        ("sample", "elbo", "encode", "reconstruct"),
        task="generative",
        paper="arXiv:1312.6114",
        default_metric="eval/elbo_nats",
    ),
    Entry(
        "beta-vae",
        "rayloom.models.autoencoders.beta_vae:BetaVAE",
        "beta-VAE (Higgins et al.) and its KL-constrained form",
        "autoencoder",
        2017,
        ("sample", "elbo", "encode", "reconstruct"),
        task="generative",
        paper="OpenReview Sy2fzU9gl",
        default_metric="eval/elbo_nats",
    ),
)
