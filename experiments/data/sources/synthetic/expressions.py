"""Context-free expressions with their values: `((3+4)*2)=4`, a line each, modulo 10.

An expression is a digit, or with the probability `branching` two expressions with an operator between them in brackets. The
grammar is unambiguous, so the entropy is exact: that of the choices, and none for brackets that close and for values.
"""

import dataclasses
import math

import numpy as np

from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
OPERATORS = "+-*"
DIGITS = 10


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of expressions."""

    branching: float = option(
        0.35,
        valid=Valid("from 0 to 0.45", lambda value: 0 <= value <= 0.45),
        help="probability that an expression has two parts; at 0.5 it would have no end",
    )
    length: int = option(20, valid=LENGTH, help="mean expressions of a document")


class Process(Base):
    """Draws expressions by their grammar."""

    options: Config

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        lengths = randomness.lengths(block.random, self.options.length, block.count)
        return ["\n".join(self._line(block.random) for _ in range(length)) for length in lengths]

    def _line(self, random: np.random.Generator) -> str:
        """Draw an expression with its value."""
        text, value = self._expression(random)
        return f"{text}={value}"

    def _expression(self, random: np.random.Generator) -> tuple[str, int]:
        """Draw an expression, and return it with its value."""
        if random.random() >= self.options.branching:
            digit = int(random.integers(DIGITS))
            return str(digit), digit
        left, first = self._expression(random)
        sign = OPERATORS[random.integers(len(OPERATORS))]
        right, second = self._expression(random)
        values = {"+": first + second, "-": first - second, "*": first * second}
        return f"({left}{sign}{right})", values[sign] % DIGITS

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return what stands before =, and what behind."""
        random = randomness.generator(self.options.seed, randomness.QUESTIONS)
        asked = []
        for _ in range(count):
            left, _, result = self._line(random).partition("=")
            asked.append(Question(f"{left}=", result))
        return {"answers": asked}

    def entropy(self) -> Entropy:
        """Return the exact entropy. Of an expression, H = H(branching) + (1-b) log 10 + b (log 3 + 2 H)."""
        branching = self.options.branching
        one_more = 1 - 2 * branching  # an expression is so many times its own choices, on average
        choices = entropy.of_coin(branching) + (1 - branching) * math.log(DIGITS) + branching * math.log(len(OPERATORS))
        nats = choices / one_more + entropy.of_coin(1 / self.options.length)
        own_characters = (1 - branching) + 3 * branching  # a digit, or two brackets and an operator
        return Entropy(nats / (own_characters / one_more + len("=0\n")))
