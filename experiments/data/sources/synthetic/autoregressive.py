"""Autoregressive series, one symbol a value: the next value is near the last one's distance from the middle times `memory`.

What is fed back is the value as it is written, so that the series is a Markov chain of its values and the entropy exact.
"""

import dataclasses

import numpy as np

from experiments.data.sources.synthetic.support.chain import Chain
from experiments.data.sources.synthetic.support.chain_process import ChainProcess
from experiments.data.sources.synthetic.support.curves import BINS, NOISE, binned
from experiments.data.sources.synthetic.support.process import LENGTH, Corpus
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of autoregressive series."""

    bins: int = option(64, valid=BINS, help="different values")
    noise: float = option(4.0, valid=NOISE, help="standard deviation of what is new in a value, in bins")
    memory: float = option(
        0.9,
        valid=Valid("from -0.99 to 0.99", lambda value: -0.99 <= value <= 0.99),
        help="factor of the last value's distance from the middle",
    )
    length: int = option(256, valid=LENGTH, help="mean values of a document")


class Process(ChainProcess):
    """A chain over the values. What would leave the range is set to its end."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        values = np.arange(options.bins)
        middle = (options.bins - 1) / 2
        expected = middle + options.memory * (values - middle)
        self.chain = Chain(binned(expected, options.noise, options.bins))
