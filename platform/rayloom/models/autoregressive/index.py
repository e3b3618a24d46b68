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
)
