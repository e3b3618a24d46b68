"""Errors planted in cnn-classifier, and the law tests that must catch them."""

METHOD = "cnn-classifier"
FILE = "platform/rayloom/models/supervised/cnn.py"
TESTS = "tests/models/supervised/test_supervised_cnn.py"
RANKS = "test_ranks_and_chunks_equal_one_process_with_dropout"
ERRORS = [
    {
        "error": "the confusion matrix has the right class in its columns",
        "line": "pair = label * len(self.classes) + logits.argmax(-1)",
        "planted": "pair = logits.argmax(-1) * len(self.classes) + label",
        "caught_by": ["test_the_confusion_matrix_has_the_right_class_in_its_rows"],
    },
    {
        "error": "probabilities are the class's rivals alone",
        "line": "return self.logits(image).softmax(-1)",
        "planted": "return self.logits(image).sigmoid()",
        "caught_by": ["test_predictions_are_probabilities_and_the_shown_mistakes_are_the_worst"],
    },
    {
        "error": "recall divides by how often a class was taken",
        "file": "platform/rayloom/functional/classification.py",
        "line": "return confusion.diagonal() / confusion.sum(1)",
        "planted": "return confusion.diagonal() / confusion.sum(0)",
        "caught_by": ["test_metrics_of_the_confusion_matrix_are_scikit_learn_s"],
    },
    {
        "error": "F1 counts true positives once",
        "file": "platform/rayloom/functional/classification.py",
        "line": "return (2 * confusion",
        "planted": "return (1 * confusion",
        "caught_by": ["test_metrics_of_the_confusion_matrix_are_scikit_learn_s"],
    },
    {
        "error": "dropout draws from torch's global generator",
        "file": "platform/rayloom/nn/dropout.py",
        "line": "return self.rng.uniform(name, *x.shape[1:])",
        "planted": "return x.new_empty(x.shape).uniform_()",
        "caught_by": [RANKS],
    },
    {
        "error": "dropout is on in evaluation too",
        "file": "platform/rayloom/nn/dropout.py",
        "line": "if not self.training or not self.rate:",
        "planted": "if not self.rate:",
        "caught_by": ["test_dropout_is_off_in_evaluation_and_on_in_training"],
    },
]
