"""Facts about invented people, some of them said from one side only: for reversal and for two hops.

Each person has a mentor, whose only pupil the person is, and a home. A document is one statement: `The mentor of A is B.`, the same
from the other side, `The pupil of B is A.`, `A lives in C.`, or over two hops, `The mentor of A lives in D.` The share `one_way` of
pairs is said from one side only, and of two hops only the share `composed` is said, though all could be told: what a model says
there was never read (the reversal curse, Berglund et al. 2023, arXiv 2309.12288; two hops, Press et al. 2022, arXiv 2210.03350).
The entropy is exact: that of which statement in which wording.
"""

import collections
import dataclasses
import math
from typing import Any

import numpy as np

from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import EXPOSURES, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from experiments.data.sources.synthetic.support.words import name
from models.option import FRACTION, Valid, missing, option

VERSION = 1  # raise when the same options would give other texts
MENTOR = ("The mentor of {} is {}.", "{} has the mentor {}.", "{} learns from {}.")
PUPIL = ("The pupil of {} is {}.", "{} has the pupil {}.", "{} teaches {}.")
HOME = ("The home of {} is {}.", "{} has a home in {}.", "{} lives in {}.")
MENTORS_HOME = ("The mentor of {} lives in {}.", "{} has a mentor in {}.", "{} learns in {}.")
SYLLABLES = 3  # of a name: there are 343,000


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of facts."""

    documents: int = missing(Corpus, "documents", "there are statements times exposures")
    people: int = option(500, valid=Valid("from 2 to 100000", lambda value: 2 <= value <= 100_000), help="people")
    places: int = option(
        100, valid=Valid("from 2 to 4900", lambda value: 2 <= value <= 4_900), help="places that people live in"
    )
    one_way: float = option(
        0.5, valid=FRACTION, help="share of mentors that are said from one side only, half from each"
    )
    composed: float = option(0.5, valid=FRACTION, help="share of people whose mentor's home is said")
    exposures: int = option(10, valid=EXPOSURES, help="documents for each statement")


class Process(Base):
    """People, their mentors and homes, and what is said of them."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        random = randomness.generator(options.seed, randomness.RULES)
        count = options.people
        names = random.choice(70**SYLLABLES, count, replace=False).tolist()
        self.people = [name(number, SYLLABLES) for number in names]
        homes = random.integers(options.places, size=count).tolist()
        self.homes = [name(number, 2) for number in homes]  # in the order of people
        circle = random.permutation(count).tolist()  # everybody learns from the next one
        following = circle[1:] + circle[:1]
        self.mentors = dict(zip(circle, following, strict=True))
        one_way = _some(random, count, options.one_way)
        self.only_mentor = set(one_way[::2])
        self.only_pupil = set(one_way[1::2])
        self.composed = set(_some(random, count, options.composed))
        self.statements = self._statements()

    def _statements(self) -> list[tuple[tuple[str, ...], str, str]]:
        """Return what is said: wordings, of whom, and what of them."""
        said = []
        for person, own in enumerate(self.people):
            mentor = self.mentors[person]
            if person not in self.only_pupil:
                said.append((MENTOR, own, self.people[mentor]))
            if person not in self.only_mentor:
                said.append((PUPIL, self.people[mentor], own))
            said.append((HOME, own, self.homes[person]))
            if person in self.composed:
                said.append((MENTORS_HOME, own, self.homes[mentor]))
        return said

    @property
    def documents(self) -> int:
        """Return how many documents there are."""
        return len(self.statements) * self.options.exposures

    def draw(self, block: Block) -> list[str]:
        """Draw exposures, of one statement after the other."""
        texts = []
        for number in range(block.first, block.first + block.count):
            wordings, who, what = self.statements[number % len(self.statements)]
            wording = wordings[block.random.integers(len(wordings))]
            texts.append(wording.format(who, what))
        return texts

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return facts, in the first wording, of those that are said and of those that could only be told."""
        asked = collections.defaultdict(list)
        everybody = set(self.mentors)
        said_of = {
            "mentor": everybody - self.only_pupil,
            "pupil": everybody - self.only_mentor,
            "two_hops": self.composed,
        }
        for person, own in enumerate(self.people):
            mentor = self.mentors[person]
            teacher = self.people[mentor]
            questions = {
                "mentor": _question(MENTOR, own, teacher),
                "pupil": _question(PUPIL, teacher, own),
                "two_hops": _question(MENTORS_HOME, own, self.homes[mentor]),
            }
            for relation, question in questions.items():
                told = "said" if person in said_of[relation] else "unsaid"
                asked[f"{relation}_{told}"].append(question)
        return {sort: questions[:count] for sort, questions in asked.items()}

    def entropy(self) -> Entropy:
        """Return the exact entropy of statements that are known."""
        characters = 0
        for wordings, who, what in self.statements:
            for wording in wordings:
                characters += len(wording.format(who, what)) + 1
        texts = len(self.statements) * len(MENTOR)
        return Entropy(math.log(texts) / (characters / texts))

    def details(self) -> dict[str, Any]:
        """Return how many statements there are, and how many could be told that are never said."""
        unsaid = len(self.only_mentor) + len(self.only_pupil)
        return {
            "statements": len(self.statements),
            "unsaid_reversals": unsaid,
            "unsaid_two_hops": self.options.people - len(self.composed),
        }


def _some(random: np.random.Generator, count: int, share: float) -> list[int]:
    """Draw a share of so many people, by number."""
    order = random.permutation(count).tolist()
    return order[: round(count * share)]


def _question(wordings: tuple[str, ...], who: str, what: str) -> Question:
    """Return the statement in the first wording, cut before what is said of somebody."""
    answer = f" {what}."
    return Question(wordings[0].format(who, what).removesuffix(answer), answer)
