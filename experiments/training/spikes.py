"""Loss spikes: find one, and which batches to leave out after going back. Decides; the loop acts (experiments/training/loop.py).

A spike is a loss that lies more than `factor` robust standard deviations (1.4826 times the median absolute deviation)
above the median of the WINDOW steps before it, or that is not finite. The remedy is that of PaLM (Chowdhery et al.
2022, section 5.1): go back to a checkpoint before it and leave out the batches from there to the spike. What was left
out belongs to the run's numbers, so that it is saved with every checkpoint and written to the record.
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

WINDOW, LEAST = 64, 16
FLOOR = 0.01  # of the median: curves without noise do not make every step a spike


@dataclasses.dataclass
class Spikes:
    """What one run has seen and left out. `limit`: how often it may go back."""

    factor: float
    limit: int
    skips: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (step, batches left out before it)
    window: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW))

    def find(self, losses: Sequence[float]) -> int | None:
        """Position of the first spike among the losses of the next steps. Those before it join the window."""
        for i, loss in enumerate(map(float, losses)):
            if not math.isfinite(loss) or (len(self.window) >= LEAST and loss > self._bound()):
                return i if len(self.skips) < self.limit else None
            self.window.append(loss)
        return None

    def _bound(self) -> float:
        values = np.asarray(self.window)
        median = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        return median + self.factor * max(spread, FLOOR * abs(median))

    def skip(self, start: int, spike: int) -> None:
        """Leave out the batches of the steps from `start`, where the run goes on, to that of the spike (0-based)."""
        self.skips.append((start, spike - start + 1))

    def batch(self, step: int) -> int:
        """Number of the batch that step number `step` (0-based) takes."""
        return step + sum(count for start, count in self.skips if start <= step)

    @property
    def left_out(self) -> int:
        """Batches left out so far."""
        return sum(count for _, count in self.skips)

    def notes(self) -> dict[str, Any]:
        """What a checkpoint has to remember."""
        return {"skips": [list(skip) for skip in self.skips], "window": list(self.window)}

    def recall(self, notes: dict[str, Any]) -> None:
        """Go on from what a checkpoint remembers."""
        self.skips = [(int(start), int(count)) for start, count in notes.get("skips", [])]
        self.window = collections.deque((float(x) for x in notes.get("window", [])), maxlen=WINDOW)

    def columns(self) -> dict[str, Any]:
        """Columns of the record."""
        ranges = "+".join(f"{start}:{count}" for start, count in self.skips)
        return {"rewinds": len(self.skips), "batches_left_out": self.left_out, "left_out": ranges}
