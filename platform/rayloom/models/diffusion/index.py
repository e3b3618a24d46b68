"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "ddpm",
        "rayloom.models.diffusion.ddpm:DDPM",
        "Denoising diffusion (Ho et al.) with classifier-free guidance",
        "diffusion",
        2020,
        ("sample",),
        task="generative",
        paper="arXiv:2006.11239",
        default_metric="eval/loss",
    ),
)
