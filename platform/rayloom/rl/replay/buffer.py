"""Replay memory: a struct of arrays, uniform or prioritised.

Dimension key: C capacity, K block length, U batches, B transitions per batch.

Transitions are numbered by insertion and live in a ring of whole blocks. A checkpoint refers to
filled blocks by name, so that a replay of a million costs a checkpoint only its newest block; a
block that is overwritten while somebody still holds its arrays is copied for them first.

Papers: Lin, 1992, doi:10.1007/BF00992699; Schaul et al., 2016, arXiv:1511.05952.
"""

import weakref
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rayloom.core.protocols import Chunk, State
from rayloom.rl.envs.state import get_random, set_random
from rayloom.rl.replay.sum_tree import SumTree

BLOCK = 4096  # K, transitions per block


class Transitions(NamedTuple):
    """Struct of arrays; the leading axes are those of the request.

    Attributes:
        observation: (..., *obs_shape).
        next_observation: (..., *obs_shape), `span` steps later.
        action: (..., *action_shape).
        reward: (...) float32, sum of discounted rewards over the span.
        discount: (...) float32, gamma^span * (1 - terminated).
    """

    observation: np.ndarray
    next_observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray


class _BlockArrays(Mapping[str, np.ndarray]):
    """Arrays of one filled block: views of the ring until it is overwritten, then copies."""

    def __init__(self, views: dict[str, np.ndarray]) -> None:
        self._views = views

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def keep(self) -> None:
        """Copy the bytes: the ring is about to overwrite them."""
        self._views = {name: view.copy() for name, view in self._views.items()}


