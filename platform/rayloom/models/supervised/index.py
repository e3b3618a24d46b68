"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "cnn-classifier",
        "rayloom.models.supervised.cnn:CNNClassifier",
        "Convolutional classifier of pictures (LeCun et al.)",
        "supervised",
        1998,
        ("predict",),
        task="supervised",
        paper="doi:10.1109/5.726791",
        default_metric="eval/accuracy",
    ),
)
