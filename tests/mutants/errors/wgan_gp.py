"""Errors planted in wgan-gp, and the law tests that must catch them."""

METHOD = "wgan-gp"
FILE = "platform/rayloom/models/gans/wgan_gp.py"
TESTS = "tests/models/gans/test_gans_wgan_gp.py"
ERRORS = [
    {
        "error": "the penalty is one-sided",
        "line": "penalty = (slope - 1).square()",
        "planted": "penalty = (1 - slope).clamp(min=0).square()",
        "caught_by": ["test_the_penalty_of_a_linear_critic_is_the_closed_form"],
    },
    {
        "error": "the slope carries no gradient to the critic",
        "line": "u, create_graph=True)",
        "planted": "u)",
        "caught_by": ["test_the_penalty_of_a_linear_critic_is_the_closed_form"],
    },
    {
        "error": "the slope is taken at the real pictures",
        "line": "u = torch.lerp(fake, real, weight)",
        "planted": "u = real.clone()",
        "caught_by": ["test_the_slope_is_taken_between_the_pair"],
    },
    {
        "error": "the critic widens the gap the wrong way",
        "line": '"loss": self.penalty * penalty - gap',
        "planted": '"loss": self.penalty * penalty + gap',
        "caught_by": ["test_the_critic_finds_the_distance_of_two_shifted_clouds"],
    },
    {
        "error": "the critic's loss moves the generator",
        "line": "        with torch.no_grad():\n            fake = self.generate",
        "planted": "        if True:\n            fake = self.generate",
        "caught_by": ["test_each_loss_moves_its_own_player_in_its_own_direction"],
    },
    {
        "error": "the generator takes pictures of its own",
        "line": "                fresh=False,\n",
        "planted": "",
        "caught_by": ["test_the_generator_uses_the_critics_last_batch_and_noise_of_its_own"],
    },
]
