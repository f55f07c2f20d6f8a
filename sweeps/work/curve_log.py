"""Follow the loss curves of runs as they grow: each look parses only what is new."""

import math
from typing import Any

from etils import epath
import numpy as np

from experiments.store.segments import Reader
from sweeps.work.curves import Curve

LARGEST_LOSS = 1e18  # nats; what a log says above it means nothing


class CurveLog:
    """The curve of one run, read again and again; the same object where nothing is new.

    Rows that are taken back (after a loss spike) are forgotten.
    """

    def __init__(self, directory: epath.Path):
        self._reader = Reader(directory)
        self._curve: Curve | None = None
        self._last: dict[str, Any] | None = None  # row of the log that was read
        self._rows = 0
        self._steps: list[int] = []
        self._losses: list[float] = []

    def read(self) -> Curve:
        """Return the curve up to now."""
        rows = self._reader.read()
        count = len(rows)
        last = rows[-1] if rows else None
        known = self._rows
        if self._curve is not None and count == known and last is self._last:
            return self._curve
        goes_on = known == 0
        if 0 < known <= count:
            goes_on = rows[known - 1] is self._last
        if not goes_on:
            known = 0
            self._steps = []
            self._losses = []
        for row in rows[known:]:
            self._add(row)
        self._rows = count
        self._last = last
        steps = np.array(self._steps)
        losses = np.array(self._losses)
        self._curve = Curve(steps, losses)
        return self._curve

    def _add(self, row: dict[str, Any]) -> None:
        """Take the training loss of a new row, if it has one."""
        step = row["step"]
        if not isinstance(step, int) or "loss" not in row:
            return
        loss = row["loss"]
        usable = False
        if isinstance(loss, int | float):
            usable = abs(loss) < LARGEST_LOSS
        self._steps.append(step)
        self._losses.append(loss if usable else math.nan)
