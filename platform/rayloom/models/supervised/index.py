"""The methods of this family, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "logistic-regression",
        "rayloom.models.supervised.logistic:LogisticRegression",
        "Logistic regression to its optimum (Cox)",
        "supervised",
        1958,
        ("predict",),
        task="supervised",
        paper="doi:10.1111/j.2517-6161.1958.tb00292.x",
        default_metric="eval/accuracy",
    ),
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
    Entry(
        "unet",
        "rayloom.models.supervised.unet:UNetSegmenter",
        "U-Net: the class of every pixel (Ronneberger et al.)",
        "supervised",
        2015,
        ("predict",),
        task="supervised",
        paper="arXiv:1505.04597",
        default_metric="eval/miou",
    ),
)
