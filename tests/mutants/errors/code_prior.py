"""Errors planted in code-prior, and the law tests that must catch them."""

METHOD = "code-prior"
FILE = "platform/rayloom/models/autoregressive/code_prior.py"
TESTS = "tests/models/autoregressive/test_autoregressive_codes.py"
SUMS = "test_probabilities_sum_to_one_for_each_class"
ORDER = "test_each_code_sees_those_before_it_and_the_class"
CACHED = "test_the_cached_sampler_equals_the_naive_one"
ERRORS = [
    {
        "error": "attention looks ahead",
        "line": "TransformerBlock(config.dim, config.heads, causal=True,",
        "planted": "TransformerBlock(config.dim, config.heads, causal=False,",
        "caught_by": [SUMS, ORDER],
    },
    {
        "error": "a code sees itself",
        "line": "before = self.embed(codes[:, :-1])",
        "planted": "before = self.embed(codes[:, 1:])",
        "caught_by": [SUMS, ORDER, CACHED],
    },
    {
        "error": "the class is not told",
        "line": "return self.start(label)[:, None]",
        "planted": "return self.start(label * 0)[:, None]",
        "caught_by": [ORDER],
    },
    {
        "error": "the sampler's positions are one behind",
        "line": "h = h + self.position[place]",
        "planted": "h = h + self.position[max(0, place - 1)]",
        "caught_by": [CACHED],
    },
    {
        "error": "the cache keeps the last position alone",
        "file": "platform/rayloom/nn/attention.py",
        "line": "return self.keys[:, :, : self.length], self.values[:, :, : self.length]",
        "planted": "return self.keys[:, :, start : self.length], "
        "self.values[:, :, start : self.length]",
        "caught_by": [CACHED],
    },
    {
        "error": "samples take the likeliest code",
        "line": "found = torch.searchsorted(cumulated, wanted, right=True)",
        "planted": "found = logits.argmax(-1, keepdim=True)",
        "caught_by": [CACHED, "test_samples_have_the_frequencies_of_the_density"],
    },
    {
        "error": "nats are a mean over the codes",
        "line": 'return -cross_entropy(logits.mT, codes, reduction="none").sum(1)',
        "planted": 'return -cross_entropy(logits.mT, codes, reduction="none").mean(1)',
        "caught_by": [SUMS],
    },
]
