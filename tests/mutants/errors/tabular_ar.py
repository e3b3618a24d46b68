"""Errors planted in the tabular autoregressive model, and the law tests that must catch them."""

METHOD = "tabular-ar"
FILE = "platform/rayloom/models/autoregressive/tabular_ar.py"
TESTS = "tests/models/autoregressive/test_autoregressive_tabular.py"
ERRORS = [
    {
        "error": "a pixel knows itself",
        "line": "found.append(self.offsets[place] + context)\n"
        "            context = self.next_context(context, x[:, place], place)\n",
        "planted": "context = self.next_context(context, x[:, place], place)\n"
        "            found.append(self.offsets[place] + context % (1 << self.known[place]))\n",
        "caught_by": [
            "test_a_pixel_knows_the_ones_before_it_alone",
            "test_the_counts_are_those_of_a_loop_to_the_bit",
        ],
    },
    {
        "error": "the oldest pixel of a context is never forgotten",
        "line": "& ((1 << self.known[place + 1]) - 1)",
        "planted": "% len(self.seen)",
        "caught_by": ["test_a_pixel_knows_the_ones_before_it_alone"],
    },
    {
        "error": "tables of neighbours overlap",
        "line": "sum(sizes[:i]) for i",
        "planted": "sum(sizes[:i]) // 2 for i",
        "caught_by": ["test_a_table_has_two_to_the_n_minus_one_numbers"],
    },
    {
        "error": "the pseudo-count is added to the ones alone",
        "line": "(self.seen - self.ones).double() + a",
        "planted": "(self.seen - self.ones).double()",
        "caught_by": ["test_the_estimator_of_krichevsky_and_trofimov"],
    },
    {
        "error": "an unseen context has probability one for either value",
        "line": "torch.full_like(ones, -math.log(2.0))",
        "planted": "torch.zeros_like(ones)",
        "caught_by": ["test_it_sums_to_one"],
    },
    {
        "error": "ones are drawn as often as zeros should be",
        "line": "chance = self.log_odds()[1].exp()",
        "planted": "chance = self.log_odds()[0].exp()",
        "caught_by": ["test_samples_come_as_often_as_they_are_likely"],
    },
    {
        "error": "a second epoch counts everything again",
        "line": "if done.turn.epoch == 0:",
        "planted": "if True:",
        "caught_by": ["test_each_picture_is_counted_once"],
    },
    {
        "error": "bits per pixel forget the number of pixels",
        "line": "nll / (self.num_pixels * math.log(2.0))",
        "planted": "nll / math.log(2.0)",
        "caught_by": ["test_frequencies_multiply_to_the_frequency_of_the_block"],
    },
]
