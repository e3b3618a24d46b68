"""Errors planted in dqn, and the law tests that must catch them."""

METHOD = "dqn"
FILE = "platform/rayloom/rl/algorithms/dqn.py"
TESTS = "tests/rl/test_rl_dqn.py"
ERRORS = [
    {
        "error": "the target takes the action of the target network although double is on",
        "file": "platform/rayloom/rl/algorithms/q_kernel.py",
        "line": "q_select = q[b:] if self.double else q_next",
        "planted": "q_select = q_next",
        "caught_by": ["test_hand_written_gradient_equals_autograd"],
    },
    {
        "error": "the gradient is not clipped at the Huber threshold",
        "file": "platform/rayloom/rl/algorithms/q_kernel.py",
        "line": "slope = np.clip(td, -self.delta, self.delta)",
        "planted": "slope = td.copy()",
        "caught_by": ["test_hand_written_gradient_equals_autograd"],
    },
    {
        "error": "the target network is copied one step late",
        "line": "if self.grad_step % self.config.target_period == 0",
        "planted": "if self.grad_step % self.config.target_period == 1",
        "caught_by": ["test_the_target_network_is_a_copy_of_so_many_steps_ago"],
    },
    {
        "error": "the update count ignores when learning starts",
        "line": "env_step - self.learning_starts",
        "planted": "env_step",
        "caught_by": ["test_epsilon_and_update_count_follow_the_clock"],
    },
    {
        "error": "uint8 pictures are not scaled for the network that learns",
        "file": "platform/rayloom/rl/algorithms/q_network.py",
        "line": "x = x.float() / 255.0",
        "planted": "x = x.float()",
        "caught_by": ["test_pictures_are_scaled_alike_in_torch_and_numpy"],
    },
    {
        "error": "priorities draw without importance weights",
        "line": "weight.float().numpy()",
        "planted": "None",
        "caught_by": ["test_prioritized_updates_weigh_by_the_probability_of_the_draw"],
    },
    {
        "error": "a time limit drops the bootstrap as an end does",
        "file": "platform/rayloom/functional/rl.py",
        "line": "keeps = gamma ** (k + 1) * (~terminated[rows]).to(r.dtype)",
        "planted": "keeps = gamma ** (k + 1) * (~end).to(r.dtype)",
        "caught_by": ["test_terminated_and_truncated_worlds_get_different_values"],
    },
]
