"""A profile of a few training steps: a trace for chrome://tracing and a table of operators."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


class StepProfiler:
    """Records `steps` rounds after `start` and writes the result.

    Args:
        folder: Where `trace.json` and `operators.txt` go; made if it is missing.
        start: Rounds to skip (warm-up).
        steps: Rounds to record.
    """

    def __init__(self, folder: Path, *, start: int = 5, steps: int = 10) -> None:
        self.folder, self.start, self.steps = Path(folder), start, steps
        self.done = False
        self._rounds = 0
        self._profile: profile | None = None
        if start == 0:
            self._begin()

    def step(self) -> None:
        """Call after each round; the files exist once enough rounds went by."""
        if self.done:
            return
        self._rounds += 1
        if self._rounds == self.start:
            self._begin()
        elif self._profile is not None and self._rounds == self.start + self.steps:
            self.close()

    def _begin(self) -> None:
        kinds = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=kinds, record_shapes=True)
        self._profile.start()

    def close(self) -> None:
        """Write what was recorded, also after fewer rounds."""
        if self._profile is None or self.done:
            return
        self._profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self.folder / "trace.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=order, row_limit=40)
        (self.folder / "operators.txt").write_text(table)
        self.done, self._profile = True, None
