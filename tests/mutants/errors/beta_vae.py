"""Errors planted in beta-vae, and the law tests that must catch them."""

METHOD = "beta-vae"
FILE = "platform/rayloom/models/autoencoders/beta_vae.py"
TESTS = "tests/models/autoencoders/test_autoencoders_beta.py"
ERRORS = [
    {
        "error": "beta weighs the reconstruction",
        "line": "torch.add(reconstruction, kl, alpha=self.beta)",
        "planted": "torch.add(kl, reconstruction, alpha=self.beta)",
        "caught_by": ["test_beta_weighs_the_kl"],
    },
    {
        "error": "the multiplier moves away from the constraint",
        "line": ".to(self.multiplier) - self.target",
        "planted": ".to(self.multiplier).neg() + self.target",
        "caught_by": ["test_multiplier_follows_the_residual_and_stays_at_zero"],
    },
    {
        "error": "the multiplier may become negative",
        "file": "platform/rayloom/functional/variational.py",
        "line": "(multiplier + step_size * constraint).clamp_min(0.0)",
        "planted": "multiplier + step_size * constraint",
        "caught_by": ["test_multiplier_follows_the_residual_and_stays_at_zero"],
    },
    {
        "error": "the Lagrangian forgets -beta delta",
        "line": "price = self.multiplier * residual",
        "planted": "price = self.multiplier * kl",
        "caught_by": ["test_lagrangian_and_its_parts"],
    },
    {
        "error": "a fixed beta moves too",
        "line": "is None:\n            return\n",
        "planted": "is None:\n            self.multiplier.add_(1.0)\n            return\n",
        "caught_by": ["test_fixed_beta_does_not_move"],
    },
]
