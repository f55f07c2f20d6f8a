"""Loss spikes: find one, and which batches to leave out after going back. Decides; the loop acts (experiments/training/loop.py).

A spike is a loss that lies more than `factor` robust standard deviations (1.4826 times the median absolute deviation)
above the median of the WINDOW steps before it, or that is not finite. The remedy is that of PaLM (Chowdhery et al.
2022, section 5.1): go back to a checkpoint before it and leave out the batches from there to the spike. What was left
out belongs to the run's numbers, so that it is saved with every checkpoint and written to the record.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

WINDOW = 64  # steps whose losses a new one is compared with
LEAST = 16  # of them, before a finite loss can be a spike
FLOOR = 0.01  # of the median: curves without noise do not make every step a spike
NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


@dataclasses.dataclass
class Spikes:
    """What one run has seen and left out. `limit`: how often it may go back."""

    factor: float
    limit: int
    skips: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (step, batches left out before it)
    window: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW))

    def find(self, losses: Sequence[float]) -> int | None:
        """Return the position of the first spike among the losses of the next steps. Those before it join the window."""
        for i, loss in enumerate(map(float, losses)):
            if self._is_spike(loss):
                return i if len(self.skips) < self.limit else None
            self.window.append(loss)
        return None

    def _is_spike(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        return len(self.window) >= LEAST and loss > self._bound()

    def _bound(self) -> float:
        """Return the largest loss that is no spike."""
        values = np.asarray(self.window)
        median = float(np.median(values))
        deviation = NORMAL * float(np.median(np.abs(values - median)))
        return median + self.factor * max(deviation, FLOOR * abs(median))

    def skip(self, start: int, spike: int) -> None:
        """Leave out the batches of the steps from `start`, where the run goes on, to that of the spike (0-based)."""
        self.skips.append((start, spike - start + 1))

    def batch_of(self, step: int) -> int:
        """Return the number of the batch that step number `step` (0-based) takes."""
        return step + sum(count for start, count in self.skips if start <= step)

    @property
    def left_out(self) -> int:
        """Return the batches left out so far."""
        return sum(count for _, count in self.skips)

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint has to remember."""
        return {"skips": [list(skip) for skip in self.skips], "window": list(self.window)}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint remembers."""
        self.skips = [(int(start), int(count)) for start, count in notes.get("skips", [])]
        losses = [float(loss) for loss in notes.get("window", [])]
        self.window = collections.deque(losses, maxlen=WINDOW)

    def columns(self) -> dict[str, Any]:
        """Return columns of the record."""
        ranges = [f"{start}:{count}" for start, count in self.skips]
        return {"rewinds": len(self.skips), "batches_left_out": self.left_out, "left_out": "+".join(ranges)}
