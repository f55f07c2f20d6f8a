"""Draw random numbers that depend on nothing but a seed and what they are for."""

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

RULES = 0  # what a process is: its probabilities, its facts
TEXTS = 1  # what it says
QUESTIONS = 3  # what is asked about it
TRIALS = 2  # documents from which an entropy is estimated; they are in no corpus


def generator(seed: int, purpose: int, number: int = 0) -> Generator:
    """Return the generator of a purpose; `number` tells the many of one purpose apart."""
    sequence = SeedSequence((seed, purpose, number))
    return Generator(PCG64(sequence))


def lengths(random: Generator, mean: float, count: int) -> np.ndarray:
    """Draw lengths of documents [count]: after each symbol the end is as likely, so a model cannot know it better."""
    return random.geometric(1 / mean, count)


def choose(random: Generator, cumulative: np.ndarray) -> np.ndarray:
    """Draw one choice by each row of cumulative probabilities [rows, choices]."""
    rows, choices = cumulative.shape
    drawn = random.random((rows, 1))
    passed = cumulative < drawn
    chosen = passed.sum(axis=1)
    last = choices - 1
    return np.minimum(chosen, last)  # a row may end a little below 1
