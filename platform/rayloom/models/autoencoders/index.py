"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "vae",
        "rayloom.models.autoencoders.vae:VAE",
        "Variational autoencoder (Kingma and Welling)",
        "autoencoder",
        2013,
        ("sample", "elbo", "encode", "reconstruct"),
    ),
    Entry(
        "beta-vae",
        "rayloom.models.autoencoders.beta_vae:BetaVAE",
        "beta-VAE (Higgins et al.) and its KL-constrained form",
        "autoencoder",
        2017,
        ("sample", "elbo", "encode", "reconstruct"),
    ),
)
