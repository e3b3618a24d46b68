"""Errors planted in ddpm, and the law tests that must catch them."""

METHOD = "ddpm"
FILE = "platform/rayloom/functional/diffusion.py"
TESTS = "tests/models/diffusion/test_diffusion_ddpm.py"
MODEL = "platform/rayloom/models/diffusion/ddpm.py"
ERRORS = [
    {
        "error": "the noise in x_t has variance (1 - alpha_bar)^2: a bar, and a root, is lost",
        "line": "return a.sqrt() * x + (1 - a).sqrt() * eps",
        "planted": "return a.sqrt() * x + (1 - a) * eps",
        "caught_by": ["test_the_marginal_is_that_of_the_chain_step_by_step"],
    },
    {
        "error": "the ancestral step draws with beta's variance but aims as if it drew none",
        "line": "math.sqrt(max(0.0, 1 - a_s - variance)) * eps",
        "planted": "math.sqrt(max(0.0, 1 - a_s)) * eps",
        "caught_by": [
            "test_a_step_with_the_right_eps_draws_the_posterior",
            "test_ddpm_gives_back_a_gaussian_from_its_exact_score",
        ],
    },
    {
        "error": "the step's variance is a deviation",
        "line": "x_s = x_s + math.sqrt(variance) * noise(t)",
        "planted": "x_s = x_s + variance * noise(t)",
        "caught_by": [
            "test_a_step_with_the_right_eps_draws_the_posterior",
            "test_ddpm_gives_back_a_gaussian_from_its_exact_score",
        ],
    },
    {
        "error": "guidance counts from the conditional branch (w - 1 in place of w)",
        "line": "return torch.lerp(eps_unconditional, eps_conditional, weight)",
        "planted": "return torch.lerp(eps_unconditional, eps_conditional, 1 + weight)",
        "caught_by": ["test_guidance_of_zero_and_one_are_the_plain_branches"],
    },
    {
        "error": "the two branches change places",
        "file": MODEL,
        "line": "torch.cat([untold, label])",
        "planted": "torch.cat([label, untold])",
        "caught_by": ["test_guidance_of_zero_and_one_are_the_plain_branches"],
    },
    {
        "error": "labels are dropped where they should be kept",
        "file": MODEL,
        "line": 'rng.uniform("label dropout") >= self.config.label_dropout',
        "planted": 'rng.uniform("label dropout") < self.config.label_dropout',
        "caught_by": ["test_labels_are_kept_from_the_share_that_is_said"],
    },
    {
        "error": "a clipped aim keeps the eps of the unclipped one",
        "line": "eps = (x_t - math.sqrt(a_t) * x) / math.sqrt(1 - a_t)",
        "planted": "eps = eps",
        "caught_by": ["test_clipping_keeps_the_aim_among_pixels"],
    },
    {
        "error": "the bound's weight is that of beta, not of beta-tilde",
        "line": "return 0.5 * (snr_s / snr_t - 1)",
        "planted": "return 0.5 * (1 - snr_t / snr_s)",
        "caught_by": ["test_the_weight_of_the_bound_is_the_kl_of_two_gaussians"],
    },
    {
        "error": "the edge bins hold no tails",
        "line": "low_edge, high_edge = x <= -1 + half, x >= 1 - half",
        "planted": "low_edge, high_edge = x < -2, x > 2",
        "caught_by": ["test_grey_levels_have_the_mass_of_one"],
    },
    {
        "error": "all rows of a batch share the noise of a step",
        "file": MODEL,
        "line": 'noise=lambda t: rng.normal(f"step {t}", *self.image_shape),',
        "planted": 'noise=lambda t: rng.normal(f"step {t}", *self.image_shape)[:1],',
        "caught_by": ["test_batches_and_workers_draw_what_one_process_draws_at_once"],
    },
]
