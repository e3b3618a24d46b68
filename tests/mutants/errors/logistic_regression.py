"""Errors planted in logistic regression, and the law tests that must catch them."""

METHOD = "logistic-regression"
FILE = "platform/rayloom/models/supervised/logistic.py"
TESTS = "tests/models/supervised/test_supervised_logistic.py"
SAME = "test_the_coefficients_are_scikit_learn_s"
ERRORS = [
    {
        "error": "the penalty is not shared out over the examples",
        "line": "1.0 / (config.inverse_penalty * max(1, spec.num_train))",
        "planted": "1.0 / config.inverse_penalty",
        "caught_by": [SAME, "test_the_gradient_vanishes"],
    },
    {
        "error": "the penalty lacks its one half",
        "line": 'return {"loss": nats + 0.5 * self.penalty',
        "planted": 'return {"loss": nats + self.penalty',
        "caught_by": [SAME, "test_the_gradient_vanishes"],
    },
    {
        "error": "two classes have a row each",
        "line": "rows = 1 if self.num_classes == 2 else",
        "planted": "rows = 1 if self.num_classes == 1 else",
        "caught_by": [SAME],
    },
    {
        "error": "pixels are not scaled to [0, 1]",
        "line": "to_unit(image, self.weight.dtype).flatten(1)",
        "planted": "image.to(self.weight.dtype).flatten(1)",
        "caught_by": [SAME],
    },
    {
        "error": "there is no bias",
        "line": "x @ self.weight.T + self.bias",
        "planted": "x @ self.weight.T + 0 * self.bias",
        "caught_by": [SAME, "test_the_gradient_vanishes"],
    },
    {
        "error": "of two classes the first one's logit is minus the other's",
        "line": "torch.cat([torch.zeros_like(z), z], 1)",
        "planted": "torch.cat([-z, z], 1)",
        "caught_by": [SAME],
    },
    {
        "error": "a confidence at a bin's upper edge falls into the next one",
        "file": "platform/rayloom/functional/classification.py",
        "line": "(confidence * num_bins).ceil().long().sub(1)",
        "planted": "(confidence * num_bins).floor().long()",
        "caught_by": ["test_the_calibration_error_is_that_of_a_loop"],
    },
    {
        "error": "bins weigh alike, however few examples they hold",
        "file": "platform/rayloom/functional/classification.py",
        "line": "(bins[2] - bins[1]).abs().sum() / bins[0].sum()",
        "planted": "((bins[2] - bins[1]).abs() / bins[0].clamp_min(1)).mean()",
        "caught_by": ["test_the_calibration_error_is_that_of_a_loop"],
    },
]
