"""Learners, one file each, and what only they use."""
