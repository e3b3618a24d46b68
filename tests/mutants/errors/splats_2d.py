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
        "error": "new splats take the wrong sign",
        "line": 'to_unit(batch["image"], self.mean.dtype) - self.picture()  #',
        "planted": 'self.picture() - to_unit(batch["image"], self.mean.dtype)  #',
        "caught_by": ["test_what_is_missing_is_the_target_less_the_picture"],
    },
    {
        "error": "pixels are drawn in proportion to the error, not its square",
        "line": "missing.square().sum(0).flatten()",
        "planted": "missing.abs().sum(0).flatten()",
        "caught_by": ["test_pixels_are_drawn_in_proportion_to_the_squared_error"],
    },
    {
        "error": "rows that are taken get new splats",
        "line": "free = (~self.alive).nonzero()",
        "planted": "free = self.alive.nonzero()",
        "caught_by": [
            "test_new_splats_stand_where_the_error_is_in_the_colour_that_is_missing",
        ],
    },
    {
        "error": "nothing is pruned",
        "line": "            self.alive &= self.opacity >= config.min_opacity\n",
        "planted": "",
        "caught_by": ["test_what_is_hardly_there_is_pruned_and_its_row_is_used_again"],
    },
]
