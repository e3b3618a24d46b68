"""The training batch in use: this rank's slice, its inputs on the device, its noise, its memory.

Dimension key: B examples of the local slice, N examples of the global batch.
"""

import torch
from torch import nn

from rayloom.config.sections import RunConfig
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, BatchSource, Collective, LocalBatch
from rayloom.data.augmentation import augment, check_augment
from rayloom.training.checks import talks
from rayloom.training.player import PlayerStep
from rayloom.training.precision import as_doubles
from rayloom.training.row_memory import RowMemory


class TrainBatches:
    """Takes training batches by number.

    Args:
        model: Its memory of rows, if it has any, is kept here.
        source: Where batches come from.
        config: Sections `data` (augmentation) and `train` (precision) are used.
        collective: The workers.
        device: Where the model lives.
        dtype: Its floating type.
        seed: Of the training noise.
        one: Take batch 0 again and again.

    Attributes:
        number: Number of the batch in use.
        local: Its slice; only sizes are read from it.
        inputs: Its fields on the device. Of an empty slice the batch's first row, which will have
            no weight; but a model whose modules talk to the other ranks gets the empty slice.
        noise: Its noise.
        memory: What its rows carry, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        config: RunConfig,
        *,
        collective: Collective,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        one: bool = False,
    ) -> None:
        self.source, self.collective, self.device, self.dtype = source, collective, device, dtype
        self.talks = talks(model)
        self._one, self._seed = one, seed
        self._doubles = config.train.precision == "fp64"
        self._augment = config.data.augment if config.data is not None else []
        if self._augment:
            check_augment(self._augment, source.spec)
        self.memory: RowMemory | None = None
        if hasattr(model, "memory"):
            self.memory = RowMemory(model, source, collective, device)
        self.number = 0
        self.local: LocalBatch
        self.inputs: Batch
        self.noise: Noise

    def take(self, number: int) -> None:
        """Make a batch the one in use."""
        self.number = number
        self.local = local = self._slice(number)
        stands_in = not (len(local.index) or self.talks)
        self.noise = self._noise(number, local, stands_in=stands_in)
        fields = self._first_row(number, local.total) if stands_in else local.fields
        inputs = self.to_device(fields)
        if self.memory is not None:
            inputs = self.memory.attach(inputs, fresh=True)
        if self._augment:
            inputs = augment(inputs, self.noise, self._augment, self.source.spec)
        self.inputs = inputs

    def after(self, player: PlayerStep) -> None:
        """What the rows of a step leave is theirs from now on, also within the same batch."""
        if self.memory is not None:
            self.memory.update(player.carried)
            self.inputs = self.memory.attach(self.inputs, fresh=False)

    def whole(self, number: int = 0) -> tuple[Batch, Noise]:
        """A batch on this rank alone, as stored, with its noise."""
        local = self.source.batch(number)
        noise = Noise(
            self._seed, step=number, total=local.total, device=self.device, dtype=self.dtype
        )
        return self.to_device(local.fields), noise

    def _slice(self, number: int) -> LocalBatch:
        number = 0 if self._one else number
        if self.collective.world == 1:
            return self.source.batch(number)
        return self.source.batch(number, rank=self.collective.rank, world=self.collective.world)

    def _first_row(self, number: int, total: int) -> Batch:
        return self.source.batch(0 if self._one else number, rank=0, world=total).fields

    def to_device(self, fields: Batch) -> Batch:
        """Fields where the model lives, the floating ones in its precision."""
        if self._doubles:
            return as_doubles(fields, self.device)
        if self.device.type == "cpu":
            return fields
        return {k: v.to(self.device, non_blocking=True) for k, v in fields.items()}

    def _noise(self, number: int, local: LocalBatch, *, stands_in: bool) -> Noise:
        whole = self.collective.world == 1
        return Noise(
            self._seed,
            step=number,
            total=local.total,
            start=0 if whole or stands_in else local.start,
            stop=None if whole else 1 if stands_in else local.stop,
            device=self.device,
            dtype=self.dtype,
        )
