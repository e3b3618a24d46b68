"""Errors planted in glow, and the law tests that must catch them."""

METHOD = "glow"
FILE = "platform/rayloom/models/flows/glow.py"
TESTS = "tests/models/flows/test_flows_glow.py"
LAYERS = "platform/rayloom/nn/flow.py"
JACOBIAN = "test_it_is_undone_and_its_density_is_that_of_autograd_s_jacobian"
ERRORS = [
    {
        "error": "ActNorm's log-determinant forgets the pixels",
        "file": LAYERS,
        "line": "log_det = self.log_scale.sum() * (x.shape[2] * x.shape[3])",
        "planted": "log_det = self.log_scale.sum()",
        "caught_by": [JACOBIAN],
    },
    {
        "error": "the convolution's determinant is that of L",
        "file": LAYERS,
        "line": "log_det = self.log_s.sum() * (x.shape[2] * x.shape[3])",
        "planted": "log_det = 0.0 * self.log_s.sum()",
        "caught_by": [JACOBIAN, "test_the_density_integrates_to_one"],
    },
    {
        "error": "the coupling scales before it shifts on the way back",
        "file": LAYERS,
        "line": "return torch.cat([a, b * (-log_factor).exp() - shift], 1)",
        "planted": "return torch.cat([a, (b - shift) * (-log_factor).exp()], 1)",
        "caught_by": [JACOBIAN],
    },
    {
        "error": "the half that leaves has a density without its scale",
        "file": LAYERS,
        "line": "log_p = -0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)",
        "planted": "log_p = -0.5 * eps.square() - 0.5 * math.log(2 * math.pi)",
        "caught_by": [JACOBIAN, "test_the_density_integrates_to_one"],
    },
    {
        "error": "the kept inverse is never made anew",
        "file": LAYERS,
        "line": "if self._kept is None or not torch.equal(self._kept[0], weight):",
        "planted": "if self._kept is None:",
        "tests": "tests/nn/test_nn_flow.py",
        "caught_by": ["test_the_kept_inverse_follows_the_weights_also_through_data"],
    },
    {
        "error": "all ActNorms choose by the batch itself",
        "file": LAYERS,
        "line": "self.log_scale.copy_(-(std[0] + 1e-6).log())",
        "planted": "self.log_scale.zero_()",
        "caught_by": ["test_the_first_batch_chooses_every_actnorm"],
    },
    {
        "error": "bits forget the 256 levels",
        "line": "offset = math.prod(self.shape) * math.log(LEVELS) if self._discrete else 0.0",
        "planted": "offset = 0.0",
        "caught_by": ["test_bits_are_those_of_256_levels"],
    },
    {
        "error": "the average is made before the first batch has chosen",
        "file": "platform/rayloom/training/engine.py",
        "line": "        self.ema = average_of(self.model, self.players, self.config.train.ema)\n",
        "planted": "",
        "caught_by": ["test_the_average_is_made_after_the_first_batch_has_chosen"],
    },
]
