"""Errors planted in splats-2d, and the law tests that must catch them."""

METHOD = "splats-2d"
FILE = "platform/rayloom/models/geometry/splats_2d.py"
TESTS = "tests/models/geometry/test_geometry_splats_2d.py"
ERRORS = [
    {
        "error": "splats turn the other way",
        "line": "torch.stack([cosine, sine, -sine, cosine], 1)",
        "planted": "torch.stack([cosine, -sine, sine, cosine], 1)",
        "caught_by": ["test_the_picture_is_the_sum_of_gaussians"],
    },
    {
        "error": "free rows shine too",
        "line": "self.opacity_logit.sigmoid() * self.alive",
        "planted": "self.opacity_logit.sigmoid()",
        "caught_by": ["test_the_picture_is_the_sum_of_gaussians"],
    },
    {
        "error": "a cloned pair is twice as bright",
        "line": "half = self.opacity_logit[pair].sigmoid() / 2",
        "planted": "half = self.opacity_logit[pair].sigmoid()",
        "caught_by": ["test_a_cloned_pair_is_what_the_one_was"],
    },
    {
        "error": "the flattest splats are densified",
        "line": "parents, children = asking.topk(count).indices",
        "planted": "parents, children = asking.topk(count, largest=False).indices",
        "caught_by": ["test_what_is_hardly_there_is_pruned_and_its_row_is_used_again"],
    },
    {
        "error": "a split pair keeps its scales",
        "line": "(scale / SHRINK).log()",
        "planted": "scale.log()",
        "caught_by": ["test_a_large_one_is_split_into_two_smaller_ones_drawn_from_it"],
    },
    {
        "error": "gradients are remembered for ever",
        "line": "            self.slopes.zero_()\n",
        "planted": "",
        "caught_by": ["test_gradients_are_remembered_for_a_period"],
    },
]
