"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "vae",
        "rayloom.models.autoencoders.vae:VAE",
        "Variational autoencoder (Kingma and Welling)",
        "autoencoder",
        2014,
        ("sample", "embed", "reconstruct", "elbo", "encode"),
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
        ("sample", "embed", "reconstruct", "elbo", "encode"),
        task="generative",
        paper="OpenReview Sy2fzU9gl",
        default_metric="eval/elbo_nats",
    ),
    Entry(
        "linear-ae",
        "rayloom.models.autoencoders.linear_ae:LinearAE",
        "Linear autoencoder in closed form: PCA (Baldi and Hornik)",
        "autoencoder",
        1989,
        ("embed", "reconstruct", "encode"),
        task="representation",
        paper="doi:10.1016/0893-6080(89)90014-2",
        default_metric="eval/explained",
    ),
    Entry(
        "vq-vae",
        "rayloom.models.autoencoders.vq_vae:VQVAE",
        "Autoencoder with a book of codes that follows moving averages (van den Oord et al.)",
        "autoencoder",
        2017,
        ("encode", "reconstruct"),
        task="representation",
        paper="arXiv:1711.00937",
        default_metric="eval/loss",
    ),
)
