"""Markov chains: the next symbol depends on the `order` symbols before it, by probabilities drawn once.

The entropy is exact: that of the next symbol in each context, weighted by how often the context occurs.
"""

import dataclasses

from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.chain import Chain, dirichlet
from experiments.data.sources.synthetic.support.chain_process import ChainProcess
from experiments.data.sources.synthetic.support.process import CONCENTRATION, LENGTH, Corpus
from models.errors import InputError
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
MOST_TRANSITIONS = 2**22


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of a Markov chain."""

    order: int = option(
        1, valid=Valid("from 0 to 16", lambda value: 0 <= value <= 16), help="symbols that the next one depends on"
    )
    symbols: int = option(64, valid=Valid("from 2 to 2048", lambda value: 2 <= value <= 2048), help="different symbols")
    concentration: float = option(
        0.1, valid=CONCENTRATION, help="of the Dirichlet distribution of each context; small: few likely symbols"
    )
    length: int = option(1_000, valid=LENGTH, help="mean symbols of a document")

    def check(self) -> None:
        """Raise InputError where the table of probabilities would be too large."""
        if self.symbols ** (self.order + 1) > MOST_TRANSITIONS:
            raise InputError(
                f"order={self.order} with symbols={self.symbols}: expected symbols**(order+1) of at most {MOST_TRANSITIONS}"
            )


class Process(ChainProcess):
    """A stationary chain."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        random = randomness.generator(options.seed, randomness.RULES)
        contexts = options.symbols**options.order
        self.chain = Chain(dirichlet(random, options.concentration, contexts, options.symbols), options.order)
