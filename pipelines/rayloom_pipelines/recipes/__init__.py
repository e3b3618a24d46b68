"""Recipes: which parts of the house make a training run, and in which order. Wiring only."""
