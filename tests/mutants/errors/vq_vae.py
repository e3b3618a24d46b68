"""Errors planted in vq-vae, and the law tests that must catch them."""

METHOD = "vq-vae"
FILE = "platform/rayloom/models/autoencoders/vq_vae.py"
TESTS = "tests/models/autoencoders/test_autoencoders_vq.py"
CODES = "platform/rayloom/functional/codes.py"
RANKS = "test_books_of_ranks_and_chunks_equal_that_of_one_process"
ERRORS = [
    {
        "error": "no gradient reaches the encoder through the book",
        "line": "straight = z + (e - z).detach()",
        "planted": "straight = e + 0 * z",
        "caught_by": ["test_the_gradient_passes_straight_through_the_book"],
    },
    {
        "error": "the book follows this rank's own vectors",
        "line": '"sums": Sum(sums),',
        "planted": '"sums": Sum(sums * 0 + sums / max(1, len(rng)) * rng.total),',
        "caught_by": [RANKS],
    },
    {
        "error": "codes move by the sum of their vectors in place of the mean",
        "line": "self.codebook.copy_(self.mass / smoothed[:, None])",
        "planted": "self.codebook.copy_(self.mass)",
        "caught_by": ["test_the_book_becomes_the_means_of_its_vectors"],
    },
    {
        "error": "revived codes are placed by the noise of a slice",
        "line": 'noise = done.rng.shared("revival", *self.mass.shape).to(self.mass)',
        "planted": "noise = torch.randn_like(self.mass)",
        "caught_by": [RANKS],
    },
    {
        "error": "a revived code leaves the other its whole use",
        "file": CODES,
        "line": "torch.where(dead, half, uses * kept),",
        "planted": "torch.where(dead, half, uses),",
        "caught_by": ["test_codes_out_of_use_take_half_of_the_most_used"],
    },
    {
        "error": "the nearest code is the one of the largest product",
        "file": CODES,
        "line": "distance: Tensor = book.square().sum(-1) - 2.0 * (z @ book.T)",
        "planted": "distance: Tensor = -2.0 * (z @ book.T)",
        "caught_by": ["test_codes_are_the_nearest_ones"],
    },
    {
        "error": "perplexity from bits in place of nats",
        "file": CODES,
        "line": "nats: Tensor = -torch.special.xlogy(p, p).sum()",
        "planted": "nats: Tensor = -torch.special.xlogy(p, p).sum() / 0.6931471805599453",
        "caught_by": ["test_perplexity_is_exp_of_the_entropy_of_use"],
    },
]
