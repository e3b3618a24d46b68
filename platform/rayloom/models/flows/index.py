"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "glow",
        "rayloom.models.flows.glow:Glow",
        "Flow of ActNorm, invertible 1x1 convolutions and couplings (Kingma and Dhariwal)",
        "flow",
        2018,
        ("sample", "log_prob", "encode"),
        task="generative",
        paper="arXiv:1807.03039",
        default_metric="eval/nll_nats",
    ),
)
