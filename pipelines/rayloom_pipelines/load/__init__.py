"""Runs as others use them: their weights, stages, samples and evaluations."""
