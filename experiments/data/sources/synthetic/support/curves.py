"""Draw curves with noise, one symbol a value: which curve it is, the values tell by and by.

The curves of a process are finitely many and equally likely, and the noise at each place is independent, so that the
probability of a document is exact, a sum over all curves; the entropy is estimated from it.
"""

import abc
import functools
import math
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtr

from experiments.data.alphabet import spell
from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import Block, Process
from models.option import Valid

STEPS = 8  # levels of a curve between two symbols
TRIAL_DOCUMENTS = 256
LEAST = 1e-300  # probability, so that its logarithm is a number
BINS = Valid("from 2 to 1024", lambda value: 2 <= value <= 1024)
NOISE = Valid("from 0.1 to 1000", lambda value: 0.1 <= value <= 1e3)


class Curves(Process):
    """Values of curves from 0 to bins - 1, rounded to whole numbers after noise of `noise` bins is added.

    What leaves the range is set to its end. `options` have bins and noise.
    """

    @abc.abstractmethod
    def curves(self) -> np.ndarray:
        """Return all curves [curves, length]."""

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """All curves as whole numbers of levels [curves, length]: so finely that rounding is far below the noise."""
        exact = self.curves() * STEPS
        return np.rint(exact).astype(np.int32)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """How likely each symbol is at each level [levels, bins]: the normal distribution between the edges of bins."""
        steps = (self.options.bins - 1) * STEPS
        levels = np.arange(steps + 1) / STEPS
        return binned(levels, self.options.noise, self.options.bins)

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        drawn = self._draw(block.count, block.random)
        return [spell(row) for row in drawn]

    def _draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw symbols [count, length]."""
        levels = self.levels
        which = random.integers(len(levels), size=count)
        chosen = levels[which] / STEPS
        noise = random.normal(0, self.options.noise, chosen.shape)
        rounded = np.rint(chosen + noise)
        last = self.options.bins - 1
        return np.clip(rounded, 0, last).astype(np.int64)

    @functools.cached_property
    def _logarithms(self) -> np.ndarray:
        """The logarithms of `probabilities`."""
        positive = np.maximum(self.probabilities, LEAST)
        return np.log(positive)

    def nats(self, symbols: np.ndarray) -> float:
        """Return -log(probability) of a document [length]."""
        by_place = self._logarithms[self.levels, symbols]
        by_curve = by_place.sum(axis=1)
        of_all = math.log(len(by_curve))
        return of_all - float(logsumexp(by_curve))

    def entropy(self) -> Entropy:
        """Return an estimate with its standard error."""
        random = randomness.generator(self.options.seed, randomness.TRIALS)
        drawn = self._draw(TRIAL_DOCUMENTS, random)
        nats = [self.nats(symbols) for symbols in drawn]
        characters = np.full(len(nats), drawn.shape[1] + 1)
        return entropy.estimated(nats, characters, "sum over curves")

    def details(self) -> dict[str, Any]:
        """Return the entropy that is left when the curve is known, per symbol: what long documents come down to."""
        of_level = entropy.of(self.probabilities)
        of_value = of_level[self.levels]
        return {"noise_nats": float(of_value.mean()), "curves": len(of_value)}


def binned(means: np.ndarray, deviation: float, bins: int) -> np.ndarray:
    """Return how likely each bin is [means, bins] where a value is normal around a mean: what leaves the range is at its end."""
    edges = np.arange(bins - 1) + 0.5
    away = (edges - means[:, None]) / deviation
    below = np.ones((len(means), bins + 1))
    below[:, 0] = 0
    below[:, 1:-1] = ndtr(away)
    return np.diff(below, axis=1)
