"""Say what a kind of synthetic text is: options, and a process that draws documents and may know its entropy."""

import abc
from collections.abc import Iterator
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from models.errors import InputError
from models.option import AT_LEAST_ONE, Valid, check_options, option

BLOCK = 256  # documents that are drawn together
EXPOSURES = Valid("from 2 to 100000", lambda value: 2 <= value <= 100_000)
SHORT = Valid("from 2 to 1024", lambda value: 2 <= value <= 1024)
CONCENTRATION = Valid("from 0.001 to 1000", lambda value: 1e-3 <= value <= 1e3)
LENGTH = Valid("from 1 to 10000", lambda value: 1 <= value <= 10_000)
SEED = Valid("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The options that every kind has."""

    documents: int = option(4_000, valid=AT_LEAST_ONE, help="documents; fewer are the first ones of more")
    seed: int = option(0, valid=SEED, help="of the process and of the documents")

    def check(self) -> None:
        """Raise InputError, naming the options, where they cannot go together."""


class Block(NamedTuple):
    """Documents that are drawn together: how many, the number of the first one, and random numbers of their own."""

    count: int
    first: int
    random: np.random.Generator


class Question(NamedTuple):
    """What a model is to say after a prompt, with which a document begins."""

    prompt: str
    answer: str


class Process(abc.ABC):
    """Makes documents. What it is (its probabilities, its facts) is drawn when it is made."""

    def __init__(self, options: Any):
        self.options = options

    @abc.abstractmethod
    def draw(self, block: Block) -> list[str]:
        """Draw independent documents."""

    @property
    def documents(self) -> int:
        """Return how many documents there are."""
        return self.options.documents

    def entropy(self) -> Entropy | None:
        """Return its entropy per character; None where it is not known."""
        return None

    def details(self) -> dict[str, Any]:
        """Return what else a reader of the manifest may want to know."""
        return {}

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return so many questions of each sort that a model of these texts can be asked, by the name of the sort."""
        del count
        return {}

    def texts(self) -> Iterator[str]:
        """Draw the documents of the corpus, a block at a time, so that fewer are the first ones of more."""
        for first in range(0, self.documents, BLOCK):
            random = randomness.generator(self.options.seed, randomness.TEXTS, first // BLOCK)
            drawn = self.draw(Block(BLOCK, first, random))
            yield from drawn[: self.documents - first]


def check(options: Corpus, name: str) -> None:
    """Check the values of a kind's options. Raises InputError naming the corpus, the option and what was expected."""
    try:
        check_options(options, "")
        options.check()
    except InputError as problem:
        raise InputError(f"data.corpus={name!r}: {problem}") from problem
