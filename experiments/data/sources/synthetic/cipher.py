"""Parallel text: a sentence, ` = `, and its translation by a cipher of words, in another order.

The words of the sentence follow Zipf's law and are spelled in small letters. Each has one translation, in capitals, drawn at
random. In the translation each `window` words stand the other way round. The entropy is exact: that of the sentence.
"""

import dataclasses

from experiments.data.sources.synthetic.support import entropy, randomness
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import LENGTH, Block, Corpus, Question
from experiments.data.sources.synthetic.support.process import Process as Base
from experiments.data.sources.synthetic.support.words import said, word, zipf
from models.option import AT_LEAST_ONE, NOT_NEGATIVE, Valid, option

VERSION = 1  # raise when the same options would give other texts
BETWEEN = " = "


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of parallel text."""

    documents: int = option(20_000, valid=AT_LEAST_ONE, help="documents; fewer are the first ones of more")
    words: int = option(
        300, valid=Valid("from 2 to 100000", lambda value: 2 <= value <= 100_000), help="different words"
    )
    exponent: float = option(1.0, valid=NOT_NEGATIVE, help="of Zipf's law; 0: all words are as frequent")
    window: int = option(3, valid=LENGTH, help="words that stand the other way round in the translation; 1: none")
    mark: str = option("", help="stands in front of each sentence, so that several ciphers can be told apart")
    length: int = option(8, valid=LENGTH, help="mean words of a sentence")


class Process(Base):
    """Words, how frequent they are, and their translations."""

    options: Config

    def __init__(self, options: Config):
        super().__init__(options)
        random = randomness.generator(options.seed, randomness.RULES)
        self.words = [word(rank) for rank in range(options.words)]
        others = self.words.copy()
        random.shuffle(others)
        self.translations = [other.upper() for other in others]
        self.frequencies = zipf(options.words, options.exponent)

    def draw(self, block: Block) -> list[str]:
        """Draw sentences with their translations."""
        random = block.random
        words = len(self.words)
        texts = []
        for length in randomness.lengths(random, self.options.length, block.count):
            numbers = random.choice(words, length, p=self.frequencies).tolist()
            reordered = self._reordered(numbers)
            sentence = self._marked(said(numbers, self.words))
            translation = said(reordered, self.translations)
            texts.append(sentence + BETWEEN + translation)
        return texts

    def questions(self, count: int) -> dict[str, list[Question]]:
        """Return sentences, and their translations."""
        random = randomness.generator(self.options.seed, randomness.QUESTIONS)
        block = Block(count, 0, random)
        asked = []
        for text in self.draw(block):
            sentence, between, translation = text.partition(BETWEEN)
            asked.append(Question(sentence + between, translation))
        return {"translations": asked}

    def _marked(self, sentence: str) -> str:
        """Return a sentence behind the mark, where there is one."""
        mark = self.options.mark
        if not mark:
            return sentence
        return f"{mark} {sentence}"

    def _reordered(self, numbers: list[int]) -> list[int]:
        """Return the words of a sentence in the order of its translation."""
        window = self.options.window
        found: list[int] = []
        for start in range(0, len(numbers), window):
            found += reversed(numbers[start : start + window])
        return found

    def entropy(self) -> Entropy:
        """Return the exact entropy."""
        mean = self.options.length
        of_word = float(entropy.of(self.frequencies))
        of_end = entropy.of_coin(1 / mean)
        lengths = []
        for own, other in zip(self.words, self.translations, strict=True):
            lengths.append(len(own) + len(other) + 2)
        # A space stands behind each word, or BETWEEN or the end, which are two characters more together.
        characters = float(self.frequencies @ lengths) * mean
        characters += len(BETWEEN) - 1
        characters += len(self._marked(""))
        return Entropy((of_word + of_end) * mean / characters)
