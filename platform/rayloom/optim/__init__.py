"""Optimizers on flat parameters, and learning rate schedules."""

from rayloom.optim.flat import FlatParameters
from rayloom.optim.optimizers import FlatOptimizer, make_optimizer
from rayloom.optim.schedules import make_schedule

__all__ = ["FlatOptimizer", "FlatParameters", "make_optimizer", "make_schedule"]
