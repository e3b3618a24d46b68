"""Errors planted in the LSTM over tokens, and the law tests that must catch them."""

METHOD = "char-lstm"
FILE = "platform/rayloom/models/sequences/char_lstm.py"
TESTS = "tests/models/sequences/test_sequences_char_lstm.py"
ERRORS = [
    {
        "error": "every row begins with an empty state",
        "line": 'state = {key: batch[f"memory.{key}"] for key in "hc"}',
        "planted": 'state = {key: 0 * batch[f"memory.{key}"] for key in "hc"}',
        "caught_by": [
            "test_a_stream_in_pieces_equals_one_pass",
            "test_it_learns_what_a_table_of_that_order_cannot",
        ],
    },
    {
        "error": "rows of shuffled windows go on from one another",
        "line": 'if "first" in batch:',
        "planted": "if True:",
        "caught_by": ["test_rows_without_lanes_begin_empty"],
    },
    {
        "error": "the cells are not carried, only what they show",
        "line": '{key: Carry(state[key].detach()) for key in "hc"}',
        "planted": '{key: Carry(state["h"].detach()) for key in "hc"}',
        "caught_by": ["test_a_stream_in_pieces_equals_one_pass"],
    },
    {
        "error": "the gradient runs on into the batch before",
        "line": "Carry(state[key].detach())",
        "planted": "Carry(state[key])",
        "caught_by": ["test_truncation_leaves_a_short_text_alone_and_cuts_a_long_one"],
    },
    {
        "error": "a token is predicted from itself",
        "line": "self.run(tokens[:, :-1], state)",
        "planted": "self.run(tokens[:, 1:], state)",
        "caught_by": ["test_it_is_a_distribution"],
    },
    {
        "error": "all layers begin with the state of the first",
        "line": "state[key][:, layer].unsqueeze(0)",
        "planted": "state[key][:, 0].unsqueeze(0)",
        "caught_by": ["test_a_stream_in_pieces_equals_one_pass"],
    },
    {
        "error": "padding is counted",
        "line": "mask[:, 1:].to(nats)",
        "planted": "torch.ones_like(nats)",
        "caught_by": ["test_masked_steps_count_nothing"],
    },
    {
        "error": "perplexity is two to the nats",
        "line": '"perplexity": mean.exp()',
        "planted": '"perplexity": mean.exp2()',
        "caught_by": ["test_perplexity_is_exp_of_summed_nats"],
    },
    {
        "error": "the forget gate begins half open",
        "line": "bias[config.width : 2 * config.width] = 0.5",
        "planted": "bias[config.width : 2 * config.width] = 0.0",
        "caught_by": ["test_it_is_the_equation"],
    },
    {
        "error": "a prompt is overwritten",
        "line": "if place + 1 < prompt.shape[1]:",
        "planted": "if place + 2 < prompt.shape[1]:",
        "caught_by": ["test_prompts_of_several_lengths_are_kept"],
    },
    {
        "error": "temperature is multiplied",
        "line": "(logits[:, 0] / settings.temperature)",
        "planted": "(logits[:, 0] * settings.temperature)",
        "caught_by": ["test_samples_come_as_often_as_they_are_likely"],
    },
]
