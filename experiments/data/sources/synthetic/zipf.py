"""Words by Zipf's law in a mixture of topics: each document has one topic, in which some words are more frequent.

Word r has a frequency proportional to 1/r**exponent. Of a document's words a share is drawn so, the others by the same law
from the topic's own order of the words. The order of words tells nothing. With one topic the entropy is exact; with more it
is estimated from the probabilities of documents, which are exact: a sum over topics.
"""

import dataclasses
import math

import numpy as np

from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus
from experiments.data.sources.synthetic.support.process import Process as Base
from experiments.data.sources.synthetic.support.words import said, word, zipf
from models.errors import InputError
from models.option import FRACTION, NOT_NEGATIVE, Valid, option, when

VERSION = 1  # raise when the same options would give other texts
MOST_FREQUENCIES = 2**22


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of Zipf's law with topics."""

    words: int = option(
        1_000, valid=Valid("from 2 to 100000", lambda value: 2 <= value <= 100_000), help="different words"
    )
    exponent: float = option(1.0, valid=NOT_NEGATIVE, help="of Zipf's law; 0: all words are as frequent")
    topics: int = option(8, valid=Valid("from 1 to 256", lambda value: 1 <= value <= 256), help="different topics")
    share: float = option(
        0.5, valid=FRACTION, when=when("topics", above=1), help="of the words, drawn from the topic's own order"
    )
    length: int = option(200, valid=LENGTH, help="mean words of a document")

    def check(self) -> None:
        """Raise InputError where the table of frequencies would be too large."""
        if self.words * self.topics > MOST_FREQUENCIES:
            raise InputError(
                f"words={self.words}, topics={self.topics}: expected a product of at most {MOST_FREQUENCIES}"
            )


class Process(Base):
    """Words, and for each topic how frequent they are."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        self.words = [word(rank) for rank in range(options.words)]
        frequency = zipf(options.words, options.exponent)
        self.frequencies = np.tile(frequency, (options.topics, 1))  # [topics, words]
        if options.topics > 1:
            random = randomness.generator(options.seed, randomness.RULES)
            own = random.permuted(self.frequencies, axis=1)
            common = (1 - options.share) * self.frequencies
            self.frequencies = common + options.share * own

    def draw(self, block: Block) -> list[str]:
        """Draw documents, words between spaces."""
        drawn = self._draw(block.count, block.random)
        return [said(numbers, self.words) for numbers in drawn]

    def _draw(self, count: int, random: np.random.Generator) -> list[np.ndarray]:
        """Draw the words of each document, by number."""
        options = self.options
        drawn = []
        for length in randomness.lengths(random, options.length, count):
            topic = random.integers(options.topics)
            frequency = self.frequencies[topic]
            words = random.choice(options.words, length, p=frequency)
            drawn.append(words)
        return drawn

    def nats(self, numbers: np.ndarray) -> float:
        """Return -log(probability) of a document of these words, its length included."""
        of_words = self.frequencies[:, numbers]
        by_topic = np.log(of_words).sum(axis=1)
        of_topics = np.logaddexp.reduce(by_topic)
        of_mean = float(of_topics) - math.log(len(by_topic))
        of_length = entropy.nats_of_lengths(len(numbers), self.options.length)
        return of_length - of_mean

    def entropy(self) -> Entropy:
        """Return the entropy: exact of one topic, else an estimate with its standard error."""
        if self.options.topics == 1:
            return self._exact()
        seed = self.options.seed
        nats = []
        characters = []
        for number in range(entropy.TRIAL_BLOCKS):
            random = randomness.generator(seed, randomness.TRIALS, number)
            for numbers in self._draw(entropy.TRIAL_DOCUMENTS, random):
                text = said(numbers, self.words)
                nats.append(self.nats(numbers))
                characters.append(len(text) + 1)
        return entropy.estimated(nats, characters, "sum over topics")

    def _exact(self) -> Entropy:
        """Return the entropy where all words are drawn alike."""
        (frequency,) = self.frequencies
        of_word = float(entropy.of(frequency))
        of_end = entropy.of_coin(1 / self.options.length)
        lengths = [len(word) + 1 for word in self.words]  # with the space behind it, or the end
        characters = float(frequency @ lengths)
        return Entropy((of_word + of_end) / characters)
