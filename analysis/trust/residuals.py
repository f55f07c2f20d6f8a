"""Say how far the rows lie from a law, and which of them count.

A row that was stopped early (censored) only bounds its loss from above and says nothing of the law's scatter; a weighted
row counts as its weight. Everything that is said of residuals is said of those that count.
"""

import dataclasses
import functools
import math

import numpy as np

from analysis.grid.table import Columns
from analysis.trust.bootstrap import units

NO_WEIGHT = 1e-6  # of the mean weight: such a row says nothing
ROBUST = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def row_counts(columns: Columns) -> np.ndarray:
    """Return how much each row says of the law's scatter [rows]: 0 for a bound, else its weight, with mean 1."""
    counts = np.ones(len(columns))
    if "weight" in columns:
        counts = columns["weight"].astype(np.float64)
    if "censored" in columns:
        counts = np.where(columns["censored"] > 0, 0.0, counts)
    counting = counts[counts > 0]
    return counts / counting.mean() if len(counting) else counts


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Hold residuals with what each row counts.

    value [rows]: ln predicted - ln observed, or predicted - observed where `additive`. counts [rows]: 0 for rows that
    only bound the law, with mean 1 over the others. unit [rows]: which rows are one run.
    """

    value: np.ndarray
    counts: np.ndarray
    unit: np.ndarray
    additive: bool = False

    @classmethod
    def of(cls, value: np.ndarray, columns: Columns, additive: bool = False) -> "Residuals":
        """Build them from the residuals of the rows of `columns`; of other points (optima of budgets) all count alike."""
        if len(value) != len(columns):
            return cls(value, np.ones(len(value)), np.arange(len(value)), additive)
        unit = units(len(columns), columns.values.get("run"))
        return cls(value, row_counts(columns), unit, additive)

    @functools.cached_property
    def counting(self) -> np.ndarray:
        """Which rows count [rows] (booleans): those of finite residuals that bound nothing and have any weight."""
        return (self.counts > NO_WEIGHT) & np.isfinite(self.value)

    @property
    def rows(self) -> int:
        """Number of rows that count."""
        return int(self.counting.sum())

    @property
    def units(self) -> int:
        """Number of independent runs among the rows that count."""
        return len(np.unique(self.unit[self.counting]))

    @property
    def counted(self) -> np.ndarray:
        """The residuals of the rows that count."""
        return self.value[self.counting]

    @property
    def standardised(self) -> np.ndarray:
        """The residuals of the rows that count, each times the root of its weight: all of one scatter."""
        return self.counted * np.sqrt(self.weight)

    @property
    def weight(self) -> np.ndarray:
        """What the rows that count count, with mean 1."""
        counts = self.counts[self.counting]
        return counts / counts.mean() if len(counts) else counts

    @property
    def rms(self) -> float | None:
        """Root mean square; None where no row counts."""
        if not self.rows:
            return None
        return math.sqrt(float(np.average(self.counted**2, weights=self.weight)))

    @property
    def worst(self) -> int | None:
        """Position of the row that counts and lies farthest from the law; None where no row counts."""
        if not self.rows:
            return None
        size = np.where(self.counting, np.abs(self.value), -1.0)
        return int(np.argmax(size))
