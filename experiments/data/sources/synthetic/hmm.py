"""Hidden Markov models: a hidden state moves as a Markov chain, and each state has its own distribution of symbols.

The past tells the state in part only, so that all of a context matters. The entropy has no closed form: it is estimated by
the forward algorithm, which gives the exact probability of a document, over documents that are in no corpus.
"""

import dataclasses

import numpy as np

from experiments.data.alphabet import spell_each
from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.chain import Chain, dirichlet
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import CONCENTRATION, LENGTH, Block, Corpus
from experiments.data.sources.synthetic.support.process import Process as Base
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
FEW = Valid("from 2 to 256", lambda value: 2 <= value <= 256)


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of a hidden Markov model."""

    states: int = option(16, valid=FEW, help="hidden states")
    symbols: int = option(64, valid=FEW, help="different symbols")
    moves: float = option(0.1, valid=CONCENTRATION, help="concentration of each state's next states; small: few likely")
    emissions: float = option(0.1, valid=CONCENTRATION, help="concentration of each state's symbols; small: few likely")
    length: int = option(1_000, valid=LENGTH, help="mean symbols of a document")


class Process(Base):
    """A stationary hidden Markov model."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        random = randomness.generator(options.seed, randomness.RULES)
        transitions = dirichlet(random, options.moves, options.states, options.states)
        self.chain = Chain(transitions)
        self.emissions = dirichlet(random, options.emissions, options.states, options.symbols)

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        symbols, lengths = self._draw(block.count, block.random)
        return spell_each(symbols, lengths)

    def _draw(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw symbols [count, longest] and lengths [count]; what is behind a length is no part of the document."""
        lengths = randomness.lengths(random, self.options.length, count)
        states = self.chain.draw(count, lengths.max(), random)
        cumulative = self.emissions.cumsum(axis=1)
        symbols = np.empty_like(states.T)
        for position, now in enumerate(states.T):
            symbols[position] = randomness.choose(random, cumulative[now])
        return symbols.T, lengths

    def nats(self, symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return -log(probability) of documents [count], their lengths included, by the forward algorithm (Baum 1970)."""
        nats = entropy.nats_of_lengths(lengths, self.options.length)
        believed = np.tile(
            self.chain.stationary, (len(symbols), 1)
        )  # probability of each state, given what came before
        by_symbol = self.emissions.T
        for position, now in enumerate(symbols.T):
            joint = believed * by_symbol[now]
            likelihood = joint.sum(axis=1, keepdims=True)
            surprise = -np.log(likelihood[:, 0])
            nats += np.where(position < lengths, surprise, 0.0)
            known = joint / likelihood
            believed = known @ self.chain.transitions
        return nats

    def entropy(self) -> Entropy:
        """Return an estimate with its standard error."""
        nats = []
        characters = []
        for number in range(entropy.TRIAL_BLOCKS):
            random = randomness.generator(self.options.seed, randomness.TRIALS, number)
            symbols, lengths = self._draw(entropy.TRIAL_DOCUMENTS, random)
            nats += self.nats(symbols, lengths).tolist()
            characters += (lengths + 1).tolist()
        return entropy.estimated(nats, characters, "forward algorithm")
