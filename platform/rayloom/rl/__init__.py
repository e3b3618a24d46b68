"""Reinforcement learning: policies, learners, replay, environment groups, the loop, evaluation."""
