"""Normalising flows: exact densities by invertible maps."""
