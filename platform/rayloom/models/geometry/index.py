"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "splats-2d",
        "rayloom.models.geometry.splats_2d:Splats2D",
        "2-D Gaussian splats that densify and prune to fit a picture (after Kerbl et al.)",
        "geometry",
        2023,
        ("sample",),
        task="geometry",
        paper="arXiv:2308.04079",
        default_metric="eval/psnr_db",
    ),
)
