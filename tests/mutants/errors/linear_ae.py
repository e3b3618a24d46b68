"""Errors planted in the linear autoencoder, and the law tests that must catch them."""

METHOD = "linear-ae"
FILE = "platform/rayloom/models/autoencoders/linear_ae.py"
TESTS = "tests/models/autoencoders/test_autoencoders_linear.py"
ERRORS = [
    {
        "error": "the data are not centred",
        "line": "self.products / self.seen - torch.outer(mean, mean)",
        "planted": "self.products / self.seen",
        "caught_by": [
            "test_it_is_scikit_learn_s_pca",
            "test_descent_finds_the_same_plane_on_centred_data_alone",
            "test_components_are_orthonormal_and_codes_uncorrelated_by_falling_variance",
        ],
    },
    {
        "error": "the smallest variances are kept",
        "line": "vectors.T.flip(0)[:count]",
        "planted": "vectors.T[:count]",
        "caught_by": ["test_it_is_scikit_learn_s_pca", "test_no_other_plane_explains_more"],
    },
    {
        "error": "signs are as the solver leaves them",
        "line": "rows * largest.sign()",
        "planted": "rows",
        "caught_by": ["test_it_is_scikit_learn_s_pca"],
    },
    {
        "error": "moments are added up in single precision",
        "line": 'to_unit(batch["image"], torch.float64)',
        "planted": 'to_unit(batch["image"], torch.float32)',
        "caught_by": ["test_it_is_scikit_learn_s_pca"],
    },
    {
        "error": "a second epoch counts everything again",
        "line": "if done.turn.epoch > 0:",
        "planted": "if done.turn.epoch > 5:",
        "caught_by": ["test_pictures_are_counted_once_and_a_short_run_uses_what_it_saw"],
    },
    {
        "error": "a run that is shorter than an epoch never solves",
        "line": " or done.turn.grad_step + 1 == done.turn.horizon",
        "planted": "",
        "caught_by": ["test_pictures_are_counted_once_and_a_short_run_uses_what_it_saw"],
    },
    {
        "error": "the decoder forgets the mean",
        "line": "return z @ self.components + self.mean",
        "planted": "return z @ self.components",
        "caught_by": ["test_it_is_scikit_learn_s_pca", "test_all_dimensions_lose_nothing"],
    },
]
