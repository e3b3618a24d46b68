"""Named loss parts of the steps since the last log point, kept on the device.

A step writes one row of sums; nothing leaves the device until the log point (or a check), when the
rows also tell which part became NaN at which step.

Dimension key: B examples of a chunk, W columns of a row (one a part, two a masked part).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import NonFiniteError
from rayloom.core.protocols import Carry, Part, Sum

CAPACITY = 256  # rows on the device before they are folded into sums on the host
_KINDS: dict[type, str] = {tuple: "pair", list: "pair", Sum: "sum", Carry: "carry"}


def kinds(parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Of each part: `mean`, `pair`, `sum` or `carry`."""
    return tuple(_KINDS.get(type(value), "mean") for value in parts.values())


class PartColumns:
    """Which parts a step reported, and where those that are means stand in a row.

    Attributes:
        names: Parts that are means over examples or over counts.
        paired: Which of them are pairs.
        sum_names: Parts that are `Sum`s.
        carry_names: Parts that are `Carry`s.
        plain: Whether all parts are single means: the fast way.
    """

    def __init__(self, parts: Mapping[str, Part], *, where: str) -> None:
        self.kinds = kinds(parts)
        named = list(zip(parts, self.kinds, strict=True))
        self.sum_names = [name for name, kind in named if kind == "sum"]
        self.carry_names = [name for name, kind in named if kind == "carry"]
        self.names = [name for name, kind in named if kind in ("mean", "pair")]
        self.paired = [kind == "pair" for _, kind in named if kind in ("mean", "pair")]
        self.columns: list[int] = []
        self.width = 0
        for name, pair in zip(self.names, self.paired, strict=True):
            value = cast(Any, parts[name])
            for tensor in value if pair else (value,):
                if not isinstance(tensor, Tensor) or tensor.ndim != 1:
                    got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor)
                    raise ValueError(
                        f"{where} gave part {name!r} as {got}; a part is one number per example, "
                        "shape (B,), a pair (sums (B,), counts (B,)), a Sum or a Carry"
                    )
            self.columns.append(self.width)
            self.width += 2 if pair else 1
        self.any_pair = any(self.paired)
        self.extra = bool(self.sum_names or self.carry_names)
        self.plain = not (self.any_pair or self.extra)

    def sums(self, parts: Mapping[str, Part], out: Tensor | None = None) -> Tensor:
        """(W,) float64 sums over the examples."""
        if self.plain:
            flat = list(parts.values())
        else:
            flat = []
            for name, pair in zip(self.names, self.paired, strict=True):
                value = cast(Any, parts[name])
                flat.extend(value) if pair else flat.append(value)
            if not flat:
                return torch.zeros(0, dtype=torch.float64) if out is None else out
        return torch.sum(torch.stack(cast(Any, flat)), 1, dtype=torch.float64, out=out)

    def means(self, row: Tensor, total: int) -> dict[str, Tensor]:
        """Scalar tensors: the mean of each part over the global batch of `total`."""
        return {
            name: row[c] / row[c + 1].clamp(min=1e-12) if pair else row[c] / total
            for name, pair, c in zip(self.names, self.paired, self.columns, strict=True)
        }


class _Rows:
    """Rows of one layout, and the host sums of those already folded."""

    def __init__(
        self, layout: PartColumns, capacity: int, device: torch.device, norm: torch.dtype
    ) -> None:
        self.layout = layout
        self.parts: list[str] = []  # all of them, in the order of the loss
        self.table = torch.zeros(capacity, layout.width, dtype=torch.float64, device=device)
        self.norms = torch.zeros(capacity, dtype=norm, device=device)
        self.row_views = self.table.unbind(0)
        self.norm_views = self.norms.unbind(0)
        self.clear()

    def clear(self) -> None:
        self.used = 0
        self.steps: list[int] = []
        self.totals: list[int] = []
        self.folded = np.zeros(self.layout.width)
        self.folded_norm = 0.0
        self.folded_steps = 0
        self.folded_total = 0


