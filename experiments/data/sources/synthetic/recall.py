"""Associative recall of several keys: pairs of a key and its value, the mark `!`, then keys again, each with its value.

`aXbYcZ!bYaX`: what follows a key that came before is to be looked up (multi-query associative recall, Arora et al. 2023,
arXiv 2312.04927). The entropy is exact: that of which keys, which values, and which are asked for in which order.
"""

import dataclasses
import math

import numpy as np

from experiments.data.alphabet import MOST, spell
from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from models.errors import InputError
from models.option import AT_LEAST_ONE, Valid, option

VERSION = 1  # raise when the same options would give other texts
MARK = 0
MANY = Valid("from 1 to 10000", lambda value: 1 <= value <= 10_000)


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of recall."""

    documents: int = option(20_000, valid=AT_LEAST_ONE, help="documents; fewer are the first ones of more")
    keys: int = option(32, valid=MANY, help="different keys")
    values: int = option(32, valid=MANY, help="different values, none of them a key")
    pairs: int = option(12, valid=MANY, help="pairs of a document, each with another key: what has to be held")
    queries: int = option(12, valid=MANY, help="keys of a document that are asked for, each once")

    def check(self) -> None:
        """Raise InputError where there are too few keys."""
        if self.pairs > self.keys:
            raise InputError(f"pairs={self.pairs}: expected at most keys={self.keys}, each pair has another")
        if self.queries > self.pairs:
            raise InputError(f"queries={self.queries}: expected at most pairs={self.pairs}, each is asked for once")
        assert self.keys + self.values < MOST


class Process(Base):
    """Draws keys, values and questions evenly. Symbols are the mark, then the keys, then the values."""

    options: Config

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        options = self.options
        random = block.random
        texts = []
        for _ in range(block.count):
            keys = random.permutation(options.keys)[: options.pairs]
            values = random.integers(options.values, size=options.pairs)
            pairs = np.stack([1 + keys, 1 + options.keys + values], axis=1)
            asked = random.permutation(pairs)[: options.queries]
            parts = [pairs.ravel(), [MARK], asked.ravel()]
            texts.append(spell(np.concatenate(parts)))
        return texts

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return a document without its last value, and that."""
        random = randomness.generator(self.options.seed, randomness.QUESTIONS)
        texts = self.draw(Block(count, 0, random))
        return {"values": [Question(text[:-1], text[-1]) for text in texts]}

    def entropy(self) -> Entropy:
        """Return the exact entropy."""
        options = self.options
        nats = _log_arrangements(options.keys, options.pairs)
        nats += options.pairs * math.log(options.values)
        nats += _log_arrangements(options.pairs, options.queries)
        characters = 2 * (options.pairs + options.queries) + 2  # with the mark and the end
        return Entropy(nats / characters)


def _log_arrangements(choices: int, chosen: int) -> float:
    """Return the logarithm of how many sequences there are of so many different choices."""
    return math.lgamma(choices + 1) - math.lgamma(choices - chosen + 1)
