"""Biographies of invented people (bioS; Allen-Zhu and Li 2024, arXiv 2404.05405): what a model can know of them is counted in bits.

Each person has a name and attributes, of which each is drawn evenly from its values. A document is one exposure of a person: a
sentence for each attribute, in any order, each in one of several wordings. Held-out documents are other exposures of the same
people. The entropy is that of a model that knows them all: who it is about, which order, which wordings.
"""

import dataclasses
import math
from typing import Any

from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import EXPOSURES, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from experiments.data.sources.synthetic.support.words import name
from models.option import Valid, missing, option

VERSION = 1  # raise when the same options would give other texts

PARTS_OF_NAMES = (400, 400, 1_000)  # first, middle and last names
NAMES = math.prod(PARTS_OF_NAMES)
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = 28
YEARS = 200
PRONOUNS = (("He", "His"), ("She", "Her"))
EMPLOYERS = 263
CITIES = 200
# How many values each attribute has: pronoun, birth date, birth city, university, major, employer.
VALUES = (len(PRONOUNS), len(MONTHS) * DAYS * YEARS, CITIES, 300, 100, EMPLOYERS)
WORDINGS = (
    ("{he} was born on {value}.", "{his} birthday is {value}.", "{he} came into this world on {value}."),
    ("{he} was born in {value}.", "{his} birthplace is {value}.", "{he} is a native of {value}."),
    ("{he} studied at {value}.", "{his} university was {value}.", "{he} is a graduate of {value}."),
    ("{he} majored in {value}.", "{his} field was {value}.", "{he} has a degree in {value}."),
    ("{he} worked for {value}.", "{his} employer was {value}.", "{he} had a job at {value}."),
    ("{he} worked in {value}.", "{his} workplace was in {value}.", "{he} earned a living in {value}."),
)
EACH = 3  # wordings
ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "employer", "work_city")


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of biographies."""

    documents: int = missing(Corpus, "documents", "there are people times exposures")
    people: int = option(500, valid=Valid("from 1 to 100000", lambda value: 1 <= value <= 100_000), help="people")
    exposures: int = option(20, valid=EXPOSURES, help="documents about each of them")


@dataclasses.dataclass(frozen=True)
class Person:
    """A person in words."""

    name: str
    pronoun: tuple[str, str]
    values: tuple[str, ...]  # of the attributes in the order of WORDINGS


class Process(Base):
    """People, whose attributes are drawn once."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        random = randomness.generator(options.seed, randomness.RULES)
        names = random.choice(NAMES, options.people, replace=False).tolist()
        drawn = [random.integers(count, size=options.people).tolist() for count in VALUES]
        self.people = []
        for number, *values in zip(names, *drawn, strict=True):
            self.people.append(_person(number, *values))

    @property
    def documents(self) -> int:
        """Return how many documents there are."""
        return self.options.people * self.options.exposures

    def draw(self, block: Block) -> list[str]:
        """Draw exposures, of one person after the other."""
        texts = []
        for number in range(block.first, block.first + block.count):
            person = self.people[number % len(self.people)]
            order = block.random.permutation(len(WORDINGS)).tolist()
            wordings = block.random.integers(EACH, size=len(WORDINGS)).tolist()
            sentences = []
            for place, attribute in enumerate(order):
                sentences.append(sentence(person, attribute, wordings[place], named=place == 0))
            texts.append(" ".join(sentences))
        return texts

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return the values of people's attributes, asked for in the first wording at the beginning of a document."""
        asked = {}
        for attribute, sort in enumerate(ATTRIBUTES):
            questions = []
            for person in self.people[:count]:
                value = person.values[attribute]
                left = sentence(person, attribute, wording=0, named=True).removesuffix(f" {value}.")
                questions.append(Question(left, f" {value}."))
            asked[sort] = questions
        return asked

    def entropy(self) -> Entropy:
        """Return the exact entropy of documents whose people are known."""
        nats = math.log(len(self.people)) + math.log(math.factorial(len(WORDINGS))) + len(WORDINGS) * math.log(EACH)
        characters = 0.0
        for person in self.people:
            characters += _mean_length(person)
        return Entropy(nats / (characters / len(self.people)))

    def details(self) -> dict[str, Any]:
        """Return the bits there are to know: which names occur, and the values of all attributes."""
        of_name = math.log2(NAMES / self.options.people)
        of_values = math.log2(math.prod(VALUES))
        bits = of_name + of_values
        return {"bits_per_person": bits, "bits": bits * self.options.people, "names": NAMES, "values": list(VALUES)}


def _person(number: int, pronoun: int, date: int, city: int, university: int, major: int, employer: int) -> Person:
    """Return a person by the numbers of name and values."""
    names = []
    for count in PARTS_OF_NAMES:
        number, part = divmod(number, count)
        names.append(name(part, syllables=2))
    month, day = divmod(date // YEARS, DAYS)
    values = (
        f"{MONTHS[month]} {day + 1}, {1900 + date % YEARS}",
        f"{name(city, 3)} City",
        f"the University of {name(university, 3)}",
        f"{name(major, 2)} Studies",
        f"{name(employer, 3)} & Co",
        f"{name(employer % CITIES, 3)} City",  # follows from the employer
    )
    return Person(" ".join(names), PRONOUNS[pronoun], values)


def sentence(person: Person, attribute: int, wording: int, named: bool) -> str:
    """Return the sentence for an attribute; `named`: with the name in place of the pronoun."""
    he, his = person.pronoun
    if named:
        he = person.name
        his = f"{person.name}'s"
    return WORDINGS[attribute][wording].format(he=he, his=his, value=person.values[attribute])


def _mean_length(person: Person) -> float:
    """Return the mean characters of a document about a person: sentences, each with a space or the end behind it."""
    lengths = {True: 0, False: 0}
    for named in lengths:
        for attribute in range(len(WORDINGS)):
            for wording in range(EACH):
                lengths[named] += len(sentence(person, attribute, wording, named)) + 1
    named_share = 1 / len(WORDINGS)  # of the sentences
    return (named_share * lengths[True] + (1 - named_share) * lengths[False]) / EACH