class Meter:
    """The parts of one player between two log points.

    Args:
        player: Its name, for messages.
        capacity: Rows kept on the device before they are folded.
        device: Where the parts live.
        norm_dtype: dtype of gradient norms; None: there are no gradients.
    """

    def __init__(
        self, player: str, *, capacity: int, device: torch.device, norm_dtype: torch.dtype | None
    ) -> None:
        self.player = player
        self._capacity = max(1, min(capacity, CAPACITY))
        self._norms = norm_dtype is not None
        self._device, self._norm_dtype = device, norm_dtype or torch.float32
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], _Rows] = {}
        self._active: list[_Rows] = []  # of this interval, in order of appearance
        self._names: list[str] = []
        self._rows: _Rows | None = None

    def layout(self, parts: Mapping[str, Part]) -> PartColumns:
        """The layout of these parts; makes room for their row."""
        rows = self._rows
        if rows is None or not rows.layout.plain or self._names != list(parts):
            rows = self._select(parts)
        if rows.used == self._capacity:
            self._fold(rows)
        return rows.layout

    def _select(self, parts: Mapping[str, Part]) -> _Rows:
        key = (tuple(parts), kinds(parts))
        rows = self._known.get(key)
        if rows is None:
            layout = PartColumns(parts, where=f"loss of player {self.player!r}")
            rows = _Rows(layout, self._capacity, self._device, self._norm_dtype)
            rows.parts = list(parts)
            self._known[key] = rows
        if not any(rows is active for active in self._active):
            self._active.append(rows)
        self._rows, self._names = rows, list(parts)
        return rows

    def row(self) -> tuple[Tensor, Tensor]:
        """The places of the step's sums, (W,) float64, and of its gradient norm, ()."""
        rows = self._rows
        assert rows is not None
        return rows.row_views[rows.used], rows.norm_views[rows.used]

    def commit(self, grad_step: int, total: int) -> None:
        """The row is filled: it belongs to `grad_step` and a global batch of `total`."""
        rows = self._rows
        assert rows is not None
        rows.used += 1
        rows.steps.append(grad_step)
        rows.totals.append(total)

    def check(self) -> None:
        """Raise if a part of an unfolded row is NaN, or the loss or gradient is not finite.

        Raises:
            NonFiniteError: Names the parts, the player and the first such step.
        """
        for rows in self._active:
            if rows.used:
                self._check(rows, rows.table[: rows.used].cpu().numpy(), _host(rows))

    def _check(self, rows: _Rows, table: np.ndarray, norms: np.ndarray) -> None:
        layout = rows.layout
        if np.isfinite(table).all() and np.isfinite(norms).all():
            return
        broken = np.isnan(table).any(axis=1) | ~np.isfinite(norms)
        if "loss" in layout.names:
            broken |= ~np.isfinite(table[:, layout.columns[layout.names.index("loss")]])
        if not broken.any():
            return
        first = int(np.argmax(broken))
        bad = [
            f"{name} ({_word(table[first, c])})"
            for name, c in zip(layout.names, layout.columns, strict=True)
            if not math.isfinite(table[first, c])
        ]
        named = [b for b in bad if not b.startswith("loss (")] or bad
        if not named:
            named = [f"the gradient norm ({_word(norms[first])}; every loss part is finite)"]
        raise NonFiniteError(
            f"not finite at grad_step {rows.steps[first]}, player {self.player!r}: "
            f"{', '.join(named)}. The last checkpoint is from before; try a lower learning rate, "
            "train.clip_norm, or look at that batch"
        )

    def _fold(self, rows: _Rows) -> None:
        if not rows.used:
            return
        table, norms = rows.table[: rows.used].cpu().numpy(), _host(rows)
        self._check(rows, table, norms)
        rows.folded += table.sum(axis=0)
        rows.folded_norm += float(norms.sum())
        rows.folded_steps += rows.used
        rows.folded_total += sum(rows.totals)
        rows.used = 0
        rows.steps.clear()
        rows.totals.clear()

    def flush(self) -> dict[str, float]:
        """Means since the last flush by part (`loss` is called `total`), and `grad_norm`.

        Raises:
            NonFiniteError: See `check`.
        """
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        norm, steps = 0.0, 0
        for rows in self._active:
            self._fold(rows)
            layout = rows.layout
            for name, pair, c in zip(layout.names, layout.paired, layout.columns, strict=True):
                sums[name] = sums.get(name, 0.0) + float(rows.folded[c])
                count = float(rows.folded[c + 1]) if pair else float(rows.folded_total)
                counts[name] = counts.get(name, 0.0) + count
            norm += rows.folded_norm
            steps += rows.folded_steps
            rows.clear()
        self._active.clear()
        self._rows = None
        means = {
            "total" if name == "loss" else name: value / counts[name]
            for name, value in sums.items()
            if counts[name]
        }
        if steps and self._norms:
            means["grad_norm"] = norm / steps
        return means

    def state_dict(self) -> dict[str, Any]:
        """The interval so far, to the bit."""
        return {
            str(number): {
                "names": list(rows.parts),
                "kinds": list(rows.layout.kinds),
                "table": rows.table[: rows.used].cpu().clone(),
                "norms": rows.norms[: rows.used].cpu().clone(),
                "steps": list(rows.steps),
                "totals": list(rows.totals),
                "folded": rows.folded.tolist(),
                "folded_norm": rows.folded_norm,
                "folded_steps": rows.folded_steps,
                "folded_total": rows.folded_total,
            }
            for number, rows in enumerate(self._active)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to an interval."""
        for rows in self._known.values():
            rows.clear()
        self._active.clear()
        self._rows = None
        empty = torch.zeros(0)
        like: dict[str, Any] = {
            "mean": empty,
            "pair": (empty, empty),
            "sum": Sum(empty),
            "carry": Carry(empty),
        }
        for number in range(len(state)):
            given = state[str(number)]
            # states of before knew pairs alone
            kept = given.get("kinds") or ["pair" if pair else "mean" for pair in given["paired"]]
            rows = self._select({n: like[k] for n, k in zip(given["names"], kept, strict=True)})
            used = len(given["steps"])
            rows.used = used
            if used:
                rows.table[:used] = torch.as_tensor(given["table"]).to(self._device)
                rows.norms[:used] = torch.as_tensor(given["norms"]).to(self._device)
            rows.steps, rows.totals = list(given["steps"]), list(given["totals"])
            rows.folded = np.array(given["folded"], dtype=np.float64)
            rows.folded_norm = float(given["folded_norm"])
            rows.folded_steps = int(given["folded_steps"])
            rows.folded_total = int(given["folded_total"])
        self._rows = None


def _host(rows: _Rows) -> np.ndarray:
    return rows.norms[: rows.used].cpu().double().numpy()


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"


def merge_names(player: str, means: Mapping[str, float], *, alone: bool) -> dict[str, float]:
    """Metric keys: `loss/<part>`, or `loss/<player>/<part>` where there are several players.

    A part whose name holds a slash (`q/taken`) keeps it, behind the player's name if need be.
    """
    keys: dict[str, float] = {}
    for name, value in means.items():
        if "/" in name:
            keys[name if alone else f"{name}/{player}"] = value
        else:
            keys[f"loss/{name}" if alone else f"loss/{player}/{name}"] = value
    return keys


__all__: Sequence[str] = ("CAPACITY", "Meter", "Part", "PartColumns", "merge_names")
