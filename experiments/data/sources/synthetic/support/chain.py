"""Compute with stationary Markov chains: how often contexts occur, sequences, their entropy.

A context of `order` symbols is a number whose digits, in the base of `symbols`, are those symbols, the oldest first.
"""

import functools

import numpy as np

from experiments.data.sources.synthetic.support import entropy, randomness

TOLERANCE = 1e-14  # of a context in the stationary distribution, on average


class Chain:
    """A chain by its transitions [symbols**order, symbols], which have to lead from each context to each other in time."""

    def __init__(self, transitions: np.ndarray, order: int = 1):
        self.transitions = transitions
        self.contexts, self.symbols = transitions.shape
        self.order = order
        self._cumulative = transitions.cumsum(1)

    @functools.cached_property
    def stationary(self) -> np.ndarray:
        """How often each context occurs [contexts]: the distribution that a step leaves as it is."""
        here = np.full(self.contexts, 1 / self.contexts)
        change = 1.0
        while change > TOLERANCE * self.contexts:
            # A step forgets the first symbol of the context, the leading digit, and appends the next one.
            joint = here[:, None] * self.transitions
            following = joint.reshape(-1, self.contexts).sum(axis=0)
            following /= following.sum()
            moved = np.abs(following - here)
            change = moved.sum()
            here = following
        return here

    def draw(self, count: int, length: int, random: np.random.Generator) -> np.ndarray:
        """Draw sequences of symbols [count, length], from anywhere in the chain on."""
        order = self.order
        symbols = self.symbols
        drawn = np.empty((order + length, count), np.int64)
        context = random.choice(self.contexts, count, p=self.stationary)
        for position in range(order):
            later = symbols ** (order - 1 - position)
            drawn[position] = context // later % symbols
        for position in range(order, order + length):
            cumulative = self._cumulative[context]
            following = randomness.choose(random, cumulative)
            drawn[position] = following
            context = (context * symbols + following) % self.contexts
        return drawn[:length].T

    @property
    def rate(self) -> float:
        """Return nats per symbol where the whole context is known."""
        return float(self.stationary @ entropy.of(self.transitions))

    def document_nats(self, mean: float) -> float:
        """Return the entropy of a document of geometric length: of its first symbols, of the others, and of its length."""
        goes_on = 1 - 1 / mean
        nats = entropy.of_length(mean)
        reached = 1.0  # probability that a document has this symbol
        for conditional in self._first_entropies():
            nats += reached * conditional
            reached *= goes_on
        return nats + reached * mean * self.rate

    def _first_entropies(self) -> list[float]:
        """Return the entropy of each of the first `order` symbols, given those before it."""
        found = []
        before = 0.0
        for known in range(1, self.order + 1):
            blocks = self.symbols**known
            block = self.stationary.reshape(blocks, -1).sum(axis=1)
            together = float(entropy.of(block))
            found.append(together - before)
            before = together
        return found


def dirichlet(random: np.random.Generator, concentration: float, rows: int, choices: int) -> np.ndarray:
    """Draw distributions [rows, choices]. A thousandth is the same for each choice, so that each can be reached."""
    even = 1e-3
    parameters = np.full(choices, concentration)
    drawn = random.dirichlet(parameters, rows)
    return (1 - even) * drawn + even / choices
