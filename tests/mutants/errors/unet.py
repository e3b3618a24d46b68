"""Errors planted in unet, and the law tests that must catch them."""

METHOD = "unet"
FILE = "platform/rayloom/models/supervised/unet.py"
TESTS = "tests/models/supervised/test_supervised_unet.py"
ERRORS = [
    {
        "error": "the loss is the sum of the pixels",
        "line": 'reduction="none").flatten(1).mean(1)',
        "planted": 'reduction="none").flatten(1).sum(1)',
        "caught_by": ["test_the_loss_is_the_mean_of_the_pixels"],
    },
    {
        "error": "the matrix is transposed",
        "line": "mask.flatten() * self.num_classes + logits.argmax(1).flatten()",
        "planted": "mask.flatten() + logits.argmax(1).flatten() * self.num_classes",
        "caught_by": ["test_the_split_has_one_confusion_matrix"],
    },
    {
        "error": "the union counts what both have twice",
        "file": "platform/rayloom/functional/classification.py",
        "line": "confusion.sum(0) + confusion.sum(1) - both",
        "planted": "confusion.sum(0) + confusion.sum(1)",
        "caught_by": ["test_iou_is_scikit_learns_over_all_pixels"],
    },
    {
        "error": "the least likely class is given",
        "line": '{"mask": self.logits(batch["image"]).argmax(1)}',
        "planted": '{"mask": self.logits(batch["image"]).argmin(1)}',
        "caught_by": ["test_odd_sizes_come_back_and_every_pixel_is_seen"],
    },
]
