"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "wgan-gp",
        "rayloom.models.gans.wgan_gp:WGANGP",
        "Wasserstein GAN with gradient penalty (Gulrajani et al.)",
        "gan",
        2017,
        ("sample",),
        task="generative",
        paper="arXiv:1704.00028",
        default_metric=None,
    ),
)
