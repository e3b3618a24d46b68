"""Conformance checks for your own models, learners and environments.

Each check raises `AssertionError` with the rule that is broken. The library's own tests use them.
"""

from rayloom.testing.environments import check_env_state
from rayloom.testing.models import IMAGES, check_model, done, example_of, random_batch

__all__ = ["IMAGES", "check_env_state", "check_model", "done", "example_of", "random_batch"]
