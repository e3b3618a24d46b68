"""Errors planted in vae, and the law tests that must catch them."""

METHOD = "vae"
FILE = "platform/rayloom/models/autoencoders/vae.py"
TESTS = "tests/models/autoencoders/test_autoencoders_bounds.py"
ERRORS = [
    {
        "error": "the KL is left out of the objective",
        "line": '{"loss": reconstruction + kl,',
        "planted": '{"loss": reconstruction + 0 * kl,',
        "tests": "tests/models/autoencoders/test_autoencoders_beta.py",
        "caught_by": ["test_beta_one_is_the_vae"],
    },
    {
        "error": "the bound adds the KL in place of subtracting it",
        "line": "return -(reconstruction + kl)",
        "planted": "return kl - reconstruction",
        "caught_by": [
            "test_bound_is_tight_at_the_exact_posterior",
            "test_elbo_gap_is_the_posterior_kl",
        ],
    },
    {
        "error": "z is the posterior's mean, without noise",
        "line": 'z = posterior.sample(rng, "z")',
        "planted": "z = posterior.mean",
        "tests": "tests/models/autoencoders/test_autoencoders_vae.py",
        "caught_by": ["test_loss_is_a_function_of_its_noise_alone"],
    },
    {
        "error": "the importance weights forget the proposal (log q)",
        "file": "platform/rayloom/functional/variational.py",
        "line": "(0.5 * (eps.square() - z.square()) + log_std).sum(-1)",
        "planted": "(0.5 * (eps.square() - z.square())).sum(-1)",
        "caught_by": ["test_elbo_below_iwae_growing_in_k_below_log_p"],
    },
    {
        "error": "the reported bound is that of the weighted loss",
        "line": '"elbo_nats": -bound,',
        "planted": '"elbo_nats": -self.objective(reconstruction, kl)["loss"],',
        "tests": "tests/models/autoencoders/test_autoencoders_beta.py",
        "caught_by": ["test_metrics_are_never_weighted"],
    },
    {
        "error": "a slice of the batch draws the noise of the first rows",
        "file": "platform/rayloom/core/noise.py",
        "line": "rows if there - here == last - first else rows[here:there]",
        "planted": "rows[: there - here]",
        "tests": "tests/models/autoencoders/test_autoencoders_vae.py",
        "caught_by": ["test_loss_does_not_depend_on_how_the_batch_is_split"],
    },
]
