"""Benchmarks beside peers; the one place that may import them."""
