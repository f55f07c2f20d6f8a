"""Loss spikes: find one, and which batches to leave out after going back. Decides; the loop acts (experiments/training/loop.py).

A spike is a loss that lies more than `factor` robust standard deviations (1.4826 times the median absolute deviation)
above the median of the WINDOW steps before it, or that is not finite. The remedy is that of PaLM (Chowdhery et al.
2022, section 5.1): go back to a state before it and leave out the batches from there to the spike. Those states lie at
multiples of a fixed number of steps, never where a clock had one saved. What was left out belongs to the run's numbers,
so that it is saved with every checkpoint and written to the record.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
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
    """What one run has seen and left out. `limit`: how often it may go back; `every`: the steps between two states for it.

    rewinds: how often it has.
    ranges: the numbers of the batches that are left out, as first and one behind the last, in order and apart.
    """

    factor: float
    limit: int
    every: int
    rewinds: int = 0
    ranges: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    window: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=WINDOW))

    def find(self, losses: Sequence[float]) -> int | None:
        """Return the position of the first spike among the losses of the next steps. Those before it join the window."""
        for i, loss in enumerate(map(float, losses)):
            if self._is_spike(loss):
                return i if self.rewinds < self.limit else None
            self.window.append(loss)
        return None

    def find_step(self, first: int, losses: list[float], has_text: Callable[[int], bool]) -> int | None:
        """Return the step (0-based) of a spike to go back from, or None. `losses`: of steps first, first + 1, …

        has_text: whether there is text to put in the place of so many batches that would be left out.
        """
        seen = 0
        while (position := self.find(losses[seen:])) is not None:
            seen += position + 1
            spike = first + seen - 1
            start = self.rewind_step(spike)
            if has_text(spike + 1 - start):
                return spike
            # It stays. What comes behind it is looked at all the same, or it would matter how many steps come at a time.
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
        first = self.batch_of(start)
        last = self.batch_of(spike)
        self.ranges = _joined([*self.ranges, (first, last + 1)])
        self.rewinds += 1

    def rewind_step(self, spike: int) -> int:
        """Return the step to go back to from the spike at a step (0-based): the newest multiple before it."""
        return spike // self.every * self.every

    def batch_of(self, step: int) -> int:
        """Return the number of the batch that step number `step` (0-based) takes."""
        batch = step
        for first, end in self.ranges:
            if first <= batch:
                batch += end - first
        return batch

    @property
    def left_out(self) -> int:
        """Return how many batches are left out so far."""
        return sum(end - first for first, end in self.ranges)

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint has to remember."""
        return {
            "rewinds": self.rewinds,
            "left_out": [list(one) for one in self.ranges],
            "window": list(self.window),
        }

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint remembers."""
        self.rewinds = notes.get("rewinds", 0)
        self.ranges = [(first, end) for first, end in notes.get("left_out", [])]
        # Checkpoints of before have the step that the run went back to, and the steps from there to the spike's.
        for start, count in notes.get("skips", []):
            self.skip(start, start + count - 1)
        losses = [float(loss) for loss in notes.get("window", [])]
        self.window = collections.deque(losses, maxlen=WINDOW)

    def columns(self) -> dict[str, Any]:
        """Return columns of the record."""
        counted = [f"{first}:{end - first}" for first, end in self.ranges]
        return {"rewinds": self.rewinds, "batches_left_out": self.left_out, "left_out": "+".join(counted)}


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, with those that meet as one."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            before, until = joined.pop()
            first = before
            end = max(until, end)
        joined.append((first, end))
    return joined
