"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "tabular-ar",
        "rayloom.models.autoregressive.tabular_ar:TabularAR",
        "Tabular autoregressive model by counting (estimator of Krichevsky and Trofimov)",
        "autoregressive",
        1981,
        ("sample", "log_prob"),
        task="generative",
        paper="doi:10.1109/TIT.1981.1056331",
        default_metric="eval/nll_nats",
    ),
    Entry(
        "code-prior",
        "rayloom.models.autoregressive.code_prior:CodePrior",
        "Transformer over the codes of a VQ-VAE, told the class (van den Oord et al.)",
        "autoregressive",
        2017,
        ("sample", "log_prob"),
        task="generative",
        paper="arXiv:1711.00937",
        default_metric="eval/nll_nats",
    ),
)
