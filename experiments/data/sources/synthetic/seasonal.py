"""Series with a season: a sine whose period and phase are to be found out, with noise, one symbol a value.

Other periods than those that a model was trained on (`shortest`, `longest`) are a text out of its distribution.
"""

import dataclasses

import numpy as np

from experiments.data.sources.synthetic.support.curves import BINS, NOISE, Curves
from experiments.data.sources.synthetic.support.process import SHORT, Corpus
from models.errors import InputError
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
PERIOD = Valid("from 2 to 100", lambda value: 2 <= value <= 100)


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of series with a season."""

    bins: int = option(64, valid=BINS, help="different values")
    noise: float = option(2.0, valid=NOISE, help="standard deviation, in bins")
    shortest: int = option(8, valid=PERIOD, help="least period")
    longest: int = option(24, valid=PERIOD, help="largest period")
    length: int = option(256, valid=SHORT, help="values of a document")

    def check(self) -> None:
        """Raise InputError where there is no period."""
        if self.shortest > self.longest:
            raise InputError(f"shortest={self.shortest}: expected at most longest={self.longest}")


class Process(Curves):
    """A period and a phase in whole steps. A longer period has more phases, and is as much more likely."""

    options: Config

    def curves(self) -> np.ndarray:
        """Return a sine for each period and phase; it takes up the range but for two deviations of noise at each end."""
        time = np.arange(self.options.length)
        middle = (self.options.bins - 1) / 2
        amplitude = max(middle - 2 * self.options.noise, middle / 2)
        found = []
        for period in range(self.options.shortest, self.options.longest + 1):
            phases = np.arange(period)[:, None]
            found.append(middle + amplitude * np.sin(2 * np.pi * (time + phases) / period))
        return np.concatenate(found)
