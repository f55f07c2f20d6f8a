"""Copying: random symbols, the mark `!`, and the same symbols again: what a state of a fixed size holds for so long only.

The entropy is exact: that of the first half. The loss of a model that forgets lies above it.
"""

import dataclasses
import math

import numpy as np

from experiments.data.alphabet import spell
from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from models.option import AT_LEAST_ONE, Valid, option

VERSION = 1  # raise when the same options would give other texts
MARK = 0


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of copying."""

    documents: int = option(20_000, valid=AT_LEAST_ONE, help="documents; fewer are the first ones of more")
    symbols: int = option(
        32,
        valid=Valid("from 2 to 10000", lambda value: 2 <= value <= 10_000),
        help="different symbols, the mark not counted",
    )
    length: int = option(24, valid=LENGTH, help="symbols that are to be copied")


class Process(Base):
    """Draws symbols evenly."""

    options: Config

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        drawn = block.random.integers(1, self.options.symbols + 1, (block.count, self.options.length))
        mark = np.full((block.count, 1), MARK)
        return [spell(row) for row in np.concatenate([drawn, mark, drawn], axis=1)]

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return the first half of a document, and the second."""
        random = randomness.generator(self.options.seed, randomness.QUESTIONS)
        asked = []
        for text in self.draw(Block(count, 0, random)):
            asked.append(Question(text[: -self.options.length], text[-self.options.length :]))
        return {"copies": asked}

    def entropy(self) -> Entropy:
        """Return the exact entropy."""
        nats = self.options.length * math.log(self.options.symbols)
        return Entropy(nats / (2 * self.options.length + 2))  # with the mark and the end
