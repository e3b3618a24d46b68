"""Replay: transitions kept, with or without priorities, and n-step returns on their way in."""

from rayloom.rl.replay.buffer import PrioritizedReplay, Replay, Transitions

__all__ = ["PrioritizedReplay", "Replay", "Transitions"]
