"""Chaotic series, one symbol a value: the logistic map x -> 4 x (1 - x), in bins that are visited equally often.

With x = sin(pi y / 2)^2 the map is the tent y -> 1 - |1 - 2 y|, which shifts the binary digits of y and turns them over when the
first is 1. In 2**bits bins of y each step brings one new bit, whatever the past: the entropy is exact, log 2 for each value behind
the first one (the Lyapunov exponent of the map).
"""

import dataclasses
import math

import numpy as np

from experiments.data.alphabet import spell
from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus
from experiments.data.sources.synthetic.support.process import Process as Base
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of chaotic series."""

    bits: int = option(6, valid=Valid("from 1 to 10", lambda value: 1 <= value <= 10), help="2**bits different values")
    length: int = option(256, valid=LENGTH, help="mean values of a document")


class Process(Base):
    """The logistic map from a start that is drawn by its own distribution."""

    options: Config

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        texts = []
        for length in randomness.lengths(block.random, self.options.length, block.count):
            digits = block.random.integers(2, size=length + self.options.bits - 1)
            texts.append(spell(orbit(digits, self.options.bits)))
        return texts

    def entropy(self) -> Entropy:
        """Return the exact entropy: all bits of the first value, one of each other."""
        mean = self.options.length
        nats = (self.options.bits + mean - 1) * math.log(2) + entropy.of_length(mean)
        return Entropy(nats / (mean + 1))


def orbit(digits: np.ndarray, bits: int) -> np.ndarray:
    """Return the bins of the tent map's values that begin at the binary number 0.`digits`.

    The value after n steps has the digits behind the first n, turned over if the digit before them is 1: so many tents
    have turned it. A number of digits, not rounded: no float is doubled until nothing is left of it.
    """
    count = len(digits) - bits + 1
    turned = np.concatenate([[0], digits[: count - 1]])
    bins = np.zeros(count, np.int64)
    for place in range(bits):
        bins = 2 * bins + (digits[place : place + count] ^ turned)
    return bins
