"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "char-lstm",
        "rayloom.models.sequences.char_lstm:CharLSTM",
        "LSTM that predicts the next token, truncated backpropagation through time",
        "sequence",
        1997,
        ("sample", "log_prob"),
        task="sequence",
        paper="doi:10.1162/neco.1997.9.8.1735",
        default_metric="eval/nats_per_token",
    ),
)
