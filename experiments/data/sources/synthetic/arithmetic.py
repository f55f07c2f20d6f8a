"""Arithmetic: problems such as `07+45=052`, a line each. The operands are to be guessed, the answers to be known.

Operands and answers are filled up with zeros, so that every problem is as long as every other and the entropy is exact: that
of the operands and operators, spread over all characters.
"""

import dataclasses
import functools
import math
import operator

import numpy as np

from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from models.errors import InputError
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of arithmetic."""

    digits: int = option(2, valid=Valid("from 1 to 9", lambda value: 1 <= value <= 9), help="of each operand")
    terms: int = option(2, valid=Valid("from 2 to 9", lambda value: 2 <= value <= 9), help="operands of a problem")
    operators: str = option("+", help="the operators that occur, of +-*; each problem has one of them only")
    length: int = option(20, valid=LENGTH, help="mean problems of a document")

    def check(self) -> None:
        """Raise InputError for an operator that is not known, or stands there twice."""
        different = set(self.operators)
        known = different <= set(OPERATORS)
        if not different or not known or len(different) < len(self.operators):
            raise InputError(f"operators={self.operators!r}: expected some of {''.join(OPERATORS)}, each once")


class Process(Base):
    """Draws problems evenly."""

    options: Config

    @functools.cached_property
    def answer_width(self) -> int:
        """Characters of an answer: of the longest there is, its sign included."""
        most = 10**self.options.digits - 1
        others = [most] * (self.options.terms - 1)
        width = 1
        for sign in self.options.operators:
            for first in (0, most):
                extreme = answer([first, *others], sign)
                width = max(width, len(str(extreme)))
        return width

    def draw(self, block: Block) -> list[str]:
        """Draw documents."""
        lengths = randomness.lengths(block.random, self.options.length, block.count)
        texts = []
        for length in lengths:
            problems = [self._problem(block.random) for _ in range(length)]
            texts.append("\n".join(problems))
        return texts

    def _problem(self, random: np.random.Generator) -> str:
        """Draw a problem with its answer."""
        options = self.options
        sign = random.choice(list(options.operators))
        operands = random.integers(10**options.digits, size=options.terms).tolist()
        question = sign.join(f"{operand:0{options.digits}d}" for operand in operands)
        result = answer(operands, sign)
        return f"{question}={result:0{self.answer_width}d}"

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return what stands before =, and what behind."""
        random = randomness.generator(self.options.seed, randomness.QUESTIONS)
        asked = []
        for _ in range(count):
            left, _, result = self._problem(random).partition("=")
            asked.append(Question(f"{left}=", result))
        return {"answers": asked}

    def entropy(self) -> Entropy:
        """Return the exact entropy."""
        options = self.options
        of_operands = options.terms * options.digits * math.log(10)
        of_operator = math.log(len(options.operators))
        of_end = entropy.of_coin(1 / options.length)
        question = options.terms * (options.digits + 1)  # each operand with an operator or = behind it
        characters = question + self.answer_width + 1
        return Entropy((of_operands + of_operator + of_end) / characters)


def answer(operands: list[int], sign: str) -> int:
    """Return the result of an operator between all operands, from the left."""
    return functools.reduce(OPERATORS[sign], operands)