class Replay:
    """The newest C transitions, drawn uniformly with replacement.

    Args:
        capacity: C.
        obs_shape: Shape of an observation.
        obs_dtype: `float32` or `uint8`.
        action_shape: Shape of an action.
        action_dtype: int64 or float32.
        rng: Stream of the draws; owned by the replay.
        name: Prefix of the chunks' keys.

    Attributes:
        inserted: Transitions inserted so far; transition i lies in slot i modulo the ring.
    """

    def __init__(
        self,
        capacity: int,
        *,
        obs_shape: tuple[int, ...],
        obs_dtype: str,
        action_shape: tuple[int, ...],
        action_dtype: type,
        rng: np.random.Generator,
        name: str = "replay",
    ) -> None:
        self.capacity, self.rng, self.name = capacity, rng, name
        self.block = min(BLOCK, capacity)
        blocks = -(-capacity // self.block) + 1  # one spare: the oldest block stays whole
        self.ring = blocks * self.block
        self.arrays = {
            "observation": np.zeros((self.ring, *obs_shape), obs_dtype),
            "next_observation": np.zeros((self.ring, *obs_shape), obs_dtype),
            "action": np.zeros((self.ring, *action_shape), action_dtype),
            "reward": np.zeros(self.ring, np.float32),
            "discount": np.zeros(self.ring, np.float32),
        }
        self.inserted = 0
        self._lent: dict[int, weakref.ref[_BlockArrays]] = {}  # by block number

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return min(self.inserted, self.capacity)

    def insert(self, transitions: Transitions) -> None:
        """Append transitions, leading axis M; the oldest ones fall out."""
        count, start = len(transitions.reward), 0
        while start < count:
            slot = self.inserted % self.ring
            if slot % self.block == 0:
                self._release(self.inserted // self.block - self.ring // self.block)
            stop = min(count, start + self.block - slot % self.block)
            place = slice(slot, slot + stop - start)
            for name, array in self.arrays.items():
                array[place] = getattr(transitions, name)[start:stop]
            self._inserted(place)
            self.inserted += stop - start
            start = stop

    def _inserted(self, place: slice) -> None:
        """Hook for priorities: these slots were just written."""

    def _release(self, block: int) -> None:
        """The ring is about to overwrite this block."""
        lent = self._lent.pop(block, None)
        arrays = lent() if lent is not None else None
        if arrays is not None:
            arrays.keep()

    def slots(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform draws of slots, int64 of this shape."""
        low = self.inserted - len(self)
        return self.rng.integers(low, self.inserted, size=shape) % self.ring

    def gather(self, slots: np.ndarray) -> Transitions:
        """The transitions in these slots, leading axes as `slots`."""
        return Transitions(*(self.arrays[name][slots] for name in Transitions._fields))

    def sample(self, num_batches: int, batch_size: int) -> Transitions:
        """U batches at once, leading axes (U, B).

        Raises:
            ValueError: The replay is empty.
        """
        if not self.inserted:
            raise ValueError("the replay is empty")
        return self.gather(self.slots((num_batches, batch_size)))

    def state_dict(self) -> State:
        """Filled blocks as chunks, the unfilled one as arrays, the random stream."""
        first = (self.inserted - len(self)) // self.block
        last = self.inserted // self.block
        tail = slice(last * self.block % self.ring, self.inserted % self.ring)
        if self.inserted % self.block == 0:
            tail = slice(0, 0)
        return {
            "inserted": self.inserted,
            "rng": get_random(self.rng),
            "blocks": {str(number): self._chunk(number) for number in range(first, last)},
            "tail": {name: array[tail].copy() for name, array in self.arrays.items()},
        }

    def _chunk(self, number: int) -> Chunk:
        lent = self._lent.get(number)
        arrays = lent() if lent is not None else None
        if arrays is None:
            start = number * self.block % self.ring
            place = slice(start, start + self.block)
            arrays = _BlockArrays({name: array[place] for name, array in self.arrays.items()})
            self._lent[number] = weakref.ref(arrays)
        return Chunk(f"{self.name}-{number:06d}", arrays)

    def load_state_dict(self, state: State) -> None:
        """Back to a state.

        Raises:
            ValueError: It belongs to a replay of another shape.
        """
        held = {int(number): dict(chunk.arrays) for number, chunk in state["blocks"].items()}
        for number in list(self._lent):  # all slots may be overwritten now
            self._release(number)
        for number, arrays in held.items():
            start = number * self.block % self.ring
            self._write(slice(start, start + self.block), arrays)
        self.inserted = int(state["inserted"])
        start = self.inserted // self.block * self.block % self.ring
        self._write(slice(start, start + self.inserted % self.block), state["tail"])
        set_random(self.rng, state["rng"])

    def _write(self, place: slice, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in self.arrays.items():
            given = np.asarray(arrays[name])
            if given.shape != array[place].shape:
                raise ValueError(
                    f"replay {name} of the state has shape {given.shape}, expected "
                    f"{array[place].shape}: another environment or capacity"
                )
            array[place] = given


class PrioritizedReplay(Replay):
    """Transitions drawn in proportion to priority^alpha.

    New transitions get the largest priority seen so far, so that each is soon used.

    Args:
        capacity: C.
        alpha: 0 is uniform.
        epsilon: Added to |TD error|, so that no priority is zero.
        obs_shape: As for `Replay`, and so the rest.
        obs_dtype: See `Replay`.
        action_shape: See `Replay`.
        action_dtype: See `Replay`.
        rng: See `Replay`.
    """

    def __init__(
        self,
        capacity: int,
        *,
        alpha: float,
        epsilon: float,
        obs_shape: tuple[int, ...],
        obs_dtype: str,
        action_shape: tuple[int, ...],
        action_dtype: type,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(
            capacity,
            obs_shape=obs_shape,
            obs_dtype=obs_dtype,
            action_shape=action_shape,
            action_dtype=action_dtype,
            rng=rng,
        )
        self.alpha, self.epsilon = alpha, epsilon
        self.tree = SumTree(self.ring)
        self.largest = 1.0  # largest priority so far, before the power

    def _inserted(self, place: slice) -> None:
        slots = np.arange(place.start, place.stop)
        self.tree.set(slots, self.largest**self.alpha)
        if self.inserted + len(slots) > self.capacity:  # what fell out is never drawn
            first = max(0, self.inserted - self.capacity)
            gone = np.arange(first, self.inserted + len(slots) - self.capacity) % self.ring
            self.tree.set(gone, 0.0)

    def draw(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Slots (B,) and the probabilities P(i) with which they were drawn, float64 (B,)."""
        slots = self.tree.draw(self.rng.random(batch_size))
        return slots, self.tree.levels[0][slots] / self.tree.total

    def set_errors(self, slots: np.ndarray, td_error: np.ndarray) -> None:
        """New priorities |delta| + epsilon of drawn slots, both (B,)."""
        priority = np.abs(td_error).astype(np.float64) + self.epsilon
        self.largest = max(self.largest, float(priority.max()))
        self.tree.set(slots, priority**self.alpha)

    def state_dict(self) -> State:
        """As `Replay`, and the powered priorities of all slots."""
        return {
            **super().state_dict(),
            "leaves": self.tree.leaves.copy(),
            "largest": self.largest,
        }

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        super().load_state_dict(state)
        self.tree.load(np.asarray(state["leaves"]))
        self.largest = float(state["largest"])
