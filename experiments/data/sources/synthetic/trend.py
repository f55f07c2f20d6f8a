"""Series with a trend: a straight line from one value to another, with noise, one symbol a value.

Steeper lines than those that a model was trained on (`flattest`, `steepest`) are a text out of its distribution.
"""

import dataclasses

import numpy as np

from experiments.data.sources.synthetic.support.curves import BINS, NOISE, Curves
from experiments.data.sources.synthetic.support.process import SHORT, Corpus
from models.errors import InputError
from models.option import FRACTION, option

VERSION = 1  # raise when the same options would give other texts
MOST_VALUES = 2**24  # of all lines together


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of series with a trend."""

    bins: int = option(64, valid=BINS, help="different values")
    noise: float = option(2.0, valid=NOISE, help="standard deviation, in bins")
    flattest: float = option(
        0.0, valid=FRACTION, help="least change over a document, up or down, as a share of the range"
    )
    steepest: float = option(0.5, valid=FRACTION, help="largest change over a document")
    length: int = option(256, valid=SHORT, help="values of a document")

    def check(self) -> None:
        """Raise InputError where there is no line, or there are too many."""
        if self.bins**2 * self.length > MOST_VALUES:
            raise InputError(
                f"bins={self.bins} with length={self.length}: expected bins**2 * length of at most {MOST_VALUES}"
            )
        if self.flattest > self.steepest:
            raise InputError(f"flattest={self.flattest}: expected at most steepest={self.steepest}")


class Process(Curves):
    """All lines between two whole values whose difference is in the range."""

    options: Config

    def curves(self) -> np.ndarray:
        """Return the lines."""
        most = self.options.bins - 1
        least = np.ceil(self.options.flattest * most)
        largest = max(np.floor(self.options.steepest * most), least)
        start, end = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
        change = np.abs(end - start)
        chosen = (least <= change) & (change <= largest)
        share = np.linspace(0, 1, self.options.length)
        return start[chosen][:, None] * (1 - share) + end[chosen][:, None] * share
