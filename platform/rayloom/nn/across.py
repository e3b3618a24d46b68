"""Numbers of all ranks inside a loss: sums and rows, differentiable any number of times.

For losses in which examples meet: contrastive ones, deviations of a minibatch, batch statistics. A
module that uses them has an attribute `collective`, which the engine sets, and says
`whole_batch = True`: then `train.accumulate` is refused, because a chunk would meet only itself.
Every rank must call them, in the same order, also with an empty slice, and must also run the
backward pass.

Dimension key: B rows of the local slice, N rows of the global batch.
"""

import torch
from torch import Tensor

from rayloom.core.protocols import Collective
from rayloom.nn.batch_norm import sum_over_ranks

__all__ = ["gather_rows", "sum_over_ranks"]


def gather_rows(rows: Tensor, start: int, total: int, collective: Collective) -> Tensor:
    """The rows of all ranks in the order of the global batch, (N, ...).

    They are added into zeros, so that the gradient of every rank's loss comes back to each row.

    Args:
        rows: (B, ...), floating, of this rank.
        start: Place of the first one in the global batch (`rng.start`).
        total: N (`rng.total`).
        collective: The workers.

    Raises:
        ValueError: The rows do not lie in the batch.
    """
    if not 0 <= start <= start + len(rows) <= total:
        raise ValueError(f"rows {start}..{start + len(rows)} do not lie in a batch of {total}")
    if collective.world == 1:
        return rows
    before = rows.new_zeros(start, *rows.shape[1:])
    after = rows.new_zeros(total - start - len(rows), *rows.shape[1:])
    return sum_over_ranks(torch.cat([before, rows, after]), collective)
