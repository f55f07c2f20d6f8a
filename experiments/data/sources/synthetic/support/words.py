"""Spell numbers as words and names, and say how frequent words are."""

from collections.abc import Iterable, Sequence

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


def word(number: int) -> str:
    """Return a word of letters: a, b, …, z, aa, ab, …: the first ones are short, and no two are alike."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, len(LETTERS))
        letters = LETTERS[letter] + letters
    return letters


def said(numbers: Iterable[int], words: Sequence[str]) -> str:
    """Return the words of these numbers, spaces between them."""
    return " ".join(words[number] for number in numbers)


def name(number: int, syllables: int) -> str:
    """Return a name that can be spoken, of so many syllables: 70 different ones for each. Raises ValueError behind the last."""
    letters = ""
    for _ in range(syllables):
        number, syllable = divmod(number, len(CONSONANTS) * len(VOWELS))
        consonant, vowel = divmod(syllable, len(VOWELS))
        letters += CONSONANTS[consonant] + VOWELS[vowel]
    if number:
        raise ValueError(f"there are {(len(CONSONANTS) * len(VOWELS)) ** syllables} names of {syllables} syllables")
    return letters.capitalize()


def zipf(words: int, exponent: float) -> np.ndarray:
    """Return how frequent words are [words]: the one of rank r in proportion to 1/r**exponent."""
    frequency = np.arange(1, words + 1) ** -float(exponent)
    return frequency / frequency.sum()
