"""Follow the loss curves of runs as they grow: each look parses only what is new."""

from collections.abc import Iterable
import math
import os
from typing import Any

from etils import epath
import numpy as np

from experiments import files
from sweeps.work.curves import Curve

LARGEST_LOSS = 1e18  # nats; what a log says above it means nothing


class Reader:
    """Reads the log of a run again and again: only what is new."""

    def __init__(self, directory: epath.Path):
        self._path = directory / "metrics.jsonl"
        self._rows: list[dict[str, Any]] = []
        self._seen = 0
        self._inode = 0

    def read(self) -> list[dict[str, Any]]:
        """Return all rows that there are by now."""
        try:
            found = os.stat(self._path)
        except OSError:
            return []
        if found.st_ino != self._inode or found.st_size < self._seen:
            self._rows = []
            self._seen = 0
        self._inode = found.st_ino
        with open(self._path, "rb") as file:
            file.seek(self._seen)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._seen += end
        for line in data[:end].splitlines():
            try:
                row = files.parse(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                self._rows.append(row)
        return list(self._rows)


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
        if self._curve is not None and len(rows) == self._rows and (not rows or rows[-1] is self._last):
            return self._curve
        same = self._rows == 0 or (len(rows) >= self._rows and rows[self._rows - 1] is self._last)
        if not same:
            self._rows = 0
            self._steps = []
            self._losses = []
        self._add(rows[self._rows :])
        self._rows = len(rows)
        self._last = rows[-1] if rows else None
        self._curve = Curve(np.array(self._steps), np.array(self._losses))
        return self._curve

    def _add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take the training losses of new rows."""
        for row in rows:
            if isinstance(row.get("step"), int) and "loss" in row:
                loss = row["loss"]
                usable = isinstance(loss, int | float) and abs(loss) < LARGEST_LOSS
                self._steps.append(row["step"])
                self._losses.append(loss if usable else math.nan)
